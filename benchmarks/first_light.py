"""Compare SqueezeTune with the original project's recipe: the same photos, the same split, side by
side. Needs torch.

    python benchmarks/first_light.py --data FOLDER [--sets eth80 cifar10] [--engine onnxruntime
        auto] [--runs 3]

Ours is the whole process `python -m squeezetune train`, from reading the files to the written
report: cold with an empty cache, warm with the cache of the cold run. The recipe (see
seed_recipe.py) is timed on a slice, without its start, before and after every round of ours, and
extrapolated; a round is compared with the mean of the two slices around it, so that the ratios hold
on a machine whose speed drifts. All files are in the system's file cache.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from figures import format_accuracy, format_spread, print_machine, print_table
from photos import PHOTO_SETS, add_photo_options, prepare_photos
from processes import ProcessRun, read_report, run_process, train_command
from seed_recipe import (
    RecipeAccuracy,
    add_recipe_options,
    measure_accuracy,
    measure_pace,
    open_recipe,
)


@dataclass(frozen=True)
class Pair:
    """One training with an empty cache and the same training again, by one engine; `report` is of
    the first.
    """

    cold: ProcessRun
    warm: ProcessRun
    report: dict[str, Any]


@dataclass(frozen=True)
class Contest:
    """The recipe's seconds, one more than there are rounds, and our runs: for each round a pair for
    each engine.
    """

    recipe_s: list[float]
    rounds: list[dict[str, Pair]]
    accuracy: RecipeAccuracy

    def list_ratios(self, engine: str, kind: str) -> list[float]:
        """List how many times faster than the recipe the cold or warm runs of an engine were."""
        around = [(before + after) / 2 for before, after in pairwise(self.recipe_s)]
        ours = [getattr(round_[engine], kind).seconds for round_ in self.rounds]
        return [recipe / own for recipe, own in zip(around, ours, strict=True)]


def run_contest(name: str, options: argparse.Namespace) -> Contest:
    """Run recipe and ours in turn."""
    root = prepare_photos(name, options)
    recipe = open_recipe(name, root, options.seed)
    recipe_s, rounds = [measure_pace(recipe, options.slice).extrapolate(recipe)], []
    for _ in range(options.runs):
        rounds.append({engine: run_pair(name, root, engine, options) for engine in options.engine})
        recipe_s.append(measure_pace(recipe, options.slice).extrapolate(recipe))
    return Contest(recipe_s, rounds, measure_accuracy(recipe, options.work))


def run_pair(name: str, root: Path, engine: str, options: argparse.Namespace) -> Pair:
    """Train with an empty cache, then again with what that run has left in it."""
    settings = PHOTO_SETS[name].make_settings(seed=options.seed, engine=engine)
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        cache, outputs = Path(folder) / "cache", [Path(folder) / kind for kind in ("cold", "warm")]
        cold, warm = (
            run_process(train_command(name, root, output, settings), cache) for output in outputs
        )
        reports = [read_report(output) for output in outputs]
    if reports[0]["test"]["correct"] != reports[1]["test"]["correct"]:
        raise SystemExit("the warm run measured another accuracy than the cold one")
    return Pair(cold, warm, reports[0])


def print_contest(name: str, contest: Contest) -> None:
    accuracy = format_accuracy(contest.accuracy.correct, contest.accuracy.count)
    rows = [
        (
            f"recipe of 2018, {PHOTO_SETS[name].epochs} epochs, torch",
            format_spread(contest.recipe_s),
            "1",
            "not measured",
            accuracy,
        )
    ]
    for engine, kind in (
        (engine, kind) for engine in contest.rounds[0] for kind in ("cold", "warm")
    ):
        pairs = [round_[engine] for round_ in contest.rounds]
        runs: list[ProcessRun] = [getattr(pair, kind) for pair in pairs]
        used = sorted({pair.report["model"]["engine"] for pair in pairs})
        tests = sorted(
            {(pair.report["test"]["correct"], pair.report["test"]["count"]) for pair in pairs}
        )
        rows.append((
            f"squeezetune --engine {engine}, {kind} ({', '.join(used)})",
            format_spread([run.seconds for run in runs]),
            format_spread(contest.list_ratios(engine, kind)),
            format_spread([run.peak_mb for run in runs], 0),
            "; ".join(format_accuracy(*test) for test in tests),
        ))  # fmt: skip
    print(
        f"\n{name}: seconds, ratios and memory as median (min–max, n); the recipe's seconds are "
        f"extrapolated, its"
    )
    print(
        "accuracy is that of all epochs on stored outputs of its frozen layers (see seed_recipe.py)"
    )
    header = [
        "",
        "seconds",
        "times faster than the recipe",
        "peak memory, MB",
        "test accuracy [95 % interval]",
    ]
    print_table(header, rows)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_photo_options(parser)
    add_recipe_options(parser)
    parser.add_argument("--sets", nargs="+", choices=PHOTO_SETS, default=list(PHOTO_SETS))
    parser.add_argument("--engine", nargs="+", choices=("onnxruntime", "openvino", "auto"),
                        default=["onnxruntime", "auto"])  # fmt: skip
    parser.add_argument("--runs", type=int, default=3, help="rounds (default: %(default)s)")
    options = parser.parse_args(argv)
    print_machine()
    for name in options.sets:
        print_contest(name, run_contest(name, options))


if __name__ == "__main__":
    main()
