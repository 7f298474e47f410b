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

# The names of stages, by which events and reports tell of them. Several modules need these; the
# others stand where the stage is.
PREPARING, FEATURES, NEAR_DUPLICATES = "preparing", "features", "near-duplicates"
HEAD, FOLDS, FAMILIARITY, MEASURING = "head", "folds", "familiarity", "measuring"
READING, LOOKS, REPORT = "reading", "looks", "report"
CHOOSING = "choice of the network"
ALL_LAYERS, LAST_BLOCKS = "all layers", "last blocks"  # the second where their number is open
EXPORT = "export "  # before the name of a format
MOST_BLOCKS = 8  # that are trained without the others: all Fire modules


def name_last(blocks: int) -> str:
    """Name the stage that trains so many of the last blocks.

    >>> name_last(1), name_last(4)
    ('last block', 'last 4 blocks')
    """
    return f"last {blocks} blocks" if blocks > 1 else "last block"


# What stages are called for people.
STAGE_WORDS: Mapping[str, str] = {
    READING: "Reading the photos",
    PREPARING: "Preparing",
    CHOOSING: "Choosing the network",
    FEATURES: "Looking at the photos",
    LOOKS: "Describing the photos",
    NEAR_DUPLICATES: "Finding alike photos",
    "pixels": "Keeping the pixels",
    "download": "Fetching the weights",
    "archive": "Fetching the archive",
    "packing": "Packing the images",
    HEAD: "Training the head",
    FOLDS: "Training the folds",
    "activations": "Running first blocks",
    ALL_LAYERS: "Training all layers",
    LAST_BLOCKS: "Training last blocks",
    **{name_last(count): f"Training {name_last(count)}" for count in range(1, MOST_BLOCKS + 1)},
    "original recipe": "Training as in 2018",
    FAMILIARITY: "Looking once more",
    MEASURING: "Measuring",
    "predicting": "Predicting",
    "codes": "Training few bits",
    "speeds": "Timing the networks",
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

    `stages` are the names by which other events tell of the parts, in their order, where these say
    more, such as the image sizes; empty where they do not.
    """

    forecasts: tuple[tuple[str, float], ...]
    total_s: float
    budget_s: float | None
    shortage: Shortage | None = None
    stages: tuple[str, ...] = ()


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
) -> Iterator[Callable[[int], None]]:
    """Tell when a stage begins, and how long it took unless it failed; gives a function that tells
    how many of its steps are done.
    """
    started = time.perf_counter()
    listen(StageStarted(stage, total, unit))
    yield lambda done: listen(StageAdvanced(stage, done))
    listen(StageFinished(stage, time.perf_counter() - started))


def name_stage(stage: str) -> str:
    """Name a stage for readers.

    >>> name_stage("near-duplicates"), name_stage("export onnx-int8"), name_stage("last 4 blocks")
    ('Finding alike photos', 'Exporting onnx-int8', 'Training last 4 blocks')
    """
    if stage.startswith(EXPORT):
        return f"Exporting {stage.removeprefix(EXPORT)}"
    return STAGE_WORDS.get(stage, stage)
