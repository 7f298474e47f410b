"""Images judged by linear heads that have not seen them, though they are learnt from as well."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from squeezetune.heads.head_data import PILOT_IMAGES, HeadData, apply_to_views, list_views
from squeezetune.heads.linear import (
    DenseWeights,
    Rows,
    WeightedRows,
    apply_layers,
    fit_linear,
    fit_temperature,
    measure_losses,
)

FOLDS = 5


@dataclass(frozen=True)
class Half:
    """One half of a pilot: standardised rows (n, views, 2048) and the labels (n,)."""

    rows: Rows
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Pilot:
    """An even sample of training and validation images in two halves, each judged by heads of the
    other.

    So choices hang on thousands of images instead of the few hundred of a validation part, for
    about the time that one fit on all of the sample takes. `units` numbers the groups of the
    images, first half first, if there are any. The factor, if any, makes the curvature of the loss
    about even (see `fit_linear`).
    """

    halves: tuple[Half, Half]
    class_weights: NDArray[np.float32]
    threads: int
    units: NDArray[np.int64] | None = None
    factor: Rows | None = None

    def measure(self, views: int, penalty: float) -> NDArray[np.float64]:
        """Measure the calibrated loss of every image (n,), in nats; 0 for those of a class that one
        half lacks.
        """
        first, second = self.halves
        labels = np.concatenate([half.labels for half in self.halves])
        is_judged = np.isin(labels, np.intersect1d(first.labels, second.labels))
        if not is_judged.any():
            return np.zeros(len(labels))
        with ThreadPoolExecutor(
            min(2, self.threads)
        ) as pool:  # side by side: one fit takes turns with its threads
            layers = list(pool.map(lambda half: self._fit(half, views, penalty), (second, first)))
        logits = np.concatenate(
            [
                apply_to_views(own, half.rows[:, :views])
                for own, half in zip(layers, self.halves, strict=True)
            ]
        )
        temperature = fit_temperature(logits[is_judged], labels[is_judged])
        return np.where(is_judged, measure_losses(logits, labels, temperature), 0)

    def _fit(self, half: Half, views: int, penalty: float) -> DenseWeights:
        """Fit a linear head on one half."""
        threads = max(1, self.threads // 2)
        return fit_linear(
            list_views(half.rows, half.labels, views, self.class_weights),
            penalty * views,
            threads=threads,
            factor=self.factor,
        )


def draw_pilot(bench: HeadData, factor: Rows | None = None) -> Pilot:
    """Draw an even sample of at most `PILOT_IMAGES` of all images that are not tested."""
    labels, units = bench.labels, bench.units
    if not bench.is_judging_itself:
        labels = np.concatenate([labels, bench.validation_labels])
        units = None if units is None else np.concatenate([units, bench.validation_units])
    size = min(len(labels), PILOT_IMAGES)
    chosen = np.arange(size) * len(labels) // size
    labels, units = labels[chosen], None if units is None else units[chosen]
    folds = assign_folds(labels, units, 2)
    order = np.argsort(folds, kind="stable")
    first, second = (
        Half(take_rows(bench, chosen[own]), labels[own]) for own in (folds == 0, folds == 1)
    )
    return Pilot(
        (first, second),
        bench.class_weights,
        bench.threads,
        None if units is None else units[order],
        factor,
    )


def take_rows(bench: HeadData, positions: NDArray[np.int64]) -> Rows:
    """Copy rows of training images, and of validation images as if these followed them."""
    seen = positions[positions < len(bench.rows)]
    return np.concatenate(
        [bench.rows[seen], bench.validation_rows[positions[len(seen) :] - len(bench.rows)]]
    )


def assign_folds(
    labels: NDArray[np.int64], units: NDArray[np.int64] | None, folds: int = FOLDS
) -> NDArray[np.int64]:
    """Deal the images of every class out to folds, (n,), in their order; those of one unit, if any,
    go together.

    >>> deal_folds(np.array([0, 0, 0, 1, 1]), None).tolist()
    [0, 1, 2, 0, 1]
    """
    if units is None:
        return rank_within_class(labels) % folds
    present, first, unit_of = np.unique(units, return_index=True, return_inverse=True)
    order = np.argsort(first)  # as the images come, whatever the units are numbered
    fold_of = np.empty(len(present), np.int64)
    fold_of[order] = rank_within_class(labels[first[order]]) % folds
    dealt: NDArray[np.int64] = fold_of[unit_of]
    return dealt


def rank_within_class(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count the images of each class in their order, (n,)."""
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    numbers = np.empty(len(labels), np.int64)
    numbers[order] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return numbers


def cross_fit(
    task: WeightedRows, penalty: float, folds: NDArray[np.int64], *, threads: int = 1
) -> NDArray[np.float32]:
    """Compute the logits (n, classes) of images by linear heads that are fitted without their fold,
    (n,).

    The task has as many rows for every image as it has views, one after another.
    """
    views = len(task.rows) // len(folds)
    logits = np.empty((len(folds), len(task.class_weights)), np.float32)
    for fold in np.unique(folds):
        out, rows_out = folds == fold, np.repeat(folds == fold, views)
        others = WeightedRows(task.rows[~rows_out], task.labels[~rows_out], task.class_weights)
        layers = fit_linear(others, penalty, threads=threads)
        own = apply_layers(layers, task.rows[rows_out])
        logits[out] = own.reshape(int(out.sum()), views, -1).mean(axis=1)
    return logits
