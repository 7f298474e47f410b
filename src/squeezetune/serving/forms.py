"""Files in a form (multipart/form-data, RFC 7578), taken from memory: nothing is ever written to the disk."""

import re
from email.message import Message

from squeezetune.serving.refusals import Refusal

# RFC 2046, 5.1.1
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
_ENCODED = re.compile(rb"^content-transfer-encoding:\s*(?!7bit|8bit|binary)", re.IGNORECASE | re.MULTILINE)
PART_HEADER_BYTES = 8_192
HINT = "Send photos as files of a form: curl -F image=@photo.jpg"


def find_boundary(content_type: str) -> bytes:
    """Return what separates the parts of a form, by the request's Content-Type.

    Raises:
        Refusal: there is none, or none that may be.

    """
    header = Message()
    header["content-type"] = content_type
    boundary = header.get_param("boundary")
    if not (isinstance(boundary, str) and _BOUNDARY.fullmatch(boundary)):
        raise Refusal("bad-request", "The Content-Type of the form names no valid boundary", HINT)
    return boundary.encode()


def split_form(body: bytes, boundary: bytes, most: int) -> list[bytes]:
    """Return the content of every part of a form, at most `most`.

    Raises:
        Refusal: it is no whole form, a part is encoded, or there are too many.

    """
    delimiter = b"--" + boundary
    at = 0 if body.startswith(delimiter) else _find(body, b"\r\n" + delimiter, 0) + 2
    parts: list[bytes] = []
    while not body.startswith(b"--", at := at + len(delimiter)):
        if len(parts) == most:
            raise Refusal("too-many-images", f"There are more than {most} images; at most {most} come in a request",
                          "Send the others in further requests.")  # fmt: skip
        start = _skip_headers(body, at)
        end = _find(body, b"\r\n" + delimiter, start)
        parts.append(body[start:end])
        at = end + 2
    return parts


def _skip_headers(body: bytes, at: int) -> int:
    """Return where the content of a part begins; its headers begin behind the delimiter's line, at its end."""
    line = _find(body, b"\r\n", at, PART_HEADER_BYTES)
    if body[at:line].strip(b" \t"):
        raise Refusal("bad-request", "A line of the form begins like its boundary, and is not", HINT)
    end = _find(body, b"\r\n\r\n", line, PART_HEADER_BYTES)
    if _ENCODED.search(body[line:end]):
        raise Refusal("bad-request", "A part of the form is encoded; needed are the bytes as they are", HINT)
    return end + 4


def _find(body: bytes, what: bytes, start: int, reach: int | None = None) -> int:
    found = body.find(what, start, None if reach is None else start + reach)
    if found < 0:
        raise Refusal("bad-request", "The form is cut short or damaged", HINT)
    return found
