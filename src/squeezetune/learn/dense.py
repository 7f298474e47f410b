"""Dense classifiers on standardised features: multinomial logistic regression, and one hidden layer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import minimize

Rows: TypeAlias = NDArray[np.float32]
Labels: TypeAlias = NDArray[np.int64]
# (inputs, outputs) weights and (outputs,) biases, first layer first; a ReLU stands between two layers
Layers: TypeAlias = tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...]


@dataclass(frozen=True)
class Task:
    """What to fit: standardised rows (n, features) float32, their labels (n,), and a weight for each class."""

    rows: Rows
    labels: Labels
    class_weights: NDArray[np.float32]


@dataclass(frozen=True)
class HiddenOptions:
    """How the hidden layer is trained: AdamW with a warm-up and a cosine decay of the rate."""

    width: int = 512
    epochs: int = 10
    min_steps: int = 300
    rate: float = 3e-3
    weight_decay: float = 0.2
    dropout: float = 0.4
    smoothing: float = 0.05
    batch: int = 512


def apply_layers(layers: Layers, rows: Rows) -> NDArray[np.float32]:
    """Compute the logits (n, classes) of rows (n, features)."""
    for number, (weight, bias) in enumerate(layers):
        rows = np.maximum(rows, 0) if number else rows
        rows = rows @ weight + bias
    return rows


def fit_linear(task: Task, penalty: float, *, max_iterations: int = 60) -> Layers:
    """Fit multinomial logistic regression with an L2 penalty on the weights, by L-BFGS.

    Minimises mean cross-entropy + penalty / (2 n) |W|^2. With many rows the search runs in coordinates in which the
    curvature bound of Böhning (1992), "Multinomial logistic regression algorithm", is the identity: 15 iterations
    instead of 100, for one Cholesky factor.
    """
    n, width = task.rows.shape
    classes = len(task.class_weights)
    decay = penalty / n
    factor = _precondition(task.rows, decay) if n > 2 * width else None
    weigh = task.class_weights[task.labels] / np.float32(n)

    def to_weight(point: NDArray[np.float64]) -> NDArray[np.float32]:
        table = point.reshape(width + 1, classes).astype(np.float32)
        if factor is not None:
            table[:-1] = solve_triangular(factor, table[:-1], lower=True, trans=1, check_finite=False)
        return table

    def measure(point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        table = to_weight(point)
        loss, residual = _cross_entropy(task.rows @ table[:-1] + table[-1], task.labels, weigh)
        slope = task.rows.T @ residual + decay * table[:-1]
        if factor is not None:
            slope = solve_triangular(factor, slope, lower=True, check_finite=False)
        gradient = np.vstack([slope, residual.sum(axis=0, keepdims=True)]).astype(np.float64)
        return loss + 0.5 * decay * float(np.sum(table[:-1] ** 2, dtype=np.float64)), gradient.ravel()

    iterations = max_iterations if factor is None else max_iterations // 3
    start = np.zeros((width + 1) * classes)
    options = {"maxiter": iterations, "gtol": 1e-5}
    table = to_weight(minimize(measure, start, jac=True, method="L-BFGS-B", options=options).x)
    return ((np.ascontiguousarray(table[:-1]), table[-1].copy()),)


def _precondition(rows: Rows, decay: float) -> NDArray[np.float32]:
    """Factor the curvature of the loss, estimated on a part of the rows; returns the lower factor."""
    sample = rows[:: max(1, len(rows) // 8192)]
    # p (1 - p) of typical probabilities; the search only needs its order of magnitude
    curvature = 0.05 * (sample.T @ sample) / np.float32(len(sample))
    curvature[np.diag_indices_from(curvature)] += np.float32(max(decay, 1e-4))
    factor: NDArray[np.float32] = cholesky(curvature, lower=True, overwrite_a=True, check_finite=False)
    return factor


def _cross_entropy(
    logits: NDArray[Any], labels: Labels, weights: NDArray[Any], smoothing: float = 0.0
) -> tuple[float, NDArray[np.float32]]:
    """Return the weighted sum of the cross-entropies, and its gradient by the logits (n, classes)."""
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


def fit_hidden(task: Task, seed: int, options: HiddenOptions, report: Callable[[float], Any]) -> Layers:
    """Fit one hidden layer with dropout and label smoothing; `report` hears the finished share of the work.

    AdamW: Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization".
    """
    rng = np.random.default_rng(seed)
    n, width = task.rows.shape
    parameters = _start_hidden(rng, width, options.width, len(task.class_weights))
    optimiser = Adam([np.zeros_like(p) for p in parameters], [np.zeros_like(p) for p in parameters])
    batch = min(options.batch, max(16, n // 32), n)
    steps = max(options.min_steps, options.epochs * (n // batch))
    order = np.empty(0, np.int64)
    for step in range(steps):
        if len(order) < batch:
            order = rng.permutation(n)
        chosen, order = order[:batch], order[batch:]
        gradients = _hidden_gradients(parameters, task, chosen, rng, options)
        optimiser.step(parameters, gradients, _schedule_rate(step / steps, options.rate), options.weight_decay)
        if step % 32 == 0:
            report(step / steps)
    return ((parameters[0], parameters[1]), (parameters[2], parameters[3]))


def _start_hidden(rng: np.random.Generator, inputs: int, width: int, classes: int) -> list[NDArray[np.float32]]:
    """Draw He's initial weights (He et al. 2015)."""
    first = rng.standard_normal((inputs, width), np.float32) * np.float32(np.sqrt(2 / inputs))
    second = rng.standard_normal((width, classes), np.float32) * np.float32(np.sqrt(1 / width))
    return [first, np.zeros(width, np.float32), second, np.zeros(classes, np.float32)]


def _hidden_gradients(
    parameters: list[NDArray[np.float32]],
    task: Task,
    chosen: NDArray[np.int64],
    rng: np.random.Generator,
    options: HiddenOptions,
) -> list[NDArray[np.float32]]:
    weight1, bias1, weight2, bias2 = parameters
    rows, labels = task.rows[chosen], task.labels[chosen]
    hidden = rows @ weight1 + bias1
    keep = (hidden > 0) & (rng.random(hidden.shape, np.float32) >= options.dropout)
    gate = keep * np.float32(1 / (1 - options.dropout))
    hidden *= gate
    weights = (task.class_weights[labels] / len(chosen)).astype(np.float32)
    _, residual = _cross_entropy(hidden @ weight2 + bias2, labels, weights, options.smoothing)
    back = (residual @ weight2.T) * gate
    return [rows.T @ back, back.sum(axis=0), hidden.T @ residual, residual.sum(axis=0)]


def _schedule_rate(progress: float, top: float) -> float:
    """Rise linearly over the first fifth, then fall to zero along a cosine."""
    if progress < 0.2:
        return top * (progress + 1e-3) / 0.2
    return top * 0.5 * (1 + float(np.cos(np.pi * (progress - 0.2) / 0.8)))


@dataclass
class Adam:
    """The moments of Adam with decoupled weight decay; parameters are changed in place."""

    means: list[NDArray[np.float32]]
    squares: list[NDArray[np.float32]]
    steps: int = 0

    def step(
        self, parameters: list[NDArray[np.float32]], gradients: list[NDArray[np.float32]], rate: float, decay: float
    ) -> None:
        """Take one step; only matrices decay."""
        self.steps += 1
        correction1, correction2 = 1 - 0.9**self.steps, 1 - 0.99**self.steps
        for value, gradient, mean, square in zip(parameters, gradients, self.means, self.squares, strict=True):
            mean *= np.float32(0.9)
            mean += np.float32(0.1) * gradient
            square *= np.float32(0.99)
            np.multiply(gradient, gradient, out=gradient)
            gradient *= np.float32(0.01)
            square += gradient
            np.multiply(square, np.float32(1 / correction2), out=gradient)
            np.sqrt(gradient, out=gradient)
            gradient += np.float32(1e-8)
            np.divide(mean, gradient, out=gradient)
            if value.ndim == 2:
                value *= np.float32(1 - rate * decay)
            gradient *= np.float32(rate / correction1)
            value -= gradient
