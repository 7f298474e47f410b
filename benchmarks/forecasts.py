"""Hold the forecast of a run with a budget against the time that it took, and its end against the
budget.

    python benchmarks/forecasts.py --data FOLDER [--budgets 1m 3m 8m] [--settings usual small]
        [--images 200]

Three tasks, 400 and 3,280 photos of ETH-80 and 50,000 of CIFAR-10, are trained with every budget
and with two groups of settings: `usual`, the product as it comes, and `small`, 96 pixels in ONNX
Runtime's float32 with another seed's split. Each run is a process of its own with an empty cache,
timed from its start to its end, imports included; the forecast is the one it announced. Finished
runs are kept in `forecasts.jsonl` in the work folder and not made again.
"""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from figures import format_spread, print_machine, print_table
from ledger import add_ledger_options, open_ledger
from photos import add_photo_options
from trials import Outcome, Trial, TrialBench

from squeezetune.quantities import parse_duration

TASKS = {"400": ("eth80", 400), "3280": ("eth80", 0), "50000": ("cifar10", 0)}
SETTINGS: dict[str, dict[str, Any]] = {
    "usual": {},
    "small": {"seed": 1, "image_side": 96, "engine": "onnxruntime", "precision": "float32"},
}
BUDGETS = ("1m", "3m", "8m")
NEAR = 0.2  # of the time that a run took
WANTED_NEAR = 0.9  # of all runs
FEWEST_RUNS = 18
LEAST_PART_S = 1.0  # shorter parts are dropped from the table of parts: their ratios say nothing


@dataclass(frozen=True)
class Comparison:
    """One run: what was forecast and what came, in seconds."""

    name: tuple[str, str, str]
    outcome: Outcome

    @property
    def budget_s(self) -> float:
        """The time that the run had."""
        return float(self._plan["budget_s"])

    @property
    def forecast_s(self) -> float:
        """The time that the run said it would take."""
        return float(self._plan["forecast_s"])

    @property
    def deviation(self) -> float:
        """The forecast's error as a share of the time that the run took; positive where it took
        less.
        """
        return self.forecast_s / self.outcome.seconds - 1

    @property
    def is_in_budget(self) -> bool:
        """Say whether the process was over in time."""
        return self.outcome.seconds <= self.budget_s

    @property
    def is_near(self) -> bool:
        """Say whether the forecast was good."""
        return abs(self.deviation) <= NEAR

    def list_parts(self) -> list[tuple[str, float, float]]:
        """List the parts whose time is known: name without sizes, forecast and truth in seconds."""
        return [(part["part"].split(" at ")[0], part["forecast_s"], part["seconds"])
                for part in self._plan["parts"] if part["seconds"] is not None]  # fmt: skip

    @property
    def _plan(self) -> dict[str, Any]:
        if self.outcome.plan is None:
            raise SystemExit(f"the run {' '.join(self.name)} has recorded no plan")
        return self.outcome.plan


def compare_runs(bench: TrialBench, options: argparse.Namespace) -> list[Comparison]:
    """Make all runs, the shortest first."""
    names = [(task, budget, group) for budget in options.budgets for task in options.tasks
             for group in options.settings]  # fmt: skip
    return [Comparison(name, bench.recall(make_trial(*name, options.images))) for name in names]


def make_trial(task: str, budget: str, group: str, images: int) -> Trial:
    """Describe one run; `images` other than 0 takes a smaller sample of every task."""
    photos, count = TASKS[task]
    choices = {"seed": 0, **SETTINGS[group], "budget": budget}
    seed = choices.pop("seed")
    return Trial(photos, min(count or images, images) if images else count, seed, choices)


def print_runs(comparisons: Sequence[Comparison]) -> None:
    """Print every run."""
    rows = [
        (
            *item.name,
            f"{item.forecast_s:.1f}",
            f"{item.outcome.seconds:.1f}",
            f"{item.deviation:+.1%}",
            f"{item.budget_s:.0f}",
            "yes" if item.is_in_budget else "NO",
            f"{item.outcome.accuracy:.2%}",
            item.outcome.network.split(", ")[-1],
        )
        for item in comparisons
    ]
    header = [
        "photos",
        "budget",
        "settings",
        "forecast, s",
        "took, s",
        "forecast's error",
        "budget, s",
        "in time",
        "test accuracy",
        "layers",
    ]
    print_table(header, rows)


def print_parts(comparisons: Iterable[Comparison]) -> None:
    """Print how good the forecasts of the parts were."""
    ratios: dict[str, list[float]] = {}
    for comparison in comparisons:
        for part, forecast_s, seconds in comparison.list_parts():
            if max(forecast_s, seconds) >= LEAST_PART_S:
                ratios.setdefault(part, []).append(
                    forecast_s / seconds if seconds else float("inf")
                )
    print(
        f"Forecast / truth of the parts that were forecast to take, or took, {LEAST_PART_S:g} s "
        f"or more"
    )
    print_table(
        ["part", "median (min–max, n)"],
        [(part, format_spread(found, 2)) for part, found in ratios.items()],
    )


def print_summary(comparisons: Sequence[Comparison]) -> None:
    """Print what was promised and what came."""
    count = len(comparisons)
    in_budget, near = (
        sum(item.is_in_budget for item in comparisons),
        sum(item.is_near for item in comparisons),
    )
    used = format_spread([100 * item.outcome.seconds / item.budget_s for item in comparisons], 0)
    rows = [
        ("runs", f"{FEWEST_RUNS} or more", count, judge(count >= FEWEST_RUNS)),
        ("ended within the budget", "all", f"{in_budget} of {count}", judge(in_budget == count)),
        (
            f"forecast within {NEAR:.0%}",
            f"{WANTED_NEAR:.0%}",
            f"{near} of {count} ({near / count:.0%})",
            judge(near >= WANTED_NEAR * count),
        ),
        ("share of the budget that was used, %", "", used, ""),
    ]
    print_table(["", "wanted", "found", ""], rows)


def judge(is_kept: bool) -> str:
    """Write whether a promise is kept."""
    return "kept" if is_kept else "BROKEN"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_photo_options(parser)
    add_ledger_options(parser)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--budgets", nargs="+", default=list(BUDGETS), help="(default: 1m 3m 8m)")
    options = parser.parse_args(argv)
    wrong = [budget for budget in options.budgets if parse_duration(budget) is None]
    if wrong:
        parser.error(f"--budgets {' '.join(wrong)}: needed are times such as 90s, 3m or 1h")
    print_machine()
    comparisons = compare_runs(TrialBench(open_ledger("forecasts", options), options), options)
    print_runs(comparisons)
    print_parts(comparisons)
    print_summary(comparisons)


if __name__ == "__main__":
    main()
