"""How a stage of training gets on: by its epochs, or by the clock."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


class Pace(Protocol):
    """Says how far a step takes the stage."""

    def measure_share(self, progress: float, side: int, step_s: float) -> float:
        """Return the share of the stage that a step at this image size makes up, if it takes so many seconds."""
        ...


@dataclass(frozen=True)
class EpochPace:
    """A fixed number of epochs of so many steps, counted at `side`: smaller images are less work, so more fit in."""

    steps: int
    epochs: float
    side: int

    def measure_share(self, progress: float, side: int, step_s: float) -> float:
        """Return the share of a step, whatever it takes."""
        return (side / self.side) ** 2 / (self.steps * self.epochs)


@dataclass(frozen=True)
class ClockPace:
    """So many epochs, or fewer, so that the stage ends in time; `seconds_left` is asked anew for each step."""

    epochs: EpochPace
    seconds_left: Callable[[], float]

    def measure_share(self, progress: float, side: int, step_s: float) -> float:
        """Return the share of a step, of what is left to do and of the time that is left for it."""
        left = self.seconds_left()
        in_time = (1 - progress) * min(1.0, step_s / left) if left > 0 else 1 - progress
        return max(in_time, self.epochs.measure_share(progress, side, step_s))
