"""A tiny file that loses too much as it is: its codes are trained on photos that the model knows. Needs torch."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from squeezetune.data.pixels import PixelSettings
from squeezetune.disk import find_cache_folder, write_file
from squeezetune.engine import count_cores
from squeezetune.exporting.onnx_files import build_file, compress, count_images
from squeezetune.exporting.order import Order
from squeezetune.learn.compression import Compressed
from squeezetune.learn.forms import Form
from squeezetune.learn.pace import ClockPace, EpochPace, Pace

if TYPE_CHECKING:
    from squeezetune.learn.tuning import Sample

# How long the codes are trained, if they do not see every photo so often before.
TUNING_S, MOST_EPOCHS = 60.0, 20.0
# How many photos of 224 pixels take part, more of smaller ones; and of those that judge.
TRAIN_IMAGES, JUDGE_IMAGES, MOST_IMAGES = 2048, 512, 16_384
# One training photo in so many judges where there is no validation part.
EVERY = 8
STAGE = "codes"


def write_tuned(order: Order, path: Path) -> None:
    """Write parameters of four bits that were trained."""
    write_file(path, build_tuned(order))


def build_tuned(order: Order) -> bytes:
    """Build a model with parameters of four bits that were trained."""
    compressed = tune_compressed(order, compress(order))
    return build_file(order, compressed.network, Form(compressed.store))


def tune_compressed(order: Order, compressed: Compressed) -> Compressed:
    """Train a compressed network's codes to answer as the network does, for about a minute.

    Raises:
        MissingExtraError: torch is not installed.
        SettingsError: there are no training photos.
    """
    from squeezetune.learn.crew import Conditions, recall_precision
    from squeezetune.learn.tuning import tune_codes

    sample = draw_sample(order)
    conditions = Conditions(STAGE, 0, count_cores(), recall_precision(find_cache_folder()), order.listen)
    return tune_codes(compressed, order.network, sample, lambda steps: make_pace(steps, order.network.side), conditions)


def draw_sample(order: Order) -> "Sample":
    """Draw photos as the network sees them: of the training part, then of those that judge."""
    from squeezetune.learn.tuning import Sample

    side = order.network.side
    pixels = order.draw(count_images(TRAIN_IMAGES, side, MOST_IMAGES))
    if order.judges is None or not len(order.judges.positions):
        last = pixels[::EVERY]
        return Sample(np.concatenate([np.delete(pixels, np.s_[::EVERY], axis=0), last]), len(last))
    judges = order.judges.draw(JUDGE_IMAGES, PixelSettings(side, order.network.resize))
    return Sample(np.concatenate([pixels, judges]), len(judges))


def make_pace(steps: int, side: int) -> Pace:
    """Train for some time, or until every photo was seen often."""
    end = time.perf_counter() + TUNING_S
    return ClockPace(EpochPace(steps, MOST_EPOCHS, side), lambda: end - time.perf_counter())
