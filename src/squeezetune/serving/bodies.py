"""The body of a request, read into memory within limits."""

from types import TracebackType

from starlette.requests import ClientDisconnect, Request

from squeezetune.serving.forms import HINT, find_boundary, split_form
from squeezetune.serving.limits import Limits
from squeezetune.serving.refusals import Refusal

FORM = "multipart/form-data"
BINARY = "application/octet-stream"


class Room:
    """How many bytes the bodies of all requests hold, and may hold."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.held_bytes = 0


class Hold:
    """The part of the room that one request holds, within a `with` block."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._bytes = 0

    def add(self, count: int) -> None:
        """Hold more.

        Raises:
            Refusal: there is no room for it.

        """
        if self._room.held_bytes + count > self._room.most_bytes:
            raise Refusal("busy", "Too many requests are being received", "Ask again in a moment.")
        self._room.held_bytes += count
        self._bytes += count

    def __enter__(self) -> "Hold":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._room.held_bytes -= self._bytes


def check_head(request: Request, limits: Limits) -> str:
    """Check what the headers say of the body, before any of it is read; return its kind.

    Raises:
        Refusal: it is of a kind that is not taken, or too large.

    """
    kind = request.headers.get("content-type", BINARY).partition(";")[0].strip().lower()
    if not (kind.startswith("image/") or kind in (FORM, BINARY)):
        raise Refusal("wrong-type", f"The Content-Type is none of image/*, {BINARY} and {FORM}", HINT)
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refusal("wrong-type", "The body has a Content-Encoding; needed are the bytes as they are",
                      "Photos are compressed already: send the file itself.")  # fmt: skip
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > limits.body_bytes:
        raise _refuse_size(limits)
    return kind


async def read_images(request: Request, kind: str, limits: Limits, hold: Hold) -> list[bytes]:
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
        raise Refusal("vanished", "The client has closed the connection") from error
    if kind == FORM:
        boundary = find_boundary(request.headers["content-type"])
        hold.add(len(body))  # the parts are copies
        images = split_form(bytes(body), boundary, limits.images)
    else:
        images = [bytes(body)] if body else []
    if not images:
        raise Refusal("bad-request", "The request holds no image", "Send the bytes of a photo, or a form with files.")
    return images


def _refuse_size(limits: Limits) -> Refusal:
    return Refusal("too-large", f"The body has more than {limits.body_bytes:,} bytes",
                   "Send a smaller photo, or fewer of them at once.")  # fmt: skip
