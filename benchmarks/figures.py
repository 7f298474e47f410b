"""How the benchmarks print what they measured: medians with spread, Markdown tables, and the
machine.
"""

import statistics
from collections.abc import Iterable, Sequence

from squeezetune.evaluation.metrics import wilson_interval
from squeezetune.system.machine import LIBRARIES, describe_machine, list_libraries


def format_spread(values: Sequence[float], digits: int = 1) -> str:
    """Write the median, the smallest and the largest of some values, and their number.

    >>> format_spread([3.0, 1.0, 2.0])
    '2.0 (1.0–3.0, n=3)'
    """
    low, middle, high = (
        f"{value:.{digits}f}" for value in (min(values), statistics.median(values), max(values))
    )
    return f"{middle} ({low}–{high}, n={len(values)})"


def format_mean(shares: Sequence[float]) -> str:
    """Write the mean and the standard deviation of some shares in per cent."""
    deviation = f" ± {statistics.stdev(shares):.2%}" if len(shares) > 1 else ""
    return f"{statistics.mean(shares):.2%}{deviation} (n={len(shares)})"


def format_accuracy(correct: int, count: int) -> str:
    """Write an accuracy with its 95 % interval (Wilson)."""
    low, high = wilson_interval(correct, count)
    return f"{correct / count:.2%} [{low:.2%}, {high:.2%}] of {count:,}"


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    print(
        "",
        *("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines),
        "",
        sep="\n",
        flush=True,
    )


def print_machine() -> None:
    """Print the processor, its cores and the versions of everything that takes part."""
    machine = describe_machine()
    versions = {
        "Python": machine["python"],
        **list_libraries([*LIBRARIES, "scikit-learn", "torch"]),
    }
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    print(
        f"Machine: {machine['processor']}, {machine['cores']} cores, {machine['system']}; {named}",
        flush=True,
    )
