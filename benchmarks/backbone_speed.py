"""Measure images a second through the frozen layers of several networks, in each runtime and in
plain torch. Needs torch.

    python benchmarks/backbone_speed.py --data FOLDER [--networks squeezenet1_1 efficientnet_lite0]
        [--side 224] [--rounds 5] [--seconds 1]

From pixels in memory to the features; no files are read in the timed part. torch: eager, float32,
`no_grad`, normalised beforehand. Ours: uint8 pixels, one batch for each thread, as `train` does it.
Networks that the package has no weights of get random ones, which take the same time. All run in
turn within each round, and ratios are taken within a round: to the first network's fastest runtime,
and to torch's fastest batch with the same network. Seconds are of the processor, over the number of
its cores, which other programs hardly change; torch has one thread, as it would wait on more.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import torch
from figures import format_spread, print_machine, print_table
from numpy.typing import NDArray
from photos import add_photo_options
from trunk_speed import read_pixels

from squeezetune.data.pixels import PixelSettings
from squeezetune.finetune.torch_layers import delay_activations, run_layers
from squeezetune.finetune.torch_network import DescribedNetwork
from squeezetune.network.architecture import Architecture
from squeezetune.network.backbone import make_int8, measure_ranges
from squeezetune.network.graph import build_backbone
from squeezetune.network.inference import batch_size, list_runtimes, open_graph
from squeezetune.network.layers import PIXELS, MaxPool
from squeezetune.network.weights import Weights, fold_norms, load_weights
from squeezetune.network.zoo import NETWORKS
from squeezetune.system.executor import ThreadExecutor, count_cores

TORCH_BATCHES = (1, 8, 32)
PLAIN = "torch"

# By network and runtime: seconds to run for -> images a second
Contenders = dict[tuple[str, str], Callable[[float], float]]
Speeds = dict[tuple[str, str], list[float]]


def draw_weights(network: Architecture) -> Weights:
    """Take the weights in the package, or draw kernels that keep the scale of what goes through
    them (He et al. 2015); batch normalisations do nothing.
    """
    if network.name == "squeezenet1_1":
        return load_weights()
    rng, weights = np.random.default_rng(0), {}
    for name, shape in network.list_shapes().items():
        if len(shape) > 1:
            weights[name] = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        else:
            is_factor = name.endswith("var") or (name.endswith("weight") and len(shape) == 1)
            weights[name] = np.full(shape, float(is_factor))
    return {name: value.astype(np.float32) for name, value in weights.items()}


def list_contenders(network: Architecture, pixels: NDArray[np.uint8]) -> Contenders:
    """Open a network in everything that runs it."""
    threads, side = count_cores(), pixels.shape[1]
    weights = draw_weights(network)
    found: Contenders = {}
    mean, std = (np.asarray(each, np.float32) for each in (network.mean, network.std))
    x = torch.from_numpy((pixels / np.float32(255) - mean) / std).permute(0, 3, 1, 2).contiguous()
    run = build_plain(network, weights)
    for size in TORCH_BATCHES:
        found[network.name, f"{PLAIN}, batch {size}"] = partial(measure, run, x.split(size), 1)
    folded = fold_norms(weights, network)
    floats, ranges = build_backbone(folded), measure_ranges(folded, pixels)
    size = batch_size(side)
    batches = [pixels[at : at + size] for at in range(0, len(pixels) - size + 1, size)]
    for runtime in list_runtimes():
        int8 = make_int8(ranges, runtime, PixelSettings(side))
        model = build_backbone(folded, int8) if runtime.precision == "int8" else floats
        opened = open_graph(model, runtime, threads)
        found[network.name, str(runtime)] = partial(measure, opened, batches, threads)
    return found


def build_plain(network: Architecture, weights: Weights) -> Callable[[Any], Any]:
    """Build what a script has: the network in torch, whose features (n, features) it computes."""
    module = DescribedNetwork(network, 1000).eval()
    module.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    activations = delay_activations(network.layers, (MaxPool,), network.taps)

    def run(x: Any) -> Any:
        with torch.no_grad():
            passed = run_layers(module, network.layers, activations, {PIXELS: x})
            return torch.cat(
                [y.mean((2, 3)) for layer, y in passed if layer.output in network.taps], 1
            )

    return run


def measure(
    run: Callable[[Any], Any], batches: Sequence[Any], threads: int, seconds: float
) -> float:
    """Run a batch on each thread, over and over; return the images a second of all cores."""
    deadline, start = time.perf_counter() + seconds, time.process_time()

    def work(_: int) -> int:
        done = 0
        for at in count():
            if time.perf_counter() >= deadline:
                break
            batch = batches[at % len(batches)]
            run(batch)
            done += len(batch)
        return done

    done = sum(ThreadExecutor(threads).map(work, range(threads)))
    return done * count_cores() / (time.process_time() - start)


def run_rounds(contenders: Contenders, rounds: int, seconds: float) -> Speeds:
    """Let all run in turn, after one untimed turn each."""
    speeds: Speeds = {name: [] for name in contenders}
    for run in contenders.values():
        run(0.3)
    for _ in range(rounds):
        for name, run in contenders.items():
            speeds[name].append(run(seconds))
    return speeds


def find_fastest(speeds: Speeds, network: str, *, is_plain: bool) -> list[float]:
    """Find the speeds of a network's fastest runtime, or of torch's fastest batch."""
    own = [values for (name, runtime), values in speeds.items()
           if name == network and runtime.startswith(PLAIN) == is_plain]  # fmt: skip
    return max(own, key=statistics.median)


def print_speeds(speeds: Speeds, first: str, side: int) -> None:
    def compare(values: Sequence[float], base: Sequence[float]) -> str:
        return format_spread([own / other for own, other in zip(values, base, strict=True)], 2)

    rows = [
        (network, runtime, format_spread(values, 0),
         compare(values, find_fastest(speeds, first, is_plain=False)),
         compare(values, find_fastest(speeds, network, is_plain=True)))
        for (network, runtime), values in speeds.items()
    ]  # fmt: skip
    header = ["network", "runtime", f"images/s at {side} px: median (min–max, n)",
              f"ratio to the fastest of {first}", "ratio to torch's fastest"]  # fmt: skip
    print_table(header, rows)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_photo_options(parser)
    parser.add_argument(
        "--networks",
        nargs="+",
        choices=NETWORKS,
        metavar="NETWORK",
        default=["squeezenet1_1", "efficientnet_lite0"],
        help=f"the first is compared with; known are {', '.join(NETWORKS)}",
    )
    parser.add_argument(
        "--side", type=int, default=224, help="of the images in pixels (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="of each turn (default: %(default)s)"
    )
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    pixels = read_pixels(options)
    contenders: Contenders = {}
    for name in options.networks:
        contenders |= list_contenders(NETWORKS[name], pixels)
    speeds = run_rounds(contenders, options.rounds, options.seconds)
    print_speeds(speeds, options.networks[0], options.side)
    print(f"{count_cores()} threads; {batch_size(options.side)} images on each in our runtimes.")
    print_machine()


if __name__ == "__main__":
    main()
