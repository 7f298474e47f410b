"""How often labels are wrong, and so how sure it is that one of them is: a model of how they came about.

A head's opinion of an image is sharpened until it is that of somebody who knows the true class as well as can be known;
of a share of the images, the rate, another class than the true one was written down, each as often (symmetric label
noise: Natarajan et al. 2013, "Learning with Noisy Labels"). Both numbers are those that make the labels likeliest.
Where heads are as sure as they can be and labels still differ, the labels are wrong; where classes look alike, they
differ for that reason. The share of images that are hard is thereby told from the share of labels that are wrong.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit

from squeezetune.scratch import list_blocks

Ints = NDArray[np.int64]
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
class Noise:
    """The share of labels that are wrong, and the factor by which opinions are sharpened."""

    rate: float
    sharpness: float

    def weigh(
        self, probabilities: Probabilities, labels: Ints
    ) -> tuple[Ints, NDArray[np.float64], NDArray[np.float64]]:
        """Return, of each image (n,), the likeliest other class, its probability, and that of the label being wrong."""
        nothing = np.empty(0, np.int64), np.empty(0), np.empty(0)
        parts = [nothing, *(self._weigh_block(probabilities[at], labels[at]) for at in list_blocks(len(labels)))]
        suggested, confidence, is_wrong = (np.concatenate(column) for column in zip(*parts, strict=True))
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


def fit_noise(probabilities: Probabilities, labels: Ints) -> Noise:
    """Fit the model to opinions (n, classes) of images by heads that have not seen them, and to the labels (n,)."""
    step = -(-probabilities.size // MOST_VALUES) or 1
    probabilities, labels = probabilities[::step], labels[::step]
    if not len(labels) or probabilities.shape[1] < 2:
        return Noise(PRIOR_WRONG / PRIOR_IMAGES, 1.0)

    def measure(log_sharpness: float) -> float:
        return fit_rate(probabilities, labels, float(np.exp(log_sharpness)))[1]

    losses = [measure(float(np.log(sharpness))) for sharpness in SHARPNESSES]
    near = int(np.argmin(losses))
    ends = np.log(SHARPNESSES[[max(0, near - 1), min(len(SHARPNESSES) - 1, near + 1)]])
    found = minimize_scalar(measure, bounds=tuple(ends), method="bounded", options={"xatol": 0.01})
    sharpness = float(np.exp(found.x))
    return Noise(fit_rate(probabilities, labels, sharpness)[0], sharpness)


def fit_rate(probabilities: Probabilities, labels: Ints, sharpness: float) -> tuple[float, float]:
    """Find the rate that makes the labels likeliest, for one sharpness; return it and what they cost, in nats."""
    given = np.concatenate(list(_list_given(probabilities, labels, sharpness)))
    by_chance = (1 - given) / (probabilities.shape[1] - 1)

    def measure(logit: float) -> float:
        rate = float(expit(logit))
        cost = -np.log(np.maximum((1 - rate) * given + rate * by_chance, FLOOR)).sum()
        return float(cost - PRIOR_WRONG * np.log(rate) - (PRIOR_IMAGES - PRIOR_WRONG) * np.log1p(-rate))

    found = minimize_scalar(measure, bounds=RATE_LOGITS, method="bounded")
    return float(expit(found.x)), float(found.fun)


def _list_given(probabilities: Probabilities, labels: Ints, sharpness: float) -> Iterator[NDArray[np.float64]]:
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
