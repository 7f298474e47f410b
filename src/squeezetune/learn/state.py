"""All that changes while layers are trained, as one record that can be written down and brought back."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeezetune.events import EpochFinished
from squeezetune.learn.network import Tensor

# isort: split
# after `network`, which says how to install torch where it is missing
import torch


@dataclass
class State:
    """All that changes while a stage trains; `tensors` are the parameters, the optimiser's state and the averages."""

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
        """Return the tensors as arrays, which share their memory, and all else as plain values for JSON."""
        about = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "tensors"}
        about["history"] = [vars(epoch) for epoch in self.history]
        return {name: value.numpy() for name, value in self.tensors.items()}, about

    @classmethod
    def from_plain(cls, tensors: Mapping[str, NDArray[np.float32]], about: Mapping[str, Any]) -> "State":
        """Make a state of what `to_plain` gave."""
        history = [EpochFinished(**epoch) for epoch in about["history"]]
        own = {name: torch.from_numpy(value) for name, value in tensors.items()}
        return cls(own, **{**about, "history": history})


@dataclass(frozen=True)
class Kept:
    """What a run goes on from: its state, and the one at the last epoch's end, to go back to if it diverges."""

    state: State
    safe: State
