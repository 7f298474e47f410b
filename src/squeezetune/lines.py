"""Predictions as lines of text: a table for people, CSV and JSON for programs, which can be read back."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeAlias

from squeezetune.data.cells import free_cell, guard_cell
from squeezetune.errors import ImageError
from squeezetune.prediction import Prediction

NONE_OF_THESE = "none of these"
CSV_FIRST, CSV_KNOWN, CSV_LAST = ("file", "label", "confidence"), "is_known", "error"
# Written nowhere: what is among a line's ends has to be in quotes.
CSV_END = "\r\n"

# What becomes of one image.
Outcome: TypeAlias = Prediction | ImageError


class LineOptions(NamedTuple):
    """What lines show: the classes, how many of them a table names, and whether images may be none of them."""

    class_names: Sequence[str]
    top: int = 1
    has_unknown: bool = False


class Row(NamedTuple):
    """What is read back of a line: the image's title, and whether it could not be read."""

    title: str
    is_error: bool


class Lines(Protocol):
    """Writes outcomes as lines; `header` is the line that comes first, if any."""

    header: str

    def write(self, title: str, outcome: Outcome) -> str:
        """Write what became of an image as a line without its end; nothing where there is none to be."""
        ...


class ReadableLines(Lines, Protocol):
    """Lines that can be read back, with their ends."""

    def is_whole(self, line: bytes) -> bool:
        """Say whether a line is one, or goes on behind its end."""
        ...

    def read(self, line: bytes) -> Row | None:
        """Read a line back; None where it is damaged."""
        ...


class TableLines:
    """The label and its probability, then the next likely ones, and the file; nothing for what cannot be read."""

    header = ""

    def __init__(self, options: LineOptions) -> None:
        self._top, names = options.top, [*options.class_names, *([NONE_OF_THESE] if options.has_unknown else [])]
        self._width = min(24, max(len(name) for name in names))

    def write(self, title: str, outcome: Outcome) -> str:
        """Write one row; where the image is none of the classes, that comes first."""
        if isinstance(outcome, ImageError):
            return ""
        shares = [f"{share:6.1%} {label:<{self._width}}" for label, share in outcome.list_best(self._top)]
        unknown = [] if outcome.is_known else [f"{'':6} {NONE_OF_THESE:<{self._width}}"]
        return "  ".join([*unknown, *shares[: self._top - len(unknown)], title])


class CsvLines:
    """File, label, confidence, the probability of every class, and why an image could not be read.

    A name that a spreadsheet would run as a formula has an apostrophe in front.
    """

    def __init__(self, options: LineOptions) -> None:
        self._names, self._has_unknown = options.class_names, options.has_unknown
        first = [*CSV_FIRST, CSV_KNOWN] if self._has_unknown else CSV_FIRST
        self._columns = [*first, *self._names, CSV_LAST]
        self.header = _join_csv(self._columns)

    def write(self, title: str, outcome: Outcome) -> str:
        """Write one record, which may have line ends in quotes."""
        if isinstance(outcome, ImageError):
            return _join_csv([title, *[""] * (len(self._columns) - 2), outcome.message])
        shares = [f"{outcome.probabilities[name]:.6f}" for name in self._names]
        known = [str(outcome.is_known).lower()] if self._has_unknown else []
        return _join_csv([title, outcome.label, f"{outcome.confidence:.6f}", *known, *shares, ""])

    def is_whole(self, line: bytes) -> bool:
        """Say whether no quotes are open."""
        return line.count(b'"') % 2 == 0

    def read(self, line: bytes) -> Row | None:
        """Read a record back; None where it has other columns."""
        try:
            [fields] = csv.reader(io.StringIO(line.decode(), newline=""))
        except (ValueError, csv.Error):
            return None
        return Row(free_cell(fields[0]), bool(fields[-1])) if len(fields) == len(self._columns) else None


class JsonLines:
    """One JSON object a line; an image that could not be read has `error` in place of all else."""

    header = ""

    def __init__(self, options: LineOptions) -> None:
        self._has_unknown = options.has_unknown

    def write(self, title: str, outcome: Outcome) -> str:
        """Write one object."""
        if isinstance(outcome, ImageError):
            return json.dumps({"file": title, "error": outcome.message})
        known = {"is_known": outcome.is_known} if self._has_unknown else {}
        shares = {"label": outcome.label, "confidence": outcome.confidence, "probabilities": outcome.probabilities}
        return json.dumps({"file": title, **known, **shares})

    def is_whole(self, line: bytes) -> bool:
        """Say that every line is: ends of lines within text are escaped."""
        return True

    def read(self, line: bytes) -> Row | None:
        """Read an object back; None where it is none."""
        try:
            content = json.loads(line)
        except ValueError:
            return None
        is_ours = isinstance(content, dict) and isinstance(content.get("file"), str)
        return Row(content["file"], "error" in content) if is_ours else None


READABLE: dict[str, Callable[[LineOptions], ReadableLines]] = {"csv": CsvLines, "json": JsonLines}
FORMATS: dict[str, Callable[[LineOptions], Lines]] = {"table": TableLines, **READABLE}


def _join_csv(values: Sequence[str]) -> str:
    line = io.StringIO(newline="")
    csv.writer(line, lineterminator=CSV_END).writerow(map(guard_cell, values))
    return line.getvalue().removesuffix(CSV_END)
