"""Probabilities that mean what they say: temperature scaling, and two classifiers mixed, on the validation part."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax

# A validation part without mistakes would like a temperature of 0, a hopeless one of infinity.
LOWEST, HIGHEST = 0.25, 8.0
# What is known of the second classifier's share before any image is seen, and how many nats a distance of 1 costs: a
# few dozen images hardly move it, a few hundred do (docs/decisions/0020-steadiness.md).
LIKELY_SHARE, SHARE_NATS = 1 / 3, 20.0


def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Find the temperature that gives the labels (n,) the highest likelihood under softmax(logits / temperature).

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks". Without images it is 1.
    """
    if not len(labels):
        return 1.0
    bounds = (np.log(LOWEST), np.log(HIGHEST))
    found = minimize_scalar(
        lambda log_t: measure_loss(logits, labels, float(np.exp(log_t))), bounds=bounds, method="bounded"
    )
    return float(np.exp(found.x))


def fit_share(first: NDArray[np.float32], second: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Find the share of the second logits (n, classes), 0 to 1, in the likeliest mixture of both.

    Both are multiplied by factors that give the labels the highest likelihood, which is a convex problem. So the share
    follows the images evenly, where a choice of one of both would jump from one to the other.
    """
    parts = [logits.astype(np.float64) for logits in (first, second)]
    truth = np.eye(first.shape[1])[labels]

    def measure(factors: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logs = log_softmax(factors[0] * parts[0] + factors[1] * parts[1], axis=1)
        slope = np.array([((np.exp(logs) - truth) * part).sum() for part in parts])
        total = factors.sum()
        beyond = factors[1] / total - LIKELY_SHARE
        slope += 2 * SHARE_NATS * beyond * np.array([-factors[1], factors[0]]) / total**2
        return -float((truth * logs).sum()) + SHARE_NATS * beyond**2, slope

    start, bounds = np.array([1 - LIKELY_SHARE, LIKELY_SHARE]), [(1e-6, 1 / LOWEST)] * 2
    factors = minimize(measure, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return float(factors[1] / factors.sum())


def measure_loss(logits: NDArray[np.float32], labels: NDArray[np.int64], temperature: float = 1.0) -> float:
    """Measure the mean negative log-likelihood, in nats an image."""
    return float(measure_losses(logits, labels, temperature).mean())


def measure_losses(
    logits: NDArray[np.float32], labels: NDArray[np.int64], temperature: float = 1.0
) -> NDArray[np.float64]:
    """Measure the negative log-likelihood of every image (n,), in nats."""
    losses: NDArray[np.float64] = -log_softmax(logits.astype(np.float64) / temperature, axis=1)[
        np.arange(len(labels)), labels
    ]
    return losses
