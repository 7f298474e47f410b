"""How a stage of training gets on: by its epochs, or by the clock."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
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


# What follows training is taken to last at least and at most so many times as long as forecast.
LEAST_SLOWNESS, MOST_SLOWNESS = 0.7, 3.0


@dataclass(frozen=True)
class Ending:
    """The end of a run by `time.perf_counter`, and the seconds `after_s` that what follows training is to take.

    They were forecast for a machine on which a step takes `step_s` and, for each pixel of an image's square, `pixel_s`.
    """

    deadline: float
    after_s: float
    pixel_s: float
    step_s: float = 0.0

    def find_left(self, now: float, side: int, step_s: float) -> float:
        """Find the seconds that are left for training if a step takes so long at this size.

        What follows takes longer, or less long, as steps do: a moment in which the machine was slow, or is, is told
        from what the work takes. Less time is believed half only, since more has then to fit into the rest.
        """
        forecast_s = self.step_s + self.pixel_s * side**2
        slowness = step_s / forecast_s if step_s and forecast_s else 1.0  # nothing is known yet
        slowness = slowness if slowness > 1 else (1 + slowness) / 2
        return self.deadline - now - self.after_s * min(max(slowness, LEAST_SLOWNESS), MOST_SLOWNESS)


@dataclass(frozen=True)
class DeadlinePace:
    """So many epochs, or fewer, so that the run ends in time with all that follows the stage."""

    epochs: EpochPace
    ending: Ending
    clock: Callable[[], float] = field(default=time.perf_counter)

    def measure_share(self, progress: float, side: int, step_s: float) -> float:
        """Return the share of a step, of what is left to do and of the time that is left for it."""
        left_s = self.ending.find_left(self.clock(), side, step_s)
        return ClockPace(self.epochs, lambda: left_s).measure_share(progress, side, step_s)
