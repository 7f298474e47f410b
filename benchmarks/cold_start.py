"""Measure how fast and how small `predict` starts: one photo, against a process that only imports
ONNX Runtime.

    python benchmarks/cold_start.py MODEL PHOTO [--rounds 15]

Both are whole processes, from their start to their end, and take turns; of each round the
difference of seconds is taken, and of all rounds the median. The peak is of resident memory, mapped
files included. Modules are compiled before. Ends with status 1 where a limit is passed. Linux and
macOS only.
"""

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from figures import format_spread, print_machine, print_table
from processes import run_process

MOST_MB, MOST_SECONDS_MORE = 95, 0.30


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table, and hold the medians against the limits."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("photo", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args(arguments)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    commands = {
        "import onnxruntime": [
            "-c",
            "import os; os.environ['ORT_DISABLE_TELEMETRY'] = '1'; import onnxruntime",
        ],
        "predict": ["-m", "squeezetune", "predict", str(options.model), str(options.photo)],
    }
    with tempfile.TemporaryDirectory() as cache:
        for command in commands.values():
            run_process(command, Path(cache))
        rounds = [
            [run_process(command, Path(cache)) for command in commands.values()]
            for _ in range(options.rounds)
        ]
    more = [predict.seconds - alone.seconds for alone, predict in rounds]
    rows = [
        (
            name,
            format_spread([run.seconds for run in runs], 2),
            f"{max(run.peak_mb for run in runs):.0f}",
        )
        for name, runs in zip(commands, zip(*rounds, strict=True), strict=True)
    ]
    print_machine()
    print_table(["process", "seconds", "peak, MB"], rows)
    peak = max(predict.peak_mb for _, predict in rounds)
    print(
        f"`predict` takes {format_spread(more, 2)} s more than the import; its peak is {peak:.0f} "
        f"MB"
    )
    if statistics.median(more) > MOST_SECONDS_MORE or peak > MOST_MB:
        sys.exit(f"needed are at most {MOST_SECONDS_MORE} s more, and {MOST_MB} MB")


if __name__ == "__main__":
    main()
