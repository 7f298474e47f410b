"""The recipe of the original work (2018), step by step as it was: a new classifier behind
SqueezeNet, by plain Adam.

It has a loop of its own. That of `finetune` cuts a batch into parts for its threads, where batch
normalisation has to see all of it; it averages weights, plans rates and sizes, and returns to safe
states, where here the last epoch is the model, whatever it is worth; and it leaves out the last
batch if that is short. Nothing of the two would be one.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from squeezetune.events import EpochFinished, StageFinished, StageStarted, TrainingAdvanced
from squeezetune.finetune.batches import Positions, normalise
from squeezetune.finetune.recipe import OriginalRecipe
from squeezetune.finetune.surgery import freeze, unfreeze_last
from squeezetune.finetune.torch_layers import Tensor
from squeezetune.finetune.torch_network import SqueezeNet, build_network
from squeezetune.finetune.workers import TrainerOptions
from squeezetune.network.activations import ActivationRows
from squeezetune.network.weights import Weights, detect_version
from squeezetune.system.checkpoint import Checkpoint

# isort: split
# after `network`, which says how to install torch where it is missing
import torch
from torch import nn
from torch.nn import functional

TOLD_EVERY_S = 1.0
# The prefixes under which a checkpoint keeps the network and the optimiser's moments.
NETWORK, MOMENTS = "network.", "moments."

# Is given the tensors and the plain values that a run may go on from.
KeepState: TypeAlias = Callable[[Mapping[str, NDArray[Any]], Mapping[str, Any]], None]


@dataclass(frozen=True)
class OriginalInputs:
    """What is learnt from: the images' pixels (side, side, 3) uint8, their labels, and which train
    and which judge.
    """

    rows: ActivationRows
    labels: NDArray[np.int64]
    train: Positions
    judging: Positions


@dataclass(frozen=True)
class OriginallyTuned:
    """What the training left beside the network: the judging images' logits (n, classes) and the
    epochs.
    """

    logits: NDArray[np.float32]
    is_finished: bool
    history: tuple[EpochFinished, ...]
    seconds: float


def build_original(weights: Weights, classes: int, recipe: OriginalRecipe, seed: int) -> SqueezeNet:
    """Build SqueezeNet as the original work did, with a new classifier, and all but the last layers
    frozen.

    The convolution begins as torch's own do, evenly within 1 / sqrt(512) of 0. The weights of the
    batch normalisation begin evenly between 0 and 1, as in the torch of 2018 (since version 1.2
    they begin at 1).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_network(weights, version=detect_version(weights), num_classes=classes)
        width = network.classifier[1].in_channels
        network.classifier[1] = nn.Conv2d(width, classes, 1)
        if recipe.norm == "batch":
            network.classifier[0] = nn.BatchNorm2d(width)
            nn.init.uniform_(network.classifier[0].weight)
    unfreeze_last(freeze(network), 1 + recipe.last_fires)
    return network


def tune_original(
    network: SqueezeNet,
    material: OriginalInputs,
    recipe: OriginalRecipe,
    conditions: TrainerOptions,
    kept: Checkpoint | None = None,
    keep: KeepState | None = None,
) -> OriginallyTuned:
    """Train a network, which is changed, for all epochs; `kept` is what `keep` was given after an
    earlier one.
    """
    conditions.listen(StageStarted(conditions.stage, 100, "%"))
    with _use_threads(conditions.threads):
        loop = OriginalLoop(network, material, recipe, conditions)
        if kept:
            loop.restore(kept)
        while len(loop.history) < recipe.epochs and loop.train_epoch():
            loop.finish_epoch()
            if keep:
                keep(*loop.to_plain())
        logits = loop.infer(material.judging) if loop.logits is None else loop.logits
    conditions.listen(StageFinished(conditions.stage, loop.seconds))
    is_finished = len(loop.history) == recipe.epochs
    return OriginallyTuned(logits.numpy(), is_finished, tuple(loop.history), loop.seconds)


class OriginalLoop:
    """Epochs of shuffled batches, each followed by a look at the judging images."""

    def __init__(
        self,
        network: SqueezeNet,
        material: OriginalInputs,
        recipe: OriginalRecipe,
        conditions: TrainerOptions,
    ) -> None:
        self._network = network
        self._material = material
        self._recipe = recipe
        self._conditions = conditions
        self._labels = torch.from_numpy(material.labels)
        trained = [value for value in network.parameters() if value.requires_grad]
        self.optimiser = torch.optim.Adam(trained, recipe.rate)
        self.history: list[EpochFinished] = []
        self.seconds = 0.0
        self.logits: Tensor | None = None  # of the network as it is
        self._loss, self._correct = 0.0, 0  # summed over the images of this epoch
        self._told_at = time.perf_counter()

    def train_epoch(self) -> bool:
        """Take all training images in a new order, the short last batch too; say whether nobody has
        asked to stop.
        """
        material, size = self._material, self._recipe.batch
        seed = (self._conditions.seed, len(self.history))
        order = np.random.default_rng(seed).permutation(material.train)
        self._loss, self._correct = 0.0, 0
        self._network.train()
        with torch.random.fork_rng(devices=[]):
            # for the dropout: an epoch's draws are its own, so that a run can go on from its
            # beginning
            torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
            for at in range(0, len(order), size):
                if self._conditions.is_stopping():
                    return False
                self.take_step(order[at : at + size])
                self._tell(at + size)
        return True

    def take_step(self, positions: Positions) -> None:
        """Train on one batch."""
        start = time.perf_counter()
        labels = self._labels[positions]
        self.optimiser.zero_grad()
        logits = self._network(self._read(positions))
        loss = functional.cross_entropy(logits, labels)
        loss.backward()
        self.optimiser.step()
        self._loss += len(positions) * float(loss.detach())
        self._correct += int((logits.argmax(1) == labels).sum())
        self.seconds += time.perf_counter() - start
        self.logits = None

    def finish_epoch(self) -> None:
        """Judge the network as it is, and note the figures of the epoch."""
        material, count = self._material, len(self._material.train)
        start = time.perf_counter()
        self.logits = self.infer(material.judging)
        labels = self._labels[material.judging]
        self.seconds += time.perf_counter() - start
        figures = EpochFinished(
            stage=self._conditions.stage,
            epoch=len(self.history) + 1,
            of=self._recipe.epochs,
            train_loss=self._loss / count,
            train_accuracy=self._correct / count,
            validation_loss=float(functional.cross_entropy(self.logits, labels)),
            validation_accuracy=float((self.logits.argmax(1) == labels).double().mean()),
            images_per_s=count * (len(self.history) + 1) / self.seconds,
            seconds=self.seconds,
        )
        self.history.append(figures)
        self._conditions.listen(figures)

    def infer(self, positions: Positions) -> Tensor:
        """Compute the logits (n, classes) of images."""
        self._network.eval()
        size = self._recipe.batch
        with torch.inference_mode():
            parts = [
                self._network(self._read(positions[at : at + size]))
                for at in range(0, len(positions), size)
            ]
        return torch.cat(parts)

    def to_plain(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return all that an epoch's end leaves, as arrays, which share their memory, and as plain
        values for JSON.
        """
        network = {
            f"{NETWORK}{name}": value.numpy() for name, value in self._network.state_dict().items()
        }
        moments = {
            f"{MOMENTS}{number}.{name}": value.numpy()
            for number, values in self.optimiser.state_dict()["state"].items()
            for name, value in values.items()
        }
        return network | moments, {
            "history": [vars(epoch) for epoch in self.history],
            "seconds": self.seconds,
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take over what `to_plain` gave."""
        tensors = {name: torch.from_numpy(value) for name, value in checkpoint.tensors.items()}
        network = {
            name[len(NETWORK) :]: value
            for name, value in tensors.items()
            if name.startswith(NETWORK)
        }
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith(MOMENTS):
                number, part = name[len(MOMENTS) :].split(".")
                moments.setdefault(int(number), {})[part] = value
        self._network.load_state_dict(network)
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": moments})
        self.history = [EpochFinished(**epoch) for epoch in checkpoint.about["history"]]
        self.seconds = checkpoint.about["seconds"]

    def _read(self, positions: Positions) -> Tensor:
        """Make the network's input of images, as they are: (n, 3, side, side) float32."""
        return normalise(torch.from_numpy(self._material.rows.gather(positions))).contiguous()

    def _tell(self, seen: int) -> None:
        """Say about once a second how it goes; `seen` images of this epoch are done."""
        now, count = time.perf_counter(), len(self._material.train)
        if now < self._told_at + TOLD_EVERY_S:
            return
        self._told_at, seen = now, min(seen, count)
        done, total = len(self.history) * count + seen, self._recipe.epochs * count
        speed, progress = done / self.seconds, done / total
        loss, accuracy = self._loss / seen, self._correct / seen
        self._conditions.listen(
            TrainingAdvanced(
                self._conditions.stage, progress, loss, accuracy, speed, (total - done) / speed
            )
        )


def fold_classifier(network: SqueezeNet) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Fold the batch normalisation, as it is in evaluation, into the convolution: (512, classes)
    and (classes,).
    """
    first, convolution = network.classifier[0], network.classifier[1]
    weight = convolution.weight.detach().double().flatten(1)
    bias = convolution.bias.detach().double()
    if isinstance(first, nn.BatchNorm2d):
        scale = first.weight.detach().double() / torch.sqrt(first.running_var.double() + first.eps)
        shift = first.bias.detach().double() - scale * first.running_mean.double()
        weight, bias = weight * scale, bias + weight @ shift
    return weight.T.float().contiguous().numpy(), bias.float().numpy()


@contextmanager
def _use_threads(count: int) -> Iterator[None]:
    """Let torch compute every layer with so many threads, and as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
