"""Measure other networks than SqueezeNet, with random weights: memory, features, and what keeping
activations saves. Needs torch; no photos.

    python benchmarks/named_networks.py [--rounds 5] [--images 60]

Memory: the peak of whole processes that read VGG-19 from a file in float16 and fit its head on a
few images, with the network in torch and with the product's graph. Features: Inception v3 at 299
pixels in ONNX Runtime against its torch module. Training: images a second of the product's own
steps, forming the batch included, on ResNet-18, its last block from kept activations against all
layers from kept pixels. What is compared runs in turn within each round.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from depth_speed import keep_noise, run_rounds
from figures import format_spread, print_machine, print_table
from numpy.typing import NDArray
from processes import run_process
from safetensors.numpy import save_file

from squeezetune.data.image_cache import choose_pixel_side
from squeezetune.events import ignore_event
from squeezetune.finetune.batches import ActivationBatches, BatchSource, PixelBatches, show_images
from squeezetune.finetune.loop import measure_step
from squeezetune.finetune.recipe import FROM_IMAGES, Phase, Recipe, StagePlan
from squeezetune.finetune.tapped import TappedNetwork
from squeezetune.finetune.torch_network import build_layers, build_network
from squeezetune.finetune.workers import TrainerOptions, TrainingTask
from squeezetune.heads.linear import WeightedRows, fit_linear
from squeezetune.network.activations import Activations, make_form
from squeezetune.network.architecture import Architecture
from squeezetune.network.backbone import FLOAT_RUNTIME, measure_ranges, run_batches
from squeezetune.network.graph import build_backbone
from squeezetune.network.inference import Runtime, open_graph
from squeezetune.network.int8_layers import Int8
from squeezetune.network.pretrained import read_pretrained, read_weights
from squeezetune.network.weights import Weights, fold_norms
from squeezetune.network.zoo import NETWORKS
from squeezetune.system.executor import count_cores

CLASSES, SIDE = 3, 224
# Of memory, in megabytes; of the last block's speed, in those of all layers.
MOST_MEMORY_MB, LEAST_GAIN = 2000, 4.0
VIEWS, ROWS = 2, 512
Pixels = NDArray[np.uint8]


def draw_weights(network: Architecture) -> dict[str, NDArray[np.float32]]:
    """Draw parameters, and running statistics, of a size that keeps the maps alive."""
    rng, found = np.random.default_rng(0), {}
    for name, shape in network.list_shapes().items():
        if len(shape) > 1:
            size = np.float32(np.sqrt(2 / np.prod(shape[1:])))
            found[name] = rng.standard_normal(shape, np.float32) * size
        else:
            is_one = name.endswith(("running_var", ".weight"))
            found[name] = np.full(shape, float(is_one), np.float32)
    return found


def draw_photos(count: int, side: int) -> Pixels:
    return np.random.default_rng(1).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


# ---- memory: what runs in processes of their own


def fit_in_torch(file: Path, photos: Pixels) -> NDArray[np.float32]:
    """Build VGG-19 in torch from a file; return the features of photos."""
    network = build_network("vgg19", read_weights(file), num_classes=CLASSES).eval()
    tapped = TappedNetwork(network, CLASSES)
    with torch.no_grad():
        parts = [
            tapped.compute_features(
                show_images(torch.from_numpy(photos[at : at + 4]), SIDE, network=NETWORKS["vgg19"])
            )
            for at in range(0, len(photos), 4)
        ]
    return torch.cat(parts).numpy()  # type: ignore[no-any-return]


def fit_in_graph(file: Path, photos: Pixels) -> NDArray[np.float32]:
    """Build VGG-19's graph from a file, as a run does; return the features of photos."""
    model = build_backbone(read_pretrained(file).weights)
    return run_batches(open_graph(model, FLOAT_RUNTIME, count_cores()), photos)[:, 0]


STEPS: dict[str, Callable[[Path, Pixels], NDArray[np.float32]]] = {
    "in torch": fit_in_torch,
    "in ONNX Runtime": fit_in_graph,
}


def fit_head(step: str, file: Path, images: int) -> None:
    """Fit a head on the features of a few photos; what `print_memory` weighs."""
    features = STEPS[step](file, draw_photos(images, SIDE))
    labels = np.arange(images) % CLASSES
    rows = (features - features.mean(axis=0)) / (features.std() + 1e-6)
    fit_linear(WeightedRows(rows, labels, np.ones(images, np.float32)), 1.0)


def print_memory(images: int) -> None:
    """Weigh each way in a process of its own."""
    rows = []
    with TemporaryDirectory() as folder:
        file = Path(folder) / "vgg19.safetensors"
        halves = {name: v.astype(np.float16) for name, v in draw_weights(NETWORKS["vgg19"]).items()}
        save_file(halves, file)
        for step in STEPS:
            command = [__file__, "--step", step, "--file", str(file), "--images", str(images)]
            run = run_process(command, Path(folder) / "cache")
            verdict = "kept" if run.peak_mb < MOST_MEMORY_MB else "BROKEN"
            rows.append((step, f"{run.peak_mb:.0f}", f"{run.seconds:.1f}", verdict))
    print(f"VGG-19 from a file in float16, and its head fitted on {images} images of {SIDE} px")
    print_table(("", "peak MB", "seconds", f"under {MOST_MEMORY_MB} MB"), rows)


# ---- features


def time_batches(run: Callable[[Pixels], Any], photos: Pixels) -> float:
    """Measure images a second, after a batch that is not counted."""
    run(photos)
    start = time.perf_counter()
    run(photos)
    return len(photos) / (time.perf_counter() - start)


def print_features(rounds: int) -> None:
    """Compute Inception's features in turn in torch, and in float32 and int8 in ONNX Runtime."""
    network = NETWORKS["inception_v3"]
    weights, photos = fold_norms(draw_weights(network), network), draw_photos(8, network.side)
    int8 = Int8(measure_ranges(weights, photos[:2]), network.side)
    float_run = open_graph(build_backbone(weights), FLOAT_RUNTIME, count_cores())
    int8_run = open_graph(
        build_backbone(weights, int8), Runtime("onnxruntime", "int8"), count_cores()
    )
    module = TappedNetwork(build_layers(weights), CLASSES)

    def torch_run(pixels: Pixels) -> Any:
        with torch.no_grad():
            images = show_images(torch.from_numpy(pixels), network.side, network=network)
            return module.compute_features(images)

    runs = {"torch": torch_run, "ONNX Runtime, float32": float_run, "ONNX Runtime, int8": int8_run}
    speeds = run_rounds(
        {name: partial(time_batches, run, photos) for name, run in runs.items()}, rounds
    )
    distance = np.abs(float_run(photos)[:, 0] - torch_run(photos).numpy()).max()
    print(f"Inception v3, features of {len(photos)} images of {network.side} px; torch and float32 "
          f"differ by {distance:.1e} at most")  # fmt: skip
    print_ratios(speeds, "torch")


def print_ratios(speeds: dict[str, list[float]], base: str) -> list[float]:
    """Print speeds, and their ratios in the same round to one of them; return the medians."""
    rows, medians = [], []
    for name, values in speeds.items():
        ratios = [own / other for own, other in zip(values, speeds[base], strict=True)]
        medians.append(statistics.median(ratios))
        rows.append((name, format_spread(values), format_spread(ratios, 2)))
    print_table(("", "images/s: median (min–max, n)", f"ratio to {base}"), rows)
    return medians


# ---- training


def time_steps(weights: Weights, start: str, feed: BatchSource, steps: int) -> float:
    """Measure images a second of the product's training from a block on, in float32."""
    recipe = Recipe(batch=64, frozen_blocks=0)
    positions = np.resize(np.random.default_rng(0).permutation(ROWS), recipe.batch * (steps + 1))
    labels, none = np.arange(ROWS) % CLASSES, positions[:0]
    task = TrainingTask(feed, labels, positions, none, np.ones(CLASSES, np.float32))
    plan = StagePlan("speed", start, (Phase(SIDE, 1.0),), 1.0, recipe)
    conditions = TrainerOptions("speed", 0, count_cores(), torch.float32, ignore_event)
    network = TappedNetwork(build_layers(weights), CLASSES, start)
    return recipe.batch / measure_step(network, task, plan, conditions, steps)


def print_training(rounds: int, steps: int) -> None:
    """Train the last block of ResNet-18 from kept activations, and all layers from pixels."""
    network = NETWORKS["resnet18"]
    weights = fold_norms(draw_weights(network), network)
    *_, kept, last = network.block_names
    scales = np.ones(network.measure_block(kept, SIDE)[2], np.float32)
    form = make_form(kept, "uint8", VIEWS, SIDE, network, scales)
    side = choose_pixel_side(SIDE, np.full((1, 2), 500, np.int32))
    with TemporaryDirectory() as folder:
        # noise takes the same time; two bytes below 64 are a float16 that is finite
        maps = keep_noise(Path(folder) / "maps", (form.row_bytes,), high=64)
        pixels = keep_noise(Path(folder) / "pixels", (side, side, 3))
        images = PixelBatches(pixels, Recipe().augmentation, network)
        contenders = {
            "all layers": partial(time_steps, weights, FROM_IMAGES, images, steps),
            f"the last block, {last}": partial(
                time_steps, weights, last, ActivationBatches(Activations(form, maps)), steps
            ),
        }
        speeds = run_rounds(contenders, rounds)
    print(f"ResNet-18, training in float32 at {SIDE} px")
    gain = print_ratios(speeds, "all layers")[-1]
    verdict = "kept" if gain >= LEAST_GAIN else "BROKEN"
    print(f"At least {LEAST_GAIN:g} times as fast: {verdict}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument(
        "--steps", type=int, default=3, help="that are timed in a turn (default: %(default)s)"
    )
    parser.add_argument("--images", type=int, default=60, help="of the head (default: %(default)s)")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.step:
        fit_head(options.step, options.file, options.images)
        return
    print_machine()
    print_memory(options.images)
    print_features(options.rounds)
    print_training(options.rounds, options.steps)


if __name__ == "__main__":
    main()
