"""What becomes of a model, and of the time, with budgets from far too little to plenty, beside a
run without one.

    python benchmarks/budgets.py --data FOLDER [--tasks 318 3781 50000] [--budgets 3s 10s 30s 1m 2m
        8m]

Three tasks, 318 and all 3,781 photos of clothes (in the parts of their publisher) and 50,000 of
CIFAR-10, are trained without a budget and with each. Each run is a process of its own with an empty
cache, timed from its start to its end, imports included. Finished runs are kept in `budgets.jsonl`
in the work folder and not made again.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

from figures import print_machine, print_table
from ledger import Ledger, add_ledger_options, open_ledger
from photos import BACKBONE, PHOTO_SETS, add_photo_options, draw_photos, unpack_photos
from processes import set_cache

from squeezetune.quantities import parse_duration

CLOTHING = PHOTO_SETS["clothing"]
TASKS = {"318": (CLOTHING, 318), "3781": (CLOTHING, 0), "50000": (PHOTO_SETS["cifar10"], 0)}
BUDGETS = ("3s", "10s", "20s", "30s", "1m", "2m", "8m")
NONE = "none"
# A run without a budget took about as long as one with it if it took at most so many times as long.
AS_LONG = 1.25
REFUSED = 2  # exit status


@dataclass(frozen=True)
class BudgetRun:
    """A run: its seconds, and the share of test images that it names right, of so many; None where
    it was refused.

    `said` is what it said first where the budget is too short, `used` are the images that train and
    choose.
    """

    budget: str
    seconds: float
    accuracy: float | None
    tested: int
    used: tuple[int, int]
    said: str

    @property
    def budget_s(self) -> float:
        """The time that the run had."""
        return parse_duration(self.budget) or float("inf")

    @property
    def keeps_word(self) -> bool:
        """Say whether it ended in time, or said that it could not."""
        return self.seconds <= self.budget_s or bool(self.said)

    def is_worse(self, free: "BudgetRun") -> bool:
        """Say whether it is worse than a run without a budget that took about as long, beyond what
        is chance.
        """
        if (
            self.accuracy is None
            or free.accuracy is None
            or free.seconds > AS_LONG * max(self.budget_s, self.seconds)
        ):
            return False
        error = sqrt(2 * free.accuracy * (1 - free.accuracy) / free.tested)
        return self.accuracy < free.accuracy - 2 * error


def make_run(root: Path, budget: str, work: Path) -> dict[str, Any]:
    """Train in a process of its own with an empty cache, and say what came of it."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        words = ["train", str(root), "--output", f"{folder}/model", "--json", "--folds", "none"]
        words += ["--backbone", BACKBONE]
        words += ["--budget", budget] if budget != NONE else []
        started = time.perf_counter()
        command = [sys.executable, "-m", "squeezetune", *words]
        done = subprocess.run(
            command, env=set_cache(Path(folder) / "cache"), capture_output=True, text=True
        )
        seconds = time.perf_counter() - started
    if done.returncode not in (0, REFUSED):
        raise SystemExit(
            f"exit status {done.returncode} from: {' '.join(command)}\n{done.stderr[-2000:]}"
        )
    return {"budget": budget, "seconds": seconds, **read_answer(json.loads(done.stdout))}


def recall_run(ledger: Ledger, task: str, root: Path, budget: str, work: Path) -> BudgetRun:
    """Take a run that is finished, or make it now."""
    found = ledger.recall(
        {"task": task, "photos": root.name, "budget": budget}, lambda: make_run(root, budget, work)
    )
    return BudgetRun(**{**found, "used": tuple(found["used"])})


def read_answer(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Take from what the command printed what is told here."""
    if "error" in answer:
        return {"accuracy": None, "tested": 0, "used": (0, 0), "said": answer["error"]["message"]}
    parts, shortage = answer["data"]["parts"], (answer["plan"] or {}).get("shortage")
    return {
        "accuracy": answer["test"]["accuracy"],
        "tested": answer["test"]["count"],
        "used": (parts["train"], parts["validation"]),
        "said": shortage["words"] if shortage else "",
    }


def print_runs(task: str, runs: Sequence[BudgetRun]) -> None:
    """Print the runs of a task, the one without a budget first."""
    print(f"\n{task} photos")
    rows = [
        (
            run.budget,
            f"{run.seconds:.1f}",
            "" if run.budget == NONE else f"{run.seconds / run.budget_s:.0%}",
            "refused" if run.accuracy is None else f"{run.accuracy:.2%}",
            "{:,} / {:,}".format(*run.used),
            run.said,
        )
        for run in runs
    ]
    print_table(["budget", "took, s", "of it", "test accuracy", "train / choose", "said"], rows)


def print_summary(runs: Mapping[str, Sequence[BudgetRun]]) -> None:
    """Print what was promised and what came."""
    limited = [(run, own[0]) for own in runs.values() for run in own[1:]]
    kept = sum(run.keeps_word for run, _ in limited)
    worse = sum(run.is_worse(free) for run, free in limited)
    rows = [
        ("ended in time, or said that it could not", f"{len(limited)}", f"{kept}"),
        ("worse than without a budget, in about that time", "0", f"{worse}"),
    ]
    print_table(["", "wanted", "found"], rows)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_photo_options(parser)
    add_ledger_options(parser)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument(
        "--budgets", nargs="+", default=list(BUDGETS), help=f"(default: {' '.join(BUDGETS)})"
    )
    options = parser.parse_args(argv)
    wrong = [budget for budget in options.budgets if parse_duration(budget) is None]
    if wrong:
        parser.error(f"--budgets {' '.join(wrong)}: needed are times such as 90s, 3m or 1h")
    print_machine()
    runs, ledger = {}, open_ledger("budgets", options)
    for task in options.tasks:
        photos, count = TASKS[task]
        count = min(count or options.images, options.images) if options.images else count
        root = unpack_photos(photos, options.data, options.work)
        root = (
            draw_photos(root, options.work / f"{photos.folder}-{count}", count) if count else root
        )
        budgets = (NONE, *options.budgets)
        runs[task] = [recall_run(ledger, task, root, budget, options.work) for budget in budgets]
        print_runs(task, runs[task])
    print_summary(runs)


if __name__ == "__main__":
    main()
