"""Training images judged by heads that have not seen them, where there are too few to hold any back."""

import numpy as np
from numpy.typing import NDArray

from squeezetune.learn.dense import Task, apply_layers, fit_linear

FOLDS = 5


def deal_folds(labels: NDArray[np.int64], units: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Deal the images of every class out to folds, (n,), in their order; those of one unit, if any, go together.

    >>> deal_folds(np.array([0, 0, 0, 1, 1]), None).tolist()
    [0, 1, 2, 0, 1]
    """
    if units is None:
        return count_up(labels) % FOLDS
    present, first, unit_of = np.unique(units, return_index=True, return_inverse=True)
    order = np.argsort(first)  # as the images come, whatever the units are numbered
    folds = np.empty(len(present), np.int64)
    folds[order] = count_up(labels[first[order]]) % FOLDS
    dealt: NDArray[np.int64] = folds[unit_of]
    return dealt


def count_up(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count the images of each class in their order, (n,)."""
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    numbers = np.empty(len(labels), np.int64)
    numbers[order] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return numbers


def cross_fit(task: Task, penalty: float, folds: NDArray[np.int64], *, threads: int = 1) -> NDArray[np.float32]:
    """Compute the logits (n, classes) of images by linear heads that are fitted without their fold, (n,).

    The task has as many rows for every image as it has views, one after another.
    """
    views = len(task.rows) // len(folds)
    logits = np.empty((len(folds), len(task.class_weights)), np.float32)
    for fold in np.unique(folds):
        out, rows_out = folds == fold, np.repeat(folds == fold, views)
        others = Task(task.rows[~rows_out], task.labels[~rows_out], task.class_weights)
        layers = fit_linear(others, penalty, threads=threads)
        own = apply_layers(layers, task.rows[rows_out])
        logits[out] = own.reshape(int(out.sum()), views, -1).mean(axis=1)
    return logits
