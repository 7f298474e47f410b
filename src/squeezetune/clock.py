"""The clock of a run: what it heard and when, and how much memory was held meanwhile."""

import time
from dataclasses import dataclass, field
from typing import Any

from squeezetune.events import EpochFinished, Event, Listener, PlanChanged, PlanMade, StageFinished, StageStarted
from squeezetune.gauge import MemoryGauge, release_memory


@dataclass
class Clock:
    """Passes events on and notes when those came that the record tells of; within a `with` block, also memory held."""

    listen: Listener
    started: float = field(default_factory=time.perf_counter)
    heard: list[tuple[Event, float]] = field(default_factory=list)
    gauge: MemoryGauge = field(default_factory=MemoryGauge)

    def __enter__(self) -> "Clock":
        self.gauge.__enter__()
        return self

    def __exit__(self, *reason: Any) -> None:
        self.gauge.__exit__(*reason)

    def __call__(self, event: Event) -> None:
        """Hear one event."""
        if isinstance(event, PlanMade | PlanChanged | EpochFinished | StageFinished):
            self.heard.append((event, self.total_s()))
        if isinstance(event, StageStarted):
            self.gauge.enter(event.stage)
        if isinstance(event, StageFinished):
            self.gauge.enter(f"after {event.stage}")
        if isinstance(event, StageStarted | StageFinished):
            release_memory()
        self.listen(event)

    def total_s(self) -> float:
        """Return the seconds since the start."""
        return time.perf_counter() - self.started
