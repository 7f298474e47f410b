"""Measure the time to fit the head, against scikit-learn on the same rows.

    python benchmarks/head_time.py --data FOLDER [--rows 10000] [--runs 3]

The rows are features of CIFAR-10 photos (one view, square roots, standardised: 2,048 float32 a
photo); a fifth as many are the validation part. Logistic regression minimises the same objective in
both, with the same penalty; the hidden layers take as many epochs in batches of the same size.
scikit-learn runs with one thread and with all, and the faster of the two is what we are compared
with. All run in turn.
"""

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from figures import format_spread, print_machine, print_table
from numpy.typing import NDArray
from photos import add_photo_options, prepare_photos, scan_photos, split_photos
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from squeezetune.events import ignore_event
from squeezetune.heads.linear import DenseWeights, WeightedRows, apply_layers, fit_linear
from squeezetune.heads.mlp import HiddenOptions, fit_hidden
from squeezetune.heads.scaling import measure_scaling
from squeezetune.heads.selection import PENALTY
from squeezetune.pipeline.context import open_context
from squeezetune.pipeline.fitting import fit_classifier
from squeezetune.settings import Settings
from squeezetune.system.executor import count_cores

HIDDEN = HiddenOptions()
CORES = count_cores()
VALIDATION = 1 / 6  # a fifth of the training part


@dataclass(frozen=True)
class Rows:
    """Standardised rows (n, 2048) float32 of training and validation, with their labels."""

    train: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    validation: NDArray[np.float32]
    validation_labels: NDArray[np.int64]

    @property
    def task(self) -> WeightedRows:
        """What our functions fit."""
        return WeightedRows(
            self.train, self.train_labels, np.ones(int(self.train_labels.max()) + 1, np.float32)
        )


Fit: TypeAlias = Callable[[Rows], NDArray[np.int64]]  # the classes of the validation rows


def compute_rows(options: argparse.Namespace) -> Rows:
    """Run the frozen layers over the photos, one view each."""
    # the smallest test part there may be; it is not used here
    settings = Settings(validation=VALIDATION, test=0.02, head="linear", views="plain")
    images = options.images or round(options.rows / (1 - settings.validation - settings.test))
    root = prepare_photos("cifar10", argparse.Namespace(**vars(options) | {"images": images}))
    index = scan_photos("cifar10", root)
    cut = partial(split_photos, settings=settings)
    with tempfile.TemporaryDirectory(dir=options.work) as cache:
        learned = fit_classifier(index, cut, open_context(settings, Path(cache), ignore_event))
    values, labels, split = learned.features.values, learned.index.labels, learned.split
    scaling = measure_scaling(values[split.train])
    train, validation = (
        scaling.apply(values[part])[:, 0] for part in (split.train, split.validation)
    )
    return Rows(train, labels[split.train], validation, labels[split.validation])


def fit_our_linear(rows: Rows) -> NDArray[np.int64]:
    """Fit our linear head and classify the validation rows."""
    with threadpool_limits(1):  # each thread works on rows of its own
        return classify(fit_linear(rows.task, PENALTY, threads=CORES), rows)


def fit_our_hidden(rows: Rows) -> NDArray[np.int64]:
    """Fit our hidden layer and classify the validation rows."""
    with threadpool_limits(1):
        return classify(fit_hidden(rows.task, 0, HIDDEN, lambda share: None, threads=CORES), rows)


def classify(layers: DenseWeights, rows: Rows) -> NDArray[np.int64]:
    """Classify the validation rows."""
    predicted: NDArray[np.int64] = apply_layers(layers, rows.validation).argmax(axis=1)
    return predicted


def make_their_linear(rows: Rows) -> Any:
    """Make scikit-learn's logistic regression: C is the inverse of our penalty."""
    return LogisticRegression(C=1 / PENALTY, max_iter=200)


def make_their_hidden(rows: Rows) -> Any:
    """Make scikit-learn's network with as many epochs; it knows no dropout."""
    n = len(rows.train)
    batch = min(HIDDEN.batch, max(16, n // 32))  # as `fit_hidden` chooses
    epochs = max(HIDDEN.epochs, -(-HIDDEN.min_steps // (n // batch)))
    return MLPClassifier((HIDDEN.width,), batch_size=batch, max_iter=epochs, random_state=0)


def fit_theirs(make: Callable[[Rows], Any], threads: int, rows: Rows) -> NDArray[np.int64]:
    """Fit a model of scikit-learn with so many threads for its products, and classify the
    validation rows.
    """
    with threadpool_limits(threads):
        predicted: NDArray[np.int64] = (
            make(rows).fit(rows.train, rows.train_labels).predict(rows.validation)
        )
    return predicted


# Ours first, then scikit-learn's with one thread and with all: on a busy machine one may be faster.
CONTESTS: list[dict[str, Fit]] = [
    {
        "squeezetune, linear": fit_our_linear,
        "scikit-learn, LogisticRegression, 1 thread": partial(fit_theirs, make_their_linear, 1),
        f"scikit-learn, LogisticRegression, {CORES} threads": partial(
            fit_theirs, make_their_linear, CORES
        ),
    },
    {
        f"squeezetune, hidden layer of {HIDDEN.width}": fit_our_hidden,
        f"scikit-learn, MLPClassifier of {HIDDEN.width}, 1 thread": partial(
            fit_theirs, make_their_hidden, 1
        ),
        f"scikit-learn, MLPClassifier of {HIDDEN.width}, {CORES} threads": partial(
            fit_theirs, make_their_hidden, CORES
        ),
    },
]


def run_rounds(
    rows: Rows, fits: Mapping[str, Fit], runs: int
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Fit all in turn; return the seconds of each, and its validation accuracy."""
    seconds: dict[str, list[float]] = {name: [] for name in fits}
    accuracies = {}
    for _ in range(runs):
        for name, fit in fits.items():
            start = time.perf_counter()
            predicted = fit(rows)
            seconds[name].append(time.perf_counter() - start)
            accuracies[name] = float((predicted == rows.validation_labels).mean())
    return seconds, accuracies


def print_fits(
    rows: Rows, seconds: Mapping[str, list[float]], accuracies: Mapping[str, float]
) -> None:
    """Print a contest; ratios are against the faster of scikit-learn's two in the same round."""
    theirs = [min(round_) for round_ in zip(*list(seconds.values())[1:], strict=True)]
    lines = []
    for name, values in seconds.items():
        ratios = [base / own for own, base in zip(values, theirs, strict=True)]
        per_10000 = [10_000 / len(rows.train) * value for value in values]
        lines.append(
            (name, format_spread(per_10000, 2), format_spread(ratios, 2), f"{accuracies[name]:.2%}")
        )
    header = [
        "head",
        "seconds for 10,000 images: median (min–max, n)",
        "times faster than scikit-learn's faster one",
        f"validation accuracy ({len(rows.validation):,})",
    ]
    print_table(header, lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_photo_options(parser)
    parser.add_argument(
        "--rows", type=int, default=10_000, help="training rows (default: %(default)s)"
    )
    parser.add_argument("--runs", type=int, default=3, help="rounds (default: %(default)s)")
    options = parser.parse_args(argv)
    warnings.simplefilter("ignore", ConvergenceWarning)  # so many epochs are what is asked for
    rows = compute_rows(options)
    for fits in CONTESTS:
        print_fits(rows, *run_rounds(rows, fits, options.runs))
    print(f"{len(rows.train):,} training rows; squeezetune with {CORES} threads.")
    print_machine()


if __name__ == "__main__":
    main()
