"""Measure `squeezetune check` on a folder of 10,000 photos of CIFAR-10: seconds cold and warm, by
stage, and memory.

    python benchmarks/check.py --data FOLDER [--count 10000] [--runs 3]

Whole processes, as a user meets them. A cold run has an empty cache; a warm one has the features of
the photos, as after a training or an earlier check. The seconds by stage are those of one more warm
run within this process.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

from figures import format_spread, print_machine, print_table
from photos import BACKBONE, PHOTO_SETS, add_photo_options, draw_photos, unpack_photos
from processes import ProcessRun, run_process

from squeezetune.audit.audit import check
from squeezetune.events import Event, StageFinished

NAME = "cifar10"


def run_check(root: Path, folder: Path, cache: Path, number: int) -> ProcessRun:
    """Check the photos in a process of its own."""
    words = [
        "-m",
        "squeezetune",
        "check",
        str(root),
        "--output",
        str(folder / f"check-{number}"),
        "--backbone",
        BACKBONE,
        "--quiet",
    ]
    return run_process(words, cache)


def measure_stages(root: Path, folder: Path, cache: Path) -> list[tuple[str, str]]:
    """Check the photos here, and note how long each stage took."""
    seconds: dict[str, float] = {}

    def listen(event: Event) -> None:
        if isinstance(event, StageFinished):
            seconds[event.stage] = event.seconds

    with patch.dict(os.environ, {"SQUEEZETUNE_CACHE": str(cache)}):
        start = time.perf_counter()
        check(root, folder / "check-here", backbone=BACKBONE, listen=listen)
    total = time.perf_counter() - start
    seconds |= {"all else: features read, findings, page": total - sum(seconds.values())}
    return [(stage, f"{taken:.1f}") for stage, taken in seconds.items()] + [
        ("in all", f"{total:.1f}")
    ]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_photo_options(parser)
    parser.add_argument("--count", type=int, default=10_000, help="photos (default: %(default)s)")
    parser.add_argument(
        "--runs", type=int, default=3, help="of the warm check (default: %(default)s)"
    )
    options = parser.parse_args(argv)
    count = options.images or options.count
    root = draw_photos(
        unpack_photos(PHOTO_SETS[NAME], options.data, options.work),
        options.work / f"{NAME}-{count}",
        count,
    )
    with tempfile.TemporaryDirectory(dir=options.work) as name:
        folder, cache = Path(name), Path(name) / "cache"
        cold = [run_check(root, folder, cache, 0)]
        warm = [run_check(root, folder, cache, number) for number in range(1, options.runs + 1)]
        stages = measure_stages(root, folder, cache)
    rows = [
        (
            words,
            format_spread([run.seconds for run in runs]),
            format_spread([run.peak_mb for run in runs], 0),
        )
        for words, runs in (("cold", cold), ("warm", warm))
    ]
    print_table(
        [f"check of {count:,} photos", "seconds: median (min–max, n)", "peak memory, MB"], rows
    )
    print_table(["stage of a warm run", "seconds"], stages)
    print_machine()


if __name__ == "__main__":
    main()
