"""The plots of a report, for papers: PNG files at 200 dots an inch; they need matplotlib, an
extra.
"""

import warnings
from collections.abc import Mapping, Sequence
from io import BytesIO
from math import ceil
from typing import Any

import numpy as np

from squeezetune.errors import MissingExtraError
from squeezetune.report.curves import History, lay_out, trace_curves

try:
    from matplotlib import style
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure
    from matplotlib.font_manager import fontManager
    from matplotlib.ticker import PercentFormatter
except ModuleNotFoundError as error:
    raise MissingExtraError(
        "matplotlib is not installed; the plots for papers are drawn with it.",
        "Install it: pip install 'squeezetune[plots]'",
    ) from error

DPI = 200
NUMBERED_CLASSES = 30  # more cells than 30 x 30 leave no room for numbers
NAMED_CLASSES = 40  # above this, names are thinned out or dropped
THINNED_NAMES = 25  # names on an axis that is too short for all of them
NAME_LENGTH = 22  # characters of a class name on an axis
NUMBERED_EPOCHS = 24  # numbers below a training curve
DOTTED_EPOCHS = 40  # above this, dots would hide the line
BLUE, ORANGE, GREY = "#2a5d84", "#d08a3e", "#6b6e75"

# Tried in this order for every character; matplotlib's own font has no Chinese, Japanese or Korean.
FONTS = (
    "DejaVu Sans",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Hiragino Sans",
    "PingFang SC",
    "Microsoft YaHei",
    "Malgun Gothic",
    "Yu Gothic",
)
LOOK = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.parse_math": False,  # a "$" in a class name is a dollar
}


def draw_plots(report: Mapping[str, Any]) -> dict[str, bytes]:
    """Draw the confusion matrix, precision and recall, and the training curve as PNG files.

    Returns file names and contents. The matrix of percentages is left out where there are too many
    classes for numbers, the training curve where nothing was trained in epochs.
    """
    names, confusion = report["class_names"], np.asarray(report["test"]["confusion"], dtype=float)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    with style.context(["default", LOOK | {"font.family": _find_fonts()}]):
        plots = {"confusion_matrix.png": _draw_confusion(names, shares, confusion)}
        if len(names) <= NUMBERED_CLASSES:
            plots["confusion_matrix_normalised.png"] = _draw_confusion(names, shares, shares * 100)
        plots["precision_recall.png"] = _draw_scores(report["test"]["per_class"])
        if report["history"]:
            plots["training.png"] = _draw_training(report["history"])
        return {name: _encode(figure) for name, figure in plots.items()}


def _find_fonts() -> list[str]:
    installed = set(fontManager.get_font_names())
    return [name for name in FONTS if name in installed]


def _encode(figure: Figure) -> bytes:
    stream = BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        FigureCanvasAgg(figure).print_png(stream)  # type: ignore[no-untyped-call]
    return stream.getvalue()


def _start(width: float, height: float) -> tuple[Figure, Axes]:
    """Open a figure of the given size in inches with one set of axes."""
    figure = _open_figure(width, height)
    return figure, figure.add_subplot()


def _open_figure(width: float, height: float) -> Figure:
    """Open a figure of the given size in inches; a little more, since matplotlib cuts fractions of
    a dot off.
    """
    across, down = ((round(DPI * side) + 0.01) / DPI for side in (width, height))
    return Figure(figsize=(across, down), dpi=DPI, layout="constrained")


def _shorten(name: str) -> str:
    """Make a class name fit an axis: one line, no unprintable characters, of limited length."""
    text = "".join(character if character.isprintable() else " " for character in name)
    text = " ".join(text.split())
    return text if len(text) <= NAME_LENGTH else text[: NAME_LENGTH - 1] + "…"


def _draw_confusion(names: Sequence[str], shares: Any, figures: Any) -> Figure:
    """Draw the confusion matrix, coloured by share of the row, with a figure in every cell but
    zeros.
    """
    side = min(3.6 + 0.36 * len(names), 11)
    figure, axes = _start(side + 1, side)
    # The square root lets rare confusions be seen beside a strong diagonal.
    picture = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    bar = figure.colorbar(
        picture, ax=axes, shrink=0.7, ticks=[0, 0.05, 0.2, 0.5, 1], format=PercentFormatter(1, 0)
    )
    bar.set_label("share of the true class (row)")
    bar.outline.set_visible(False)
    axes.set(xlabel="predicted", ylabel="true")
    axes.spines[:].set_visible(False)
    _name_cells(axes, names)
    if len(names) <= NUMBERED_CLASSES:
        _number_cells(axes, shares, figures)
    return figure


def _name_cells(axes: Axes, names: Sequence[str]) -> None:
    step = 1 if len(names) <= NAMED_CLASSES else ceil(len(names) / THINNED_NAMES)
    places = range(0, len(names), step)
    labels = [_shorten(names[place]) for place in places]
    are_short = sum(map(len, labels)) < 40
    axes.set_xticks(places, labels, rotation=0 if are_short else 90)
    axes.set_yticks(places, labels)
    axes.tick_params(length=0 if step == 1 else 3)


def _number_cells(axes: Axes, shares: Any, figures: Any) -> None:
    size = 9 if len(shares) <= 12 else 6.5
    for row, column in np.argwhere(shares > 0):
        text = f"{figures[row, column]:.1f}".removesuffix(".0")
        color = "white" if shares[row, column] > 0.3 else "black"
        axes.text(column, row, text, ha="center", va="center", size=size, color=color)


def _draw_scores(per_class: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw precision and recall: named bars for few classes, a curve over the sorted classes for
    many.
    """
    if len(per_class) <= NAMED_CLASSES:
        return _draw_score_bars(per_class)
    recall, precision = (_read_scores(per_class, key) for key in ("recall", "precision"))
    order = np.argsort(recall)
    figure, axes = _start(7, 3.4)
    axes.fill_between(
        np.arange(len(order)),
        recall[order],
        step="mid",
        color=BLUE,
        alpha=0.35,
        lw=0,
        label="recall",
    )
    axes.plot(precision[order], ".", color=ORANGE, ms=4, label="precision")
    axes.set(
        xlabel=f"{len(order)} classes, sorted by recall",
        xlim=(-0.5, len(order) - 0.5),
        ylim=(0, 1.02),
    )
    axes.yaxis.set_major_formatter(PercentFormatter(1, 0))
    _add_legend(figure)
    return figure


def _draw_score_bars(per_class: Sequence[Mapping[str, Any]]) -> Figure:
    places = np.arange(len(per_class))
    recall, precision = (_read_scores(per_class, key) for key in ("recall", "precision"))
    figure, axes = _start(6, 1.4 + 0.34 * len(places))
    axes.barh(places - 0.19, recall, 0.36, color=BLUE, label="recall, with 95 % interval")
    axes.barh(places + 0.19, precision, 0.36, color=ORANGE, label="precision")
    intervals = np.array([item["recall_interval"] or (np.nan, np.nan) for item in per_class])
    axes.hlines(places - 0.19, intervals[:, 0], intervals[:, 1], color="black", lw=1)
    axes.set_yticks(places, [_shorten(item["name"]) for item in per_class])
    axes.set(xlim=(0, 1.005), ylim=(len(places) - 0.4, -0.6))
    axes.xaxis.set_major_formatter(PercentFormatter(1, 0))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#dddddd", lw=0.6)
    _add_legend(figure)
    return figure


def _read_scores(per_class: Sequence[Mapping[str, Any]], key: str) -> Any:
    return np.array([np.nan if item[key] is None else item[key] for item in per_class])


def _draw_training(history: History) -> Figure:
    """Draw the accuracy over the epochs of all stages, and beneath it the loss where it was
    recorded.
    """
    quantities = [name for name in ("accuracy", "loss") if trace_curves(history, name)] or [
        "accuracy"
    ]
    figure = _open_figure(7, 1.1 + 1.9 * len(quantities))
    panels = figure.subplots(len(quantities), sharex=True, squeeze=False)[:, 0].tolist()
    for axes, quantity in zip(panels, quantities, strict=True):
        _draw_curves(axes, history, quantity)
    _mark_stages(panels, history)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    return figure


def _draw_curves(axes: Axes, history: History, quantity: str) -> None:
    looks = {"train": (GREY, "--"), "validation": (BLUE, "-")}
    for curve in trace_curves(history, quantity):
        color, line = looks[curve.name]
        for number, piece in enumerate(curve.pieces):
            places, values = zip(*piece, strict=True)
            marker = "o" if len(piece) <= DOTTED_EPOCHS else ""
            label = "" if number else curve.name  # one entry of the legend a curve
            axes.plot(places, values, line, color=color, marker=marker, ms=3, label=label)
    if quantity == "accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1, None))
    axes.set(ylabel=quantity, xlim=(0, 1))
    axes.grid(axis="y", color="#dddddd", lw=0.6)


def _mark_stages(panels: Sequence[Axes], history: History) -> None:
    """Name the stages above the upper panel, draw their boundaries, and number the epochs of each
    from one.
    """
    spans = lay_out(history)
    for span in spans:
        middle, above = (span.left + span.right) / 2, panels[0].get_xaxis_transform()
        panels[0].text(
            middle, 1.03, _shorten(span.name), ha="center", va="bottom", color=GREY, transform=above
        )
    for axes in panels:
        for span in spans[1:]:
            axes.axvline(span.left, color=GREY, lw=0.8, ls=":")
    ticks = [tick for span in spans for tick in span.pick_ticks(NUMBERED_EPOCHS)]
    panels[-1].set_xticks([place for place, _ in ticks], [str(epoch) for _, epoch in ticks])
    panels[-1].set_xlabel("epoch of each stage" if len(spans) > 1 else "epoch")


def _add_legend(figure: Figure) -> None:
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
