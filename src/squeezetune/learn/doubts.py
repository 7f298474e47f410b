"""Which labels are probably wrong, and how many: by a model of wrong labels, and by confident learning.

Source of the second: Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels",
JAIR 70. An image counts for a class if the probability of that class is at least its mean over the images that are
labelled so. Counted by label and class, these images say how often one class is mistaken for which other.

The images are not taken from these counts, as in the paper, but by how likely another class is as a model of wrong
labels has it (`noise`), whose probabilities mean what they say (docs/decisions/0010-audit.md).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from squeezetune.learn.noise import fit_noise
from squeezetune.learn.out_of_fold import Opinions

# What is less sure is a guess, and is not told.
LEAST_CONFIDENCE = 0.1
ROUNDING = 1e-6

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Doubts:
    """The images whose labels are doubted, the surest doubts first.

    `positions` (m,); `suggested` (m,) is the likeliest class, and `confidence` (m,) how likely it is. `mistakes` is how
    many of all labels are wrong.
    """

    positions: Ints
    suggested: Ints
    confidence: NDArray[np.float64]
    mistakes: float

    def __len__(self) -> int:
        return len(self.positions)


def find_doubts(opinions: Opinions, labels: Ints) -> Doubts:
    """Find the images whose labels (n,) are probably wrong, by what heads that have not seen them think."""
    judged = np.flatnonzero(opinions.is_judged)
    probabilities, labels = opinions.probabilities[judged], labels[judged]
    suggested, confidence, is_wrong = fit_noise(probabilities, labels).weigh(probabilities, labels)
    doubted = np.flatnonzero(confidence >= LEAST_CONFIDENCE)
    order = doubted[np.argsort(-confidence[doubted], kind="stable")]
    return Doubts(judged[order], suggested[order], confidence[order], float(is_wrong.sum()))


def estimate_mistakes(opinions: Opinions, labels: Ints) -> NDArray[np.float64]:
    """Estimate how many images of each label (rows) are truly of each class (columns), (classes, classes).

    This is the paper's confident joint, calibrated so that the rows sum to the numbers of the labels. Where classes
    are hard to tell, the heads' own mistakes count as wrong labels too.
    """
    judged = np.flatnonzero(opinions.is_judged)
    counts = np.bincount(labels[judged], minlength=opinions.probabilities.shape[1])
    return estimate_joint(opinions.probabilities[judged], labels[judged]) * counts[:, None]


def find_thresholds(probabilities: NDArray[np.float32], labels: Ints) -> NDArray[np.float64]:
    """Find the mean probability of each class over the images of that label (classes,); 1 where there are none."""
    classes = probabilities.shape[1]
    sums = np.bincount(labels, probabilities[np.arange(len(labels)), labels], minlength=classes)
    counts = np.bincount(labels, minlength=classes)
    thresholds: NDArray[np.float64] = np.where(counts > 0, sums / np.maximum(counts, 1), 1.0)
    return thresholds


def count_for(probabilities: NDArray[np.float32], labels: Ints) -> Ints:
    """Say which class each image counts for (n,): the likeliest of those that reach their threshold; -1 for none."""
    reached = probabilities >= find_thresholds(probabilities, labels) - ROUNDING
    best = np.where(reached, probabilities, -1).argmax(axis=1)
    return np.where(reached.any(axis=1), best, -1).astype(np.int64)


def estimate_joint(probabilities: NDArray[np.float32], labels: Ints) -> NDArray[np.float64]:
    """Estimate which share of the images of each label (rows) is truly of each class (columns); rows sum to 1."""
    counted, classes = count_for(probabilities, labels), probabilities.shape[1]
    is_sure = counted >= 0
    pairs = labels[is_sure] * classes + counted[is_sure]
    confident = np.bincount(pairs, minlength=classes**2).reshape(classes, classes).astype(np.float64)
    confident[np.diag_indices(classes)] += confident.sum(axis=1) == 0  # a label of which nothing is known is right
    shares: NDArray[np.float64] = confident / confident.sum(axis=1, keepdims=True)
    return shares
