"""Files in a form (multipart/form-data, RFC 7578), taken from memory: nothing is ever written to the disk."""

import logging
import re
from collections.abc import Callable
from email.message import Message

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser

from squeezetune.serving.refusals import Refusal

# RFC 2046, 5.1.1
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
PLAIN = (b"7bit", b"8bit", b"binary")  # of Content-Transfer-Encoding: the bytes as they are
# The parser would warn of every damaged form in the server's log, in lines that are no JSON.
SILENT = logging.getLogger("squeezetune.serving.forms")
SILENT.disabled = True
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


class FormReader:
    """Takes the parts of a form from memory as a parser finds them."""

    def __init__(self, most: int) -> None:
        self.parts: list[bytearray] = []
        self.is_whole = False
        self._most, self._name, self._value = most, bytearray(), bytearray()

    def list_callbacks(self) -> dict[str, Callable[..., None]]:
        """Return what the parser calls: without anything, or with data and where in it the piece is."""
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
            raise Refusal("too-many-images", f"There are more than {self._most} images; at most {self._most} come in a "
                          "request", "Send the others in further requests.")  # fmt: skip
        self.parts.append(bytearray())

    def _end_header(self) -> None:
        name, value = bytes(self._name).strip().lower(), bytes(self._value).strip().lower()
        self._name.clear()
        self._value.clear()
        if name == b"content-transfer-encoding" and value not in PLAIN:
            raise Refusal("bad-request", "A part of the form is encoded; needed are the bytes as they are", HINT)

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
        raise Refusal("bad-request", "The form is cut short or damaged: its boundary is not in it", HINT)
    start = 0 if body.startswith(delimiter) else found + 2  # what stands before is left out
    reader = FormReader(most)
    parser = MultipartParser(boundary, reader.list_callbacks(), max_header_size=PART_HEADER_BYTES)
    parser.logger = SILENT
    try:
        parser.write(body[start:])
    except MultipartParseError as error:
        raise Refusal("bad-request", f"The form is cut short or damaged: {error}", HINT) from error
    if not reader.is_whole:
        raise Refusal("bad-request", "The form is cut short or damaged", HINT)
    return [bytes(part) for part in reader.parts]
