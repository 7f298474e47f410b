"""Index a folder of photos for the first time, again, and after some were added: seconds and ratios
of one run.

    python benchmarks/rereading.py --data FOLDER [--set cifar10] [--rounds 5]

Each round indexes without a cache, with an empty one, again with what that remembered, and once a
hundredth of it is forgotten. Files are read from the system's memory, and with `--from-disk` from
the disk: they are taken out of the system's memory before (Linux only). All four give the same
index, which is checked.
"""

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from figures import format_spread, print_machine, print_table
from photos import PHOTO_SETS, add_photo_options, prepare_photos

from squeezetune.data.index import ImageIndex, index_photos
from squeezetune.data.sources.source import RACY_NS
from squeezetune.system.executor import ThreadExecutor

CASES = ("no cache", "first time", "again", "with 1 % new")
NEW_SHARE = 0.01


def measure_round(root: Path, pattern: str, is_from_disk: bool) -> list[float]:
    """Index the photos in each case; return the seconds."""
    seconds, indexes = [], []
    with TemporaryDirectory() as folder:
        for case in CASES:
            if case == CASES[-1]:
                touch_some(root)
            if is_from_disk:
                forget_files(root)
            started = time.perf_counter()
            cache = None if case == CASES[0] else Path(folder)
            indexes.append(
                index_photos(root, executor=ThreadExecutor(), class_pattern=pattern, cache=cache)
            )
            seconds.append(time.perf_counter() - started)
    for index in indexes[1:]:
        check_equal(indexes[0], index)
    return seconds


def touch_some(root: Path) -> None:
    """Give a hundredth of the files a new time, long enough ago to be trusted, so that they are
    read again.
    """
    files = sorted(path for path in root.rglob("*") if path.is_file())
    for path in files[:: round(1 / NEW_SHARE)]:
        os.utime(path)
    time.sleep(RACY_NS / 1e9 + 0.5)


def forget_files(root: Path) -> None:
    """Take all files out of the system's memory."""
    for path in root.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def check_equal(one: ImageIndex, other: ImageIndex) -> None:
    """Make sure that two indexes are the same."""
    assert one.names == other.names
    assert np.array_equal(one.digests, other.digests)
    assert np.array_equal(one.labels, other.labels)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_photo_options(parser)
    parser.add_argument("--set", choices=PHOTO_SETS, default="cifar10", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument(
        "--from-disk", action="store_true", help="take the files out of the system's memory before"
    )
    options = parser.parse_args(argv)
    root = prepare_photos(options.set, options)
    time.sleep(RACY_NS / 1e9 + 0.5)  # they may just have been unpacked
    pattern = PHOTO_SETS[options.set].class_pattern
    rounds = [measure_round(root, pattern, options.from_disk) for _ in range(options.rounds)]
    base = statistics.median(seconds[1] for seconds in rounds)
    columns = list(zip(*rounds, strict=True))
    rows = [
        (case, format_spread(seconds, 2), f"{base / statistics.median(seconds):.1f}")
        for case, seconds in zip(CASES, columns, strict=True)
    ]
    print_table(
        [
            f"index of {options.set}",
            "seconds: median (min–max, n)",
            "times as fast as the first time",
        ],
        rows,
    )
    print_machine()


if __name__ == "__main__":
    main()
