"""The ONNX formats: float32, float16, int8 and tiny, whose codes are trained where it loses too
much.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from squeezetune.compression.equalisation import equalise
from squeezetune.compression.layerwise import Compressed, compress_head, compress_layers
from squeezetune.data.pixels import PixelSettings
from squeezetune.exporting.export_inputs import ExportInputs
from squeezetune.exporting.resize import replace_resize
from squeezetune.finetune.recipe import ClockPace, EpochPace, StageProgress
from squeezetune.model.artifact import WHOLES
from squeezetune.model.onnx_file import ARITHMETIC
from squeezetune.network.backbone import FLOAT_RUNTIME, measure_maxima, run_batches
from squeezetune.network.codes import FINE_DAMPING
from squeezetune.network.float_layers import store_floats, store_halves
from squeezetune.network.graph import WeightFormat, build_backbone
from squeezetune.network.inference import Runtime, open_graph
from squeezetune.network.int8_layers import Int8
from squeezetune.network.trained import TrainedNetwork
from squeezetune.system.disk import find_cache_folder, write_file
from squeezetune.system.executor import count_cores

if TYPE_CHECKING:
    from squeezetune.compression.distillation import Sample

# How many photos of 224 pixels the layers are fitted to, more of smaller ones; and how many the
# dense layers, which have 2,048 numbers to weigh: four times as many halve what is lost.
LAYER_IMAGES, HEAD_IMAGES = 96, 1024
MOST_LAYER_IMAGES, MOST_HEAD_VIEWS = 1024, 8192
FULL_SIDE = 224
# So many parameters a hidden layer has at most in the tiny file: half a megabyte leaves no room for
# more.
HIDDEN_SIZE = 64 * (2048 + 512)


def write_floats(order: ExportInputs, path: Path) -> None:
    """Write float32: the network as it was measured."""
    write_file(path, build_file(order, order.network, WeightFormat(store_floats)))


def write_halves(order: ExportInputs, path: Path) -> None:
    """Write parameters as float16 that are computed in float32: half the size, at the same speed
    everywhere.
    """
    write_file(path, build_file(order, order.network, WeightFormat(store_halves)))


def write_tiny(order: ExportInputs, path: Path) -> None:
    """Write parameters of four bits that are computed in float32."""
    write_file(path, build_tiny(order))


def build_tiny(order: ExportInputs) -> bytes:
    """Build a model with parameters of four bits."""
    compressed = compress(order)
    return build_file(order, compressed.network, WeightFormat(compressed.store))


def write_int8(order: ExportInputs, path: Path) -> None:
    """Write convolutions in int8, parameters and activations, all of them fitted to training
    photos.
    """
    compressed, int8 = fit_int8(order)
    order = replace(order, metadata={**order.metadata, ARITHMETIC: WHOLES})
    write_file(path, build_file(order, compressed.network, WeightFormat(compressed.store, int8)))


def fit_int8(order: ExportInputs) -> tuple[Compressed, Int8]:
    """Round all parameters to eight bits, fitted to training photos; and say how large activations
    are.
    """
    network, pixels = order.network, draw_photos(order)
    equalised = equalise(network.weights, measure_maxima(network.weights, pixels))
    with threadpool_limits(1):  # as below
        compressed = compress_layers(
            replace(network, weights=equalised.weights), pixels, 8, equalised.ranges
        )
    int8 = Int8(equalised.ranges, network.side, compressed.codes, equalised.factors)
    return (compressed if network.is_convolved else fit_head(order, compressed, int8)), int8


def build_file(order: ExportInputs, network: TrainedNetwork, form: WeightFormat) -> bytes:
    """Build a network in some form, with a resize that every runtime computes alike."""
    return replace_resize(network.build_model(order.metadata, form))


def compress(order: ExportInputs) -> Compressed:
    """Compress all parameters, the convolutions to four bits."""
    with threadpool_limits(
        1
    ):  # threads of BLAS stall when the machine is busy, and gain little on these sizes
        compressed = compress_layers(order.network, draw_photos(order))
    return compressed if order.network.is_convolved else fit_head(order, compressed)


def draw_photos(order: ExportInputs) -> NDArray[np.uint8]:
    """Draw the photos that layers are fitted to."""
    return order.draw(count_images(LAYER_IMAGES, order.network.side, MOST_LAYER_IMAGES))


def fit_head(order: ExportInputs, compressed: Compressed, int8: Int8 | None = None) -> Compressed:
    """Compress the dense layers, fitted to what the compressed layers, or those in int8, give."""
    views = order.network.views
    pixels = order.draw(count_images(HEAD_IMAGES, order.network.side, MOST_HEAD_VIEWS // views))
    exact = open_graph(build_backbone(order.network.weights, views=views), FLOAT_RUNTIME, 1)
    weights = compressed.network.weights
    changed = open_graph(
        build_backbone(weights, int8, views=views), Runtime("onnxruntime", "int8"), 1
    )
    features = [run_batches(run, pixels) for run in (exact, changed)]
    with threadpool_limits(1):  # as above
        if int8:
            return compress_head(compressed, features[0], features[1], FINE_DAMPING)
        return compress_head(compressed, features[0], features[1], hidden_size=HIDDEN_SIZE)


def check_onnx(path: Path) -> None:
    """Check an ONNX file as ONNX's own checker does, the shapes of all tensors too."""
    import onnx

    onnx.checker.check_model(onnx.load(path), full_check=True)


def count_images(count: int, side: int, most: int) -> int:
    """Count how many photos of `side` pixels are as much to look at as `count` of full size; at
    most so many.
    """
    return min(most, count * FULL_SIDE**2 // side**2)


# How long the codes are trained, if they do not see every photo so often before.
TUNING_S, MOST_EPOCHS = 60.0, 20.0
# How many photos of 224 pixels take part, more of smaller ones; and of those that judge.
TRAIN_IMAGES, JUDGE_IMAGES, MOST_IMAGES = 2048, 512, 16_384
# One training photo in so many judges where there is no validation part.
EVERY = 8
STAGE = "codes"


def write_tuned(order: ExportInputs, path: Path) -> None:
    """Write parameters of four bits that were trained."""
    write_file(path, build_tuned(order))


def build_tuned(order: ExportInputs) -> bytes:
    """Build a model with parameters of four bits that were trained."""
    compressed = tune_compressed(order, compress(order))
    return build_file(order, compressed.network, WeightFormat(compressed.store))


def tune_compressed(order: ExportInputs, compressed: Compressed) -> Compressed:
    """Train a compressed network's codes to answer as the network does, for about a minute.

    Raises:
        MissingExtraError: torch is not installed.
        SettingsError: there are no training photos.
    """
    from squeezetune.compression.distillation import tune_codes
    from squeezetune.finetune.workers import TrainerOptions, recall_precision

    sample = draw_sample(order)
    conditions = TrainerOptions(
        STAGE, 0, count_cores(), recall_precision(find_cache_folder()), order.listen
    )
    return tune_codes(
        compressed,
        order.network,
        sample,
        lambda steps: make_pace(steps, order.network.side),
        conditions,
    )


def draw_sample(order: ExportInputs) -> "Sample":
    """Draw photos as the network sees them: of the training part, then of those that judge."""
    from squeezetune.compression.distillation import Sample

    side = order.network.side
    pixels = order.draw(count_images(TRAIN_IMAGES, side, MOST_IMAGES))
    if order.judges is None or not len(order.judges.positions):
        last = pixels[::EVERY]
        return Sample(np.concatenate([np.delete(pixels, np.s_[::EVERY], axis=0), last]), len(last))
    judges = order.judges.draw(JUDGE_IMAGES, PixelSettings(side, order.network.resize))
    return Sample(np.concatenate([pixels, judges]), len(judges))


def make_pace(steps: int, side: int) -> StageProgress:
    """Train for some time, or until every photo was seen often."""
    end = time.perf_counter() + TUNING_S
    return ClockPace(EpochPace(steps, MOST_EPOCHS, side), lambda: end - time.perf_counter())
