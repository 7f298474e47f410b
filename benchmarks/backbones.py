"""Train on the same photos with several backbones, in turn, each as a whole process with an empty
cache: what they are worth, and how long they take beside the first one.

    python benchmarks/backbones.py --data FOLDER [--sets clothing.zip eth80.zip]
        [--backbones squeezenet1_1 efficientnet_lite0 auto] [--seeds 3]
        [--settings --effort quick --budget 3m]

FOLDER holds the sets, as `squeezetune train` reads them; all that follows `--settings` is given to
it as it is. Accuracy is of `model.onnx` on the test part: the publisher's own where the photos lie
in train, validation and test. Finished runs are kept in `backbones.jsonl` in the work folder and
not made again.
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

BACKBONES = ("squeezenet1_1", "efficientnet_lite0", "auto")  # the last is what training chooses


def train(photos: Path, settings: Sequence[str]) -> dict[str, Any]:
    """Train in a process of its own with an empty cache, and tell what its report says."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        words = ["train", str(photos), "--output", str(model), "--quiet", *settings]
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "squeezetune", *words],
            env={**environ, "SQUEEZETUNE_CACHE": str(Path(folder) / "cache")},
            check=True,
        )
        seconds = time.perf_counter() - start
        report = json.loads((model / "report.json").read_text(encoding="utf-8"))
    test = report["test"]
    return {
        "accuracy": test["accuracy"],
        "count": test["count"],
        "seconds": seconds,
        "head": report["model"]["head"],
        "engine": report["model"]["engine"],
        "network": report["model"]["network"],
        "file_bytes": report["model"]["file_bytes"],
    }


def summarise(name: str, runs: Sequence[Mapping[str, Any]], first_s: Sequence[float]) -> list[str]:
    """Make a row of the runs of one backbone; times are paired with the first one's by seed."""
    ratios = [run["seconds"] / other for run, other in zip(runs, first_s, strict=True)]
    return [
        name,
        runs[-1]["network"],
        format_mean([run["accuracy"] for run in runs]),
        format_spread([run["seconds"] for run in runs], 0),
        format_spread(ratios, 2),
        f"{statistics.mean(run['file_bytes'] for run in runs) / 1e6:.1f} MB",
        ", ".join(dict.fromkeys(run["engine"] for run in runs)),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_set_options(parser)
    parser.add_argument("--backbones", nargs="+", default=BACKBONES, metavar="NAME")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each")
    parser.add_argument("--settings", nargs=argparse.REMAINDER, default=[], help="more settings")
    add_ledger_options(parser)
    options = parser.parse_args(argv)
    print_machine()
    ledger = open_ledger("backbones", options)
    for photos in options.sets:
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in options.backbones}
        for seed in range(options.seeds):
            for name in options.backbones:
                settings = ["--backbone", name, "--seed", str(seed), *options.settings]
                key = {"photos": photos, "settings": " ".join(settings)}
                path = options.data / photos
                runs[name].append(ledger.recall(key, partial(train, path, settings)))
        first_s = [run["seconds"] for run in next(iter(runs.values()))]
        count = runs[options.backbones[0]][0]["count"]
        print(f"\n{photos}, {count:,} test photos, {' '.join(options.settings) or 'no settings'}")
        header = ["backbone", "network", "accuracy", "seconds", "times the first", "file", "engine"]
        print_table(header, [summarise(name, runs[name], first_s) for name in runs])


if __name__ == "__main__":
    main()
