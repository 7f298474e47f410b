"""An unfinished training on disk: what `finetune` needs to go on, as a checkpoint's tensors and plain values."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from numpy.typing import NDArray

from squeezetune.checkpoint import CheckpointFolder, CheckpointWriter
from squeezetune.learn.recipe import StagePlan
from squeezetune.learn.state import Kept, State

# isort: split
# after `state`, which says how to install torch where it is missing
import torch

SAFE, EARLIER = "safe.", "earlier."

# What an earlier stage left: arrays by name, and plain values.
Finished: TypeAlias = tuple[Mapping[str, NDArray[Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class Keeper:
    """Keeps a run's states in a folder; `identity` says which run it is, so that no other goes on from them.

    What the stages before left is kept with them, so that one checkpoint is all that there is.
    """

    writer: CheckpointWriter
    identity: Mapping[str, Any]
    plan: StagePlan
    precision: Any
    earlier: tuple[Finished, ...] = ()

    def keep(self, kept: Kept) -> None:
        """Write down the state, and the one at the last epoch's end; the disk is written to in the background."""
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


def load_kept(folder: CheckpointFolder, identity: Mapping[str, Any]) -> tuple[Kept, StagePlan, Any] | None:
    """Load what an unfinished run kept, its plan and the type of number that it computed in; None if nothing is there.

    Raises:
        CheckpointError: it is of another run.
    """
    checkpoint = folder.load(identity)
    if checkpoint is None:
        return None
    own = {name: value for name, value in checkpoint.tensors.items() if not name.startswith((SAFE, EARLIER))}
    safe = _select(checkpoint.tensors, SAFE)
    about = checkpoint.about
    kept = Kept(State.from_plain(own, about["state"]), State.from_plain(safe, about["safe"]))
    return kept, StagePlan.from_plain(about["plan"]), getattr(torch, about["precision"])


def load_earlier(folder: CheckpointFolder, identity: Mapping[str, Any]) -> tuple[Finished, ...]:
    """Load what the stages left that were finished before the one that an unfinished run was at, in order.

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
    return {name.removeprefix(family): value for name, value in tensors.items() if name.startswith(family)}
