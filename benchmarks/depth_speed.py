"""Measure how fast layers are trained, by how many of them, and what the last ones alone are worth.
Needs torch.

    python benchmarks/depth_speed.py --data FOLDER [--backbone efficientnet_lite0] [--rounds 7]
        [--steps 4] [--seeds 3] [--epochs 12]

Speed: images a second of whole training steps, forming the batch included, all in turn within each
round. "plain loop" is what most scripts do: torch's layers in NCHW float32, all of them trained
with AdamW, batches of 32 that lie ready in memory, torch's own threads. The others are the
product's, from rows that are mapped from a file: kept pixels for all layers, kept activations in
six views for the last blocks. The rows are noise, which takes the same time. Accuracy: 1,000
training and 2,500 validation images of CIFAR-10; the last blocks against all layers in the same
number of epochs. The test part is not looked at.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent / "recipes"))

import numpy as np
import torch
from ablation import DEPTHS, Regime, open_task
from ablation import Task as PhotoTask
from figures import format_mean, format_spread, print_machine, print_table
from photos import add_photo_options
from torch.nn import functional

from squeezetune.data.image_cache import choose_pixel_side
from squeezetune.events import ignore_event
from squeezetune.finetune.batches import ActivationBatches, BatchSource, PixelBatches
from squeezetune.finetune.loop import measure_step
from squeezetune.finetune.recipe import FROM_IMAGES, Phase, Recipe, StagePlan, choose_recipe
from squeezetune.finetune.surgery import replace_classifier
from squeezetune.finetune.tapped import TappedNetwork
from squeezetune.finetune.torch_network import build_network
from squeezetune.finetune.workers import TrainerOptions, TrainingTask, choose_precision
from squeezetune.network.activations import Activations, choose_kind, make_form
from squeezetune.network.architecture import Architecture
from squeezetune.network.pretrained import DEFAULT
from squeezetune.network.weights import find_architecture
from squeezetune.pipeline.stage import train_stage
from squeezetune.planning.stage_plans import EXTRA_VIEWS
from squeezetune.system.executor import count_cores
from squeezetune.system.store import RowStore, StoredRows

PLAIN_BATCH, CLASSES, VIEWS = 32, 10, 2 + EXTRA_VIEWS
# Rows in a store: more than a few steps take, so that they are not all in the processor's cache.
ROWS = 1024


def time_plain(name: str, side: int, steps: int) -> float:
    """Measure images a second of the plain loop."""
    network = build_network(name)
    replace_classifier(network, CLASSES)
    network = network.requires_grad_(True).train()
    optimiser = torch.optim.AdamW(network.parameters(), 1e-3)
    images, labels = torch.randn(PLAIN_BATCH, 3, side, side), torch.arange(PLAIN_BATCH) % CLASSES
    seconds = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        loss = functional.cross_entropy(network(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        seconds.append(time.perf_counter() - start)
    return PLAIN_BATCH / float(np.median(seconds[1:]))


def time_ours(
    name: str, start: str, side: int, steps: int, feed: BatchSource, precision: Any
) -> float:
    """Measure images a second of the product's training from a block on."""
    recipe = Recipe(frozen_blocks=find_architecture(name).frozen_blocks)
    order = np.random.default_rng(0).permutation(ROWS)
    positions = np.resize(order, recipe.batch * (steps + 1))
    task = TrainingTask(
        feed, np.arange(ROWS) % CLASSES, positions, positions[:0], np.ones(CLASSES, np.float32)
    )
    plan = StagePlan("speed", start, (Phase(side, 1.0),), 1.0, recipe)
    conditions = TrainerOptions("speed", 0, count_cores(), precision, ignore_event)
    network = TappedNetwork(build_network(name), CLASSES, start, recipe.frozen_blocks)
    return recipe.batch / measure_step(network, task, plan, conditions, steps)


def keep_noise(folder: Path, shape: tuple[int, ...], high: int = 256) -> StoredRows:
    """Keep rows of noise in a store, to be mapped."""
    rng = np.random.default_rng(0)
    store = RowStore(folder, shape, "u1")
    digests = rng.integers(0, 256, (ROWS, 16), dtype=np.uint8)
    store.save(
        digests, rng.integers(0, high, (ROWS, *shape), dtype=np.uint8), np.full((ROWS, 2), 500)
    )
    return store.open_rows(digests)


def keep_pixels(folder: Path, side: int, network: Architecture) -> BatchSource:
    """Keep noise as the pixels of photos."""
    kept = choose_pixel_side(side, np.full((1, 2), 500, np.int32))
    return PixelBatches(
        keep_noise(folder / f"pixels-{side}", (kept, kept, 3)), Recipe().augmentation, network
    )


def keep_activations(folder: Path, start: str, side: int, network: Architecture) -> BatchSource:
    """Keep noise as what a block reads; two bytes below 64 are a float16 that is finite, as means
    of taps are.
    """
    block = network.name_before(start)
    kind = choose_kind(network, block)
    channels = network.measure_block(block, side)[2]
    form = make_form(block, kind, VIEWS, side, network, np.ones(channels, np.float32))
    rows = keep_noise(folder / f"{start}-{side}", (form.row_bytes,), high=64)
    return ActivationBatches(Activations(form, rows))


def list_contenders(folder: Path, options: argparse.Namespace) -> dict[str, Callable[[], float]]:
    """List what is timed, by name; the last blocks at the first of the sides."""
    precision, name, steps = choose_precision(), options.backbone, options.steps
    network = find_architecture(name)
    found: dict[str, Callable[[], float]] = {}
    for side in options.sides:
        found[f"plain loop, {side} px"] = partial(time_plain, name, side, steps)
        pixels = keep_pixels(folder, side, network)
        found[f"all layers, {side} px"] = partial(
            time_ours, name, FROM_IMAGES, side, steps, pixels, precision
        )
    side = options.sides[0]
    for count in (network.last_blocks, 2):
        start = network.block_names[-count]
        kept = keep_activations(folder, start, side, network)
        found[f"last {count} blocks, {side} px"] = partial(
            time_ours, name, start, side, steps, kept, precision
        )
    return found


def run_rounds(
    contenders: Mapping[str, Callable[[], float]], rounds: int
) -> dict[str, list[float]]:
    """Let all run in turn."""
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, measure in contenders.items():
            speeds[name].append(measure())
    return speeds


def print_speeds(speeds: Mapping[str, Sequence[float]]) -> None:
    """Print speeds, and their ratios to others at the same size in the same round."""
    rows = []
    for name, values in speeds.items():
        side = name.split(", ")[1]
        ratios = [
            format_spread(
                [own / other for own, other in zip(values, speeds[f"{base}, {side}"], strict=True)],
                2,
            )
            for base in ("plain loop", "all layers")
        ]
        rows.append((name, format_spread(values, 0), *ratios))
    print_table(
        (
            "trained",
            "images/s: median (min–max, n)",
            "ratio to the plain loop",
            "ratio to all layers",
        ),
        rows,
    )


def train_both(task: PhotoTask, epochs: float) -> tuple[float, float]:
    """Train the last blocks, and all layers; their accuracies on the validation images."""
    side, images = task.ground.backbone.pixels.side, len(task.ground.split.train)
    recipe = choose_recipe(images, epochs, task.network)
    start = task.network.block_names[-task.network.last_blocks]
    last = StagePlan("last blocks", start, (Phase(side, 1.0),), epochs, recipe, EXTRA_VIEWS)
    plans = last, task.plan
    first, second = (
        train_stage(task.ground, plan, task.context).candidate.validation_accuracy for plan in plans
    )
    return first, second


def measure_accuracy(options: argparse.Namespace) -> None:
    """Compare the last blocks with all layers over seeds, and print the table."""
    cache = options.work / "recipes-cache"
    cache.mkdir(parents=True, exist_ok=True)
    found: list[tuple[float, float, float]] = []
    for seed in range(options.seeds):
        task = open_task("cifar1000", seed, Regime(options.epochs), options, cache)
        found.append(
            (task.ground.head.chosen.validation_accuracy, *train_both(task, options.epochs))
        )
    frozen, last, whole = zip(*found, strict=True)
    loss = [100 * (one - other) for one, other in zip(whole, last, strict=True)]
    rows = [
        ("frozen layers, linear head", format_mean(frozen), ""),
        ("all layers", format_mean(whole), ""),
        ("last blocks", format_mean(last), format_spread(loss, 2)),
    ]
    print(f"1,000 images of CIFAR-10, {options.epochs:g} epochs")
    print_table(("trained", "validation accuracy", "points below all layers"), rows)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_photo_options(parser)
    parser.add_argument("--backbone", choices=list(DEPTHS), default=DEFAULT)
    parser.add_argument(
        "--rounds",
        type=int,
        default=7,
        help="of the timing; 0 leaves it out (default: %(default)s)",
    )
    parser.add_argument(
        "--steps", type=int, default=4, help="that are timed in a turn (default: %(default)s)"
    )
    parser.add_argument(
        "--sides", type=int, nargs="+", default=(224, 128), help="in pixels (default: 224 128)"
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=3,
        help="of the accuracy; 0 leaves it out (default: %(default)s)",
    )
    parser.add_argument(
        "--epochs", type=float, default=12.0, help="of both trainings (default: %(default)s)"
    )
    options = parser.parse_args(argv)
    options.verbose = False
    print_machine()
    if options.rounds:
        with TemporaryDirectory() as folder:
            print_speeds(run_rounds(list_contenders(Path(folder), options), options.rounds))
    if options.seeds:
        measure_accuracy(options)


if __name__ == "__main__":
    main()
