"""Set `--recipe original`, the work of 2018 as the product does it, beside our trainings. Needs
torch.

    python benchmarks/generations.py --data FOLDER [--sets eth80 cifar10] [--seeds 3] [--budgets 1m
        5m]

ETH-80: 80/10/10, ten epochs; CIFAR-10: 60/20/20, five. Every training is a process of its own with
an empty cache, timed from its start to its end, and measured by the file it leaves on the test
part. All ways have the same splits; ratios and differences are paired by them. The recipe as plain
torch code, which reads the photos anew in every epoch, is in seed_recipe.py. Finished trainings are
kept in `generations.jsonl` in the work folder and not made again.
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from accuracy import format_points
from figures import format_mean, format_spread, print_machine, print_table
from ledger import add_ledger_options, open_ledger
from photos import PHOTO_SETS, add_photo_options
from trials import Outcome, Trial, TrialBench

ORIGINAL = "--recipe original"


def list_ways(name: str, budgets: Sequence[str]) -> dict[str, dict[str, Any]]:
    """List the ways to train on a set's photos, and their settings."""
    return {
        ORIGINAL: {"recipe": "original", "epochs": float(PHOTO_SETS[name].epochs)},
        "--effort quick": {"effort": "quick"},
        "--effort balanced": {},
        **{f"--budget {budget}": {"budget": budget} for budget in budgets},
    }


def recall_set(
    name: str, bench: TrialBench, options: argparse.Namespace
) -> dict[str, list[Outcome]]:
    """Train every way on the split of every seed, in turn, so that all see the same machine."""
    ways = list_ways(name, options.budgets)
    found: dict[str, list[Outcome]] = {way: [] for way in ways}
    for seed in range(options.seeds):
        for way, choices in ways.items():
            found[way].append(bench.recall(Trial(name, options.images, seed, choices)))
    return found


def print_set(name: str, found: Mapping[str, Sequence[Outcome]]) -> None:
    """Print a row for every way to train."""
    originals = found[ORIGINAL]
    rows = []
    for way, outcomes in found.items():
        pairs = list(zip(originals, outcomes, strict=True))
        rows.append((
            way,
            format_spread([outcome.seconds for outcome in outcomes]),
            format_spread([original.seconds / own.seconds for original, own in pairs]),
            format_mean([outcome.accuracy for outcome in outcomes]),
            format_points([own.accuracy - original.accuracy for original, own in pairs]),
            format_spread([outcome.peak_mb for outcome in outcomes], 0),
        ))  # fmt: skip
    counts = sorted({outcome.count for outcome in originals})
    print(
        f"\n{name}, {' or '.join(map(str, counts))} test images, {PHOTO_SETS[name].epochs} epochs "
        f"of the original"
    )
    header = [
        "`squeezetune train`",
        "seconds: median (min–max, n)",
        "times faster than the original",
        "test accuracy: mean ± sd",
        "difference, points",
        "peak memory, MB",
    ]
    print_table(header, rows)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_photo_options(parser)
    add_ledger_options(parser)
    parser.add_argument("--sets", nargs="+", choices=PHOTO_SETS, default=list(PHOTO_SETS))
    parser.add_argument("--seeds", type=int, default=3, help="splits (default: %(default)s)")
    parser.add_argument("--budgets", nargs="*", default=["1m", "5m"], help="(default: 1m 5m)")
    options = parser.parse_args(argv)
    print_machine()
    bench = TrialBench(open_ledger("generations", options), options)
    for name in options.sets:
        print_set(name, recall_set(name, bench, options))


if __name__ == "__main__":
    main()
