"""What a running job says while it works.

A listener is any callable that takes one event; it is called from the thread that runs the job, in
order.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from squeezetune.quantities import format_duration

PREPARING = "preparing"
REPORT = "report"
EXPORT = "export "  # before the name of a format
# What stages are called for people.
STAGE_WORDS: Mapping[str, str] = {
    "reading": "Reading the photos",
    PREPARING: "Preparing",
    "features": "Looking at the photos",
    "looks": "Describing the photos",
    "near-duplicates": "Finding alike photos",
    "pixels": "Keeping the pixels",
    "download": "Fetching the weights",
    "archive": "Fetching the archive",
    "packing": "Packing the images",
    "head": "Training the head",
    "folds": "Training the folds",
    "activations": "Running first blocks",
    "all layers": "Training all layers",
    "original recipe": "Training as in 2018",
    "familiarity": "Looking once more",
    "measuring": "Measuring",
    "predicting": "Predicting",
    "labels": "Doubting the labels",
    "outliers": "Finding outliers",
    REPORT: "Writing the report",
}


@dataclass(frozen=True)
class StageStarted:
    """A stage of the work begins; `total` counts its steps in `unit`.

    It is 0 where the stage is one indivisible step, None where nobody knows how many there will be.
    """

    stage: str
    total: int | None = 0
    unit: str = "images"


@dataclass(frozen=True)
class StageAdvanced:
    """`done` steps of the stage are finished."""

    stage: str
    done: int


@dataclass(frozen=True)
class TrainingAdvanced:
    """A stage that trains is `progress` (0 to 1) through; said about once a second.

    `loss` and `accuracy` are means over the latest steps, measured while training; `seconds_left`
    of the stage is None where nothing can be said yet.
    """

    stage: str
    progress: float
    loss: float
    accuracy: float
    images_per_s: float
    seconds_left: float | None = None


@dataclass(frozen=True)
class EpochFinished:
    """How training stands after one epoch of the `of` that are planned; with a time budget `of` may
    change.

    The training figures are means over the epoch, measured while training, e.g. with dropout or
    augmented images. `seconds` have passed since the stage began to train.
    """

    stage: str
    epoch: int
    of: int
    train_loss: float
    train_accuracy: float
    validation_loss: float | None
    validation_accuracy: float
    images_per_s: float
    seconds: float


@dataclass(frozen=True)
class StageFinished:
    """The stage is finished after `seconds`."""

    stage: str
    seconds: float


@dataclass(frozen=True)
class ModelMeasured:
    """The finished model was measured on `images` test images; `low` to `high` is the 95 %
    interval.
    """

    accuracy: float
    low: float
    high: float
    images: int


@dataclass(frozen=True)
class Shortage:
    """A budget is too short for all photos, which need `needed_s`: `used` of so many train and
    choose, perhaps all.
    """

    budget: str
    needed_s: float
    used: int
    photos: int

    @property
    def words(self) -> str:
        """What was done, in a sentence."""
        needed = (
            f"{self.budget} is too short here for all photos, which need about "
            f"{format_duration(self.needed_s)}"
        )
        if self.used < self.photos:
            return (
                f"{needed}: {self.used:,} of {self.photos:,} to learn from and to choose by "
                f"are used."
            )
        return (
            f"{needed}; they are used all the same, since with fewer the run would take nearly "
            f"as long."
        )


@dataclass(frozen=True)
class PlanMade:
    """What the run will do: its parts with the seconds that each will take, their sum, and the
    budget, if any.
    """

    forecasts: tuple[tuple[str, float], ...]
    total_s: float
    budget_s: float | None
    shortage: Shortage | None = None


@dataclass(frozen=True)
class PlanChanged:
    """The rest of the run was planned anew, since what came before took another time than it was
    forecast to take.

    The parts that are still to come, with their seconds, their sum, and what is left of the budget.
    """

    forecasts: tuple[tuple[str, float], ...]
    total_s: float
    left_s: float


@dataclass(frozen=True)
class Notice:
    """Something that the user should know: a fallback, a skipped file, a choice made for them."""

    message: str


Event: TypeAlias = (
    PlanMade
    | PlanChanged
    | StageStarted
    | StageAdvanced
    | TrainingAdvanced
    | EpochFinished
    | StageFinished
    | ModelMeasured
    | Notice
)
Listener: TypeAlias = Callable[[Event], None]


def ignore_event(event: Event) -> None:
    """Listen to nothing."""


@contextmanager
def tell_stage(
    stage: str, listen: Listener, total: int | None = 0, unit: str = "images"
) -> Iterator[None]:
    """Tell when a stage begins, and, unless it breaks off, how long it took."""
    started = time.perf_counter()
    listen(StageStarted(stage, total, unit))
    yield
    listen(StageFinished(stage, time.perf_counter() - started))


def name_stage(stage: str) -> str:
    """Name a stage for readers.

    >>> name_stage("near-duplicates"), name_stage("export onnx-int8"), name_stage("last 4 blocks")
    ('Finding alike photos', 'Exporting onnx-int8', 'Training last 4 blocks')
    """
    if stage.startswith(EXPORT):
        return f"Exporting {stage.removeprefix(EXPORT)}"
    is_last = stage.startswith("last ")  # some of the last blocks
    return STAGE_WORDS.get(stage, f"Training {stage}" if is_last else stage)
