"""What a stage of training layers leaves: a candidate against the frozen layers' head, and how all
of them compare.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeezetune.events import EpochFinished
from squeezetune.finetune.recipe import StagePlan
from squeezetune.heads.candidate import Candidate, StageResult
from squeezetune.heads.linear import DenseWeights
from squeezetune.heads.scaling import Scaling
from squeezetune.heads.selection import Head
from squeezetune.network.weights import Weights

WEIGHTS = "weights."


@dataclass(frozen=True)
class TrainedStage:
    """A network whose layers were trained, as a candidate against the frozen layers' head.

    `layers` are the classifier with scaling and temperature folded in; they act on the features,
    not on their roots. The candidate's own act on features that `scaling` has standardised.
    `probabilities` (n, classes) are its own of the validation images, to be compared with those of
    the file; `is_finished` says that nobody stopped it early.
    """

    plan: StagePlan
    candidate: Candidate
    scaling: Scaling
    weights: Weights
    probabilities: NDArray[np.float32]
    is_finished: bool

    @property
    def layers(self) -> DenseWeights:
        """The classifier with scaling and temperature folded in; it acts on the features, not on
        their roots.
        """
        return self.scaling.fold(self.candidate.layers, self.candidate.temperature)

    def to_plain(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return the arrays by name, and all else as plain values for JSON; `from_plain` makes it
        whole again.
        """
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
    def from_plain(
        cls, arrays: Mapping[str, NDArray[Any]], about: Mapping[str, Any]
    ) -> "TrainedStage":
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
            {
                name.removeprefix(WEIGHTS): value
                for name, value in arrays.items()
                if name.startswith(WEIGHTS)
            },
            arrays["probabilities"],
            is_finished=True,
        )


def find_best(trained: Sequence[TrainedStage], frozen: Candidate) -> TrainedStage | None:
    """Find the stage that is best on the validation images; None where the frozen layers' head
    is.
    """
    best, chosen = None, frozen
    for stage in trained:
        if stage.candidate.replaces(chosen):
            best, chosen = stage, stage.candidate
    return best


def explain_refusal(candidate: Candidate, best: Candidate) -> str:
    """Say why a network does not take the place of another: what stands before the other's name."""
    if candidate.units is None or candidate.rank <= best.rank:
        return "no better on the validation images than"
    groups = len(np.unique(candidate.units))
    return (
        "better on the validation images, but not surely on other groups than these "
        f"{groups:,}, than"
    )


def compare_stages(
    head: Head, trained: Sequence[TrainedStage], is_correct_test: NDArray[np.bool_] | None
) -> tuple[StageResult, ...]:
    """Put the frozen layers' head and all stages side by side; nothing where no layers were
    trained.

    `is_correct_test` tells of each test image whether the head names it right, where that is known.
    """
    if not trained:
        return ()
    chosen, frozen = find_best(trained, head.chosen), head.chosen.is_correct
    seconds = sum(candidate.seconds for candidate in head.candidates)
    results = [StageResult("frozen layers", frozen, is_correct_test, seconds, chosen is None)]
    best, name = head.chosen, "the frozen layers"
    for stage in trained:
        own, own_name = stage.candidate, stage.plan.name
        note = f"{explain_refusal(own, best)} {name}, so not gone on with"
        if own.replaces(best):
            best, name, note = own, own_name if stage.plan.is_whole else f"the {own_name}", ""
        is_chosen = stage is chosen
        results.append(StageResult(own_name, own.is_correct, None, own.seconds, is_chosen, note))
    return tuple(results)
