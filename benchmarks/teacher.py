"""What a small file gains from a large teacher: SqueezeNet 1.1 in 4 bits as it is trained alone,
and as it learns from a larger network, beside that network itself.

    python benchmarks/teacher.py --data FOLDER [--sets clothing.zip] [--seeds 0 1 2] [--epochs 0]
        [--contenders student labels] [--settings --image-side 96]

FOLDER holds the sets, as `squeezetune train` reads them; a sample of a set is made by `photos.py`.
`frozen` is SqueezeNet as `squeezetune train` leaves it, `labels` with all layers trained on the
labels for as many epochs as the `student`, which is what `squeezetune export --teacher` writes of
the `teacher`. Each is a whole process with a cache that the runs of one set and seed share, and is
measured as `onnx-tiny` on the test part; the float file is told beside it. Finished runs are kept
in `teacher.jsonl` in the work folder and not made again.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from os import environ
from pathlib import Path
from typing import Any

from figures import format_mean, format_spread, print_machine, print_table
from ledger import add_ledger_options, open_ledger
from photos import add_set_options

CONTENDERS = {
    "frozen": "SqueezeNet 1.1, frozen layers",
    "labels": "SqueezeNet 1.1, all layers by labels",
    "student": "SqueezeNet 1.1, taught",
    "teacher": "the teacher",
}


def run(words: Sequence[str], cache: Path) -> float:
    """Run the command line in a process of its own; tell its seconds."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "squeezetune", *words],
        env={**environ, "SQUEEZETUNE_CACHE": str(cache)},
        check=True,
    )
    return time.perf_counter() - start


def measure_seed(photos: Path, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train and export all contenders with one seed: by name, what each file is worth."""
    shared = ["--seed", str(seed), *options.settings]
    epochs = ["--epochs", str(options.epochs)]
    trainings = {
        "teacher": ["--backbone", options.backbone],
        "frozen": ["--backbone", "squeezenet1_1"],
        "labels": ["--backbone", "squeezenet1_1", "--layers", "all", *epochs],
    }
    found = {}
    with tempfile.TemporaryDirectory() as work:
        for name, words in trainings.items():
            if name not in {"teacher", *options.contenders}:
                continue
            model, cache = Path(work) / name, Path(work) / "cache"
            train_s = run(
                ["train", str(photos), "-o", str(model), "--quiet", *shared, *words], cache
            )
            formats = ["-f", "onnx", "-f", "onnx-tiny"]
            run(["export", str(model), "--quiet", *formats], cache)
            found[name] = read_export(model, "onnx-tiny") | {"seconds": train_s}
            if name == "teacher" and "student" in options.contenders:
                taught_s = run(["export", str(model), "--quiet", "-f", "student", *epochs], cache)
                found["student"] = read_export(model, "student") | {"seconds": taught_s}
    return found


def read_export(model: Path, form: str) -> dict[str, Any]:
    """Read what an export is worth, and the float file that it is made from."""
    path = model.with_name(f"{model.name}-export") / "exports.json"
    items = {item["format"]: item for item in json.loads(path.read_text())["exports"]}
    return {
        "bytes": items[form]["byte_count"],
        "accuracy": items[form]["score"]["accuracy"],
        "float": items["onnx"]["score"]["accuracy"],
        "count": items[form]["score"]["images"],
    }


def summarise(name: str, runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Make a row of one contender; the gap is that between the frozen layers' file in 4 bits and
    the teacher in floats.
    """
    own = [each[name] for each in runs]
    gaps = [each["teacher"]["float"] - each["frozen"]["accuracy"] for each in runs]
    gains = [each[name]["accuracy"] - each["frozen"]["accuracy"] for each in runs]
    gap = statistics.mean(gaps)
    return [
        CONTENDERS[name],
        f"{statistics.mean(each['bytes'] for each in own) / 1e6:.2f} MB",
        format_mean([each["accuracy"] for each in own]),
        format_mean([each["float"] for each in own]) if name != "student" else "",
        f"{statistics.mean(gains) / gap:.0%}" if gap > 0 else "",
        format_spread([each["seconds"] for each in own], 0),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_set_options(parser)
    parser.add_argument("--backbone", default="efficientnet_lite0", help="the teacher's network")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds, one by one")
    parser.add_argument("--epochs", type=float, default=0.0, help="0 goes by the photos")
    parser.add_argument("--contenders", nargs="+", choices=["student", "labels"],
                        default=["student", "labels"], help="what is trained besides")  # fmt: skip
    parser.add_argument("--settings", nargs=argparse.REMAINDER, default=[], help="more settings")
    add_ledger_options(parser)
    options = parser.parse_args(argv)
    options.contenders = ["frozen", *options.contenders, "teacher"]
    print_machine()
    ledger = open_ledger("teacher", options)
    for photos in options.sets:
        runs = []
        for seed in options.seeds:
            key = {
                "photos": photos,
                "seed": seed,
                "backbone": options.backbone,
                "epochs": options.epochs,
                "contenders": options.contenders,
                "settings": " ".join(options.settings),
            }
            measure = partial(measure_seed, options.data / photos, seed, options)
            runs.append(ledger.recall(key, measure))
        count = runs[0]["teacher"]["count"]
        print(f"\n{photos}, {count:,} test photos, {' '.join(options.settings) or 'no settings'}")
        header = ["network", "file", "accuracy", "in floats", "of the gap", "seconds"]
        names = [name for name in CONTENDERS if name in runs[0]]
        print_table(header, [summarise(name, runs) for name in names])


if __name__ == "__main__":
    main()
