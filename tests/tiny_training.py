"""A task so small that a test can train all layers on it: stripes across against stripes down, on
32 pixels.
"""

import functools
from dataclasses import dataclass, replace

import numpy as np

from squeezetune.events import ignore_event
from squeezetune.finetune.batches import PixelBatches, show_images
from squeezetune.finetune.loop import tune
from squeezetune.finetune.recipe import (
    FROM_IMAGES,
    Augmentation,
    EpochPace,
    Phase,
    Recipe,
    StagePlan,
)
from squeezetune.finetune.tapped import TappedNetwork
from squeezetune.finetune.torch_network import build_network, torch
from squeezetune.finetune.workers import TrainerOptions, TrainingTask
from squeezetune.heads.scaling import measure_scaling

SIDE = 32
ONE_PHASE = (Phase(SIDE, 1.0),)
# so few steps want a longer horizon of the averages
RECIPE = Recipe(batch=16, averaging=0.4)


@dataclass(frozen=True)
class ArrayRows:
    """Rows that are in memory."""

    values: np.ndarray

    def gather(self, positions):
        return self.values[positions]


def make_pixels(count, side=SIDE, seed=0):
    """Draw stripes across (label 0) and down (label 1) on noise: (count, side, side, 3) uint8, and
    labels (count,).
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    waves = np.sin(
        np.arange(side) * rng.uniform(0.8, 1.4, (count, 1)) + rng.uniform(0, 6, (count, 1))
    )
    stripes = np.where(labels[:, None, None] == 0, waves[:, :, None], waves[:, None, :])
    pixels = 128 + 60 * stripes[..., None] + rng.normal(0, 40, (count, side, side, 3))
    return pixels.clip(0, 255).astype(np.uint8), labels.astype(np.int64)


def make_task(train=64, validation=16, side=SIDE, augmentation=None, views=2):
    """Make a task of so many training images and so many others to judge by."""
    pixels, labels = make_pixels(train + validation, side)
    feed = PixelBatches(ArrayRows(pixels), augmentation or Augmentation())
    positions = np.arange(train + validation)
    return TrainingTask(
        feed, labels, positions[:train], positions[train:], np.ones(2, np.float32), views
    )


def make_tapped(classes=2):
    """Make the pretrained network with a classifier that knows nothing yet."""
    network, scaling = TappedNetwork(build_network(), classes), find_scaling()
    width = network.classifier.in_features
    network.set_classifier(
        scaling, np.zeros((width, classes), np.float32), np.zeros(classes, np.float32)
    )
    return network


@functools.cache
def find_scaling():
    """Measure the scaling of the pretrained features on some stripes."""
    with torch.no_grad():
        features = TappedNetwork(build_network(), 2).compute_features(
            show_images(torch.from_numpy(make_pixels(64)[0]), SIDE)
        )
    return measure_scaling(features.numpy()[:, None].astype(np.float16), use_roots=False)


def make_plan(epochs=2.0, recipe=RECIPE, phases=ONE_PHASE):
    return StagePlan("all layers", FROM_IMAGES, phases, epochs, recipe)


def make_conditions(listen=ignore_event, **changes):
    return replace(TrainerOptions("all layers", 0, 2, torch.float32, listen), **changes)


def run_training(task=None, plan=None, conditions=None, kept=None, keep=None):
    """Train the tiny network on the tiny task."""
    task, plan = task or make_task(), plan or make_plan()
    pace = EpochPace(max(1, len(task.train) // plan.recipe.batch), plan.epochs, plan.side)
    return tune(make_tapped(), task, plan, pace, conditions or make_conditions(), kept, keep)
