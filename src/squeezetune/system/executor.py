"""Where work runs: the contract, and the executor that uses this process's threads."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path, PurePosixPath
from typing import Protocol, TypeVar

UNLIMITED = 1 << 20  # processors
Item = TypeVar("Item")
Result = TypeVar("Result")


class Executor(Protocol):
    """Runs a function over many items, possibly at once."""

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield `function(item)` in the order of the items; only a bounded number of items is under
        way.
        """
        ...


@dataclass(frozen=True)
class ThreadExecutor:
    """Threads of this process: right for work that releases the interpreter's lock, as decoding and
    hashing do.
    """

    threads: int = field(default_factory=lambda: count_cores())

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield `function(item)` in the order of the items, with at most four items a thread under
        way.
        """
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
    """Count the physical cores that this process may use (hyper-threads slow convolutions down).

    On Linux those count that its affinity allows, and no more than its control groups, say a
    container's, give it the time of. Elsewhere psutil counts; where that is missing too, the
    system's processors.
    """
    if hasattr(os, "sched_getaffinity"):
        siblings = {_read_siblings(cpu) or str(cpu) for cpu in os.sched_getaffinity(0)}
        return max(1, min(len(siblings), ceil(read_quota())))
    try:
        import psutil  # not needed on Linux, and not installed there
    except ModuleNotFoundError:
        return os.cpu_count() or 1
    return psutil.cpu_count(logical=False) or os.cpu_count() or 1


def read_quota(system: Path = Path("/")) -> float:
    """Read how many processors' time the control groups of this process allow; a large number where
    they do not say.

    A group's limit holds for all below it, so that the least on the way up counts. Inside a
    container only the way's end may be visible, as the root. Source: the kernel's cgroup-v2.rst,
    sched-bwc.rst.
    """
    quotas = [float(UNLIMITED)]
    for line in _read_text(system / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = system / "sys/fs/cgroup" / ("cpu" if controllers else "")
        group = PurePosixPath(path.lstrip("/"))
        quotas += [_read_group(root / each) for each in (group, *group.parents)]
    return min(quotas)


def _read_group(group: Path) -> float:
    """Read the limit of one control group: version 2 has it in one file, version 1 in two."""
    values = (
        _read_text(group / "cpu.max")
        or " ".join(_read_text(group / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    ).split()
    if len(values) != 2 or not all(value.isdecimal() and int(value) for value in values):
        return UNLIMITED  # "max", or -1 in version 1
    return int(values[0]) / int(values[1])


def _read_siblings(cpu: int) -> str:
    return _read_text(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"))


def _read_text(path: Path) -> str:
    """Read what the kernel tells in a file; nothing where it tells nothing."""
    try:
        return path.read_text()
    except OSError:
        return ""
