"""The running server: from a model to a port, and to an orderly end."""

import ipaddress
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from squeezetune.errors import SettingsError, SqueezeTuneError
from squeezetune.serving.application import Service, build_application
from squeezetune.serving.batching import Batcher
from squeezetune.serving.limits import Access, Limits
from squeezetune.serving.models import LOOK_EVERY_S, ModelReloader, ServedModel
from squeezetune.serving.observability import JournalHandler, JsonLog, ServerMetrics, capture_errors
from squeezetune.serving.protocol import limit_protocol
from squeezetune.system.executor import count_cores

OPEN_DOOR = (
    "Anybody who reaches this address may send images: there is no token. Give one, or "
    "bind to 127.0.0.1."
)
LOGGERS = ("uvicorn.error", "asyncio")
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# How long requests that are under way may go on after a request to stop, beyond their own limit.
GRACE_S = 5


@dataclass(frozen=True)
class ServerAddress:
    """Where and how a server runs; port 0 takes a free one, `threads` 0 is one for each physical
    core.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    threads: int = 0
    look_every_s: float = LOOK_EVERY_S

    @property
    def is_local(self) -> bool:
        """Whether this computer alone can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


PLACE, LIMITS, EVERYBODY = ServerAddress(), Limits(), Access()
# Told once, when requests are taken: the server, which stops when its `should_exit` is set, and its
# address.
Announce = Callable[[uvicorn.Server, str], None]


def serve(
    source: Path,
    place: ServerAddress = PLACE,
    limits: Limits = LIMITS,
    access: Access = EVERYBODY,
    *,
    journal: JsonLog | None = None,
    announce: Announce = lambda server, address: None,
) -> None:
    """Serve a model, a folder or an ONNX file, until SIGTERM or Ctrl-C; what has begun is finished
    then.

    A second Ctrl-C ends it at once.

    Raises:
        ArtifactError: it is no model, or is damaged.
        SettingsError: the address is taken, or is none of this computer.

    """
    with ExitStack() as own:
        log = journal or own.enter_context(capture_errors())
        _run(source, place, limits, access, log, announce)


def _run(
    source: Path,
    place: ServerAddress,
    limits: Limits,
    access: Access,
    journal: JsonLog,
    announce: Announce,
) -> None:
    """Open the model and the door, and serve until a stop is asked for."""
    metrics = ServerMetrics()

    def tell_change(model: ServedModel, error: SqueezeTuneError | None) -> None:
        outcome = "refused" if error else "loaded"
        words = {"message": error.message} if error else {}
        metrics.add_change(outcome)
        journal.write("model", outcome=outcome, model=model.version[:12], **words)

    with ExitStack() as parts:
        threads = place.threads or count_cores()
        slot = parts.enter_context(ModelReloader(source, tell_change, place.look_every_s, threads))
        batcher = parts.enter_context(
            Batcher(threads, limits.waiting, limits.pixels, metrics.add_batch)
        )
        door = parts.enter_context(_open_door(place))
        service = Service(
            slot, batcher, limits, access, metrics, is_stopping=lambda: server.should_exit
        )
        server = uvicorn.Server(_configure(service, journal))
        parts.enter_context(_end_quietly())
        parts.enter_context(_keep_words(journal))
        host, port = door.getsockname()[:2]
        if not place.is_local and access.token is None:
            journal.write("warning", message=OPEN_DOOR)
        journal.write("listening", host=host, port=port, model=slot.model.version[:12])
        announce(server, f"http://{f'[{host}]' if ':' in host else host}:{port}")
        server.run(sockets=[door])
    journal.write("stopped")


def _configure(service: Service, journal: JsonLog) -> uvicorn.Config:
    limits = service.limits
    return uvicorn.Config(
        build_application(service, journal),
        http=limit_protocol(limits),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        h11_max_incomplete_event_size=limits.header_bytes,
        timeout_keep_alive=max(1, int(limits.idle_s)),
        timeout_graceful_shutdown=int(limits.time_s) + GRACE_S,
    )


def _open_door(place: ServerAddress) -> socket.socket:
    """Open the socket, which says at once whether the address can be had."""
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    try:
        door = socket.create_server((place.host, place.port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(
            f"{place.host}:{place.port} cannot be listened at: {reason}",
            "Give another --port or --host; --port 0 takes a free one.",
        ) from error
    # asyncio does so only for sockets that were made with the protocol's number; else an answer
    # waits for 40 ms
    door.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # sockets of connections inherit it
    return door


@contextmanager
def _end_quietly() -> Iterator[None]:
    """Let a signal end the server and not the program: uvicorn raises again, after the end, what
    has stopped it.
    """
    try:
        former = {
            number: signal.signal(number, lambda number, frame: None) for number in STOP_SIGNALS
        }
    except ValueError:  # not the main thread: uvicorn leaves signals alone, too
        yield
        return
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextmanager
def _keep_words(journal: JsonLog) -> Iterator[None]:
    """Pass on to the journal what the HTTP server and the event loop say."""
    handler, loggers = JournalHandler(journal), [logging.getLogger(name) for name in LOGGERS]
    former = [(logger, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, propagate in former:
            logger.removeHandler(handler)
            logger.propagate = propagate
