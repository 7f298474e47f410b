"""Measure the peak memory and the seconds of whole processes, against the limits that SqueezeTune
promises.

    python benchmarks/memory.py --data FOLDER [--runs 5] [--train-runs 1]

`train` runs on ETH-80 with an empty cache, in ONNX Runtime alone and in OpenVINO where it is
installed; `predict` says what is on one photo, from the start of the process to its end. Memory is
the largest resident set.
"""

import argparse
import importlib.util
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from figures import format_spread, print_machine, print_table
from photos import PHOTO_SETS, add_photo_options, prepare_photos
from processes import ProcessRun, run_process, train_command

NAME = "eth80"
Row = tuple[str, str, str, str, str]


@dataclass(frozen=True)
class Limit:
    """What a process may take; None where nothing is promised."""

    memory_mb: float | None = None
    seconds: float | None = None


TRAIN, PREDICT, START = Limit(memory_mb=700), Limit(memory_mb=220, seconds=1.2), Limit(seconds=0.4)


def measure_training(root: Path, folder: Path, runs: int) -> tuple[list[Row], Path]:
    """Train with each engine; return the rows, and the folder of a model."""
    rows, output = [], folder
    for engine in ("onnxruntime", *(["openvino"] if importlib.util.find_spec("openvino") else [])):
        settings, outcomes = PHOTO_SETS[NAME].make_settings(engine=engine), []
        for run in range(runs):
            output = folder / f"model-{engine}-{run}"
            command = train_command(NAME, root, output, settings)
            outcomes.append(run_process(command, folder / f"cache-{engine}-{run}"))
        rows.append(make_row(f"train, cold, --engine {engine}", outcomes, TRAIN))
    return rows, output


def measure_starts(root: Path, model: Path, folder: Path, runs: int) -> list[Row]:
    """Run the short commands in turn, so that all see the same machine."""
    photo = str(next(root.rglob("*.jpg")))
    commands: dict[str, tuple[list[str], Limit]] = {
        "predict, one photo": (["-m", "squeezetune", "predict", str(model), photo], PREDICT),
        "--help": (["-m", "squeezetune", "--help"], START),
        "import squeezetune": (["-c", "import squeezetune"], START),
        "(Python alone)": (["-c", "pass"], Limit()),
    }
    outcomes: dict[str, list[ProcessRun]] = {name: [] for name in commands}
    for _ in range(runs):
        for name, (command, _limit) in commands.items():
            outcomes[name].append(run_process(command, folder / "cache"))
    return [make_row(name, outcomes[name], limit) for name, (_, limit) in commands.items()]


def make_row(name: str, outcomes: Sequence[ProcessRun], limit: Limit) -> Row:
    """Set memory and seconds against their limits; memory by its largest value, seconds by their
    median.
    """
    memory, seconds = [run.peak_mb for run in outcomes], [run.seconds for run in outcomes]
    return (
        name,
        format_spread(memory, 0),
        judge(max(memory), limit.memory_mb),
        format_spread(seconds, 2),
        judge(statistics.median(seconds), limit.seconds),
    )


def judge(value: float, limit: float | None) -> str:
    """Write a limit and whether it is kept."""
    return "" if limit is None else f"{limit:g}: {'kept' if value <= limit else 'BROKEN'}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_photo_options(parser)
    parser.add_argument(
        "--runs", type=int, default=5, help="of the short commands (default: %(default)s)"
    )
    parser.add_argument(
        "--train-runs", type=int, default=1, help="of each training (default: %(default)s)"
    )
    options = parser.parse_args(argv)
    root = prepare_photos(NAME, options)
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        rows, model = measure_training(root, Path(folder), options.train_runs)
        rows += measure_starts(root, model, Path(folder), options.runs)
    header = [
        "",
        "peak memory, MB: median (min–max, n)",
        "limit, largest",
        "seconds: median (min–max, n)",
        "limit, median",
    ]
    print_table(header, rows)
    print_machine()


if __name__ == "__main__":
    main()
