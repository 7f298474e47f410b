"""All that changes while layers are trained, as a checkpoint keeps it and gives it back."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from squeezetune.events import EpochFinished
from squeezetune.finetune.recipe import StagePlan
from squeezetune.finetune.torch_layers import Tensor
from squeezetune.system.checkpoint import CheckpointFolder, CheckpointWriter, UnfinishedRun

# isort: split
# after the modules above, which say how to install torch where it is missing
import torch


@dataclass
class State:
    """All that changes while a stage trains; `tensors` are the parameters, the optimiser's state
    and the averages.
    """

    tensors: dict[str, Tensor]
    step: int = 0
    progress: float = 0.0
    epoch: int = 0
    epoch_step: int = 0
    rate_share: float = 1.0
    rollbacks: int = 0
    loss: float = 0.0  # summed over the steps of this epoch
    correct: float = 0.0
    recent_loss: float = 0.0
    recent_accuracy: float = 0.0
    seconds: float = 0.0
    history: list[EpochFinished] = field(default_factory=list)

    def copy(self) -> "State":
        """Copy the state with all its tensors."""
        tensors = {name: value.clone() for name, value in self.tensors.items()}
        return replace(self, tensors=tensors, history=list(self.history))

    def to_plain(self) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
        """Return the tensors as arrays, which share their memory, and all else as plain values for
        JSON.
        """
        about = {
            item.name: getattr(self, item.name) for item in fields(self) if item.name != "tensors"
        }
        about["history"] = [vars(epoch) for epoch in self.history]
        return {name: value.numpy() for name, value in self.tensors.items()}, about

    @classmethod
    def from_plain(
        cls, tensors: Mapping[str, NDArray[np.float32]], about: Mapping[str, Any]
    ) -> "State":
        """Make a state of what `to_plain` gave."""
        history = [EpochFinished(**epoch) for epoch in about["history"]]
        own = {name: torch.from_numpy(value) for name, value in tensors.items()}
        return cls(own, **{**about, "history": history})


@dataclass(frozen=True)
class Snapshot:
    """What a run goes on from: its state, and the one at the last epoch's end, to go back to if it
    diverges.
    """

    state: State
    safe: State


SAFE, EARLIER = "safe.", "earlier."

# What an earlier stage left: arrays by name, and plain values.
Finished: TypeAlias = tuple[Mapping[str, NDArray[Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class SnapshotWriter:
    """Keeps a run's states in a folder; `identity` says which run it is, so that no other goes on
    from them.

    What the stages before left is kept with them, so that one checkpoint is all that there is.
    """

    writer: CheckpointWriter
    identity: Mapping[str, Any]
    plan: StagePlan
    precision: Any
    earlier: tuple[Finished, ...] = ()

    def keep(self, kept: Snapshot) -> None:
        """Write down the state, and the one at the last epoch's end; the disk is written to in the
        background.
        """
        tensors, state = kept.state.to_plain()
        safe_tensors, safe = kept.safe.to_plain()
        tensors |= {f"{SAFE}{name}": value for name, value in safe_tensors.items()}
        for number, (arrays, _) in enumerate(self.earlier):
            tensors |= {f"{EARLIER}{number}.{name}": value for name, value in arrays.items()}
        about = {
            "earlier": [plain for _, plain in self.earlier],
            "identity": self.identity,
            "plan": asdict(self.plan),
            "precision": str(self.precision).removeprefix("torch."),
            "state": state,
            "safe": safe,
        }
        self.writer.save(tensors, about)


def load_kept(
    folder: CheckpointFolder | UnfinishedRun, identity: Mapping[str, Any]
) -> tuple[Snapshot, StagePlan, Any] | None:
    """Load what an unfinished run kept, its plan and the type of number that it computed in; None
    if nothing is there.

    Raises:
        CheckpointError: it is of another run.
    """
    checkpoint = folder.load(identity)
    if checkpoint is None:
        return None
    own = {
        name: value
        for name, value in checkpoint.tensors.items()
        if not name.startswith((SAFE, EARLIER))
    }
    safe = _select(checkpoint.tensors, SAFE)
    about = checkpoint.about
    kept = Snapshot(State.from_plain(own, about["state"]), State.from_plain(safe, about["safe"]))
    return kept, StagePlan.from_plain(about["plan"]), getattr(torch, about["precision"])


def load_earlier(
    folder: CheckpointFolder | UnfinishedRun, identity: Mapping[str, Any]
) -> tuple[Finished, ...]:
    """Load what the stages left that were finished before the one that an unfinished run was at, in
    order.

    Raises:
        CheckpointError: it is of another run.
    """
    checkpoint = folder.load(identity)
    if checkpoint is None:
        return ()
    return tuple(
        (_select(checkpoint.tensors, f"{EARLIER}{number}."), plain)
        for number, plain in enumerate(checkpoint.about["earlier"])
    )


def _select(tensors: Mapping[str, NDArray[Any]], family: str) -> dict[str, NDArray[Any]]:
    """Take the tensors whose names begin so, and leave that away."""
    return {
        name.removeprefix(family): value
        for name, value in tensors.items()
        if name.startswith(family)
    }
