"""Measure what keeping activations as uint8 or bfloat16 loses, and how long computing them takes.
Needs torch.

    python benchmarks/activations.py --data FOLDER [--seed 0] [--rounds 3] [--speed-images 1000]

Loss: scales from 64 photos, relative errors (of norms) on others; a margin is how far beyond the
largest values of the sample uint8 reaches. "features" is how far the means of the later taps move
when the other blocks read what was kept. Speed: from photos on disk to rows on disk, features and
activations in turn within each round, caches empty.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from figures import format_spread, print_machine, print_table
from numpy.typing import NDArray
from photos import add_photo_options, prepare_photos, scan_photos

from squeezetune.data.index import ImageIndex
from squeezetune.data.pixels import PixelSettings, load_pixels
from squeezetune.events import ignore_event
from squeezetune.finetune.tapped import TappedNetwork
from squeezetune.finetune.torch_network import build_network
from squeezetune.network.activations import (
    MARGIN,
    ActivationOptions,
    compute_activations,
    prepare_activations,
    round_to_bfloat16,
)
from squeezetune.network.backbone import (
    FLOAT_RUNTIME,
    Backbone,
    make_int8,
    measure_distance,
    measure_ranges,
)
from squeezetune.network.features import FeatureStores, compute_features
from squeezetune.network.graph import FEATURE_COUNT, build_activations, build_backbone
from squeezetune.network.inference import list_runtimes, open_graph
from squeezetune.network.weights import load_weights
from squeezetune.network.zoo import SQUEEZENET1_1
from squeezetune.system.executor import ThreadExecutor, count_cores
from squeezetune.system.store import RowStore

SIDES = {"cifar10": 128, "eth80": 224}
BLOCKS = ("conv1", "fire3", "fire5", "fire7")
MARGINS = (1.0, 1.2, 1.5, MARGIN)
SAMPLE_IMAGES, LOSS_IMAGES = 64, 256
SPEED_BLOCK = "fire5"

Maps = NDArray[np.float32]  # (n, height, width, channels)


def draw_index(index: ImageIndex, count: int) -> ImageIndex:
    """Take photos at random, always the same."""
    keep = set(np.random.default_rng(0).permutation(len(index))[:count].tolist())
    return index.without(dict.fromkeys(set(range(len(index))) - keep, "not drawn"))


def draw_sample(
    index: ImageIndex, side: int, count: int = SAMPLE_IMAGES, seed: int = 0
) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Read photos in random order, of one seed always the same: their digests and pixels (count,
    side, side, 3).
    """
    order = np.random.default_rng(seed).permutation(len(index))[:count]
    pixels = [
        load_pixels(index.source, index.names[position], PixelSettings(side))[0]
        for position in order
    ]
    return index.digests[order], np.stack(pixels)


def run_block(block: str, images: NDArray[np.uint8]) -> Maps:
    """Compute what the block behind `block` reads."""
    run = open_graph(build_activations(load_weights(), block), FLOAT_RUNTIME, 1)
    return np.concatenate([run(images[at : at + 8])[:, 0] for at in range(0, len(images), 8)])


def run_rest(block: str, maps: Maps) -> NDArray[np.float32]:
    """Compute the means of the taps behind a block from what it gave."""
    names = SQUEEZENET1_1.block_names
    network = TappedNetwork(build_network(), 2, names[names.index(block) + 1])
    with torch.inference_mode():
        features = network.compute_features(torch.from_numpy(maps).permute(0, 3, 1, 2))
    found: NDArray[np.float32] = features.numpy()
    return found


def keep_as_uint8(maps: Maps, tops: NDArray[np.float32], margin: float) -> Maps:
    """Round to uint8 with a scale for each channel, and back."""
    steps = np.array(margin * tops.clip(1e-3) / 255, np.float32)
    codes: Maps = (maps / steps).round().clip(0, 255)
    return codes * steps


def keep_as_bfloat16(maps: Maps) -> Maps:
    """Round to bfloat16, and back."""
    return (round_to_bfloat16(maps).astype(np.uint32) << 16).view(np.float32)


def measure_loss(index: ImageIndex, side: int, seed: int) -> Iterator[list[str]]:
    """Measure each block: one row of the table."""
    _, images = draw_sample(index, side, SAMPLE_IMAGES + LOSS_IMAGES, seed)
    for block in BLOCKS:
        maps = run_block(block, images)
        tops, maps = maps[:SAMPLE_IMAGES].max(axis=(0, 1, 2)), maps[SAMPLE_IMAGES:]
        kept = [keep_as_bfloat16(maps), *(keep_as_uint8(maps, tops, margin) for margin in MARGINS)]
        errors = [f"{measure_distance(item, maps):.2%}" for item in kept]
        clipped = f"{(maps > MARGIN * tops.clip(1e-3)).mean():.1e}"
        features = run_rest(block, maps)
        moved = [
            measure_distance(run_rest(block, item), features)
            for item in (kept[0], kept[1 + MARGINS.index(MARGIN)])
        ]
        yield [
            block,
            f"{maps[0].size / 1e3:.0f}",
            *errors,
            clipped,
            *(f"{distance:.2%}" for distance in moved),
        ]


def measure_speed(index: ImageIndex, side: int, rounds: int) -> Iterator[list[str]]:
    """Measure each runtime: features, then activations of two kinds, from photos on disk to rows on
    disk.
    """
    sample = partial(draw_sample, index, side)
    ranges = measure_ranges(load_weights(), sample()[1])
    for runtime in list_runtimes():
        pixels = PixelSettings(side)
        own = make_int8(ranges, runtime, pixels) if runtime.precision == "int8" else None
        backbone = Backbone(
            build_backbone(load_weights(), own), runtime, pixels, 1, FEATURE_COUNT, own
        )
        found = [measure_round(index, backbone, sample) for _ in range(rounds)]
        features, uint8, bfloat16 = zip(*found, strict=True)
        ratios = (
            [other / base for other, base in zip(kind, features, strict=True)]
            for kind in (uint8, bfloat16)
        )
        yield [
            str(runtime),
            format_spread(features, 0),
            *(format_spread(ratio, 2) for ratio in ratios),
        ]


def measure_round(index: ImageIndex, backbone: Backbone, sample: Callable[[], Any]) -> list[float]:
    """Measure images a second of the features, and of the activations as uint8 and as bfloat16."""
    executor, threads = ThreadExecutor(), count_cores()
    with TemporaryDirectory() as name:
        folder = Path(name)
        store = RowStore(folder / "features", (1, FEATURE_COUNT))
        jobs: list[Callable[[], object]] = [
            lambda: compute_features(
                index, backbone, FeatureStores(store), executor, threads, ignore_event
            )
        ]
        for kind in ("uint8", "bfloat16"):
            options = ActivationOptions(SPEED_BLOCK, kind)
            frozen = prepare_activations(load_weights(), backbone, options, index, sample, folder)
            rows = frozen.open_store(folder)
            jobs.append(partial(compute_activations, index, frozen, rows, executor, ignore_event))
        return [len(index) / time_call(job) for job in jobs]


def time_call(function: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_photo_options(parser)
    parser.add_argument("--seed", type=int, default=0, help="of the photos that are drawn")
    parser.add_argument(
        "--rounds", type=int, default=3, help="rounds of the timing; 0 leaves it out"
    )
    parser.add_argument("--speed-images", type=int, default=1000, help="photos of one timing")
    options = parser.parse_args(argv)
    print_machine()
    for name, side in SIDES.items():
        index = scan_photos(name, prepare_photos(name, options))
        margins = [f"uint8, margin {margin:g}" for margin in MARGINS]
        moved = ["features, bfloat16", f"features, uint8, margin {MARGIN:g}"]
        print(f"\n{name} at {side} px, {LOSS_IMAGES} photos")
        print_table(
            ["after", "thousand values", "bfloat16", *margins, f"clipped at {MARGIN:g}", *moved],
            measure_loss(index, side, options.seed),
        )
        header = [
            "runtime",
            "features, images/s",
            f"uint8 after {SPEED_BLOCK}, ratio",
            "bfloat16, ratio",
        ]
        if options.rounds:
            print_table(
                header, measure_speed(draw_index(index, options.speed_images), side, options.rounds)
            )


if __name__ == "__main__":
    main()
