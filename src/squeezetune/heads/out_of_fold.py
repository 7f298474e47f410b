"""What the images say of each other: the class of each, predicted by a linear head that has not
seen it.

The images are dealt into folds, and for each fold a head is fitted on all others. The heads are
fitted together: one product of matrices serves all of them, and so does the estimate of the
curvature.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import softmax
from threadpoolctl import threadpool_limits

from squeezetune.array_types import Ints
from squeezetune.heads.cross_fit import rank_within_class
from squeezetune.heads.linear import Rows, cross_entropy, fit_temperature, precondition
from squeezetune.heads.scaling import measure_scaling
from squeezetune.system.scratch import IN_MEMORY, Scratch, list_blocks

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
class OutOfFoldPredictions:
    """What is thought of each image by a head that has not seen it: `probabilities` (n, classes)
    float32.

    `is_judged` (n,) says whether the head has seen enough images of the image's class to say
    anything of its label.
    """

    probabilities: NDArray[np.float32]
    is_judged: NDArray[np.bool_]


def deal_folds(units: Ints, keys: NDArray[np.uint64], labels: Ints, folds: int = FOLDS) -> Ints:
    """Deal images (n,) into folds, each with about the same share of every class; a unit stays
    together.

    `units` (n,) numbers what stays together, `keys` (units,) is the order in which units of one
    size are dealt.

    >>> keys = np.array([7, 5, 8], np.uint64)
    >>> deal_folds(np.array([0, 1, 2, 2]), keys, np.array([0, 0, 1, 1]), 2).tolist()
    [1, 0, 0, 0]
    """
    found, first, sizes = np.unique(units, return_index=True, return_counts=True)
    own = labels[first]
    order = np.lexsort((keys[found], -sizes))
    fold_of_unit = np.zeros(len(keys), np.int64)
    fold_of_unit[found[order]] = rank_within_class(own[order]) % folds
    return fold_of_unit[units]


def predict_out_of_fold(
    features: NDArray[np.float16],
    labels: Ints,
    folds: Ints,
    class_count: int,
    *,
    threads: int = 1,
    scratch: Scratch = IN_MEMORY,
) -> OutOfFoldPredictions:
    """Predict the class of every image, from features (n, views, 2048), by a head fitted on the
    other folds.

    A head sees the mean of an image's views. The probabilities have the temperature that suits the
    labels.
    """
    fold_count = int(folds.max()) + 1
    at_once = max(1, MOST_OUTPUTS // class_count)
    logits = np.zeros((len(labels), class_count), np.float32)
    with (
        threadpool_limits(1),
        ThreadPoolExecutor(threads) as pool,
    ):  # our own threads share the work
        rows = _average_views(features, scratch)
        factor = precondition(_cut(rows, threads), PENALTY / len(rows), pool)
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


def _average_views(features: NDArray[np.float16], scratch: Scratch) -> Rows:
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
            *(_cut(column, count) for column in (self.rows, self.labels, self.weights)), strict=True
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


def _cut(column: NDArray[Any], count: int) -> list[NDArray[Any]]:
    ends = [len(column) * part // count for part in range(count + 1)]
    return [column[start:end] for start, end in pairwise(ends)]


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
    shards, width = heads.cut(threads), heads.rows.shape[1]
    seen = np.count_nonzero(heads.weights, axis=0)
    decay = np.repeat(PENALTY / np.maximum(seen, 1), heads.class_count).astype(np.float32)

    def to_table(point: NDArray[np.float64]) -> Rows:
        table = point.reshape(width + 1, -1).astype(np.float32)
        table[:-1] = factor @ table[:-1]
        return table

    def measure(point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        table = to_table(point)
        parts = list(pool.map(lambda shard: shard.measure(table), shards))
        loss = sum(part[0] for part in parts) + 0.5 * float(
            np.sum(decay * table[:-1] ** 2, dtype=np.float64)
        )
        slope = np.sum([part[1] for part in parts], axis=0)
        slope[:-1] += decay * table[:-1]
        slope[:-1] = factor.T @ slope[:-1]
        return loss, slope.astype(np.float64).ravel()

    start = np.zeros((width + 1) * len(decay))
    found = minimize(
        measure, start, jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS, "gtol": 1e-5}
    )
    return to_table(found.x)
