"""Whole processes, timed and weighed from outside, as a user meets them. Linux and macOS only."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from photos import PHOTO_SETS

from squeezetune.errors import SettingsError
from squeezetune.settings import Settings
from squeezetune.system.monitor import measure_held_memory

LOOK_EVERY_S = 0.02

# A child's peak memory starts at that of the process it is forked from: so an almost empty process
# is put between.
LAUNCHER = """
import json, os, sys, time
start = time.perf_counter()
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(child, 0)
print()
print(json.dumps([time.perf_counter() - start, usage.ru_maxrss, os.waitstatus_to_exitcode(status)]))
"""


@dataclass(frozen=True)
class ProcessRun:
    """What a process took: seconds from its start to its end, the peak of its resident memory, and
    what it printed.
    """

    seconds: float
    peak_mb: float
    output: str = ""


def run_process(command: Sequence[str], cache: Path) -> ProcessRun:
    """Run a Python command line to its end, with its own cache folder.

    Raises:
        SystemExit: it failed; with the end of what it said.

    """
    words = [sys.executable, "-I", "-S", "-c", LAUNCHER, sys.executable, *command]
    done = subprocess.run(words, env=set_cache(cache), capture_output=True, text=True, check=True)
    output, _, figures = done.stdout.rstrip().rpartition("\n")
    seconds, peak, status = json.loads(figures)
    if status:
        raise SystemExit(
            f"exit status {status} from: python {' '.join(command)}\n{done.stderr[-2000:]}"
        )
    return ProcessRun(
        seconds, peak / (2**20 if sys.platform == "darwin" else 2**10), output.strip()
    )


def run_and_kill(command: Sequence[str], cache: Path, seconds: float) -> bool:
    """Run a Python command line as a process group of its own and kill the group after a time; say
    if it was alive.

    Raises:
        SystemExit: it failed before.

    """
    process = subprocess.Popen(
        [sys.executable, *command],
        env=set_cache(cache),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        return True
    finally:
        if process.poll() is None:  # also where somebody has stopped this program
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if status:
        raise SystemExit(f"exit status {status} from: python {' '.join(command)}")
    return False


def set_cache(cache: Path) -> dict[str, str]:
    """Return an environment in which the program has its own cache folder."""
    return os.environ | {"SQUEEZETUNE_CACHE": str(cache)}


@dataclass(frozen=True)
class MemoryRun:
    """The most memory that a process and all its children held together; `refusal` is what it said
    if it would not.
    """

    peak_bytes: int
    seconds: float
    refusal: str = ""


def watch_memory(command: Sequence[str], cache: Path) -> MemoryRun:
    """Run a Python command line to its end, with its own cache folder, and watch its memory
    meanwhile. Linux only.

    Raises:
        SystemExit: it failed, but for settings that it refused; with the end of what it said.

    """
    start, peak = time.perf_counter(), 0
    with tempfile.TemporaryFile("w+") as said:
        with subprocess.Popen(
            [sys.executable, *command], env=set_cache(cache), stdout=said, stderr=said
        ) as process:
            while process.poll() is None:
                peak = max(peak, sum(map(measure_held, list_tree(process.pid))))
                time.sleep(LOOK_EVERY_S)
        seconds = time.perf_counter() - start
        said.seek(0)
        words = said.read()
    if process.returncode not in {0, SettingsError.exit_status}:
        raise SystemExit(
            f"exit status {process.returncode} from: python {' '.join(command)}\n{words[-2000:]}"
        )
    return MemoryRun(peak, seconds, " ".join(words.split()) if process.returncode else "")


def list_tree(root: int) -> list[int]:
    """List a process and all that it has started, and those that they have, by their numbers."""
    found = [root]
    for parent in found:  # grows while it is walked
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            with suppress(OSError):
                found += map(int, children.read_text().split())
    return found


def measure_held(process: int) -> int:
    """Measure the anonymous and shared memory of a process in bytes; nothing if it has ended."""
    return measure_held_memory(Path(f"/proc/{process}/status")) or 0


def train_command(name: str, photos: Path, output: Path, settings: Settings) -> list[str]:
    """Write the command that trains on a set's photos with every setting that is not the
    default.
    """
    words = ["-m", "squeezetune", "train", str(photos), "--output", str(output), "--quiet"]
    default = Settings().to_dict()
    for key, value in settings.to_dict().items():
        if value != default[key]:
            words += [f"--{key.replace('_', '-')}", str(value)]
    pattern = PHOTO_SETS[name].class_pattern
    return words + (["--class-pattern", pattern] if pattern else [])


def read_report(output: Path) -> dict[str, Any]:
    """Read the measurements that a training run left."""
    report: dict[str, Any] = json.loads((output / "report.json").read_text())
    return report
