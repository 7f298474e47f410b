"""The log of a server: one JSON object a line, never with an image, a file's name or a token."""

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, TextIO


class Journal:
    """Writes lines to a stream; may be used from any thread."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._lock = threading.Lock()

    def write(self, event: str, **values: Any) -> None:
        """Write what happened, with the time."""
        now = time.time()
        stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now * 1000) % 1000:03d}Z"
        line = json.dumps({"time": stamp, "event": event, **values}) + "\n"
        with self._lock:
            try:
                self._stream.write(line)
                self._stream.flush()
            except (OSError, ValueError):  # whoever read the log is gone; the server goes on
                pass


@contextmanager
def capture_errors() -> Iterator[Journal]:
    """Give a journal on standard error, and pass on to it line by line whatever else is written there meanwhile.

    Libraries in C, such as libtiff, write past Python, so that it is the file itself that is led elsewhere.
    """
    try:
        sys.stderr.flush()
        place = sys.stderr.fileno()
    except (OSError, ValueError):  # no file: a program around us collects what is written
        yield Journal()
        return
    kept, (end, begin) = os.dup(place), os.pipe()
    with os.fdopen(kept, "w", encoding="utf-8") as stream, os.fdopen(end, "rb") as lines:
        journal = Journal(stream)
        reader = threading.Thread(target=_pass_on, args=(lines, journal), daemon=True)
        os.dup2(begin, place)
        os.close(begin)
        reader.start()
        try:
            yield journal
        finally:
            sys.stderr.flush()
            os.dup2(kept, place)  # closes the last way into the pipe, so that the reader comes to its end
            reader.join()


def _pass_on(lines: BinaryIO, journal: Journal) -> None:
    for line in lines:
        if words := line.decode(errors="backslashreplace").strip():
            journal.write("stderr", message=words)


class JournalHandler(logging.Handler):
    """Passes the words of the HTTP server itself on to the journal."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(logging.WARNING)
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; of an exception also where it came from."""
        trace = logging.Formatter().formatException(record.exc_info) if record.exc_info else None
        more = {"trace": trace} if trace else {}
        words = record.getMessage().strip()
        self._journal.write("server", level=record.levelname.lower(), message=words, **more)
