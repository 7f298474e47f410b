"""Measure what training the layers gains over the frozen layers' head, on the same splits of
ETH-80. Needs torch.

    python benchmarks/fine_tuning.py --data FOLDER [--only objects random] [--layers last
        --last-blocks 4]
                                     [--effort thorough] [--budget 10m] [--epochs 8]

objects  whole objects held out, ten folds: in fold k the k-th object of every class is the test
         part, the object after it the validation part, and the other eight train. The errors of
         both ways are paired by fold; the ratio of their means has a 95 % interval from 10,000
         draws of ten folds with replacement.
random   80/10/10 with the same share of every class, five seeds: other views of the same objects
         are in training.

Both ways have the options' settings, but that the frozen one has `--layers head`. What is measured
is `model.onnx`, which holds the trained layers only where they are better on the validation part.
Finished trainings are kept in `fine-tuning.jsonl` in the work folder and not made again; features
and pixels are shared through a cache there.
"""

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from accuracy import FOLDS, Field, Result, format_points
from figures import format_mean, print_machine, print_table
from ledger import Ledger, add_ledger_options, open_ledger
from photos import add_photo_options, prepare_photos, scan_photos

PHOTOS = "eth80"
SETTINGS = ("layers", "last_blocks", "effort", "budget", "epochs", "engine", "precision")
DRAWS = 10_000
WANTED_RATIO, WANTED_RANDOM = 0.75, 0.998


@dataclass(frozen=True)
class Pair:
    """The frozen layers' head and the trained layers on one split."""

    number: int
    frozen: Result
    tuned: Result

    @property
    def gain(self) -> float:
        """By how much the error has fallen, as a share of the test images."""
        return self.tuned.accuracy - self.frozen.accuracy


@dataclass(frozen=True)
class Kind:
    """A way to split: how one of its splits is trained on, and which there are."""

    train: Callable[[Field, int], Result]
    numbers: Sequence[int]
    unit: str
    title: str


KINDS = {
    "objects": Kind(Field.train_fold, FOLDS, "fold", "whole objects held out"),
    "random": Kind(
        Field.train_seed,
        range(5),
        "seed",
        "80/10/10, other views of the same objects are in training",
    ),
}


def recall_pairs(
    field: Field, name: str, ledger: Ledger, options: argparse.Namespace
) -> list[Pair]:
    """Train both ways on every split, or take what is known."""
    kind, pairs = KINDS[name], []
    frozen = freeze(field)
    for number in kind.numbers[: options.splits or None]:

        def recall(one: Field, number: int = number) -> Result:
            key = {"split": name, "number": number, "images": options.images, **one.choices}
            return Result(**ledger.recall(key, lambda: vars(kind.train(one, number))))

        pairs.append(Pair(number, recall(frozen), recall(field)))
    return pairs


def freeze(field: Field) -> Field:
    """Return the field with the same settings but those of training layers."""
    rest = {name: value for name, value in field.choices.items() if name != "last_blocks"}
    return replace(field, choices={**rest, "layers": "head"})


def bootstrap_ratio(pairs: Sequence[Pair], draws: int = DRAWS) -> tuple[float, float, float]:
    """Return the ratio of the mean errors, trained over frozen, and its 95 % interval over draws of
    the splits.

    Draws in which the frozen layers make no error are left out; nan where there is no other.
    """
    errors = np.array([(1 - pair.frozen.accuracy, 1 - pair.tuned.accuracy) for pair in pairs])
    chosen = np.random.default_rng(0).integers(0, len(pairs), (draws, len(pairs)))
    means = np.vstack([errors.mean(axis=0)[None], errors[chosen].mean(axis=1)])
    frozen, tuned = means.T
    ratios = np.divide(tuned, frozen, out=np.full(len(means), np.nan), where=frozen > 0)
    if np.isnan(ratios[1:]).all():
        return (float(ratios[0]), float("nan"), float("nan"))
    low, high = np.nanpercentile(ratios[1:], (2.5, 97.5))
    return float(ratios[0]), float(low), float(high)


def print_pairs(name: str, pairs: Sequence[Pair], choices: Mapping[str, Any]) -> None:
    """Print every split and the summary."""
    kind = KINDS[name]
    rows: list[Sequence[object]] = [
        (
            pair.number,
            f"{pair.frozen.accuracy:.2%}",
            f"{pair.tuned.accuracy:.2%}",
            f"{100 * pair.gain:+.2f}",
            f"{pair.tuned.frozen_validation:.2%}",
            f"{pair.tuned.validation:.2%}",
            pair.tuned.head,
            f"{pair.frozen.seconds:.0f}",
            f"{pair.tuned.seconds:.0f}",
        )
        for pair in pairs
    ]
    frozen, tuned = ([getattr(pair, way).accuracy for pair in pairs] for way in ("frozen", "tuned"))
    rows.append(
        (
            "mean ± sd",
            format_mean(frozen),
            format_mean(tuned),
            format_points([pair.gain for pair in pairs]),
            *[""] * 5,
        )
    )
    print(
        f"\n{PHOTOS}, {kind.title}; "
        f"{', '.join(f'{name} {value}' for name, value in choices.items())}"
    )
    header = [
        kind.unit,
        "frozen, test",
        "trained, test",
        "gain, points",
        "frozen, validation",
        "the file, validation",
        "in the file",
        "frozen, s",
        "trained, s (the first fills the cache)",
    ]
    print_table(header, rows)
    print_summary(name, pairs)


def print_summary(name: str, pairs: Sequence[Pair]) -> None:
    """Print what was wanted and what was found."""
    ratio, low, high = bootstrap_ratio(pairs)
    sign = [sum(pair.gain > 0 for pair in pairs), sum(pair.gain == 0 for pair in pairs)]
    print(
        f"Mean error, trained / frozen: {ratio:.2f} [{low:.2f}, {high:.2f}], n={len(pairs)}; "
        f"better in {sign[0]}, equal in {sign[1]}, worse in {len(pairs) - sum(sign)}"
    )
    if name == "objects":
        print(f"Wanted: {WANTED_RATIO} or less: {'reached' if ratio <= WANTED_RATIO else 'MISSED'}")
    else:
        mean = statistics.mean(pair.tuned.accuracy for pair in pairs)
        print(
            f"Wanted: {WANTED_RANDOM:.1%} or more: "
            f"{'reached' if mean >= WANTED_RANDOM else 'MISSED'}"
        )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_photo_options(parser)
    add_ledger_options(parser)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument(
        "--splits", type=int, default=0, help="take the first splits only; 0 takes all"
    )
    parser.add_argument("--layers", default="all", help="as of `train` (default: %(default)s)")
    parser.add_argument("--last-blocks", type=int, help="as of `train`")
    for name, kind in (
        ("effort", str),
        ("budget", str),
        ("epochs", float),
        ("engine", str),
        ("precision", str),
    ):
        parser.add_argument(f"--{name}", type=kind, help="as of `train`")
    options = parser.parse_args(argv)
    print_machine()
    choices = {name: value for name in SETTINGS if (value := getattr(options, name)) is not None}
    cache = options.work / "fine-tuning-cache"
    cache.mkdir(parents=True, exist_ok=True)
    field = Field(PHOTOS, scan_photos(PHOTOS, prepare_photos(PHOTOS, options)), cache, choices)
    ledger = open_ledger("fine-tuning", options)
    for name in options.only:
        print_pairs(name, recall_pairs(field, name, ledger, options), choices)


if __name__ == "__main__":
    main()
