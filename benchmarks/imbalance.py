"""Measure what class weights are worth where classes are unequal, and what the report says of it.

    python benchmarks/imbalance.py --data FOLDER [--seeds 3]

Two classes of CIFAR-10 that are easily confused, cats and dogs, are thinned out to 60/40, 100 to 1
and 1,000 to 1, and learnt as `squeezetune train` does, with `--class-weight auto` and `none`. What
the models are worth is measured on other images, as many of each: accuracy as it would be at the
frequencies of training, balanced accuracy, and the share of the rare class that is found. The last
two columns are what the reports of the runs say of the first two.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from few_images import Draw, draw_images, measure_draw
from figures import format_mean, print_machine, print_table
from photos import BACKBONE, add_photo_options, prepare_photos, scan_photos

from squeezetune.data.index import ImageIndex
from squeezetune.settings import Settings

PAIR = ("cat", "dog")
COUNTS = {"60/40": (1200, 800), "100 to 1": (4000, 40), "1,000 to 1": (4000, 4)}


def take_pair(index: ImageIndex) -> ImageIndex:
    """Keep the images of the two classes."""
    labels = [index.class_names.index(name) for name in PAIR]
    positions = np.flatnonzero(np.isin(index.labels, labels))
    names, digests = tuple(index.names[at] for at in positions), index.digests[positions]
    renamed = np.searchsorted(labels, index.labels[positions])
    return replace(index, names=names, digests=digests, labels=renamed, class_names=PAIR)


def find_recalls(draw: Draw) -> tuple[float, float]:
    """Find the share of each class that is named right."""
    usual, rare = (figures.correct / figures.test for figures in draw.truth.per_class)
    return usual, rare


def describe_draws(draws: Sequence[Draw], counts: tuple[int, int]) -> list[str]:
    """Describe the draws of one ratio as a row."""
    recalls = [find_recalls(draw) for draw in draws]
    shares = np.array(counts) / sum(counts)
    return [
        format_mean([float(shares @ pair) for pair in recalls]),
        format_mean([sum(pair) / 2 for pair in recalls]),
        format_mean([rare for _, rare in recalls]),
        format_mean([draw.reported.accuracy for draw in draws]),
        format_mean([draw.reported.balanced_accuracy for draw in draws]),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_photo_options(parser)
    parser.add_argument(
        "--seeds", type=int, default=3, help="draws of every ratio (default: %(default)s)"
    )
    options = parser.parse_args(argv)
    print_machine()
    pair, rows = take_pair(scan_photos("cifar10", prepare_photos("cifar10", options))), []
    with tempfile.TemporaryDirectory(dir=options.work) as cache:
        for name, counts in COUNTS.items():
            for weight in ("auto", "none"):
                settings = Settings(
                    backbone=BACKBONE,
                    class_weight=weight,
                    engine="onnxruntime",
                    precision="float32",
                )
                draws = [
                    measure_draw(*draw_images(pair, counts, seed), settings, Path(cache))
                    for seed in range(options.seeds)
                ]
                rows.append([name, weight, *describe_draws(draws, counts)])
                print(*rows[-1], *draws[0].reported.warnings, sep="; ", flush=True)
    header = [
        "cats to dogs",
        "--class-weight",
        "accuracy at these frequencies",
        "balanced accuracy",
        "dogs found",
        "accuracy reported",
        "balanced accuracy reported",
    ]
    print_table(header, rows)


if __name__ == "__main__":
    main()
