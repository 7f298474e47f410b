"""Where work runs: the contract, and the engine that uses this process's threads."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Engine(Protocol):
    """Runs a function over many items, possibly at once."""

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield `function(item)` in the order of the items; only a bounded number of items is under way."""
        ...


@dataclass(frozen=True)
class ThreadEngine:
    """Threads of this process: right for work that releases the interpreter's lock, as decoding and hashing do."""

    threads: int = field(default_factory=lambda: count_cores())

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield `function(item)` in the order of the items, with at most four items a thread under way."""
        with ThreadPoolExecutor(self.threads) as pool:
            pending: deque[Future[Result]] = deque()
            try:
                for item in items:
                    pending.append(pool.submit(function, item))
                    if len(pending) >= 4 * self.threads:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()


def count_cores() -> int:
    """Count the physical cores that this process may use (hyper-threads slow convolutions down)."""
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    siblings = {_read_siblings(cpu) or str(cpu) for cpu in usable}
    return max(1, len(siblings))


def _read_siblings(cpu: int) -> str:
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
    except OSError:
        return ""
