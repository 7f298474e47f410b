"""What is behind a name: a file's bytes or an image in memory, its format, and its digest."""

import hashlib
import re
import threading
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from squeezetune.data.sources.image_formats import find_missing
from squeezetune.data.sources.orientation import find_orientation
from squeezetune.errors import ImageError

# An image has always the same one; different ones hardly ever share. A lock for each would have to
# be kept somewhere.
_LOCKS = tuple(threading.Lock() for _ in range(61))


def load_image(image: Image.Image) -> Image.Image:
    """Decode a Pillow image that was opened and not yet read; safe to call from many threads with
    the same image.

    Raises:
        ImageError: it cannot be decoded, or has no pixels.

    """
    if 0 in image.size:
        raise ImageError(f"an image of {image.width} x {image.height} pixels")
    with _LOCKS[id(image) // 16 % len(_LOCKS)]:  # threads would move about in its file
        try:
            image.load()
        except Exception as error:  # decoders raise nearly anything over a damaged file
            raise ImageError(f"it cannot be decoded: {error}") from error
    return image


# One image as it was found: the bytes of a file, a Pillow image, or an array (h, w), (h, w, 1), (h,
# w, 3) or (h, w, 4) of uint8.
RawImage: TypeAlias = bytes | Image.Image | NDArray[np.uint8]

DIGEST_BYTES = 16
HEAD_BYTES = 64  # that tell the format of an image
FORMATS = "JPEG, PNG, WebP, AVIF, GIF, TIFF, BMP, JPEG 2000, PNM and TGA, with an extra HEIC"
# Endings of files in these formats. What an image is in is told by its content alone.
ENDINGS = (
    "jpg",
    "jpeg",
    "jpe",
    "jfif",
    "png",
    "apng",
    "webp",
    "avif",
    "gif",
    "tif",
    "tiff",
    "bmp",
    "dib",
    "jp2",
    "j2k",
    "jpf",
    "jpx",
    "pnm",
    "pbm",
    "pgm",
    "ppm",
    "pfm",
    "tga",
    "heic",
    "heif",
    "hif",
)

_BMP_HEADER_BYTES = (12, 16, 40, 52, 56, 64, 108, 124)  # "BM" alone begins many a text
_PNM = re.compile(rb"P[1-6f]\s+(#[^\r\n]*([\r\n]\s*|$))*(\d|-|$)")  # "P1 " alone does, too


def _is_bmp(head: bytes) -> bool:
    return head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_BYTES


def _find_brand(head: bytes) -> bytes:
    """Find what a file of ISO's base media format says that it is: photo, photos or video."""
    if head[4:8] != b"ftyp":
        return b""
    brand, compatible = head[8:12], head[16 : int.from_bytes(head[:4], "big")]
    # mif1 and msf1 are any images in such a file: AVIF's if it says so further on
    return b"avif" if brand in (b"mif1", b"msf1") and b"avif" in compatible else brand


def _is_avif(head: bytes) -> bool:
    return _find_brand(head) in (b"avif", b"avis")


def _is_heic(head: bytes) -> bool:
    return _find_brand(head) in (
        b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1",
    )  # fmt: skip


def _is_tga(head: bytes) -> bool:
    """Say whether the first bytes are a header of Truevision's, which begins with no word of its
    own.

    Colours in a table (kinds 1 and 9) need a table, and the others have its fields empty; the
    specification leaves no other number of bits, and no bits for interleaving.
    """
    if len(head) < 18:
        return False
    has_table, kind, depth, flags = head[1], head[2], head[16], head[17]
    if kind in (1, 9):
        is_sound = (
            has_table == 1 and depth == 8 and head[7] in (16, 24, 32) and head[5:7] != b"\0\0"
        )
    elif kind in (2, 10):
        is_sound = has_table == 0 and depth in (16, 24, 32) and not any(head[3:8])
    else:
        is_sound = kind in (3, 11) and has_table == 0 and depth in (8, 16) and not any(head[3:8])
    return is_sound and not flags & 0xC0 and head[12:14] != b"\0\0" and head[14:16] != b"\0\0"


def _starts_with(*magic: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(magic)


# By name, in this order; TGA last, since hardly anything is certain of it.
_READ: Mapping[str, Callable[[bytes], bool]] = {
    "JPEG": _starts_with(b"\xff\xd8\xff"),
    "PNG": _starts_with(b"\x89PNG\r\n\x1a\n"),
    "GIF": _starts_with(b"GIF87a", b"GIF89a"),
    "TIFF": _starts_with(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),  # with + it is BigTIFF
    "WebP": lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP",
    "BMP": _is_bmp,
    "AVIF": _is_avif,
    "HEIC": _is_heic,
    "JPEG 2000": _starts_with(b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
    "PNM": lambda head: _PNM.match(head) is not None,
    "TGA": _is_tga,
}
# What is recognised only to say what it is. Nothing that holds programs, or that Pillow gives to
# other programs, is read (PDF, EPS, SVG), no layers, and no raw data of a camera.
_FOREIGN: Mapping[str, Callable[[bytes], bool]] = {
    "JPEG XL": _starts_with(b"\0\0\0\x0cJXL ", b"\xff\x0a"),
    "Photoshop": _starts_with(b"8BPS"),
    "PDF": _starts_with(b"%PDF"),
    "EPS": _starts_with(b"%!PS", b"\xc5\xd0\xd3\xc6"),
    "SVG": lambda head: b"<svg" in head,
    "Canon's CR3": lambda head: _find_brand(head) == b"crx ",
    "video": lambda head: (
        head[4:8] == b"ftyp" or head[:4] == b"\x1a\x45\xdf\xa3" or head[8:12] == b"AVI "
    ),
}


def recognise_format(head: bytes) -> str:
    """Name the format of an image by its first 64 bytes.

    Raises:
        ImageError: it is in none of the formats that are read; the message says what it is instead.

    """
    for name, is_it in _READ.items():
        if is_it(head):
            if missing := find_missing(name):
                raise ImageError(missing)
            return name
    if not head:
        raise ImageError("the file is empty")
    for name, is_it in _FOREIGN.items():
        if is_it(head):
            raise ImageError(f"its format is {name}, which is not read; save it as JPEG")
    raise ImageError(f"not an image; {FORMATS} are read")


def hash_image(image: RawImage) -> bytes:
    """Return the digest of an image in memory: of its bytes, or of all that its picture depends on.

    That is shape or mode, size, colours and pixels, what is transparent, and which side is up.

    Raises:
        ImageError: bytes of no known format, no image array, or a Pillow image that cannot be
            decoded.

    """
    if isinstance(image, bytes):
        recognise_format(image[:HEAD_BYTES])
        return hash_bytes(image)
    if isinstance(image, Image.Image):
        content = load_image(image).tobytes()
        shape = (image.mode, image.size, image.getpalette(None), image.info.get("transparency"),
                 find_orientation(image.info))  # fmt: skip
    else:
        array = check_array(image)
        content, shape = array.tobytes(), ("array", array.shape, None, None, 1)
    state = hashlib.blake2b(repr(shape).encode(), digest_size=DIGEST_BYTES)
    state.update(content)
    return state.digest()


def hash_bytes(data: bytes) -> bytes:
    """Return the digest of the bytes of a file."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


def check_array(image: object) -> NDArray[np.uint8]:
    """Return the array if it is an image: uint8, (h, w), (h, w, 1), (h, w, 3) or (h, w, 4), and not
    empty.

    Raises:
        ImageError: it is something else.

    """
    if not isinstance(image, np.ndarray):
        raise ImageError(
            f"a {type(image).__name__}; needed is a path, bytes, a Pillow image or an array"
        )
    if image.dtype != np.uint8:
        raise ImageError(f"an array of {image.dtype}; needed is uint8, 0 to 255")
    if (
        image.ndim not in (2, 3)
        or image.shape[2:] not in ((), (1,), (3,), (4,))
        or 0 in image.shape
    ):
        raise ImageError(f"an array of shape {image.shape}; needed is (h, w) or (h, w, 1, 3 or 4)")
    return image
