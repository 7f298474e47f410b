"""Predictions as lines of text, and a file of them that goes on after a kill.

While it grows, a hidden file beside it says what its lines are made by::

    predictions.csv
    .predictions.csv.unfinished     JSON; removed once the last line is there
"""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, Protocol, TypeAlias

from squeezetune.data.sources.table import free_cell, guard_cell
from squeezetune.errors import CheckpointError, ImageError
from squeezetune.model.classifier import Prediction
from squeezetune.system.disk import remove_partial_writes, write_file
from squeezetune.system.output_lock import hold_output

NONE_OF_THESE = "none of these"
CSV_FIRST, CSV_KNOWN, CSV_LAST = ("file", "label", "confidence"), "is_known", "error"
# Written nowhere: what is among a line's ends has to be in quotes.
CSV_END = "\r\n"

# What becomes of one image.
Outcome: TypeAlias = Prediction | ImageError


class LineOptions(NamedTuple):
    """What lines show: the classes, how many of them a table names, and whether images may be none
    of them.
    """

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
        """Write what became of an image as a line without its end; nothing where there is none to
        be.
        """
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
    """The label and its probability, then the next likely ones, and the file; nothing for what
    cannot be read.
    """

    header = ""

    def __init__(self, options: LineOptions) -> None:
        self._top, names = (
            options.top,
            [*options.class_names, *([NONE_OF_THESE] if options.has_unknown else [])],
        )
        self._width = min(24, max(len(name) for name in names))

    def write(self, title: str, outcome: Outcome) -> str:
        """Write one row; where the image is none of the classes, that comes first."""
        if isinstance(outcome, ImageError):
            return ""
        shares = [
            f"{share:6.1%} {label:<{self._width}}" for label, share in outcome.list_best(self._top)
        ]
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
        return (
            Row(free_cell(fields[0]), bool(fields[-1]))
            if len(fields) == len(self._columns)
            else None
        )


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
        shares = {
            "label": outcome.label,
            "confidence": outcome.confidence,
            "probabilities": outcome.probabilities,
        }
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


# Lines that are written at once: a kill costs no more than predicting them again.
BLOCK = 64


@dataclass
class LineFile:
    """A file that is written to in blocks of whole lines; used as a context, it is closed at the
    end, not finished.

    No other run writes to it meanwhile. `identity` are plain values that name all that lines depend
    on: only a file with the same is gone on with.
    """

    path: Path
    lines: ReadableLines
    identity: Mapping[str, Any]
    _file: BinaryIO | None = None
    _lock: ExitStack = field(default_factory=ExitStack)
    _waiting: list[str] = field(default_factory=list)

    def __enter__(self) -> "LineFile":
        self._lock.enter_context(hold_output(self.path))
        with suppress(OSError):  # a folder that cannot be read is told of when the file is opened
            remove_partial_writes(self.state)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            if self._file:
                with suppress(OSError), self._file:  # a full disk has been told of
                    self._write_waiting()

    @property
    def state(self) -> Path:
        """The hidden file that says what an unfinished file's lines are made by."""
        return self.path.with_name(f".{self.path.name}.unfinished")

    def encode_identity(self) -> bytes:
        """Return what the hidden file holds."""
        return json.dumps(self.identity).encode()

    def check(self, resume: bool) -> None:
        """Make sure that the file may be begun, or gone on with.

        Raises:
            CheckpointError: there is one already, or it is not the unfinished one that is to go on.

        """
        if not self.path.exists():
            return
        if not resume:
            raise CheckpointError(
                f"{self.path} exists",
                "Go on with it by --resume, if it is unfinished; or give another name, or delete "
                "it first.",
            )
        if not self.state.exists():
            raise CheckpointError(
                f"{self.path} is finished, or was not begun by this program: there is nothing to "
                f"go on with",
                "Give another name, or delete it first.",
            )
        kept = _read_state(self.state)
        differing = [name for name in self.identity if kept.get(name) != self.identity[name]]
        if differing:
            raise CheckpointError(
                f"{self.path} was begun with another {' and another '.join(differing)}",
                "Go on with the same, or give another name for a new file.",
            )

    def read_back(self) -> Iterator[Row]:
        """Yield the lines that are there, in order; once all are read, what is behind the last
        whole one is cut off.
        """
        if not self.path.exists():
            return
        with self.path.open("rb+") as file:
            end, line, needs_header = 0, b"", bool(self.lines.header)
            for part in file:
                line += part
                if not line.endswith(b"\n") or not self.lines.is_whole(line):
                    continue
                row = None if needs_header else self.lines.read(line)
                if row is None and not (needs_header and line == _encode([self.lines.header])):
                    break
                end, line, needs_header = end + len(line), b"", False
                if row:
                    yield row
            file.truncate(end)

    def append(self, line: str) -> None:
        """Add a line; it is in the file when its block is full."""
        if not self._file:
            self._file = self._open()
        self._waiting.append(line)
        if len(self._waiting) >= BLOCK:
            self._write_waiting()

    def finish(self) -> None:
        """Write what is left, make it durable, and note that the file is complete."""
        self._file = self._file or self._open()
        self._write_waiting()
        os.fsync(self._file.fileno())
        self.state.unlink(missing_ok=True)

    def _open(self) -> BinaryIO:
        """Open the file behind its last line, and say first what the lines are made by."""
        try:
            write_file(self.state, self.encode_identity())
            file = self.path.open("ab")
        except OSError as error:
            raise self._explain(error) from error
        if self.lines.header and not file.tell():
            self._waiting.insert(0, self.lines.header)
        return file

    def _write_waiting(self) -> None:
        if self._file and self._waiting:
            block, self._waiting = _encode(self._waiting), []
            try:
                self._file.write(block)
                self._file.flush()
            except OSError as error:
                raise self._explain(error) from error

    def _explain(self, error: OSError) -> CheckpointError:
        return CheckpointError(
            f"{self.path} cannot be written: {error.strerror or error}",
            "Check the disk's space and permissions; --resume goes on where it stopped.",
        )


def _encode(lines: Iterable[str]) -> bytes:
    """Turn lines into the bytes of a file; names of folders that are no text are escaped."""
    return "".join(f"{line}\n" for line in lines).encode(errors="backslashreplace")


def _read_state(path: Path) -> dict[str, Any]:
    """Read what an unfinished file's lines are made by; nothing where that is damaged."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
