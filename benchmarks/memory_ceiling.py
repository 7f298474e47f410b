"""Measure the memory that whole runs hold, stage by stage, against the ceiling that they were
given. Linux only.

    python benchmarks/memory_ceiling.py --data FOLDER [--ceilings 600MB 1GB 2GB] [--only cifar10
        deep large]

`cifar10` trains the head on CIFAR-10, `deep` all layers (with torch) for `--epochs`, `large` the
head on generated JPEG photos of 12 megapixels. A run is a process of its own with an empty cache;
what counts is the anonymous and shared memory of the process and all its children together, read
from outside many times a second. Pages of mapped files do not count: the system drops them when it
is short. The figures by stage are the run's own.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from figures import format_accuracy, print_machine, print_table
from large_photos import write_large_photos
from photos import BACKBONE, PHOTO_SETS, add_photo_options, prepare_photos
from processes import read_report, train_command, watch_memory

from squeezetune.planning.memory import MB
from squeezetune.quantities import parse_size
from squeezetune.settings import Settings

STAGES = (
    *(
        "starting",
        "reading",
        "after reading",
        "features",
        "near-duplicates",
        "head",
        "pixels",
        "all layers",
    ),
    *("measuring", "after measuring"),
)


@dataclass(frozen=True)
class Subject:
    """What is trained, on which photos, with which settings besides the ceiling."""

    name: str
    photos: Path
    settings: Settings


def list_subjects(options: argparse.Namespace) -> list[Subject]:
    """Say what is trained; photos are made ready first."""
    options.work.mkdir(parents=True, exist_ok=True)
    subjects = []
    for name in options.only:
        if name == "large":
            count = options.images or options.large
            subjects.append(
                Subject(
                    name,
                    write_large_photos(options.work / f"large-{count}", count),
                    Settings(backbone=BACKBONE),
                )
            )
            continue
        settings = PHOTO_SETS["cifar10"].make_settings(effort=options.effort)
        if name == "deep":
            settings = PHOTO_SETS["cifar10"].make_settings(layers="all", epochs=options.epochs)
        subjects.append(Subject(name, prepare_photos("cifar10", options), settings))
    return subjects


def measure_run(subject: Subject, ceiling: str, work: Path) -> list[str]:
    """Train in a process of its own; return the row of the table."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        output = Path(folder) / "model"
        command = train_command("cifar10", subject.photos, output, subject.settings)
        run = watch_memory(
            [*command, *(["--max-ram", ceiling] if ceiling else [])], Path(folder) / "cache"
        )
        if run.refusal:
            return [subject.name, ceiling or "none", run.refusal, "", "", "", *[""] * len(STAGES)]
        report = read_report(output)
    verdict = (
        "" if not ceiling else "kept" if run.peak_bytes < (parse_size(ceiling) or 0) else "BROKEN"
    )
    stages, test = report["memory"]["stages"], report["test"]
    held = [f"{stages[stage]:.0f}" if stage in stages else "" for stage in STAGES]
    accuracy = format_accuracy(round(test["accuracy"] * test["count"]), test["count"])
    return [
        subject.name,
        ceiling or "none",
        f"{run.peak_bytes / MB:.0f}",
        verdict,
        accuracy,
        f"{run.seconds:.0f}",
        *held,
    ]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_photo_options(parser)
    parser.add_argument(
        "--ceilings", nargs="*", default=["600MB", "1GB", "2GB"], help="(default: %(default)s)"
    )
    parser.add_argument(
        "--only",
        nargs="*",
        choices=("cifar10", "deep", "large"),
        default=["cifar10", "deep", "large"],
    )
    parser.add_argument(
        "--large", type=int, default=2000, help="photos of 12 megapixels (default: %(default)s)"
    )
    parser.add_argument(
        "--epochs", type=float, default=1.0, help="of all layers (default: %(default)s)"
    )
    parser.add_argument(
        "--effort", default="balanced", help="of the head's training (default: %(default)s)"
    )
    parser.add_argument("--unlimited", action="store_true", help="also run without a ceiling")
    options = parser.parse_args(argv)
    if sys.platform != "linux":
        raise SystemExit("Only Linux tells which memory the system cannot drop.")
    ceilings = [*options.ceilings, *([""] if options.unlimited else [])]
    header = [
        "",
        "ceiling",
        "peak of the process tree, MB",
        "",
        "test accuracy",
        "seconds",
        *STAGES,
    ]
    for subject in list_subjects(options):
        print_table(header, (measure_run(subject, ceiling, options.work) for ceiling in ceilings))
    print_machine()


if __name__ == "__main__":
    main()
