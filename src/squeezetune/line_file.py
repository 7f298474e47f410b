"""A file that grows line by line, and that goes on after a kill with no line lost or doubled.

While it grows, a hidden file beside it says what its lines are made by::

    predictions.csv
    .predictions.csv.unfinished     JSON; removed once the last line is there
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from squeezetune.disk import remove_partial_writes, write_file
from squeezetune.errors import CheckpointError
from squeezetune.lines import ReadableLines, Row
from squeezetune.output_lock import hold_output

# Lines that are written at once: a kill costs no more than predicting them again.
BLOCK = 64


@dataclass
class LineFile:
    """A file that is written to in blocks of whole lines; used as a context, it is closed at the end, not finished.

    No other run writes to it meanwhile. `identity` are plain values that name all that lines depend on: only a file
    with the same is gone on with.
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
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
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
                "Go on with it by --resume, if it is unfinished; or give another name, or delete it first.",
            )
        if not self.state.exists():
            raise CheckpointError(
                f"{self.path} is finished, or was not begun by this program: there is nothing to go on with",
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
        """Yield the lines that are there, in order; once all are read, what is behind the last whole one is cut off."""
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
