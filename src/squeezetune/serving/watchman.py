"""Sees every request and its answer, for the journal and the metrics."""

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from squeezetune.serving.answers import answer_refusal
from squeezetune.serving.journal import Journal
from squeezetune.serving.metrics import Metrics
from squeezetune.serving.refusals import refuse_headers
from squeezetune.serving.slot import ModelSlot

OTHER_PATH = "other"  # a path that there is not may hold the name of a file, or a secret
VANISHED = 499
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})


class Watchman:
    """An application around the application."""

    def __init__(
        self,
        app: ASGIApp,
        journal: Journal,
        metrics: Metrics,
        slot: ModelSlot,
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
        is_short = sum(len(name) + len(value) for name, value in scope["headers"]) <= self._header_bytes
        app = self._app if is_short else answer_refusal(refuse_headers(self._header_bytes))
        try:
            await app(scope, count_received, note_status)
        finally:
            seconds = time.perf_counter() - start
            path = scope["path"] if scope["path"] in self._paths else OTHER_PATH
            method = scope["method"] if scope["method"] in METHODS else "other"
            self._metrics.add_request(path, seen["status"], seconds)
            self._journal.write("request", method=method, path=path, status=seen["status"],
                                ms=round(seconds * 1000, 1), bytes=seen["bytes"], images=state.get("images", 0),
                                model=self._slot.model.version[:12])  # fmt: skip
