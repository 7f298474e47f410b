"""Dense layers, multinomial logistic regression, and the temperature of its probabilities."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky
from scipy.linalg.lapack import strtri
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax

Rows: TypeAlias = NDArray[np.float32]
Labels: TypeAlias = NDArray[np.int64]
# (inputs, outputs) weights and (outputs,) biases, first layer first; a ReLU stands between two
# layers
DenseWeights: TypeAlias = tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...]


@dataclass(frozen=True)
class WeightedRows:
    """What to fit: standardised rows (n, features) float32, their labels (n,), and a weight for
    each class.
    """

    rows: Rows
    labels: Labels
    class_weights: NDArray[np.float32]

    def cut(self, count: int) -> list["WeightedRows"]:
        """Cut the rows into `count` tasks of about the same size; nothing is copied."""
        parts = zip(cut_evenly(self.rows, count), cut_evenly(self.labels, count), strict=True)
        return [WeightedRows(rows, labels, self.class_weights) for rows, labels in parts]


def cut_evenly(column: NDArray[Any], count: int) -> list[NDArray[Any]]:
    """Cut an array into `count` parts of about the same length; nothing is copied."""
    ends = [len(column) * part // count for part in range(count + 1)]
    return [column[start:end] for start, end in pairwise(ends)]


def apply_layers(layers: DenseWeights, rows: Rows) -> NDArray[np.float32]:
    """Compute the logits (n, classes) of rows (n, features)."""
    for number, (weight, bias) in enumerate(layers):
        rows = np.maximum(rows, 0) if number else rows
        rows = rows @ weight + bias
    return rows


def mix_layers(linear: DenseWeights, hidden: DenseWeights, share: float) -> DenseWeights:
    """Write the mean of a linear head's and a hidden layer's logits, the latter with a share, as
    one hidden layer.

    It is exact: every logit of the linear head passes the ReLU as two units, its positive and its
    negative part.
    """
    ((weight, bias),), ((first, first_bias), (last, last_bias)) = linear, hidden
    through = np.float32(1 - share) * np.eye(len(bias), dtype=np.float32)
    units = np.hstack([first, weight, -weight]), np.concatenate([first_bias, bias, -bias])
    return units, (
        np.vstack([np.float32(share) * last, through, -through]),
        np.float32(share) * last_bias,
    )


def fit_linear(
    task: WeightedRows,
    penalty: float,
    *,
    threads: int = 1,
    max_iterations: int = 60,
    factor: Rows | None = None,
) -> DenseWeights:
    """Fit multinomial logistic regression with an L2 penalty on the weights, by L-BFGS.

    Minimises mean cross-entropy + penalty / (2 n) |W|^2. With many rows the search runs in
    coordinates in which the curvature bound of Böhning (1992), "Multinomial logistic regression
    algorithm", is the identity: 15 iterations instead of 100, for one Cholesky factor, or a
    `factor` that such rows gave before. Each thread works on rows of its own.
    """
    n, width = task.rows.shape
    decay = penalty / n
    shards = task.cut(threads)
    with ThreadPoolExecutor(threads) as pool:
        if factor is None and pays_factor(n, width):
            factor = precondition([shard.rows for shard in shards], decay, pool)

        def measure(table: Rows) -> tuple[float, Rows]:
            parts = list(pool.map(lambda shard: _measure_linear(shard, table, n), shards))
            squares = float(np.sum(table[:-1] ** 2, dtype=np.float64))
            slope = np.sum([part[1] for part in parts], axis=0)
            slope[:-1] += decay * table[:-1]
            return sum(part[0] for part in parts) + 0.5 * decay * squares, slope

        iterations = max_iterations if factor is None else max_iterations // 3
        table = search_table(measure, (width + 1, len(task.class_weights)), factor, iterations)
    return ((np.ascontiguousarray(table[:-1]), table[-1].copy()),)


def search_table(
    measure: Callable[[Rows], tuple[float, Rows]],
    shape: tuple[int, int],
    factor: Rows | None,
    iterations: int,
) -> Rows:
    """Search the weights and, in the last row, the biases (features + 1, outputs) of least loss by
    L-BFGS; `measure` gives the loss and its gradient. A factor makes the curvature about even.
    """

    def to_table(point: NDArray[np.float64]) -> Rows:
        table = point.reshape(shape).astype(np.float32)
        if factor is not None:
            table[:-1] = factor @ table[:-1]
        return table

    def measure_point(point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        loss, slope = measure(to_table(point))
        if factor is not None:
            slope[:-1] = factor.T @ slope[:-1]
        return loss, slope.astype(np.float64).ravel()

    options = {"maxiter": iterations, "gtol": 1e-5}
    start = np.zeros(shape[0] * shape[1])
    return to_table(minimize(measure_point, start, jac=True, method="L-BFGS-B", options=options).x)


def _measure_linear(
    shard: WeightedRows, table: NDArray[np.float32], n: int
) -> tuple[float, NDArray[Any]]:
    """Return a shard's part of the loss, and of its gradient (features + 1, classes); the last row
    is the bias.
    """
    logits = shard.rows @ table[:-1] + table[-1]
    loss, residual = cross_entropy(
        logits, shard.labels, shard.class_weights[shard.labels] / np.float32(n)
    )
    return loss, np.vstack([shard.rows.T @ residual, residual.sum(axis=0, keepdims=True)])


def pays_factor(rows: int, width: int) -> bool:
    """Say whether the Cholesky factor saves more iterations than it costs."""
    return rows > 2 * width


def precondition(
    shards: Sequence[Rows], decay: float, pool: ThreadPoolExecutor
) -> NDArray[np.float32]:
    """Factor the curvature of the loss, estimated on a part of the rows; return the inverse of the
    upper factor.

    It is multiplied by instead of solved with, which takes no longer and leaves Python's lock to
    other threads.
    """
    step = max(1, sum(len(rows) for rows in shards) // 8192)
    samples = [rows[::step] for rows in shards]
    moments = sum(pool.map(lambda rows: rows.T @ rows, samples))
    # p (1 - p) of typical probabilities; the search only needs its order of magnitude
    curvature = np.float32(0.05 / sum(len(rows) for rows in samples)) * moments
    curvature[np.diag_indices_from(curvature)] += np.float32(max(decay, 1e-4))
    upper = cholesky(curvature, lower=False, overwrite_a=True, check_finite=False)
    inverse: NDArray[np.float32] = strtri(upper, overwrite_c=True)[0]
    return np.ascontiguousarray(inverse)


def cross_entropy(
    logits: NDArray[Any], labels: Labels, weights: NDArray[Any], smoothing: float = 0.0
) -> tuple[float, NDArray[np.float32]]:
    """Return the weighted sum of the cross-entropies, and its gradient by the logits (n,
    classes).
    """
    n, classes = logits.shape
    logits = logits - logits.max(axis=1, keepdims=True)
    probabilities = np.exp(logits)
    totals = probabilities.sum(axis=1, keepdims=True)
    log_likelihood = logits[np.arange(n), labels] - np.log(totals[:, 0])
    loss = -float(np.dot(weights.astype(np.float64), log_likelihood))
    probabilities /= totals
    probabilities[np.arange(n), labels] -= np.float32(1 - smoothing)
    if smoothing:
        probabilities -= np.float32(smoothing / classes)
    probabilities *= weights[:, None]
    return loss, probabilities


# A validation part without mistakes would like a temperature of 0, a hopeless one of infinity.
LOWEST, HIGHEST = 0.25, 8.0
# What is known of the second classifier's share before any image is seen, and how many nats a
# distance of 1 costs: a few dozen images hardly move it, a few hundred do
# (docs/decisions/0020-steadiness.md).
LIKELY_SHARE, SHARE_NATS = 1 / 3, 20.0


def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Find the temperature that gives the labels (n,) the highest likelihood under softmax(logits /
    temperature).

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks". Without images it is 1.
    """
    if not len(labels):
        return 1.0
    bounds = (np.log(LOWEST), np.log(HIGHEST))
    found = minimize_scalar(
        lambda log_t: measure_loss(logits, labels, float(np.exp(log_t))),
        bounds=bounds,
        method="bounded",
    )
    return float(np.exp(found.x))


def fit_share(
    first: NDArray[np.float32], second: NDArray[np.float32], labels: NDArray[np.int64]
) -> float:
    """Find the share of the second logits (n, classes), 0 to 1, in the likeliest mixture of both.

    Both are multiplied by factors that give the labels the highest likelihood, which is a convex
    problem. So the share follows the images evenly, where a choice of one of both would jump from
    one to the other.
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


def measure_loss(
    logits: NDArray[np.float32], labels: NDArray[np.int64], temperature: float = 1.0
) -> float:
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
