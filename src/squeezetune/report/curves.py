"""The history of a training run as curves: its stages one after another on one axis, and the table
behind them.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from math import isfinite
from typing import Any, TypeAlias

COLUMNS = (
    "stage",
    "epoch",
    "train_loss",
    "train_accuracy",
    "validation_loss",
    "validation_accuracy",
    "images_per_s",
    "seconds",
)
STAGE_NAMES = {"head": "frozen head"}
# The head may take sixty epochs in a second and all layers five in an hour; each should be
# readable.
NARROWEST = 0.5  # of the width of the widest stage
TICK_STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)

History: TypeAlias = Sequence[Mapping[str, Any]]
Point: TypeAlias = tuple[float, float]


@dataclass(frozen=True)
class Span:
    """A stage's part of the axis, from `left` to `right`; the whole axis goes from 0 to 1."""

    name: str
    left: float
    right: float
    epochs: tuple[int, ...]

    def place(self, epoch: int) -> float:
        """Find the place of an epoch on the axis, half an epoch away from the stage's ends."""
        return self.left + (self.right - self.left) * (epoch - 0.5) / max(self.epochs)

    def pick_ticks(self, most: int) -> list[tuple[float, int]]:
        """Pick the epochs to be numbered, as (place, epoch): evenly, and about so many of the whole
        axis.
        """
        last, room = max(self.epochs), max(1, most * (self.right - self.left))
        step = next((step for step in TICK_STEPS if last / step <= room), last)
        return [(self.place(epoch), epoch) for epoch in range(step, last + 1, step)]


@dataclass(frozen=True)
class Curve:
    """One quantity over all stages: for each stage that knows it, (place, value) of its epochs in
    order.
    """

    name: str
    pieces: tuple[tuple[Point, ...], ...]

    @property
    def values(self) -> tuple[float, ...]:
        """All values in order."""
        return tuple(value for piece in self.pieces for _, value in piece)


def lay_out(history: History) -> tuple[Span, ...]:
    """Give every stage its part of the axis, as wide as it has epochs, but none too narrow to be
    read.
    """
    stages = [
        (stage, tuple(item["epoch"] for item in items))
        for stage, items in groupby(history, _name_stage)
    ]
    longest = max((max(epochs) for _, epochs in stages), default=0)
    widths = [max(max(epochs), NARROWEST * longest) for _, epochs in stages]
    ends = [sum(widths[:count]) / sum(widths) for count in range(len(widths) + 1)] if widths else []
    return tuple(
        Span(name, *edges, epochs)
        for (name, epochs), edges in zip(stages, pairwise(ends), strict=True)
    )


def trace_curves(history: History, quantity: str) -> tuple[Curve, ...]:
    """Trace the training's and the validation's `quantity` ("accuracy" or "loss"); one that is
    unknown is left out.
    """
    curves = []
    for name in ("train", "validation"):
        values = iter([item.get(f"{name}_{quantity}") for item in history])
        pieces = (tuple(_place_values(span, values)) for span in lay_out(history))
        known = tuple(piece for piece in pieces if piece)
        curves += [Curve(name, known)] if known else []
    return tuple(curves)


def _place_values(span: Span, values: Iterator[float | None]) -> Iterator[Point]:
    """Take one value for each epoch of a stage; those that are unknown or no numbers are left
    out.
    """
    for epoch, value in zip(span.epochs, values, strict=False):  # the epochs first: they are fewer
        if value is not None and isfinite(value):
            yield span.place(epoch), value


def write_csv(history: History) -> bytes:
    """Write the history as a table for other programs (RFC 4180); what is unknown stays empty."""
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, COLUMNS, extrasaction="ignore")
    writer.writeheader()
    writer.writerows({"stage": "head", **item} for item in history)
    return stream.getvalue().encode()


def _name_stage(item: Mapping[str, Any]) -> str:
    """Name an epoch's stage for readers; the first reports knew of no other than the head."""
    stage = str(item.get("stage", "head"))
    return STAGE_NAMES.get(stage, stage)
