"""What an image is made of: how its format is recognised, and how its content is told from others."""

import hashlib
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from squeezetune.errors import ImageError

# One image as it was found: the bytes of a file, a Pillow image, or an array (h, w), (h, w, 1), (h, w, 3)
# or (h, w, 4) of uint8.
RawImage: TypeAlias = bytes | Image.Image | NDArray[np.uint8]

DIGEST_BYTES = 16
FORMATS = "JPEG, PNG, WebP, BMP, GIF and TIFF"
# What the first bytes of a file say. BMP and WebP need a second look.
_MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",  # BigTIFF
    b"MM\0+": "TIFF",
}
_BMP_HEADER_BYTES = (12, 16, 40, 52, 56, 64, 108, 124)  # "BM" alone begins many a text
# Images that are recognised only to say what they are; the key stands at the offset.
_FOREIGN = {
    (4, b"ftyphei"): "HEIC",
    (4, b"ftyphev"): "HEIC",
    (4, b"ftypmif1"): "HEIC",
    (4, b"ftypavi"): "AVIF",
    (4, b"jP  "): "JPEG 2000",
    (4, b"JXL "): "JPEG XL",
    (0, b"\xff\x0a"): "JPEG XL",
    (0, b"8BPS"): "Photoshop",
    (0, b"%PDF"): "PDF",
}


def recognise_format(head: bytes) -> str:
    """Name the format of an image by its first 32 bytes.

    Raises:
        ImageError: it is in none of the formats that are read; the message says what it is instead.

    """
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_BYTES:
        return "BMP"
    if not head:
        raise ImageError("the file is empty")
    for (offset, magic), name in _FOREIGN.items():
        if head.startswith(magic, offset):
            raise ImageError(f"its format is {name}, which is not read; save it as JPEG")
    raise ImageError(f"not an image; {FORMATS} are read")


def hash_image(image: RawImage) -> bytes:
    """Return the digest of an image in memory: of its bytes, or of its shape or mode, size and pixels.

    Raises:
        ImageError: bytes of no known format, no image array, or a Pillow image that cannot be decoded.

    """
    if isinstance(image, bytes):
        recognise_format(image[:32])
        return hashlib.blake2b(image, digest_size=DIGEST_BYTES).digest()
    if isinstance(image, Image.Image):
        try:
            content, shape = image.tobytes(), (image.mode, image.size, image.getpalette())
        except Exception as error:  # a lazily opened image is decoded here, and decoders raise nearly anything
            raise ImageError(f"it cannot be decoded: {error}") from error
    else:
        content, shape = check_array(image).tobytes(), ("array", image.shape, None)
    state = hashlib.blake2b(repr(shape).encode(), digest_size=DIGEST_BYTES)
    state.update(content)
    return state.digest()


def check_array(image: object) -> NDArray[np.uint8]:
    """Return the array if it is an image: uint8, (h, w), (h, w, 1), (h, w, 3) or (h, w, 4), and not empty.

    Raises:
        ImageError: it is something else.

    """
    if not isinstance(image, np.ndarray):
        raise ImageError(f"a {type(image).__name__}; needed is a path, bytes, a Pillow image or an array")
    if image.dtype != np.uint8:
        raise ImageError(f"an array of {image.dtype}; needed is uint8, 0 to 255")
    if image.ndim not in (2, 3) or image.shape[2:] not in ((), (1,), (3,), (4,)) or 0 in image.shape:
        raise ImageError(f"an array of shape {image.shape}; needed is (h, w) or (h, w, 1, 3 or 4)")
    return image
