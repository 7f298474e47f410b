"""A network whose layers were trained, as one stage of training left it, also as plain values for a checkpoint."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeezetune.events import EpochFinished
from squeezetune.learn.candidate import Candidate
from squeezetune.learn.dense import Layers
from squeezetune.learn.recipe import StagePlan
from squeezetune.learn.scaling import Scaling
from squeezetune.learn.weights import Weights

WEIGHTS = "weights."


@dataclass(frozen=True)
class Deepened:
    """A network whose layers were trained, as a candidate against the frozen layers' head.

    `layers` are the classifier with scaling and temperature folded in; they act on the features, not on their roots.
    The candidate's own act on features that `scaling` has standardised. `probabilities` (n, classes) are its own of
    the validation images, to be compared with those of the file; `is_finished` says that nobody stopped it early.
    """

    plan: StagePlan
    candidate: Candidate
    scaling: Scaling
    weights: Weights
    probabilities: NDArray[np.float32]
    is_finished: bool

    @property
    def layers(self) -> Layers:
        """The classifier with scaling and temperature folded in; it acts on the features, not on their roots."""
        return self.scaling.fold(self.candidate.layers, self.candidate.temperature)

    def to_plain(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return the arrays by name, and all else as plain values for JSON; `from_plain` makes it whole again."""
        candidate = self.candidate
        ((weight, bias),) = candidate.layers  # trained layers have a linear classifier
        arrays = {
            "classifier.weight": weight,
            "classifier.bias": bias,
            "mean": self.scaling.mean,
            "deviation": self.scaling.deviation,
            "is_correct": candidate.is_correct,
            "probabilities": self.probabilities,
            **({} if candidate.units is None else {"units": candidate.units}),
            **{f"{WEIGHTS}{name}": value for name, value in self.weights.items()},
        }
        names = ("name", "views", "penalty", "validation_loss", "temperature", "seconds")
        about = {name: getattr(candidate, name) for name in names}
        history = [vars(epoch) for epoch in candidate.history]
        return arrays, {"plan": asdict(self.plan), "candidate": about, "history": history}

    @classmethod
    def from_plain(cls, arrays: Mapping[str, NDArray[Any]], about: Mapping[str, Any]) -> "Deepened":
        """Make a finished stage of what `to_plain` gave."""
        candidate = Candidate(
            layers=((arrays["classifier.weight"], arrays["classifier.bias"]),),
            is_correct=arrays["is_correct"],
            units=arrays.get("units"),
            history=tuple(EpochFinished(**epoch) for epoch in about["history"]),
            **about["candidate"],
        )
        return cls(
            StagePlan.from_plain(about["plan"]),
            candidate,
            Scaling(arrays["mean"], arrays["deviation"], use_roots=False),
            {name.removeprefix(WEIGHTS): value for name, value in arrays.items() if name.startswith(WEIGHTS)},
            arrays["probabilities"],
            is_finished=True,
        )


def find_best(trained: Sequence[Deepened], frozen: Candidate) -> Deepened | None:
    """Find the stage that is best on the validation images; None where the frozen layers' head is."""
    best, chosen = None, frozen
    for deepened in trained:
        if deepened.candidate.replaces(chosen):
            best, chosen = deepened, deepened.candidate
    return best
