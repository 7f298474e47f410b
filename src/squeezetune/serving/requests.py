"""The body of a request, read into memory within limits, and the files in a form.

Starlette's own reader of forms writes what is above 1 MB to a temporary file; this one hands what
python-multipart's parser finds to memory, which is counted.
"""

import logging
import re
from collections.abc import Callable
from types import TracebackType

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from squeezetune.serving.limits import Limits
from squeezetune.serving.refusals import RequestError

# RFC 2046, 5.1.1
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
PLAIN = (b"7bit", b"8bit", b"binary")  # of Content-Transfer-Encoding: the bytes as they are
# The parser would warn of every damaged form in the server's log, in lines that are no JSON.
SILENT = logging.getLogger("squeezetune.serving.requests")
SILENT.disabled = True
PART_HEADER_BYTES = 8_192
HINT = "Send photos as files of a form: curl -F image=@photo.jpg"


def find_boundary(content_type: str) -> bytes:
    """Return what separates the parts of a form, by the request's Content-Type.

    Raises:
        Refusal: there is none, or none that may be.

    """
    boundary: bytes = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not _BOUNDARY.fullmatch(boundary):
        raise RequestError(
            "bad-request", "The Content-Type of the form names no valid boundary", HINT
        )
    return boundary


class FormReader:
    """Takes the parts of a form from memory as a parser finds them."""

    def __init__(self, most: int) -> None:
        self.parts: list[bytearray] = []
        self.is_whole = False
        self._most, self._name, self._value = most, bytearray(), bytearray()

    def list_callbacks(self) -> dict[str, Callable[..., None]]:
        """Return what the parser calls: without anything, or with data and where in it the piece
        is.
        """
        return {
            "on_part_begin": self._begin,
            "on_part_data": lambda data, start, end: self.parts[-1].extend(data[start:end]),
            "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        if len(self.parts) == self._most:
            raise RequestError(
                "too-many-images",
                f"There are more than {self._most} images; at most {self._most} come in a request",
                "Send the others in further requests.",
            )
        self.parts.append(bytearray())

    def _end_header(self) -> None:
        name, value = bytes(self._name).strip().lower(), bytes(self._value).strip().lower()
        self._name.clear()
        self._value.clear()
        if name == b"content-transfer-encoding" and value not in PLAIN:
            raise RequestError(
                "bad-request",
                "A part of the form is encoded; needed are the bytes as they are",
                HINT,
            )

    def _end(self) -> None:
        self.is_whole = True


def split_form(body: bytes, boundary: bytes, most: int) -> list[bytes]:
    """Return the content of every part of a form, at most `most`.

    Raises:
        Refusal: it is no whole form, a part is encoded, or there are too many.

    """
    delimiter = b"--" + boundary
    found = body.find(b"\r\n" + delimiter)
    if found < 0 and not body.startswith(delimiter):
        raise RequestError(
            "bad-request", "The form is cut short or damaged: its boundary is not in it", HINT
        )
    start = 0 if body.startswith(delimiter) else found + 2  # what stands before is left out
    reader = FormReader(most)
    parser = MultipartParser(boundary, reader.list_callbacks(), max_header_size=PART_HEADER_BYTES)
    parser.logger = SILENT
    try:
        parser.write(body[start:])
    except MultipartParseError as error:
        raise RequestError(
            "bad-request", f"The form is cut short or damaged: {error}", HINT
        ) from error
    if not reader.is_whole:
        raise RequestError("bad-request", "The form is cut short or damaged", HINT)
    return [bytes(part) for part in reader.parts]


FORM = "multipart/form-data"
BINARY = "application/octet-stream"


class BodyBudget:
    """How many bytes the bodies of all requests hold, and may hold."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.held_bytes = 0


class BodyReservation:
    """The part of the room that one request holds, within a `with` block."""

    def __init__(self, room: BodyBudget) -> None:
        self._room = room
        self._bytes = 0

    def add(self, count: int) -> None:
        """Hold more.

        Raises:
            Refusal: there is no room for it.

        """
        if self._room.held_bytes + count > self._room.most_bytes:
            raise RequestError(
                "busy", "Too many requests are being received", "Ask again in a moment."
            )
        self._room.held_bytes += count
        self._bytes += count

    def __enter__(self) -> "BodyReservation":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._room.held_bytes -= self._bytes


def check_head(request: Request, limits: Limits) -> str:
    """Check what the headers say of the body, before any of it is read; return its kind.

    Raises:
        Refusal: it is of a kind that is not taken, or too large.

    """
    kind = request.headers.get("content-type", BINARY).partition(";")[0].strip().lower()
    if not (kind.startswith("image/") or kind in (FORM, BINARY)):
        raise RequestError(
            "wrong-type", f"The Content-Type is none of image/*, {BINARY} and {FORM}", HINT
        )
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise RequestError(
            "wrong-type",
            "The body has a Content-Encoding; needed are the bytes as they are",
            "Photos are compressed already: send the file itself.",
        )
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > limits.body_bytes:
        raise _refuse_size(limits)
    return kind


async def read_images(
    request: Request, kind: str, limits: Limits, hold: BodyReservation
) -> list[bytes]:
    """Read the body and return the images in it, as bytes.

    Raises:
        Refusal: it is too large, empty, or no whole form; the client is gone; there is no room.

    """
    body = bytearray()
    try:
        async for chunk in request.stream():
            if len(body) + len(chunk) > limits.body_bytes:
                raise _refuse_size(limits)
            hold.add(len(chunk))
            body += chunk
    except ClientDisconnect as error:
        raise RequestError("vanished", "The client has closed the connection") from error
    if kind == FORM:
        boundary = find_boundary(request.headers["content-type"])
        hold.add(len(body))  # the parts are copies
        images = split_form(bytes(body), boundary, limits.images)
    else:
        images = [bytes(body)] if body else []
    if not images:
        raise RequestError(
            "bad-request",
            "The request holds no image",
            "Send the bytes of a photo, or a form with files.",
        )
    return images


def _refuse_size(limits: Limits) -> RequestError:
    return RequestError("too-large", f"The body has more than {limits.body_bytes:,} bytes",
                   "Send a smaller photo, or fewer of them at once.")  # fmt: skip
