"""None of these: below which score a photo is of none of the classes, for a wished rate of wrong
refusals.

The score is how familiar a photo looks (`learn.familiarity`) or, where a model does not say that,
how sure the model is of it. The scores of photos that it has not learnt tell how often a threshold
refuses photos of its classes; the model's manifest holds them as a small table. That no more than
the wished rate is refused, holds for new photos that are drawn as these were (Vovk et al. 2005,
"Algorithmic Learning in a Random World": a conformal p-value).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeezetune.errors import ArtifactError, SettingsError

# The table has a threshold for every rate from one step to the highest.
STEP, HIGHEST = 0.001, 0.5
DECIMALS = 1e7  # as float32 tells values below 1 apart


@dataclass(frozen=True)
class Threshold:
    """What an image has to reach to be of one of the classes: in familiarity, or in confidence."""

    value: float = -math.inf
    is_familiarity: bool = False

    def admits(self, confidence: float, familiarity: float) -> bool:
        """Say whether an image is of one of the classes."""
        return (familiarity if self.is_familiarity else confidence) >= self.value


def tabulate_confidences(probabilities: NDArray[np.float32], measured_on: str) -> dict[str, Any]:
    """Make the manifest's table from the probabilities (n, classes) of photos that were not
    learnt.
    """
    return tabulate_scores(probabilities.max(axis=1), measured_on)


def tabulate_scores(scores: NDArray[np.float32], measured_on: str) -> dict[str, Any]:
    """Make the manifest's table from the scores (n,) of photos that were not learnt.

    `thresholds` are those of the rates 0.1 %, 0.2 %, ...; None where so few photos cannot tell.

    >>> tabulate_scores(np.array([0.9, 0.6], np.float32), "validation")["thresholds"][331:335]
    [None, None, 0.6, 0.6]
    """
    ordered = np.sort(scores.astype(np.float64))
    rates = STEP * np.arange(1, round(HIGHEST / STEP) + 1)
    # of n + 1 photos in any order, the new one is among the k lowest in k / (n + 1) of all cases
    ranks = np.floor(rates * (len(ordered) + 1) + 1e-9).astype(np.int64)
    lowest = (np.floor(ordered * DECIMALS) / DECIMALS).tolist()
    thresholds = [lowest[rank - 1] if rank else None for rank in ranks]
    return {"measured_on": measured_on, "photos": len(ordered), "thresholds": thresholds}


def choose_threshold(
    familiarities: Mapping[str, Any], confidences: Mapping[str, Any], rate: float | str
) -> Threshold:
    """Choose the threshold by a model's tables: of familiarity, where it knows that.

    Raises:
        SettingsError: the rate is out of its limits, or lower than so few photos can tell.
        ArtifactError: the model has no table.

    """
    return Threshold(
        find_threshold(familiarities or confidences, parse_rate(rate)), bool(familiarities)
    )


def find_threshold(table: Mapping[str, Any], rate: float) -> float:
    """Find the score below which a photo is of none of the classes; this share of known ones is
    refused at most.

    Raises:
        SettingsError: the rate is out of its limits, or lower than so few photos can tell.
        ArtifactError: the model has no table.

    """
    if not STEP <= rate <= HIGHEST:
        raise SettingsError(
            f"none-of-these is {rate:g}; needed is a share from {STEP:.1%} to {HIGHEST:.0%}",
            "It is the share of photos of known classes that may be refused, such as 5%.",
        )
    if not table:
        raise ArtifactError(
            "This model does not know what it makes of photos that it has not learnt, so that it "
            "cannot say that one is of none of its classes",
            "Give the model's folder, if this is a file that was exported from it; or train it "
            "again, with photos held back for validation.",
        )
    try:
        # 0 in earlier models
        threshold = float(table["thresholds"][int(rate / STEP + 1e-9) - 1] or 0)
        photos = int(table["photos"])
    except (LookupError, TypeError, ValueError) as error:
        raise ArtifactError(
            "The model's manifest is damaged: its table of scores", "Train the model again."
        ) from error
    if not threshold:
        raise SettingsError(
            f"none-of-these is {rate:.1%}, and only {photos:,} photos tell what is unusual; needed "
            f"is {1 / (photos + 1):.1%} or more",
            "Allow more photos to be refused, or train with more photos.",
        )
    return threshold


def parse_rate(rate: str | float) -> float:
    """Read a share, a number or a text such as 5% or 0.05.

    Raises:
        SettingsError: it is none.

    >>> parse_rate("5%"), parse_rate(0.05)
    (0.05, 0.05)
    """
    try:
        if isinstance(rate, str):
            number = rate.strip()
            return float(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
        return float(rate)
    except (ValueError, TypeError, OverflowError) as error:
        raise SettingsError(
            f"none-of-these is {rate!r}; needed is a share such as 5% or 0.05"
        ) from error
