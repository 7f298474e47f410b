"""Which side of a photo is up, wherever its file says so, and how it is turned."""

import re
import struct
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from PIL import Image


class Turn(NamedTuple):
    """How to turn an image upright: what to do, and to which sides its first column and row then
    move.
    """

    method: Image.Transpose
    is_sideways: bool
    to_right: bool
    to_bottom: bool


TURNS = {  # by the orientation
    2: Turn(Image.Transpose.FLIP_LEFT_RIGHT, False, True, False),
    3: Turn(Image.Transpose.ROTATE_180, False, True, True),
    4: Turn(Image.Transpose.FLIP_TOP_BOTTOM, False, False, True),
    5: Turn(Image.Transpose.TRANSPOSE, True, False, False),
    6: Turn(Image.Transpose.ROTATE_270, True, True, False),
    7: Turn(Image.Transpose.TRANSVERSE, True, True, True),
    8: Turn(Image.Transpose.ROTATE_90, True, False, True),
}
ORIENTATION_TAG = 0x0112
UPRIGHT = 1
# As `ImageOps.exif_transpose` finds it, so that programs of others which use that turn a photo as
# we do.
_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_XMP_KEYS = ("XML:com.adobe.xmp", "xmp")  # of PNG, a text; of the others, bytes
_RAW_PROFILE = (
    "Raw profile type exif"  # ImageMagick's: lines of hexadecimal digits in a text of a PNG
)


def find_orientation(info: Mapping[Any, Any]) -> int:
    """Find the orientation, 1 to 8, that what Pillow calls the `info` of an image gives; 1 where
    there is none.

    EXIF data go before XMP. Damaged ones are as none.
    """
    if not info:
        return UPRIGHT
    exif = info.get("exif")
    found = read_orientation(_read_raw_profile(info) if exif is None else exif)
    if found is None:
        found = _read_xmp(info)
    return found if found in TURNS else UPRIGHT


def read_orientation(exif: object) -> int | None:
    """Read the orientation in EXIF data; None where they have none or are damaged.

    Pillow's reader would read all tags, and warn of damaged ones.
    """
    if not isinstance(exif, bytes):
        return None
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return None
    try:
        return next(
            (value for tag, value in _list_tags(tiff, order) if tag == ORIENTATION_TAG), None
        )
    except struct.error:
        return None


def _list_tags(tiff: bytes, order: str) -> Iterator[tuple[int, int]]:
    """Yield the number and the first 16 bits of the value of each tag of the first directory."""
    (start,) = struct.unpack_from(f"{order}I", tiff, 4)
    (count,) = struct.unpack_from(f"{order}H", tiff, start)
    for row in range(count):
        tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, start + 2 + 12 * row)
        yield tag, value


def _read_raw_profile(info: Mapping[Any, Any]) -> bytes | None:
    text = info.get(_RAW_PROFILE)
    try:
        return bytes.fromhex("".join(text.split("\n")[3:])) if isinstance(text, str) else None
    except ValueError:
        return None


def _read_xmp(info: Mapping[Any, Any]) -> int | None:
    for key in _XMP_KEYS:
        if text := info.get(key):
            found = _XMP.search(
                text.encode(errors="replace") if isinstance(text, str) else bytes(text)
            )
            return int(found[1]) if found else None
    return None
