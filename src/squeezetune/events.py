"""What a running job says while it works.

A listener is any callable that takes one event; it is called from the thread that runs the job, in order.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class StageStarted:
    """A stage of the work begins; `total` counts its steps in `unit`, 0 where it is one indivisible step."""

    stage: str
    total: int = 0
    unit: str = "images"


@dataclass(frozen=True)
class StageAdvanced:
    """`done` steps of the stage are finished."""

    stage: str
    done: int


@dataclass(frozen=True)
class TrainingAdvanced:
    """A stage that trains is `progress` (0 to 1) through; said about once a second.

    `loss` and `accuracy` are means over the latest steps, measured while training; `seconds_left` of the stage is
    None where nothing can be said yet.
    """

    stage: str
    progress: float
    loss: float
    accuracy: float
    images_per_s: float
    seconds_left: float | None = None


@dataclass(frozen=True)
class EpochFinished:
    """How training stands after one epoch of the `of` that are planned; with a time budget `of` may change.

    The training figures are means over the epoch, measured while training, e.g. with dropout or augmented images.
    `seconds` have passed since the stage began to train.
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
    """The finished model was measured on `images` test images; `low` to `high` is the 95 % interval."""

    accuracy: float
    low: float
    high: float
    images: int


@dataclass(frozen=True)
class Shortage:
    """A budget is too short for all photos, which need `needed_s`: `used` of so many train and choose, perhaps all."""

    budget: str
    needed_s: float
    used: int
    photos: int


@dataclass(frozen=True)
class PlanMade:
    """What the run will do: its parts with the seconds that each will take, their sum, and the budget, if any."""

    forecasts: tuple[tuple[str, float], ...]
    total_s: float
    budget_s: float | None
    shortage: Shortage | None = None


@dataclass(frozen=True)
class PlanChanged:
    """The rest of the run was planned anew, since what came before took another time than it was forecast to take.

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
