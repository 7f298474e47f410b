"""Measure CIFAR-10's test accuracy over time, ours and the original recipe's, and draw it. Needs
torch.

    python benchmarks/curve.py --data FOLDER [--ways quick balanced T/25 T/6 T] [--seeds 3]
        [--backbones efficientnet_lite0 squeezenet1_1] [--plot-only]

T is the time of the original recipe's five epochs (see seed_recipe.py), extrapolated from slices at
the beginning; a slice after each of our runs shows whether the machine has kept its speed. Ours are
whole processes, `squeezetune train` with an empty cache and a budget of T/25, T/6 and T (one seed),
or the frozen head alone with `--effort quick` and `balanced`: seconds from the process's start to
its end, and the accuracy of the file it leaves on the test part. Split 60/20/20, a new one for each
seed. The network is the one that training chooses, unless some are named (`--backbones`), which
take turns then. Finished runs are kept in `curve.jsonl` in the work folder and not made again; the
plot is drawn from it.
"""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from accuracy_plot import Line, Marks, draw_accuracy
from figures import format_mean, format_spread, print_machine, print_table
from ledger import Ledger, add_ledger_options, open_ledger
from photos import add_photo_options, prepare_photos
from seed_recipe import Recipe, measure_accuracy, measure_pace, open_recipe
from trials import Outcome, Trial, TrialBench

PHOTOS = "cifar10"
DIVISORS = {"T/25": 25, "T/6": 6, "T": 1}
EFFORTS = ("quick", "balanced")
WANTED = {"quick": 0.89, "balanced": 0.89, "T/25": 0.895, "T/6": 0.93, "T": 0.95}
CHOSEN = "auto"
ONE_SEED = ("T",)
PLOT = Path(__file__).resolve().parents[1] / "docs" / "images" / "accuracy-over-time.png"


@dataclass(frozen=True)
class Original:
    """The original recipe: seconds of all its epochs by several slices, and its test accuracy after
    each epoch.
    """

    slices_s: list[float]
    tests: list[int]
    count: int

    @property
    def seconds(self) -> float:
        """The time of all epochs."""
        return statistics.median(self.slices_s)

    def list_points(self) -> list[tuple[float, float]]:
        """List (seconds, test accuracy) after each epoch."""
        epochs = len(self.tests)
        return [
            (self.seconds * (at + 1) / epochs, right / self.count)
            for at, right in enumerate(self.tests)
        ]


@dataclass(frozen=True)
class Runs:
    """The runs of one way to train a network, a seed each, and the recipe's seconds by a slice
    after each of them.
    """

    way: str
    backbone: str
    outcomes: list[Outcome]
    then_s: list[float]

    @property
    def name(self) -> str:
        """The way, and the network where it was named."""
        return self.way if self.backbone == CHOSEN else f"{self.way}, {self.backbone}"

    @property
    def accuracies(self) -> list[float]:
        """The test accuracy of every run."""
        return [outcome.accuracy for outcome in self.outcomes]

    @property
    def seconds(self) -> list[float]:
        """The seconds of every run."""
        return [outcome.seconds for outcome in self.outcomes]


@dataclass(frozen=True)
class Contest:
    """Makes the runs that the plot shows, and gathers those that are made."""

    ledger: Ledger
    options: argparse.Namespace

    def measure(self) -> None:
        """Time and train the original recipe, then train every way with every seed."""
        self.ledger.recall(self._original_key, self._measure_original)
        bench, original = TrialBench(self.ledger, self.options), self.gather_original()
        turns = (
            trial
            for way in self.options.ways
            for trials in zip(
                *(self._list_trials(way, name, original) for name in self.options.backbones),
                strict=True,
            )
            for trial in trials
        )
        for trial in turns:
            bench.recall(trial)
            self.ledger.recall(name_slice(trial), lambda: {"seconds": self._time_recipe()})

    def gather_original(self) -> Original:
        """Gather what was measured of the original recipe."""
        found = self.ledger.find(self._original_key)
        if found is None:
            raise SystemExit(
                f"{self.ledger.path} holds no run of the original recipe; run without --plot-only "
                f"first"
            )
        return Original(**found)

    def gather_runs(self, original: Original) -> list[Runs]:
        """Gather what was measured of every way; those of which nothing is known are left out."""
        gathered = []
        for way, backbone in product(self.options.ways, self.options.backbones):
            trials = self._list_trials(way, backbone, original)
            outcomes = [
                Outcome(**found) for trial in trials if (found := self.ledger.find(trial.key))
            ]
            slices = [
                found["seconds"]
                for trial in trials
                if (found := self.ledger.find(name_slice(trial)))
            ]
            gathered += [Runs(way, backbone, outcomes, slices)] if outcomes and slices else []
        return gathered

    @property
    def _original_key(self) -> dict[str, Any]:
        return {"run": "original recipe", "images": self.options.images}

    def _list_trials(self, way: str, backbone: str, original: Original) -> list[Trial]:
        settings = choose_settings(way, original.seconds)
        settings |= {} if backbone == CHOSEN else {"backbone": backbone}
        seeds = 1 if way in ONE_SEED else self.options.seeds
        return [Trial(PHOTOS, self.options.images, seed, settings) for seed in range(seeds)]

    def _measure_original(self) -> dict[str, Any]:
        slices_s = [self._time_recipe() for _ in range(self.options.repeats)]
        accuracy = measure_accuracy(self._open_recipe(), self.options.work)
        return {"slices_s": slices_s, "tests": list(accuracy.tests), "count": accuracy.count}

    def _open_recipe(self) -> Recipe:
        return open_recipe(PHOTOS, prepare_photos(PHOTOS, self.options), 0)

    def _time_recipe(self) -> float:
        recipe = self._open_recipe()
        return measure_pace(recipe, self.options.slice).extrapolate(recipe)


def name_slice(trial: Trial) -> dict[str, Any]:
    """Name the slice of the original recipe that is timed after a trial."""
    return {"run": "slice", "after": trial.key}


def choose_settings(way: str, recipe_s: float) -> dict[str, str]:
    """Choose the settings of a way to train, given the time of the original recipe."""
    return {"effort": way} if way in EFFORTS else {"budget": f"{recipe_s / DIVISORS[way]:.1f}s"}


def list_points(outcome: Outcome) -> list[tuple[float, float]]:
    """List (seconds since the start, validation accuracy) of a run: its frozen head, then every
    epoch.
    """
    points = [(epoch["ended_s"], epoch["validation_accuracy"]) for epoch in outcome.epochs
              if epoch["ended_s"] is not None]  # fmt: skip
    heads = [item["ended_s"] for item in outcome.timings if item["stage"] == "head"]
    if outcome.stages and heads and outcome.stages[0]["validation"]:
        points.append((heads[0], outcome.stages[0]["validation"]["accuracy"]))
    return sorted(points)


def print_results(original: Original, all_runs: Sequence[Runs]) -> None:
    """Print a row for every way to train."""
    rows: list[Sequence[object]] = [
        (
            runs.name,
            format_spread(runs.seconds),
            f"{original.seconds / statistics.mean(runs.seconds):.1f}",
            format_mean(runs.accuracies),
            judge(runs, original),
            format_spread([100 * seconds / original.seconds for seconds in runs.then_s], 0),
        )
        for runs in all_runs
    ]
    rows += [
        (
            f"original recipe, epoch {epoch}",
            f"{seconds:.0f}",
            f"{original.seconds / seconds:.1f}",
            f"{accuracy:.2%}",
            "",
            format_spread([100 * each / original.seconds for each in original.slices_s], 0),
        )
        for epoch, (seconds, accuracy) in enumerate(original.list_points(), 1)
    ]
    print(
        f"T = {format_spread(original.slices_s, 0)} s, the original recipe's five epochs, "
        f"extrapolated from slices"
    )
    header = [
        "",
        "seconds: median (min–max, n)",
        "T / seconds",
        "test accuracy: mean ± sd",
        "wanted",
        "the recipe's speed then, % of T",
    ]
    print_table(header, rows)


def judge(runs: Runs, original: Original) -> str:
    """Write what was wanted of the mean accuracy and of the time, and whether it is so."""
    wanted = WANTED.get(runs.way)
    if wanted is None:
        return ""
    is_late = max(runs.seconds) > original.seconds / DIVISORS.get(runs.way, 1)
    verdict = (
        "too late"
        if is_late
        else "reached"
        if statistics.mean(runs.accuracies) >= wanted
        else "MISSED"
    )
    return f"{wanted:.1%}: {verdict}"


def draw_results(original: Original, all_runs: Sequence[Runs], path: Path) -> None:
    """Draw the plot."""
    ours = [
        Marks(runs.name, statistics.mean(runs.seconds), tuple(runs.accuracies), runs.way in EFFORTS)
        for runs in all_runs
    ]
    lines = [
        Line(runs.name, tuple(list_points(outcome)))
        for runs in all_runs
        for outcome in runs.outcomes[:1]
        if runs.way in DIVISORS
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(draw_accuracy(ours, lines, tuple(original.list_points())))
    print(f"Drawn: {path}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ways = [*EFFORTS, *DIVISORS]
    add_photo_options(parser)
    add_ledger_options(parser)
    parser.add_argument(
        "--ways", nargs="+", choices=ways, default=ways, help="what to train (default: all)"
    )
    parser.add_argument(
        "--backbones", nargs="+", default=[CHOSEN], metavar="NAME", help="networks, in turn"
    )
    parser.add_argument("--seeds", type=int, default=3, help="of all but T (default: %(default)s)")
    parser.add_argument(
        "--slice", type=int, default=1280, help="images of a timed slice (default: %(default)s)"
    )
    parser.add_argument(
        "--repeats", type=int, default=3, help="slices at the beginning (default: %(default)s)"
    )
    parser.add_argument(
        "--plot",
        type=Path,
        help="where to draw (default: docs/images; a sample's in the work folder)",
    )
    parser.add_argument(
        "--plot-only", action="store_true", help="print and draw what is measured, measure nothing"
    )
    options = parser.parse_args(argv)
    print_machine()
    contest = Contest(open_ledger("curve", options), options)
    if not options.plot_only:
        contest.measure()
    original = contest.gather_original()
    all_runs = contest.gather_runs(original)
    print_results(original, all_runs)
    draw_results(
        original, all_runs, options.plot or (options.work / PLOT.name if options.images else PLOT)
    )


if __name__ == "__main__":
    main()
