"""The log of a server: one JSON object a line, never with an image, a file's name or a token."""

import json
import logging
import sys
import threading
import time
from typing import Any, TextIO


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
