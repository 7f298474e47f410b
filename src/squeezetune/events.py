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
class StageFinished:
    """The stage is finished after `seconds`."""

    stage: str
    seconds: float


@dataclass(frozen=True)
class Notice:
    """Something that the user should know: a fallback, a skipped file, a choice made for them."""

    message: str


Event: TypeAlias = StageStarted | StageAdvanced | StageFinished | Notice
Listener: TypeAlias = Callable[[Event], None]


def ignore_event(event: Event) -> None:
    """Listen to nothing."""
