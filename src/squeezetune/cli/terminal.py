"""The border to terminals and pipes: every encoding takes what is written, and no name gives a
terminal orders.

People are shown names with escapes in the place of characters that a terminal obeys, or that would
break a line. Programs get their lines in UTF-8, whatever the terminal's encoding is.
"""

import codecs
import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from squeezetune.errors import OutputError

# Control characters, which terminals obey; ends of lines; what turns the order of letters round;
# lone surrogates.
_UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
# What our own words are set in, and how it is written where an encoding lacks it.
_PLAIN = {"–": "-", "…": "...", "×": "x", "✓": "+", "✗": "x", "\u00a0": " "}
ESCAPING = "squeezetune.escaping"


def escape_controls(text: str) -> str:
    r"""Return text that a terminal shows as one line, and that gives it no orders.

    >>> print(escape_controls("rose\x1b[2J\n.jpg"))
    rose\x1b[2J\n.jpg
    """
    return _UNSHOWN.sub(lambda match: _ESCAPES.get(match[0]) or _escape(match[0]), text)


def open_streams() -> None:
    """Make the standard streams fit for use: a closed one leads nowhere, and none fails at what it
    cannot encode.
    """
    _occupy_closed()
    codecs.register_error(ESCAPING, _write_escaped)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115  # for as long as we run
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ESCAPING)


def write_line(text: str) -> None:
    """Write a line for people on standard output.

    Raises:
        OutputError: it cannot be written.

    """
    with guard_output():
        sys.stdout.write(escape_controls(text) + "\n")
        sys.stdout.flush()


def write_data(text: str) -> None:
    """Write a line for programs on standard output: in UTF-8, and as it is but on a terminal.

    Raises:
        OutputError: it cannot be written.

    """
    if sys.stdout.isatty():
        text = "\n".join(map(escape_controls, text.split("\n")))
    payload = f"{text}\n".encode(errors="backslashreplace")
    with guard_output():
        sys.stdout.flush()
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.buffer.write(payload)
        else:  # a program around us collects text
            sys.stdout.write(payload.decode())
        sys.stdout.flush()


def write_remark(text: str) -> None:
    """Write a line on standard error; where that leads nowhere, the work goes on all the same."""
    ErrorStream().write(escape_controls(text) + "\n")


@contextmanager
def guard_output() -> Iterator[None]:
    """Tell of a standard output that cannot be written; a reader who has seen enough is no error.

    Raises:
        OutputError: it cannot be written.

    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        abandon_output()
        raise OutputError(
            f"standard output cannot be written: {error.strerror or error}",
            "Give it another place, or make room.",
        ) from error


def abandon_output() -> None:
    """Lead standard output nowhere, so that what is left of it does not fail once more when Python
    ends.
    """
    with suppress(OSError, ValueError, AttributeError), open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


class ErrorStream:
    """Standard error as it is now, but that nothing fails where it cannot be written."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)

    def write(self, text: str) -> int:
        """Write text, if that can be done."""
        with suppress(OSError, ValueError):
            sys.stderr.write(text)
            sys.stderr.flush()
        return len(text)

    def flush(self) -> None:
        """Write what waits, if that can be done."""
        with suppress(OSError, ValueError):
            sys.stderr.flush()


def open_error_stream() -> TextIO:
    """Return standard error for a library that writes on streams."""
    stream: Any = ErrorStream()
    return stream  # type: ignore[no-any-return]


def _occupy_closed() -> None:
    """Fill the places of closed standard streams: else the next file that is opened is taken for
    one of them.
    """
    while (place := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(place, True)
    os.close(place)


def _write_escaped(error: UnicodeError) -> tuple[str, int]:
    """Replace what an encoding lacks, as `codecs.register_error` asks for it."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_PLAIN.get(character) or _escape(character) for character in lacking), error.end


def _escape(character: str) -> str:
    number = ord(character)
    return (
        f"\\x{number:02x}"
        if number < 256
        else character.encode("ascii", "backslashreplace").decode()
    )
