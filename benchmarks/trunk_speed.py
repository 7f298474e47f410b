"""Measure images a second through the frozen layers: plain torch against our runtimes. Needs torch.

    python benchmarks/trunk_speed.py --data FOLDER [--side 224] [--rounds 7] [--seconds 2]

From pixels in memory to the 2,048 features; no files are read in the timed part. torch: eager,
float32, batches of 32, normalised beforehand, as many threads as there are cores. Ours: uint8
pixels, one batch for each thread, as `train` does it. All run in turn within each round, and ratios
are taken within a round.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np
import torch
from figures import format_spread, print_machine, print_table
from numpy.typing import NDArray
from photos import add_photo_options, prepare_photos, scan_photos
from seed_recipe import build_backbone, normalise_pixels, pool_taps

from squeezetune.data.pixels import PixelSettings
from squeezetune.network import graph
from squeezetune.network.backbone import make_int8, measure_ranges
from squeezetune.network.inference import RunGraph, Runtime, batch_size, list_runtimes, open_graph
from squeezetune.network.weights import load_weights
from squeezetune.pipeline.preparation import draw_sample
from squeezetune.system.executor import ThreadExecutor, count_cores

TORCH_BATCH = 32
BASELINE = "torch eager, NCHW, float32"

Measure = Callable[[float], float]  # seconds to run for -> images a second


def read_pixels(options: argparse.Namespace) -> NDArray[np.uint8]:
    """Read an even sample of 64 photos: (64, side, side, 3)."""
    index = scan_photos("eth80", prepare_photos("eth80", options))
    return draw_sample(index, np.arange(len(index)), PixelSettings(options.side))[1]


def list_contenders(pixels: NDArray[np.uint8], side: int) -> dict[str, Measure]:
    """Open everything that takes part; the first is what the others are compared with."""
    threads = count_cores()
    torch.set_num_threads(threads)
    backbone, x = build_backbone(), normalise_pixels(pixels)
    contenders: dict[str, Measure] = {
        BASELINE: partial(measure_torch, backbone, list(x.split(TORCH_BATCH)))
    }
    last = torch.channels_last
    batches = list(x.to(memory_format=last).split(TORCH_BATCH))
    contenders["torch eager, channels_last, float32"] = partial(
        measure_torch, build_backbone().to(memory_format=last), batches
    )
    size = batch_size(side)
    ours = [pixels[at : at + size] for at in range(0, len(pixels) - size + 1, size)]
    for runtime, model in build_models(pixels).items():
        run = open_graph(model, runtime, threads)
        contenders[f"squeezetune, {runtime}"] = partial(
            measure_ours, run, ours, ThreadExecutor(threads)
        )
    return contenders


def build_models(pixels: NDArray[np.uint8]) -> dict[Runtime, bytes]:
    """Build the graph of each runtime of this machine; int8 takes its ranges from the photos."""
    weights = load_weights()
    floats = graph.build_backbone(weights)
    ranges, settings = measure_ranges(weights, pixels), PixelSettings(pixels.shape[1])
    return {
        runtime: graph.build_backbone(weights, make_int8(ranges, runtime, settings))
        if runtime.precision == "int8"
        else floats
        for runtime in list_runtimes()
    }


def measure_torch(backbone: Any, batches: Sequence[Any], seconds: float) -> float:
    """Run batches one after the other, as a script does."""
    start, done = time.perf_counter(), 0
    with torch.inference_mode():
        for batch in take_for(batches, start + seconds):
            done += len(pool_taps(backbone, batch))
    return done / (time.perf_counter() - start)


def measure_ours(
    run: RunGraph, batches: Sequence[NDArray[np.uint8]], executor: ThreadExecutor, seconds: float
) -> float:
    """Run a batch on each thread, as `learn.features` does."""
    start = time.perf_counter()
    done = sum(executor.map(lambda batch: len(run(batch)), take_for(batches, start + seconds)))
    return done / (time.perf_counter() - start)


def take_for(batches: Sequence[Any], deadline: float) -> Iterator[Any]:
    """Yield batches over and over until the deadline."""
    for batch in cycle(batches):
        if time.perf_counter() >= deadline:
            return
        yield batch


def run_rounds(
    contenders: dict[str, Measure], rounds: int, seconds: float
) -> dict[str, list[float]]:
    """Let all run in turn, after one untimed turn each."""
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for measure in contenders.values():
        measure(0.3)
    for _ in range(rounds):
        for name, measure in contenders.items():
            speeds[name].append(measure(seconds))
    return speeds


def print_speeds(speeds: dict[str, list[float]], side: int) -> None:
    rows = []
    for name, values in speeds.items():
        ratios = [own / base for own, base in zip(values, speeds[BASELINE], strict=True)]
        rows.append((name, format_spread(values, 0), format_spread(ratios, 2)))
    header = [
        "frozen layers",
        f"images/s at {side} px: median (min–max, n)",
        "ratio to torch in the same round",
    ]
    print_table(header, rows)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_photo_options(parser)
    parser.add_argument(
        "--side", type=int, default=224, help="side of the image in pixels (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=7, help="(default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="of each turn (default: %(default)s)"
    )
    options = parser.parse_args(argv)
    contenders = list_contenders(read_pixels(options), options.side)
    print_speeds(run_rounds(contenders, options.rounds, options.seconds), options.side)
    print(
        f"{count_cores()} threads; batch {TORCH_BATCH} in torch, {batch_size(options.side)} on "
        f"each thread in ours."
    )
    print_machine()


if __name__ == "__main__":
    main()
