"""HTTP as uvicorn speaks it, with an end to everything that a client can draw out.

uvicorn has public limits for connections that wait between two requests and for requests at once,
but none for a first request that never comes, for headers that never end, and for answers that
nobody reads. So its protocol for h11 is subclassed, which is no public class: the tests of serving
run with the lowest and with the newest uvicorn that may be installed.
"""

import asyncio
import json
import sys
from contextlib import suppress
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from squeezetune.serving.limits import Limits
from squeezetune.serving.refusals import RequestError, refuse_headers

# How long a client that was refused may go on sending before the connection is cut.
LINGER_S = 1.0


def limit_protocol(limits: Limits) -> type[H11Protocol]:
    """Make uvicorn's protocol one that keeps these limits; uvicorn takes a class, of which it makes
    the objects.
    """

    class LimitedProtocol(_LimitedProtocol):
        limits_kept = limits

    return LimitedProtocol


class _LimitedProtocol(H11Protocol):
    """Closes connections that wait too long for a request's headers, or do not read their answers.

    uvicorn itself waits without end for the first request and for the rest of headers that have
    begun, goes on reading a body that was refused, and answers damaged requests as plain text.
    """

    limits_kept: Limits
    _idle: asyncio.TimerHandle | None = None
    _stuck: asyncio.TimerHandle | None = None
    _is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin with the time for the first request."""
        super().connection_made(transport)
        if len(self.connections) > self.limits_kept.connections:
            self._refuse(
                RequestError("busy", "Too many connections are open", "Ask again in a moment.")
            )
            return
        self._watch_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        """End all waiting."""
        for timer in (self._idle, self._stuck):
            if timer:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what has come; behind a refusal it is thrown away."""
        if not self._is_refused:
            super().data_received(data)
            self._watch_idle()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._watch_idle()

    def pause_writing(self) -> None:
        """Give a client that does not read its answer some time."""
        super().pause_writing()
        self._stuck = self.loop.call_later(self.limits_kept.time_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Forget the time of a client that has read on."""
        super().resume_writing()
        if self._stuck:
            self._stuck.cancel()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, or has too long headers, in the shape of all refusals."""
        error = sys.exc_info()[1]  # uvicorn calls this where it has caught what h11 has found
        if isinstance(error, h11.RemoteProtocolError) and error.error_status_hint == 431:
            self._refuse(refuse_headers(self.limits_kept.header_bytes))
        else:
            self._refuse(RequestError("bad-request", "This is no valid HTTP/1.1 request"))

    def _refuse(self, refusal: RequestError) -> None:
        """Answer and hang up, whatever the state of the conversation.

        The connection is closed a moment later: closing while something unread is there would take
        the answer away.
        """
        self._is_refused = True
        is_running = self.cycle is not None and not self.cycle.response_complete
        if is_running:  # the application is told that nobody waits for its answer
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if not (is_running and self.cycle.response_started):
            self.transport.write(_write_answer(refusal))
        with suppress(OSError):  # the client has hung up already
            if self.transport.can_write_eof() and not self.transport.is_closing():
                self.transport.write_eof()
        if self._idle:
            self._idle.cancel()
        self._idle = self.loop.call_later(
            min(LINGER_S, self.limits_kept.idle_s), self.transport.abort
        )

    def _watch_idle(self) -> None:
        """Start the time for a request's headers, or end it when they are there."""
        if self.cycle is not None and not self.cycle.response_complete:
            if self._idle:
                self._idle.cancel()
                self._idle = None
        elif self._idle is None:
            self._idle = self.loop.call_later(self.limits_kept.idle_s, self._end_idle)

    def _end_idle(self) -> None:
        if self.transport.is_closing() or self.transport.get_write_buffer_size():
            self.transport.abort()  # closing would wait until the client has read all
        else:
            self.transport.close()


def _write_answer(refusal: RequestError) -> bytes:
    body = json.dumps(refusal.describe()).encode()
    head: dict[str, Any] = {
        "Content-Type": "application/json",
        "Content-Length": len(body),
        "Connection": "close",
        **refusal.headers,
    }
    lines = [
        f"HTTP/1.1 {refusal.status} Refused",
        *(f"{name}: {value}" for name, value in head.items()),
        "",
        "",
    ]
    return "\r\n".join(lines).encode() + body
