"""One hidden layer on standardised features, trained with AdamW; each thread works on rows of its
own.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from squeezetune.heads.linear import DenseWeights, WeightedRows, cross_entropy

Parameters: TypeAlias = list[NDArray[np.float32]]
# Rows of a parameter that one task updates: 256 kB of float32 at a width of 512, which stays in the
# cache.
BLOCK_ROWS = 128


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


@dataclass(frozen=True)
class Epoch:
    """One pass over the training rows out of `of`: the layers as they are then, and what dropout
    left of the accuracy.

    `loss` and `accuracy` are means over the batches of the pass, measured while training.
    """

    number: int
    of: int
    layers: DenseWeights
    loss: float
    accuracy: float


def fit_hidden(
    task: WeightedRows,
    seed: int,
    options: HiddenOptions,
    report: Callable[[Epoch], Any],
    *,
    threads: int = 1,
) -> DenseWeights:
    """Fit one hidden layer with dropout and label smoothing; `report` hears of about 30 epochs at
    most.

    AdamW: Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization". The same seed and
    number of threads give the same layers.
    """
    n, width = task.rows.shape
    seeds = np.random.SeedSequence(seed).spawn(2 + threads)
    order_rng, start_rng, *drop_rngs = (np.random.default_rng(each) for each in seeds)
    parameters = _start(start_rng, width, options.width, len(task.class_weights))
    layers: DenseWeights = ((parameters[0], parameters[1]), (parameters[2], parameters[3]))
    optimiser = Adam.start(parameters)
    batch = min(options.batch, max(16, n // 32), n)
    epochs = max(options.epochs, -(-options.min_steps // (n // batch)))
    with ThreadPoolExecutor(threads) as pool:
        for epoch in range(epochs):
            loss, correct, batches = 0.0, 0, _draw_batches(order_rng, n, batch)
            for step, chosen in enumerate(batches):
                measure = partial(_measure_shard, parameters, task, batch, options)
                parts = list(pool.map(measure, np.array_split(chosen, threads), drop_rngs))
                loss, correct = (
                    loss + sum(p.loss for p in parts),
                    correct + sum(p.correct for p in parts),
                )
                rate = _schedule_rate((epoch + step / len(batches)) / epochs, options.rate)
                optimiser.step(
                    parameters, [part.gradient for part in parts], rate, options.weight_decay, pool
                )
            if (epoch + 1) % max(1, epochs // 30) == 0:
                report(
                    Epoch(
                        epoch + 1,
                        epochs,
                        layers,
                        loss / len(batches),
                        correct / (len(batches) * batch),
                    )
                )
    return layers


def _start(rng: np.random.Generator, inputs: int, width: int, classes: int) -> Parameters:
    """Draw He's initial weights (He et al. 2015)."""
    first = rng.standard_normal((inputs, width), np.float32) * np.float32(np.sqrt(2 / inputs))
    second = rng.standard_normal((width, classes), np.float32) * np.float32(np.sqrt(1 / width))
    return [first, np.zeros(width, np.float32), second, np.zeros(classes, np.float32)]


def _draw_batches(rng: np.random.Generator, n: int, size: int) -> list[NDArray[np.int64]]:
    """Draw the batches of one epoch; the rows that fill none are left out this time."""
    order = rng.permutation(n)
    return [order[at : at + size] for at in range(0, n - size + 1, size)]


@dataclass(frozen=True)
class _Part:
    """A thread's part of a batch: its share of the loss and of the gradient, and how many rows were
    named right.
    """

    gradient: Parameters
    loss: float
    correct: int


def _measure_shard(
    parameters: Parameters,
    task: WeightedRows,
    batch: int,
    options: HiddenOptions,
    chosen: NDArray[np.int64],
    rng: np.random.Generator,
) -> _Part:
    """Measure the chosen rows' part of a batch."""
    weight1, bias1, weight2, bias2 = parameters
    rows, labels = task.rows[chosen], task.labels[chosen]
    hidden = rows @ weight1 + bias1
    keep = (hidden > 0) & (rng.random(hidden.shape, np.float32) >= options.dropout)
    gate = keep * np.float32(1 / (1 - options.dropout))
    hidden *= gate
    weights = (task.class_weights[labels] / batch).astype(np.float32)
    logits = hidden @ weight2 + bias2
    loss, residual = cross_entropy(logits, labels, weights, options.smoothing)
    back = (residual @ weight2.T) * gate
    gradient = [rows.T @ back, back.sum(axis=0), hidden.T @ residual, residual.sum(axis=0)]
    return _Part(gradient, loss, int((logits.argmax(axis=1) == labels).sum()))


def _schedule_rate(progress: float, top: float) -> float:
    """Rise linearly over the first fifth, then fall to zero along a cosine."""
    if progress < 0.2:
        return top * (progress + 1e-3) / 0.2
    return top * 0.5 * (1 + float(np.cos(np.pi * (progress - 0.2) / 0.8)))


@dataclass
class Adam:
    """The moments of Adam with decoupled weight decay; parameters are changed in place."""

    means: Parameters
    squares: Parameters
    steps: int = 0

    @classmethod
    def start(cls, parameters: Parameters) -> "Adam":
        """Start with moments of zero."""
        return cls(
            [np.zeros_like(value) for value in parameters],
            [np.zeros_like(value) for value in parameters],
        )

    def step(
        self,
        parameters: Parameters,
        parts: Sequence[Parameters],
        rate: float,
        decay: float,
        pool: ThreadPoolExecutor,
    ) -> None:
        """Take one step along the sum of the parts of the gradient; only matrices decay."""
        self.steps += 1
        blocks = [
            (number, slice(at, at + BLOCK_ROWS))
            for number, value in enumerate(parameters)
            for at in range(0, len(value), BLOCK_ROWS)
        ]
        list(
            pool.map(lambda block: self._step_block(parameters, parts, rate, decay, *block), blocks)
        )

    def _step_block(
        self,
        parameters: Parameters,
        parts: Sequence[Parameters],
        rate: float,
        decay: float,
        number: int,
        rows: slice,
    ) -> None:
        """Update some rows of one parameter, in few passes over memory."""
        value = parameters[number][rows]
        mean = self.means[number][rows]
        square = self.squares[number][rows]
        gradient = parts[0][number][rows]
        for part in parts[1:]:
            gradient += part[number][rows]
        mean *= np.float32(0.9)
        mean += np.float32(0.1) * gradient
        square *= np.float32(0.99)
        gradient *= gradient
        gradient *= np.float32(0.01)
        square += gradient
        np.multiply(square, np.float32(1 / (1 - 0.99**self.steps)), out=gradient)
        np.sqrt(gradient, out=gradient)
        gradient += np.float32(1e-8)
        np.divide(mean, gradient, out=gradient)
        gradient *= np.float32(rate / (1 - 0.9**self.steps))
        if value.ndim == 2:
            value *= np.float32(1 - rate * decay)
        value -= gradient
