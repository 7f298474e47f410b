"""Measure the accuracy of trained files on their test parts, over seeds and folds, and what int8
features cost.

    python benchmarks/accuracy.py --data FOLDER [--only eth80 objects cifar10 int8] [--engine auto]
        [--precision auto]

eth80    80/10/10 with the same share of every class, five seeds: other views of the same objects
         are in training.
objects  ETH-80 with whole objects held out, ten folds: in fold k the k-th object of every class is
         the test part, the object after it (the first after the tenth) the validation part, and the
         other eight objects train.
cifar10  60/20/20, three seeds.
int8     float32 and int8 features in ONNX Runtime on the same splits of eth80 and cifar10, and the
         paired difference.

What is measured is the file `model.onnx`, run on the test images as `train` does it. Seeds share a
cache, so that all but the first take the features from it.
"""

import argparse
import json
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from figures import format_accuracy, format_mean, print_machine, print_table
from numpy.typing import NDArray
from photos import PHOTO_SETS, add_photo_options, prepare_photos, scan_photos, split_photos

from squeezetune.data.index import ImageIndex
from squeezetune.data.split import Split
from squeezetune.evaluation.measurement import run_classifier
from squeezetune.events import ignore_event
from squeezetune.model.classifier import Classifier
from squeezetune.pipeline.context import open_context
from squeezetune.pipeline.extraction import CutIndex
from squeezetune.pipeline.fitting import fit_classifier, make_manifest
from squeezetune.settings import Settings

SEEDS = {"eth80": 5, "cifar10": 3}
OBJECTS = 10  # of each class of ETH-80
FOLDS = range(1, OBJECTS + 1)


@dataclass(frozen=True)
class Result:
    """What one training measured: test images, those that are right, seconds, and what computed the
    features.

    `head` names what stands in the file; the validation accuracies are the frozen layers' head's
    and the file's.
    """

    correct: int
    count: int
    seconds: float
    runtime: str
    head: str
    frozen_validation: float
    validation: float

    @property
    def accuracy(self) -> float:
        """The share of test images that are right."""
        return self.correct / self.count


@dataclass(frozen=True)
class Field:
    """The photos of a set, the cache that its trainings share, and the settings that the user
    chose.
    """

    name: str
    index: ImageIndex
    cache: Path
    choices: Mapping[str, object]

    def make_settings(self, seed: int) -> Settings:
        """Make the settings of one training."""
        return PHOTO_SETS[self.name].make_settings(seed=seed, **self.choices)

    def choose(self, **choices: object) -> "Field":
        """Return the field with some settings changed."""
        return replace(self, choices={**self.choices, **choices})

    def train(self, cut: CutIndex, settings: Settings) -> Result:
        """Train on a split, and measure the file on its test part."""
        start, context = time.perf_counter(), open_context(settings, self.cache, ignore_event)
        learned = fit_classifier(self.index, cut, context)
        classifier = Classifier(learned.model, make_manifest(learned, settings))
        measured = run_classifier(
            classifier, learned.index, learned.split.test, context.executor, ignore_event
        )
        correct = measured.probabilities.argmax(axis=1) == learned.index.labels[measured.positions]
        seconds = time.perf_counter() - start
        return Result(
            int(correct.sum()),
            len(correct),
            seconds,
            str(learned.backbone.runtime),
            learned.chosen.name,
            learned.head.chosen.validation_accuracy,
            learned.chosen.validation_accuracy,
        )

    def train_seed(self, seed: int) -> Result:
        """Train on the split of a seed."""
        settings = self.make_settings(seed)
        return self.train(partial(split_photos, settings=settings), settings)

    def train_fold(self, number: int) -> Result:
        """Train on the fold that tests object `number`, 1 to 10, of every class of ETH-80."""
        return self.train(partial(cut_objects, test=number), self.make_settings(0))


def read_objects(index: ImageIndex) -> NDArray[np.int64]:
    """Count each image's object within its class, 1 to 10, by the number in its path, e.g.
    car14/car14-035-045.jpg.

    The numbers themselves have gaps: the cars are 1, 2, 3, 5, 6, 7, 9, 11, 12 and 14.
    """
    numbers = np.array([int(re.findall(r"(\d+)/", name)[0]) for name in index.names])
    places = np.zeros(len(index), np.int64)
    for label in range(len(index.class_names)):
        own = index.labels == label
        places[own] = np.unique(numbers[own], return_inverse=True)[1] + 1
    return places


def cut_objects(index: ImageIndex, test: int) -> Split:
    """Cut one fold: object `test` of every class is tested, the one after it chooses, the others
    train.
    """
    return hold_out(index, validation=[test % OBJECTS + 1], test=[test])


def hold_out(index: ImageIndex, validation: Sequence[int], test: Sequence[int]) -> Split:
    """Hold objects of every class out, by their places in it; all others train."""
    objects = read_objects(index)
    is_validation, is_test = np.isin(objects, validation), np.isin(objects, test)
    parts = [
        np.flatnonzero(mask).astype(np.int64)
        for mask in (~is_test & ~is_validation, is_validation, is_test)
    ]
    units = index.labels * (OBJECTS + 1) + objects
    return Split(
        train=parts[0],
        validation=parts[1],
        test=parts[2],
        groups=len(np.unique(units)),
        units=units,
    )


def open_field(name: str, cache: Path, options: argparse.Namespace) -> Field:
    """Index a set's photos."""
    index = scan_photos(name, prepare_photos(name, options))
    return Field(name, index, cache, {"engine": options.engine, "precision": options.precision})


def compare_seeds(name: str, cache: Path, options: argparse.Namespace) -> None:
    """Measure stratified splits."""
    field = open_field(name, cache, options)
    shares = f"{PHOTO_SETS[name].validation:.0%} validation, {PHOTO_SETS[name].test:.0%} test"
    print_results(
        f"{name}, {shares}",
        ("seed", 0),
        [field.train_seed(seed) for seed in range(options.seeds or SEEDS[name])],
    )


def compare_objects(name: str, cache: Path, options: argparse.Namespace) -> None:
    """Measure ETH-80's objects held out."""
    field = open_field("eth80", cache, options)
    print_results(
        "eth80, whole objects held out (validation: the next object of every class)",
        ("fold", 1),
        [field.train_fold(number) for number in FOLDS],
    )


def compare_precisions(name: str, cache: Path, options: argparse.Namespace) -> None:
    """Measure int8 against float32 on the same splits of both sets."""
    rows: list[Sequence[object]] = []
    for photos in SEEDS:
        field, seeds = open_field(photos, cache, options), range(options.seeds or SEEDS[photos])
        floats, int8 = (
            [field.choose(engine="onnxruntime", precision=kind).train_seed(seed) for seed in seeds]
            for kind in ("float32", "int8")
        )
        pairs = list(zip(floats, int8, strict=True))
        rows += [
            (
                photos,
                seed,
                f"{a.accuracy:.2%}",
                f"{b.accuracy:.2%}",
                f"{100 * (b.accuracy - a.accuracy):+.2f}",
                f"{a.seconds:.1f}",
                f"{b.seconds:.1f}",
            )
            for seed, (a, b) in enumerate(pairs)
        ]
        means = (format_mean([result.accuracy for result in results]) for results in (floats, int8))
        rows += [
            (
                photos,
                "mean ± sd",
                *means,
                format_points([b.accuracy - a.accuracy for a, b in pairs]),
                "",
                "",
            )
        ]
    header = ["photos", "seed", "float32", "int8", "difference, points", "float32, s", "int8, s"]
    print(
        "\nint8 against float32 features in ONNX Runtime; the file that is measured is float32 in "
        "both"
    )
    print_table(header, rows)


def format_points(differences: Sequence[float]) -> str:
    """Write the mean and the standard deviation of differences in percentage points."""
    points = [100 * difference for difference in differences]
    return f"{statistics.mean(points):+.2f}" + (
        f" ± {statistics.stdev(points):.2f}" if len(points) > 1 else ""
    )


def print_results(title: str, unit: tuple[str, int], results: Sequence[Result]) -> None:
    """Print results in order; the unit says what one is, and the number of the first."""
    rows: list[Sequence[object]] = [
        (
            number,
            format_accuracy(result.correct, result.count),
            result.head,
            result.runtime,
            f"{result.seconds:.1f}",
        )
        for number, result in enumerate(results, unit[1])
    ]
    rows += [("mean ± sd", format_mean([result.accuracy for result in results]), "", "", "")]
    print(f"\n{title}")
    print_table(
        [
            unit[0],
            "test accuracy [95 % interval]",
            "head",
            "features by",
            "seconds (the first cold)",
        ],
        rows,
    )


PARTS: dict[str, Callable[[str, Path, argparse.Namespace], None]] = {
    "eth80": compare_seeds,
    "objects": compare_objects,
    "cifar10": compare_seeds,
    "int8": compare_precisions,
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_photo_options(parser)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument(
        "--engine", default="auto", help="as of `train`, but for int8 (default: %(default)s)"
    )
    parser.add_argument(
        "--precision", default="auto", help="as of `train`, but for int8 (default: %(default)s)"
    )
    parser.add_argument("--seeds", type=int, default=0, help=f"0 takes {json.dumps(SEEDS)}")
    options = parser.parse_args(argv)
    print_machine()
    options.work.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        # each part starts with an empty cache, so that its first time is comparable
        with tempfile.TemporaryDirectory(dir=options.work) as cache:
            PARTS[name](name, Path(cache), options)


if __name__ == "__main__":
    main()
