"""Ctrl-C as people expect of training: once to stop early with the best model so far, twice to stop
at once.

SIGTERM, which a cluster, a container or systemd sends some ten to ninety seconds before it kills,
is taken like a first Ctrl-C, however often it comes. Only the handlers that Python itself starts
with are replaced: a signal that is ignored, or that the program around us handles in its own way,
is left to it.
"""

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

from squeezetune.events import Event, Listener, Notice

STOPPING = (
    "Stopping after this step and finishing with the best model so far; press Ctrl-C again to stop "
    "at once. Either way the same command with --resume goes on with the training."
)
# The signals that ask for a stop, and what Python does about each by default.
DEFAULTS = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


class Stopped(Exception):  # noqa: N818  # nothing went wrong
    """Leaves a piece of work that a request to stop makes superfluous."""


class Interruption:
    """A request to stop, which may come at any time; the object is itself the handler of the
    signals.
    """

    def __init__(self, listen: Listener) -> None:
        self._listen = listen
        self._is_told = False
        self.is_requested = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: only a flag is set, since the code that was interrupted may hold the
        listener's lock.
        """
        if self.is_requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.is_requested = True

    def poll(self) -> bool:
        """Say whether a stop is requested, and tell the listener so the first time; for each step
        of a loop.
        """
        if self.is_requested and not self._is_told:
            self._is_told = True
            self._listen(Notice(STOPPING))
        return self.is_requested

    def tell(self, event: Event) -> None:
        """Tell the listener of an event, and leave the work that it comes from where a stop is
        requested.

        Raises:
            Stopped: a stop is requested.

        """
        self._listen(event)
        if self.poll():
            raise Stopped


@contextmanager
def catch_interrupts(listen: Listener) -> Iterator[Interruption]:
    """Turn the first Ctrl-C within the block into a request to stop; the former handlers come back
    at its end.

    Within another such block the outer one's interruption is given, so that one Ctrl-C stops both.
    Outside the main thread, where Python sets no handlers, nothing changes and no stop is ever
    requested.

    >>> with catch_interrupts(print) as interruption:
    ...     for step in range(1000):
    ...         signal.raise_signal(signal.SIGTERM)     # someone asks for a stop
    ...         if interruption.poll():
    ...             break
    Notice(message='Stopping after this step ...
    >>> step
    0

    """
    outer = signal.getsignal(signal.SIGINT)
    if isinstance(outer, Interruption):
        yield outer
        return
    interruption = Interruption(listen)
    with ExitStack() as former:
        for number, default in DEFAULTS.items():
            if signal.getsignal(number) == default and _set_handler(number, interruption):
                former.callback(signal.signal, number, default)
        yield interruption


def _set_handler(number: signal.Signals, handler: Interruption) -> bool:
    """Set a handler and say whether that can be done here."""
    try:
        signal.signal(number, handler)
    except (ValueError, OSError):  # not the main thread, or a system without this signal
        return False
    return True
