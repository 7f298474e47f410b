"""What a run does while it works: the memory it holds, stage by stage, and what it said and
when.
"""

import ctypes
import math
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from squeezetune.events import (
    EpochFinished,
    Event,
    Listener,
    PlanChanged,
    PlanMade,
    StageFinished,
    StageStarted,
)

LOOK_EVERY_S = 0.02
STATUS = Path("/proc/self/status")
START = "starting"
# Close to a ceiling, memory that was freed is given back at once, but not all the time: it takes
# tens of milliseconds.
NEAR_CEILING, RELEASED_EVERY_S = 0.9, 0.5


def measure_held_memory(status: Path | None = None) -> int | None:
    """Return the bytes that a process holds and the system cannot drop; None where it does not
    tell.

    `status` is Linux's file about the process; without it that about this one, or what another
    system tells psutil.

    That is anonymous and shared memory. Files that are mapped are not counted: the system writes
    them to the disk, and forgets them, when somebody needs the memory.
    """
    try:
        lines = (status or STATUS).read_text().splitlines()
    except OSError:
        return None if status else _ask_psutil()
    held = [int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "RssShmem:"))]
    return sum(held) * 1024 if held else None


def _ask_psutil() -> int | None:
    """Ask psutil what this process holds for itself; None where it is missing."""
    try:
        import psutil  # not needed on Linux, and not installed there
    except ModuleNotFoundError:
        return None
    process = psutil.Process()
    # Windows tells at once what was promised to the process alone; what macOS tells, a walk over
    # all pages finds
    held: int = (
        process.memory_info().private if sys.platform == "win32" else process.memory_full_info().uss
    )
    return held


def release_memory() -> None:
    """Give memory that was freed back to the system, which the C library otherwise keeps for later
    (glibc only).
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


@dataclass
class MemoryMonitor:
    """Notes the most memory that is held in every stage, from a thread of its own, within a `with`
    block.

    `peaks` are bytes by stage, in order; empty where the system does not tell. Close to `ceiling`,
    in bytes, it gives free memory back: threads that take and free large pieces may leave as much
    of it lying about as they use.
    """

    ceiling: int | None = None
    peaks: dict[str, int] = field(default_factory=dict)
    stage: str = START
    _is_done: threading.Event = field(default_factory=threading.Event, repr=False)
    _released_at: float = field(default=-math.inf, repr=False)

    @property
    def peak(self) -> int | None:
        """The most that was held in any stage."""
        return max(self.peaks.values(), default=None)

    def __enter__(self) -> "MemoryMonitor":
        self._look()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_done.set()
        self._thread.join()
        self._look()

    def enter(self, stage: str) -> None:
        """Note what follows under another stage's name."""
        self._look()
        self.stage = stage

    def _watch(self) -> None:
        while not self._is_done.wait(LOOK_EVERY_S):
            self._look()

    def _look(self) -> None:
        held = measure_held_memory()
        if held is None:
            return
        self.peaks[self.stage] = max(held, self.peaks.get(self.stage, 0))
        now = time.monotonic()
        if (
            self.ceiling
            and held > NEAR_CEILING * self.ceiling
            and now > self._released_at + RELEASED_EVERY_S
        ):
            release_memory()
            self._released_at = now


@dataclass
class RunRecorder:
    """Passes events on and notes when those came that the record tells of; within a `with` block,
    also memory held.
    """

    listen: Listener
    started: float = field(default_factory=time.perf_counter)
    heard: list[tuple[Event, float]] = field(default_factory=list)
    gauge: MemoryMonitor = field(default_factory=MemoryMonitor)

    def __enter__(self) -> "RunRecorder":
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
