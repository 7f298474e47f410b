"""An unfinished training on disk: what `finetune` needs to go on, as a checkpoint's tensors and plain values."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from squeezetune.checkpoint import CheckpointFolder, CheckpointWriter
from squeezetune.learn.recipe import StagePlan
from squeezetune.learn.state import Kept, State

# isort: split
# after `state`, which says how to install torch where it is missing
import torch

SAFE = "safe."


@dataclass(frozen=True)
class Keeper:
    """Keeps a run's states in a folder; `identity` says which run it is, so that no other goes on from them."""

    writer: CheckpointWriter
    identity: Mapping[str, Any]
    plan: StagePlan
    precision: Any

    def keep(self, kept: Kept) -> None:
        """Write down the state, and the one at the last epoch's end; the disk is written to in the background."""
        tensors, state = kept.state.to_plain()
        safe_tensors, safe = kept.safe.to_plain()
        tensors |= {f"{SAFE}{name}": value for name, value in safe_tensors.items()}
        about = {
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
    own = {name: value for name, value in checkpoint.tensors.items() if not name.startswith(SAFE)}
    safe = {name.removeprefix(SAFE): value for name, value in checkpoint.tensors.items() if name.startswith(SAFE)}
    about = checkpoint.about
    kept = Kept(State.from_plain(own, about["state"]), State.from_plain(safe, about["safe"]))
    return kept, StagePlan.from_plain(about["plan"]), getattr(torch, about["precision"])
