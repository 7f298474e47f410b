"""Which labels are probably wrong, and how many: by a model of wrong labels, and by confident
learning.

A head's opinion of an image is sharpened until it is that of somebody who knows the true class as
well as can be known; of a share of the images, the rate, another class than the true one was
written down, each as often (symmetric label noise: Natarajan et al. 2013, "Learning with Noisy
Labels"). Both numbers are those that make the labels likeliest. Where heads are as sure as they can
be and labels still differ, the labels are wrong; where classes look alike, they differ for that
reason. The share of images that are hard is thereby told from the share of labels that are wrong.

Source of the second: Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating Uncertainty
in Dataset Labels", JAIR 70. An image counts for a class if the probability of that class is at
least its mean over the images that are labelled so. Counted by label and class, these images say
how often one class is mistaken for which other.

The images are not taken from these counts, as in the paper, but by how likely another class is as a
model of wrong labels has it (`noise`), whose probabilities mean what they say
(docs/decisions/0010-audit.md).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit

from squeezetune.array_types import Ints
from squeezetune.heads.out_of_fold import OutOfFoldPredictions
from squeezetune.system.scratch import list_blocks

Probabilities = NDArray[np.float32]

# How much sharper an opinion may become: its logits times so much.
SHARPNESSES = np.geomspace(0.5, 16, 11)
# Before anything is known: as if one label of a hundred had been found wrong.
PRIOR_WRONG, PRIOR_IMAGES = 1.0, 100.0
RATE_LOGITS = (-14.0, 0.0)
# The two numbers are fitted to an even sample of so many probabilities.
MOST_VALUES = 1_000_000
FLOOR = 1e-9


@dataclass(frozen=True)
class LabelNoise:
    """The share of labels that are wrong, and the factor by which opinions are sharpened."""

    rate: float
    sharpness: float

    def weigh(
        self, probabilities: Probabilities, labels: Ints
    ) -> tuple[Ints, NDArray[np.float64], NDArray[np.float64]]:
        """Return, of each image (n,), the likeliest other class, its probability, and that of the
        label being wrong.
        """
        nothing = np.empty(0, np.int64), np.empty(0), np.empty(0)
        parts = [
            nothing,
            *(self._weigh_block(probabilities[at], labels[at]) for at in list_blocks(len(labels))),
        ]
        suggested, confidence, is_wrong = (
            np.concatenate(column) for column in zip(*parts, strict=True)
        )
        return suggested, confidence, is_wrong

    def _weigh_block(
        self, probabilities: Probabilities, labels: Ints
    ) -> tuple[Ints, NDArray[np.float64], NDArray[np.float64]]:
        rows, sharp = np.arange(len(labels)), sharpen(probabilities, self.sharpness)
        given = sharp[rows, labels].copy()
        sharp[rows, labels] = -1
        suggested = sharp.argmax(axis=1)
        other = self.rate / (probabilities.shape[1] - 1)
        right, wrong = (1 - self.rate) * given, other * (1 - given)
        total = np.maximum(right + wrong, np.finfo(np.float64).tiny)
        return suggested, other * sharp[rows, suggested] / total, wrong / total


def fit_noise(probabilities: Probabilities, labels: Ints) -> LabelNoise:
    """Fit the model to opinions (n, classes) of images by heads that have not seen them, and to the
    labels (n,).
    """
    step = -(-probabilities.size // MOST_VALUES) or 1
    probabilities, labels = probabilities[::step], labels[::step]
    if not len(labels) or probabilities.shape[1] < 2:
        return LabelNoise(PRIOR_WRONG / PRIOR_IMAGES, 1.0)

    def measure(log_sharpness: float) -> float:
        return fit_rate(probabilities, labels, float(np.exp(log_sharpness)))[1]

    losses = [measure(float(np.log(sharpness))) for sharpness in SHARPNESSES]
    near = int(np.argmin(losses))
    ends = np.log(SHARPNESSES[[max(0, near - 1), min(len(SHARPNESSES) - 1, near + 1)]])
    found = minimize_scalar(measure, bounds=tuple(ends), method="bounded", options={"xatol": 0.01})
    sharpness = float(np.exp(found.x))
    return LabelNoise(fit_rate(probabilities, labels, sharpness)[0], sharpness)


def fit_rate(probabilities: Probabilities, labels: Ints, sharpness: float) -> tuple[float, float]:
    """Find the rate that makes the labels likeliest, for one sharpness; return it and what they
    cost, in nats.
    """
    given = np.concatenate(list(_list_given(probabilities, labels, sharpness)))
    by_chance = (1 - given) / (probabilities.shape[1] - 1)

    def measure(logit: float) -> float:
        rate = float(expit(logit))
        cost = -np.log(np.maximum((1 - rate) * given + rate * by_chance, FLOOR)).sum()
        return float(
            cost - PRIOR_WRONG * np.log(rate) - (PRIOR_IMAGES - PRIOR_WRONG) * np.log1p(-rate)
        )

    found = minimize_scalar(measure, bounds=RATE_LOGITS, method="bounded")
    return float(expit(found.x)), float(found.fun)


def _list_given(
    probabilities: Probabilities, labels: Ints, sharpness: float
) -> Iterator[NDArray[np.float64]]:
    for block in list_blocks(len(labels)):
        sharp = sharpen(probabilities[block], sharpness)
        yield sharp[np.arange(len(sharp)), labels[block]]


def sharpen(probabilities: Probabilities, sharpness: float) -> NDArray[np.float64]:
    """Multiply the logits of probabilities (n, classes).

    >>> sharpen(np.array([[0.2, 0.8]]), 2).round(3).tolist()
    [[0.059, 0.941]]
    """
    logs = sharpness * np.log(np.maximum(probabilities, FLOOR, dtype=np.float64))
    exponents = np.exp(logs - logs.max(axis=1, keepdims=True))
    sharp: NDArray[np.float64] = exponents / exponents.sum(axis=1, keepdims=True)
    return sharp


# What is less sure is a guess, and is not told.
LEAST_CONFIDENCE = 0.1
ROUNDING = 1e-6


@dataclass(frozen=True)
class LabelErrors:
    """The images whose labels are doubted, the surest doubts first.

    `positions` (m,); `suggested` (m,) is the likeliest class, and `confidence` (m,) how likely it
    is. `mistakes` is how many of all labels are wrong.
    """

    positions: Ints
    suggested: Ints
    confidence: NDArray[np.float64]
    mistakes: float

    def __len__(self) -> int:
        return len(self.positions)


def find_label_errors(opinions: OutOfFoldPredictions, labels: Ints) -> LabelErrors:
    """Find the images whose labels (n,) are probably wrong, by what heads that have not seen them
    think.
    """
    judged = np.flatnonzero(opinions.is_judged)
    probabilities, labels = opinions.probabilities[judged], labels[judged]
    suggested, confidence, is_wrong = fit_noise(probabilities, labels).weigh(probabilities, labels)
    doubted = np.flatnonzero(confidence >= LEAST_CONFIDENCE)
    order = doubted[np.argsort(-confidence[doubted], kind="stable")]
    return LabelErrors(judged[order], suggested[order], confidence[order], float(is_wrong.sum()))


def estimate_mistakes(opinions: OutOfFoldPredictions, labels: Ints) -> NDArray[np.float64]:
    """Estimate how many images of each label (rows) are truly of each class (columns), (classes,
    classes).

    This is the paper's confident joint, calibrated so that the rows sum to the numbers of the
    labels. Where classes are hard to tell, the heads' own mistakes count as wrong labels too.
    """
    judged = np.flatnonzero(opinions.is_judged)
    counts = np.bincount(labels[judged], minlength=opinions.probabilities.shape[1])
    return estimate_joint(opinions.probabilities[judged], labels[judged]) * counts[:, None]


def find_thresholds(probabilities: NDArray[np.float32], labels: Ints) -> NDArray[np.float64]:
    """Find the mean probability of each class over the images of that label (classes,); 1 where
    there are none.
    """
    classes = probabilities.shape[1]
    sums = np.bincount(labels, probabilities[np.arange(len(labels)), labels], minlength=classes)
    counts = np.bincount(labels, minlength=classes)
    thresholds: NDArray[np.float64] = np.where(counts > 0, sums / np.maximum(counts, 1), 1.0)
    return thresholds


def count_for(probabilities: NDArray[np.float32], labels: Ints) -> Ints:
    """Say which class each image counts for (n,): the likeliest of those that reach their
    threshold; -1 for none.
    """
    reached = probabilities >= find_thresholds(probabilities, labels) - ROUNDING
    best = np.where(reached, probabilities, -1).argmax(axis=1)
    return np.where(reached.any(axis=1), best, -1).astype(np.int64)


def estimate_joint(probabilities: NDArray[np.float32], labels: Ints) -> NDArray[np.float64]:
    """Estimate which share of the images of each label (rows) is truly of each class (columns);
    rows sum to 1.
    """
    counted, classes = count_for(probabilities, labels), probabilities.shape[1]
    is_sure = counted >= 0
    pairs = labels[is_sure] * classes + counted[is_sure]
    confident = (
        np.bincount(pairs, minlength=classes**2).reshape(classes, classes).astype(np.float64)
    )
    # a label of which nothing is known is right
    confident[np.diag_indices(classes)] += confident.sum(axis=1) == 0
    shares: NDArray[np.float64] = confident / confident.sum(axis=1, keepdims=True)
    return shares
