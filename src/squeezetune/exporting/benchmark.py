"""How fast an export starts and runs, and how much memory it takes: in a process of its own.

    python -m squeezetune.exporting.benchmark RUNTIME FILE IMAGES.npy ROUND_S

The images, (32, height, width, 3) uint8, are run one at a time and all at once, in rounds of so
many seconds. It says "ready" after the first answer, then the figures as JSON.
"""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from squeezetune.errors import ExportError
from squeezetune.exporting.node import NodeModel
from squeezetune.exporting.runtimes import READERS, RunExport
from squeezetune.system.machine import measure_peak_memory

READY = "ready"
ROUNDS, ROUND_S = 3, 0.4
CALL_SIZES = (1, 32)
TIME_LIMIT_S = 600


@dataclass(frozen=True)
class RuntimeBenchmark:
    """How an export runs here.

    Seconds from the start of a process to its first answer; images a second with 1 and with 32
    images a call, medians; and the most memory that the process held in MB, where the system tells.
    """

    cold_start_s: float
    images_per_s: dict[str, float]
    peak_mb: float | None


def benchmark_export(runtime: str, path: Path, images: Path) -> RuntimeBenchmark:
    """Run an export in a process of its own.

    Raises:
        ExportError: the runtime cannot run it.
    """
    words = [runtime, str(path), str(images), str(ROUND_S)]
    command = [sys.executable, "-m", "squeezetune.exporting.benchmark", *words]
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        word = process.stdout.readline().strip() if process.stdout else ""
        cold_start_s = time.perf_counter() - start
        try:
            said, complaint = process.communicate(timeout=TIME_LIMIT_S)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise ExportError(
                f"{path.name} was not done after {TIME_LIMIT_S} s in {runtime}"
            ) from error
    if process.returncode or word != READY:
        last = (complaint.strip().splitlines() or [f"exit status {process.returncode}"])[-1]
        raise ExportError(
            f"{runtime} cannot run {path.name}: {last}", "Update it, or export to another format."
        )
    return RuntimeBenchmark(round(cold_start_s, 3), **json.loads(said))


def measure_speed(run: RunExport, images: NDArray[np.uint8], round_s: float) -> float:
    """Measure images a second: the median of some rounds, each of at least one call."""
    speeds = []
    for _ in range(ROUNDS):
        calls, start = 0, time.perf_counter()
        while time.perf_counter() < start + round_s or not calls:
            run(images)
            calls += 1
        speeds.append(calls * len(images) / (time.perf_counter() - start))
    return round(median(speeds), 1)


def main(runtime: str, path: str, images: str, round_s: str) -> None:
    """Be that process."""
    run = READERS[runtime](Path(path))
    pixels = np.load(images)
    run(pixels[:1])
    print(READY, flush=True)
    speeds = {str(size): measure_speed(run, pixels[:size], float(round_s)) for size in CALL_SIZES}
    peak_mb = run.peak_mb if isinstance(run, NodeModel) else measure_peak_memory()
    print(json.dumps({"images_per_s": speeds, "peak_mb": peak_mb}))


if __name__ == "__main__":
    main(*sys.argv[1:])
