"""A head, or a stage of training, that was tried, and when it takes the place of another."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from squeezetune.events import EpochFinished
from squeezetune.heads.linear import DenseWeights

Number = TypeVar("Number", np.int64, np.float64)


@dataclass(frozen=True)
class Candidate:
    """One head that was tried, and what the validation part says of it; `is_correct` (n,) tells of
    each image.

    `units` (n,) numbers the groups that the validation images belong to, where there are any.
    """

    name: str
    layers: DenseWeights
    views: int
    penalty: float | None
    is_correct: NDArray[np.bool_]
    validation_loss: float
    temperature: float
    seconds: float
    history: tuple[EpochFinished, ...] = ()
    units: NDArray[np.int64] | None = None

    @property
    def validation_accuracy(self) -> float:
        """The share of the validation images that are named right."""
        return float(self.is_correct.mean())

    @property
    def rank(self) -> tuple[float, float]:
        """Order candidates of one kind: by accuracy, then by calibrated likelihood."""
        return (self.validation_accuracy, -self.validation_loss)

    def pays_over(self, other: "Candidate") -> bool:
        """Say whether this one is better than a simpler one by more than a standard error of the
        paired difference.

        Images of one group are hardly more than one observation: with groups, it has to be so for
        their differences too (Liang and Zeger 1986, "Longitudinal data analysis using generalized
        linear models").
        """
        gains = self.is_correct.astype(np.int64) - other.is_correct
        return is_sure(gains, self.units)

    def explain_loss(self, other: "Candidate") -> str:
        """Say why another one was taken though this one is right on more validation images; nothing
        where it is not.
        """
        if (
            len(self.is_correct) != len(other.is_correct)
            or self.validation_accuracy <= other.validation_accuracy
        ):
            return ""
        gains = self.is_correct.astype(np.int64) - other.is_correct
        more, error = int(gains.sum()), float(np.sqrt((gains**2).sum()))
        if more > error:  # groups decided, or the settings
            return (
                "better on these images, but not surely on other groups"
                if self.units is not None
                else ""
            )
        return (
            f"not surely better: {more:,} more of {len(gains):,} right, where chance alone "
            f"makes {error:.1f}"
        )

    def replaces(self, other: "Candidate") -> bool:
        """Say whether this one, a network with more of its layers trained, takes the place of
        another.

        It has to be better, and where there are groups, so much better that it is not the luck of a
        few of them: new images of known groups gain from trained layers, new groups may lose.
        """
        return self.pays_over(other) if self.units is not None else self.rank > other.rank


def is_sure(gains: NDArray[np.int64], units: NDArray[np.int64] | None = None) -> bool:
    """Say whether the sum of differences (n,) is above its standard error, if there were no
    difference; with the groups of the images, `units` (n,), so that it is for these too.
    """
    is_above = bool(gains.sum() > np.sqrt((gains**2).sum()))
    return is_above and (units is None or is_sure(sum_groups(gains, units)))


def sum_groups(gains: NDArray[Number], units: NDArray[np.int64]) -> NDArray[Number]:
    """Add up the differences (n,) of the images of each group."""
    groups, group_of = np.unique(units, return_inverse=True)
    sums = np.zeros(len(groups), gains.dtype)
    np.add.at(sums, group_of, gains)
    return sums


@dataclass(frozen=True)
class StageResult:
    """The network as one stage left it, judged image by image; `note` says why it was kept or not.

    `is_correct_validation` (n,) and `is_correct_test` (m,) tell of each image whether it is named
    right; the second is None where the stage was not measured on the test images. `name` is for
    readers, e.g. "last 4 blocks".
    """

    name: str
    is_correct_validation: NDArray[np.bool_]
    is_correct_test: NDArray[np.bool_] | None
    seconds: float
    is_chosen: bool
    note: str = ""
