"""Linear heads that have not seen the images which they judge: for the choice of a head, and for
what images say of each other's labels.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from threadpoolctl import threadpool_limits

from squeezetune.array_types import Ints
from squeezetune.heads.head_data import PILOT_IMAGES, HeadData, apply_to_views, list_views
from squeezetune.heads.linear import (
    DenseWeights,
    Rows,
    WeightedRows,
    apply_layers,
    cross_entropy,
    cut_evenly,
    fit_linear,
    fit_temperature,
    measure_losses,
    precondition,
    search_table,
)
from squeezetune.heads.scaling import measure_scaling
from squeezetune.system.scratch import IN_MEMORY, Scratch, Selection, list_blocks

FOLDS = 5
# On the summed loss, as the penalties of the head; where labels are wrong a larger one is better:
# docs/decisions/0010-audit.md. 25 iterations find no more wrong labels than 10.
PENALTY = 320.0
ITERATIONS = 10
# Heads are fitted together up to so many outputs, since the search holds twenty times their
# weights.
MOST_OUTPUTS = 128
# A class with fewer images in the other folds is not known well enough to doubt a label.
NEEDED_IMAGES = 3


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
        # side by side: one fit takes turns with its threads
        with ThreadPoolExecutor(min(2, self.threads)) as pool:
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
    folds = deal_folds(labels, units, 2)
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


def deal_folds(
    labels: Ints, units: Ints | None, folds: int = FOLDS, keys: NDArray[np.uint64] | None = None
) -> Ints:
    """Deal images (n,) out to folds, each with about the same share of every class.

    Those of one unit, if `units` (n,) numbers any, go together: in the order of the images; with
    `keys` (units,) large units first, and those of one size in the order of their keys.

    >>> deal_folds(np.array([0, 0, 0, 1, 1]), None).tolist()
    [0, 1, 2, 0, 1]
    >>> keys = np.array([7, 5, 8], np.uint64)
    >>> deal_folds(np.array([0, 0, 1, 1]), np.array([0, 1, 2, 2]), 2, keys).tolist()
    [1, 0, 0, 0]
    """
    if units is None:
        return rank_within_class(labels) % folds
    found, first, unit_of, sizes = np.unique(
        units, return_index=True, return_inverse=True, return_counts=True
    )
    order = np.argsort(first) if keys is None else np.lexsort((keys[found], -sizes))
    fold_of = np.empty(len(found), np.int64)
    fold_of[order] = rank_within_class(labels[first[order]]) % folds
    dealt: Ints = fold_of[unit_of]
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


@dataclass(frozen=True)
class OutOfFoldPredictions:
    """What is thought of each image by a head that has not seen it: `probabilities` (n, classes)
    float32.

    `is_judged` (n,) says whether the head has seen enough images of the image's class to say
    anything of its label.
    """

    probabilities: NDArray[np.float32]
    is_judged: NDArray[np.bool_]


def predict_out_of_fold(
    features: NDArray[np.float16] | Selection,
    labels: Ints,
    folds: Ints,
    class_count: int,
    *,
    threads: int = 1,
    scratch: Scratch = IN_MEMORY,
) -> OutOfFoldPredictions:
    """Predict the class of every image, from features (n, views, 2048), by a head fitted on the
    other folds.

    A head sees the mean of an image's views. The heads are fitted together: one product of matrices
    serves all of them, and so does the estimate of the curvature. The probabilities have the
    temperature that suits the labels.
    """
    fold_count = int(folds.max()) + 1
    at_once = max(1, MOST_OUTPUTS // class_count)
    logits = np.zeros((len(labels), class_count), np.float32)
    # our own threads share the work
    with threadpool_limits(1), ThreadPoolExecutor(threads) as pool:
        rows = _average_views(features, scratch)
        factor = precondition(cut_evenly(rows, threads), PENALTY / len(rows), pool)
        for start in range(0, fold_count, at_once):
            chosen = range(start, min(start + at_once, fold_count))
            table = _fit_heads(
                _Heads(rows, labels, _weigh(folds, chosen), class_count), factor, pool, threads
            )
            for head, fold in zip(np.split(table, len(chosen), axis=1), chosen, strict=True):
                positions = np.flatnonzero(folds == fold)
                for block in list_blocks(len(positions)):
                    logits[positions[block]] = rows[positions[block]] @ head[:-1] + head[-1]
    counts = np.bincount(folds * class_count + labels, minlength=fold_count * class_count).reshape(
        -1, class_count
    )
    is_judged = (counts.sum(axis=0) - counts)[folds, labels] >= NEEDED_IMAGES
    temperature = np.float32(fit_temperature(logits[is_judged], labels[is_judged]))
    return OutOfFoldPredictions(softmax(logits / temperature, axis=1), is_judged)


def _average_views(features: NDArray[np.float16] | Selection, scratch: Scratch) -> Rows:
    """Standardise the roots of the features, and average the views of each image: (n, 2048)."""
    scaling = measure_scaling(features)
    rows = scratch.make_zeros((len(features), features.shape[2]), np.float32)
    for block in list_blocks(len(features)):
        rows[block] = scaling.apply(features[block]).mean(axis=1)
    return rows


@dataclass(frozen=True)
class _Heads:
    """Heads to fit: rows (n, features), labels (n,), and the weight of each row in the loss of each
    head (n, heads).
    """

    rows: Rows
    labels: Ints
    weights: NDArray[np.float32]
    class_count: int

    def cut(self, count: int) -> list["_Heads"]:
        """Cut the rows into `count` parts of about the same size; nothing is copied."""
        columns = zip(
            *(cut_evenly(column, count) for column in (self.rows, self.labels, self.weights)),
            strict=True,
        )
        return [
            _Heads(rows, labels, weights, self.class_count) for rows, labels, weights in columns
        ]

    def measure(self, table: NDArray[np.float32]) -> tuple[float, NDArray[np.float32]]:
        """Return the loss, and its gradient (features + 1, heads x classes); the last row is the
        bias.
        """
        loss, slope = 0.0, np.zeros_like(table)
        for block in list_blocks(len(self.rows)):
            rows, weights = self.rows[block], self.weights[block]
            logits = (rows @ table[:-1] + table[-1]).reshape(-1, self.class_count)
            part, residual = cross_entropy(
                logits, np.repeat(self.labels[block], weights.shape[1]), weights.ravel()
            )
            residual = residual.reshape(len(rows), -1)
            loss += part
            slope[:-1] += rows.T @ residual
            slope[-1] += residual.sum(axis=0)
        return loss, slope


def _weigh(folds: Ints, chosen: Sequence[int]) -> NDArray[np.float32]:
    """Weigh each image in the loss of each head (n, heads): 0 where it is held out, else so that a
    loss is a mean.
    """
    is_seen = folds[:, None] != np.array(chosen)
    weights: NDArray[np.float32] = is_seen / np.maximum(is_seen.sum(axis=0), 1).astype(np.float32)
    return weights


def _fit_heads(heads: _Heads, factor: Rows, pool: ThreadPoolExecutor, threads: int) -> Rows:
    """Fit logistic regressions together by L-BFGS, in coordinates in which `factor` makes the
    curvature even.

    See `fit_linear`: this is the sum of its losses, each of which has variables of its own.
    """
    shards = heads.cut(threads)
    seen = np.count_nonzero(heads.weights, axis=0)
    decay = np.repeat(PENALTY / np.maximum(seen, 1), heads.class_count).astype(np.float32)

    def measure(table: Rows) -> tuple[float, Rows]:
        parts = list(pool.map(lambda shard: shard.measure(table), shards))
        squares = float(np.sum(decay * table[:-1] ** 2, dtype=np.float64))
        slope = np.sum([part[1] for part in parts], axis=0)
        slope[:-1] += decay * table[:-1]
        return sum(part[0] for part in parts) + 0.5 * squares, slope

    return search_table(measure, (heads.rows.shape[1] + 1, len(decay)), factor, ITERATIONS)
