"""Measure how many wrong labels `squeezetune check` finds, and what a training on the cleaned
photos gains.

    python benchmarks/wrong_labels.py --data FOLDER [--only eth80 cifar10] [--seeds 3] [--test 0.45]
        [--no-training]

Of the n labels that are made wrong at random, the share is counted that is among the first 2n
suggestions. ETH-80 with 3 % and 10 %, CIFAR-10 with 5 %. For the accuracies the photos are split as
`train` splits them; labels of the training and validation parts alone are made wrong, these parts
are checked, and labels are changed from the confidence on that `--apply` takes by default. The test
part keeps its labels and chooses nothing. All three trainings are on one split. With `--test`
another share of the photos is the test part: of ETH-80's usual tenth a lost point would be three
photos.
"""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from figures import format_mean, print_machine, print_table
from numpy.typing import NDArray
from photos import PHOTO_SETS, add_photo_options, prepare_photos, scan_photos, split_photos

from squeezetune.audit.cleaning import CONFIDENCE
from squeezetune.audit.inspection import inspect_photos
from squeezetune.audit.label_errors import LabelErrors
from squeezetune.data.index import ImageIndex
from squeezetune.data.split import Split
from squeezetune.evaluation.measurement import run_classifier
from squeezetune.events import ignore_event
from squeezetune.model.classifier import Classifier
from squeezetune.pipeline.context import open_context
from squeezetune.pipeline.fitting import fit_classifier, make_manifest

SHARES = {"eth80": (0.03, 0.10), "cifar10": (0.05,)}
FIRST_SEED = 1000  # no figure of the choices in docs/decisions/0010-audit.md comes from these

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Result:
    """What was found of the labels made wrong, and accuracies on the test part: labels right,
    wrong, and cleaned.
    """

    found: float
    precision: float
    flips: int
    suggestions: int
    accuracies: Mapping[str, float]


def flip_labels(
    labels: Ints, class_count: int, share: float, draw: np.random.Generator
) -> tuple[Ints, Ints]:
    """Give a share of the images another class at random; return the labels, and the positions of
    those.
    """
    count = round(share * len(labels))
    flipped = draw.choice(len(labels), count, replace=False)
    wrong = labels.copy()
    wrong[flipped] = (labels[flipped] + draw.integers(1, class_count, count)) % class_count
    return wrong, flipped


def take_images(index: ImageIndex, positions: Ints, labels: Ints) -> ImageIndex:
    """Take some images of an index, with other labels."""
    names = tuple(index.names[at] for at in positions)
    return replace(index, names=names, labels=labels, digests=index.digests[positions])


def find_suggestions(name: str, index: ImageIndex, seed: int, cache: Path) -> LabelErrors:
    """Find the suggestions as `check` does."""
    context = open_context(PHOTO_SETS[name].make_settings(seed=seed), cache, ignore_event)
    return inspect_photos(index, context).doubts


def measure_seed(
    name: str, index: ImageIndex, share: float, seed: int, cache: Path, options: argparse.Namespace
) -> Result:
    """Make labels wrong, find them, and train on labels right, wrong and cleaned."""
    draw, is_trained = np.random.default_rng(FIRST_SEED + seed), not options.no_training
    parts = {} if options.test is None else {"test": options.test}
    split = split_photos(index, PHOTO_SETS[name].make_settings(seed=seed, **parts))
    seen = (
        np.sort(np.concatenate([split.train, split.validation]))
        if is_trained
        else np.arange(len(index))
    )
    wrong, flipped = flip_labels(index.labels[seen], len(index.class_names), share, draw)
    doubts = find_suggestions(name, take_images(index, seen, wrong), seed, cache)
    found = float(np.isin(flipped, doubts.positions[: 2 * len(flipped)]).mean())
    sure = doubts.positions[doubts.confidence >= CONFIDENCE]
    cleaned = wrong.copy()
    cleaned[sure] = doubts.suggested[doubts.confidence >= CONFIDENCE]
    accuracies = {}
    for kind, labels in (
        (("right", index.labels[seen]), ("wrong", wrong), ("cleaned", cleaned))
        if is_trained
        else ()
    ):
        whole = index.labels.copy()
        whole[seen] = labels
        accuracies[kind] = train_on(name, index, whole, split, seed, cache)
    return Result(
        found, float(np.isin(sure, flipped).mean()), len(flipped), len(doubts), accuracies
    )


def train_on(
    name: str, index: ImageIndex, labels: Ints, split: Split, seed: int, cache: Path
) -> float:
    """Train with these labels, and measure the file on the test part, whose labels are right."""
    settings = PHOTO_SETS[name].make_settings(seed=seed)
    context = open_context(settings, cache, ignore_event)
    learned = fit_classifier(
        replace(index, labels=labels), partial(keep_split, split=split), context
    )
    classifier = Classifier(learned.model, make_manifest(learned, settings))
    measured = run_classifier(classifier, index, split.test, context.executor, ignore_event)
    return float((measured.probabilities.argmax(axis=1) == index.labels[measured.positions]).mean())


def keep_split(index: ImageIndex, split: Split) -> Split:
    return split


def print_results(name: str, share: float, results: Sequence[Result]) -> None:
    """Print a row for each seed, and the means."""
    rows: list[Sequence[object]] = []
    for seed, item in enumerate(results):
        accuracies = [
            f"{item.accuracies[kind]:.2%}" if item.accuracies else ""
            for kind in ("right", "wrong", "cleaned")
        ]
        rows.append(
            (
                seed,
                item.flips,
                item.suggestions,
                f"{item.found:.1%}",
                f"{item.precision:.1%}",
                *accuracies,
                describe_recovery([item] if item.accuracies else []),
            )
        )
    means = [
        format_mean([getattr(item, field) for item in results]) for field in ("found", "precision")
    ]
    trained = [item for item in results if item.accuracies]
    accuracies = [format_mean([item.accuracies[kind] for item in trained]) if trained else ""
                  for kind in ("right", "wrong", "cleaned")]  # fmt: skip
    rows.append(("mean ± sd", "", "", *means, *accuracies, describe_recovery(trained)))
    print(f"\n{name}, {share:.0%} of the labels wrong")
    print_table(
        [
            "seed",
            "wrong labels",
            "suggestions",
            "found among the first 2n",
            f"right of those above {CONFIDENCE:.0%}",
            "accuracy, labels right",
            "wrong",
            "cleaned",
            "recovered",
        ],
        rows,
    )


def describe_recovery(results: Sequence[Result]) -> str:
    """Write the share of the accuracy lost that came back; nothing where none was lost."""
    if not results:
        return ""
    right, wrong, cleaned = (
        statistics.mean(item.accuracies[kind] for item in results)
        for kind in ("right", "wrong", "cleaned")
    )
    return f"{(cleaned - wrong) / (right - wrong):.0%}" if right > wrong else "nothing lost"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_photo_options(parser)
    parser.add_argument("--only", nargs="+", choices=SHARES, default=list(SHARES))
    parser.add_argument("--seeds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument(
        "--cache", type=Path, help="keep features there (default: in the work folder)"
    )
    parser.add_argument(
        "--test",
        type=float,
        metavar="SHARE",
        help="share of the test part (default: the photo set's)",
    )
    parser.add_argument(
        "--no-training", action="store_true", help="look for wrong labels only, among all photos"
    )
    options = parser.parse_args(argv)
    for name in options.only:
        index = scan_photos(name, prepare_photos(name, options))
        cache = options.cache or options.work / "wrong-labels-cache"
        for share in SHARES[name]:
            results = [measure_seed(name, index, share, seed, cache, options)
                       for seed in range(options.seeds)]  # fmt: skip
            print_results(name, share, results)
    print_machine()


if __name__ == "__main__":
    main()
