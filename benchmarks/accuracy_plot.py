"""Draws accuracy over time, ours and the original recipe's, as a PNG that can be read at half its
size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from squeezetune.report.plots import BLUE, DPI, GREY, LOOK, ORANGE

SIZE = (8.0, 4.5)  # inches: 1,600 pixels wide, shown at 800
TICKS_S = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200)
FLOOR_QUANTILE = (
    0.1  # of all accuracies: the first moments of training would press all else together
)

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """The validation accuracy of one run: (seconds, accuracy)."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Marks:
    """The test accuracies of some runs of one kind, and their mean seconds; the name stands above
    or below them.
    """

    name: str
    seconds: float
    accuracies: tuple[float, ...]
    is_named_below: bool = False

    @property
    def mean(self) -> float:
        """The mean accuracy."""
        return sum(self.accuracies) / len(self.accuracies)


def draw_accuracy(ours: Sequence[Marks], lines: Sequence[Line], original: Points) -> bytes:
    """Draw our test accuracies with their spread, the validation accuracy on the way, and the
    original's epochs.
    """
    with style.context(["default", LOOK | {"font.size": 11}]):
        figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
        axes = figure.add_subplot()
        draw_marks(axes, ours)
        draw_lines(axes, lines)
        draw_original(axes, original)
        dress_axes(axes, [*((marks.seconds, marks.mean) for marks in ours), *original], lines)
        figure.legend(loc="outside upper center", ncols=2, frameon=False)
        stream = BytesIO()
        FigureCanvasAgg(figure).print_png(stream)  # type: ignore[no-untyped-call]
    return stream.getvalue()


def draw_lines(axes: Axes, lines: Sequence[Line]) -> None:
    """Draw the validation accuracy of runs, thinly."""
    for number, line in enumerate(line for line in lines if line.points):
        label = "" if number else "SqueezeTune: validation, while it learns"
        axes.plot(*zip(*line.points, strict=True), color=BLUE, lw=1.2, alpha=0.5, label=label)


def draw_marks(axes: Axes, ours: Sequence[Marks]) -> None:
    """Draw the mean test accuracies with the smallest and the largest, and name them."""
    for number, marks in enumerate(ours):
        low, high = marks.mean - min(marks.accuracies), max(marks.accuracies) - marks.mean
        label = "" if number else "SqueezeTune: test (mean, smallest, largest)"
        axes.errorbar(
            marks.seconds,
            marks.mean,
            [[low], [high]],
            fmt="o",
            color=BLUE,
            ms=7,
            capsize=4,
            label=label,
            zorder=3,
        )
        edge, offset = (min, -18) if marks.is_named_below else (max, 8)
        axes.annotate(
            f"{marks.name}: {marks.mean:.1%}",
            (marks.seconds, edge(marks.accuracies)),
            (0, offset),
            ha="center",
            textcoords="offset points",
            color=BLUE,
        )


def draw_original(axes: Axes, original: Points) -> None:
    """Draw the original recipe's test accuracy after each epoch, and name the best."""
    axes.plot(
        *zip(*original, strict=True),
        "s--",
        color=ORANGE,
        ms=6,
        label="the recipe of 2018: test, by epoch",
    )
    seconds, accuracy = original[-1]
    axes.annotate(
        f"{accuracy:.1%}",
        (seconds, accuracy),
        (0, -18),
        ha="center",
        textcoords="offset points",
        color=ORANGE,
    )


def dress_axes(axes: Axes, points: Points, lines: Sequence[Line]) -> None:
    """Set the axes: time in words people use, and an accuracy that begins where there is something
    to tell apart.
    """
    values = sorted(
        [accuracy for _, accuracy in points]
        + [accuracy for line in lines for _, accuracy in line.points]
    )
    floor = min(values[int(FLOOR_QUANTILE * len(values))], *(accuracy for _, accuracy in points))
    times = [seconds for seconds, _ in points] + [
        seconds for line in lines for seconds, _ in line.points
    ]
    axes.set_xscale("log")
    axes.set(xlim=(min(times) / 1.6, max(times) * 1.6), xlabel="time since the start (logarithmic)")
    top = min(1.0, max(values) + 0.15 * (max(values) - floor) + 0.005)
    axes.set(ylim=(floor - 0.1 * (top - floor) - 0.002, top), ylabel="accuracy")
    axes.xaxis.set_major_locator(FixedLocator(TICKS_S))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: format_time(seconds)))
    axes.yaxis.set_major_formatter(PercentFormatter(1, 0))
    axes.grid(axis="y", color="#dddddd", lw=0.6)
    axes.tick_params(color=GREY)


def format_time(seconds: float) -> str:
    """Write a round time shortly.

    >>> [format_time(seconds) for seconds in (30, 120, 3600)]
    ['30 s', '2 min', '1 h']
    """
    if seconds < 60:
        return f"{seconds:g} s"
    return f"{seconds / 60:g} min" if seconds < 3600 else f"{seconds / 3600:g} h"
