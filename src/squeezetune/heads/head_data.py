"""Training and validation features of a head, and how it is evaluated on them."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from squeezetune.events import EpochFinished
from squeezetune.heads.candidate import Candidate
from squeezetune.heads.linear import (
    DenseWeights,
    Rows,
    WeightedRows,
    apply_layers,
    fit_temperature,
    measure_loss,
    pays_factor,
    precondition,
)
from squeezetune.heads.mlp import Epoch
from squeezetune.system.scratch import list_blocks

# The curve over the epochs, and the choice between the last and the averaged weights, take so many
# validation images.
WATCHED_IMAGES = 2000

# The penalty and the views are chosen on at most this many images, and hold for all of them.
PILOT_IMAGES = 3000

STAGE = "head"
VIEW_NAMES = {
    1: "image",
    2: "image and mirror image",
    4: "image, mirror image and the middles of both",
}


@dataclass(frozen=True)
class HeadData:
    """Training and validation rows (n, views, 2048), standardised, with labels, and the weights of
    the classes.

    `units` (n,) and `validation_units` number the groups of the images, where there are any.
    """

    rows: Rows
    labels: NDArray[np.int64]
    validation_rows: Rows
    validation_labels: NDArray[np.int64]
    class_weights: NDArray[np.float32]
    threads: int
    units: NDArray[np.int64] | None = None
    validation_units: NDArray[np.int64] | None = None

    @property
    def is_judging_itself(self) -> bool:
        """Say whether the training images judge, since none are held back."""
        return self.validation_rows is self.rows

    def make_task(self, views: int) -> WeightedRows:
        """Make every view of every image one row."""
        return list_views(self.rows, self.labels, views, self.class_weights)

    def measure_factor(self, penalty: float) -> Rows | None:
        """Factor the curvature of the loss, for all linear heads that are fitted here (see
        `fit_linear`).

        None where there are so few rows that it would not pay.
        """
        rows = self.rows.reshape(-1, self.rows.shape[-1])
        if not pays_factor(*rows.shape):
            return None
        with ThreadPoolExecutor(self.threads) as pool:
            return precondition(np.array_split(rows, self.threads), penalty / len(self.rows), pool)

    def take_watched(self) -> "HeadData":
        """Keep an even sample of the validation images, cheap enough to look at in every epoch."""
        step = -(-len(self.validation_labels) // WATCHED_IMAGES)
        rows, labels = self.validation_rows[::step], self.validation_labels[::step]
        return replace(self, validation_rows=rows, validation_labels=labels)

    def infer(self, layers: DenseWeights, views: int) -> NDArray[np.float32]:
        """Compute the logits (n, classes) of the validation images, averaged over the views."""
        parts = [
            apply_to_views(layers, self.validation_rows[b, :views])
            for b in list_blocks(len(self.validation_rows))
        ]
        return np.concatenate(parts)

    def describe_epoch(
        self, epoch: Epoch, views: int, images: int, seconds: float
    ) -> EpochFinished:
        """Measure the validation part after an epoch; `images` were seen in every one until now,
        after `seconds`.
        """
        logits, labels = self.infer(epoch.layers, views), self.validation_labels
        return EpochFinished(
            stage=STAGE,
            epoch=epoch.number,
            of=epoch.of,
            train_loss=epoch.loss,
            train_accuracy=epoch.accuracy,
            validation_loss=measure_loss(logits, labels),
            validation_accuracy=float((logits.argmax(axis=1) == labels).mean()),
            images_per_s=images * epoch.number / seconds,
            seconds=seconds,
        )

    def judge(
        self, name: str, layers: DenseWeights, views: int, penalty: float | None, start: float
    ) -> Candidate:
        """Measure layers on the validation part, averaging the logits of the views."""
        logits, labels = self.infer(layers, views), self.validation_labels
        # images that were learnt say nothing of how sure to be
        temperature = 1.0 if self.is_judging_itself else fit_temperature(logits, labels)
        is_correct = logits.argmax(axis=1) == labels
        loss = measure_loss(logits, labels, temperature)
        name = f"{name}, {VIEW_NAMES[views]}"
        seconds = time.perf_counter() - start
        return Candidate(name, layers, views, penalty, is_correct, loss, temperature, seconds,
                         units=self.validation_units)  # fmt: skip


def list_views(
    rows: Rows, labels: NDArray[np.int64], views: int, weights: NDArray[np.float32]
) -> WeightedRows:
    """Make each of the first views of every image, (n, views, features), a row of its own."""
    plain = rows[:, :views].reshape(len(rows) * views, -1)
    return WeightedRows(plain, np.repeat(labels, views), weights)


def apply_to_views(layers: DenseWeights, rows: Rows) -> NDArray[np.float32]:
    """Compute the logits (n, classes) of rows (n, views, features), averaged over the views."""
    count, views, _ = rows.shape
    logits = apply_layers(layers, rows.reshape(count * views, -1)).reshape(count, views, -1)
    means: NDArray[np.float32] = logits.mean(axis=1)
    return means
