"""What is seen of every request and its answer: the log, a JSON object a line, and metrics for
Prometheus.
"""

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, TextIO

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    generate_latest,
)
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from squeezetune.serving.models import ModelReloader
from squeezetune.serving.refusals import refuse_headers
from squeezetune.serving.responses import answer_refusal


class JsonLog:
    """Writes lines to a stream; may be used from any thread."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._lock = threading.Lock()

    def write(self, event: str, **values: Any) -> None:
        """Write what happened, with the time."""
        now = time.time()
        stamp = (
            f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now * 1000) % 1000:03d}Z"
        )
        line = json.dumps({"time": stamp, "event": event, **values}) + "\n"
        with self._lock:
            try:
                self._stream.write(line)
                self._stream.flush()
            except (OSError, ValueError):  # whoever read the log is gone; the server goes on
                pass


@contextmanager
def capture_errors() -> Iterator[JsonLog]:
    """Give a journal on standard error, and pass on to it line by line whatever else is written
    there meanwhile.

    Libraries in C, such as libtiff, write past Python, so that it is the file itself that is led
    elsewhere.
    """
    try:
        sys.stderr.flush()
        place = sys.stderr.fileno()
    except (OSError, ValueError):  # no file: a program around us collects what is written
        yield JsonLog()
        return
    kept, (end, begin) = os.dup(place), os.pipe()
    with os.fdopen(kept, "w", encoding="utf-8") as stream, os.fdopen(end, "rb") as lines:
        journal = JsonLog(stream)
        reader = threading.Thread(target=_pass_on, args=(lines, journal), daemon=True)
        os.dup2(begin, place)
        os.close(begin)
        reader.start()
        try:
            yield journal
        finally:
            sys.stderr.flush()
            os.dup2(
                kept, place
            )  # closes the last way into the pipe, so that the reader comes to its end
            reader.join()


def _pass_on(lines: BinaryIO, journal: JsonLog) -> None:
    for line in lines:
        if words := line.decode(errors="backslashreplace").strip():
            journal.write("stderr", message=words)


class JournalHandler(logging.Handler):
    """Passes the words of the HTTP server itself on to the journal."""

    def __init__(self, journal: JsonLog) -> None:
        super().__init__(logging.WARNING)
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; of an exception also where it came from."""
        trace = logging.Formatter().formatException(record.exc_info) if record.exc_info else None
        more = {"trace": trace} if trace else {}
        words = record.getMessage().strip()
        self._journal.write("server", level=record.levelname.lower(), message=words, **more)


CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
IMAGES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


class ServerMetrics:
    """Counts requests, images, batches and changes of the model; may be used from any thread."""

    def __init__(self) -> None:
        # one of its own: another server in this process, and what else it counts, stay out
        self._registry = CollectorRegistry()
        own = {"namespace": "squeezetune", "registry": self._registry}
        self._requests = Counter(
            "requests", "Requests answered, by path and HTTP status.", ["path", "status"], **own
        )
        self._images = Counter(
            "images", "Images received, by what became of them.", ["outcome"], **own
        )
        self._changes = Counter(
            "model_changes", "New models in the folder, by what became of them.", ["outcome"], **own
        )
        self._seconds = Histogram(
            "predict_seconds",
            "Seconds from the headers of a request to its answer.",
            buckets=SECONDS,
            **own,
        )
        self._batches = Histogram(
            "batch_images", "Images that were classified together.", buckets=IMAGES, **own
        )
        self._waiting = Gauge("waiting_images", "Images that wait for a thread.", **own)
        self._model = Info("model", "The model in use, by the SHA-256 of its file.", **own)

    def add_request(self, path: str, status: int, seconds: float) -> None:
        """Count an answered request; the seconds of predictions are kept."""
        self._requests.labels(path, status).inc()
        if path == "/predict":
            self._seconds.observe(seconds)

    def add_images(self, predicted: int, refused: int) -> None:
        """Count the images of a request by what became of them."""
        self._images.labels("predicted").inc(predicted)
        self._images.labels("refused").inc(refused)

    def add_batch(self, images: int) -> None:
        """Count the images that were classified together."""
        self._batches.observe(images)

    def add_change(self, outcome: str) -> None:
        """Count a new model in the folder: `loaded` or `refused`."""
        self._changes.labels(outcome).inc()

    def write(self, version: str, waiting: int) -> bytes:
        """Write all of them, with the model in use and the number of images that wait."""
        self._waiting.set(waiting)
        self._model.info({"version": version})
        text: bytes = generate_latest(self._registry)
        return text


OTHER_PATH = "other"  # a path that there is not may hold the name of a file, or a secret
VANISHED = 499
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})


class RequestObserver:
    """An application around the application."""

    def __init__(
        self,
        app: ASGIApp,
        journal: JsonLog,
        metrics: ServerMetrics,
        slot: ModelReloader,
        paths: frozenset[str],
        header_bytes: int,
    ) -> None:
        self._app, self._journal, self._metrics, self._slot = app, journal, metrics, slot
        self._paths, self._header_bytes = paths, header_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and note what came of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        seen = {"status": 500, "bytes": 0}

        async def count_received() -> Message:
            message = await receive()
            seen["bytes"] += len(message.get("body", b""))
            return message

        async def note_status(message: Message) -> None:
            seen["status"] = message.get("status", seen["status"])
            if seen["status"] != VANISHED:  # nobody is there to hear it
                await send(message)

        state = scope.setdefault("state", {})
        is_short = (
            sum(len(name) + len(value) for name, value in scope["headers"]) <= self._header_bytes
        )
        app = self._app if is_short else answer_refusal(refuse_headers(self._header_bytes))
        try:
            await app(scope, count_received, note_status)
        finally:
            seconds = time.perf_counter() - start
            path = scope["path"] if scope["path"] in self._paths else OTHER_PATH
            method = scope["method"] if scope["method"] in METHODS else "other"
            self._metrics.add_request(path, seen["status"], seconds)
            self._journal.write(
                "request",
                method=method,
                path=path,
                status=seen["status"],
                ms=round(seconds * 1000, 1),
                bytes=seen["bytes"],
                images=state.get("images", 0),
                model=self._slot.model.version[:12],
            )
