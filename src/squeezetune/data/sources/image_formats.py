"""Which decoder reads a format of images, what that costs, and the header, which tells both.

It writes a line to the standard error of the process for each damaged file, past Python and its
streams.

Decoders are made directly and on first use: `Image.open` tries one after another, Python's and
those that start other programs among them, and warns of large images.
"""

import ctypes
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import PIL
from PIL import ImageFile

from squeezetune.errors import ImageError
from squeezetune.events import Listener, Notice

# Where Pillow's wheels keep it, from the package's folder; elsewhere the system's own is used.
PLACES = ("../pillow.libs/libtiff*.so*", ".dylibs/libtiff*.dylib")
SYSTEM_NAMES = {
    "linux": ("libtiff.so.6", "libtiff.so.5"),
    "darwin": ("libtiff.6.dylib", "libtiff.5.dylib"),
}
SETTERS = ("TIFFSetErrorHandler", "TIFFSetWarningHandler")


def silence_libtiff() -> None:
    """Take the handlers away that write; where the library is not found, or is part of another, it
    goes on writing.

    What was wrong with an image is told by Pillow's exception all the same.
    """
    for name in _list_candidates():
        try:
            library = ctypes.CDLL(name)  # the one that Pillow has loaded already
            for setter in SETTERS:
                handler = getattr(library, setter)
                handler.restype, handler.argtypes = ctypes.c_void_p, (ctypes.c_void_p,)
                handler(None)
        except (OSError, AttributeError):
            continue
        return


def _list_candidates() -> list[str]:
    package = Path(PIL.__file__).parent
    bundled = [str(path.resolve()) for place in PLACES for path in sorted(package.glob(place))]
    return bundled or list(SYSTEM_NAMES.get(sys.platform, ()))


HEIF_HINT = "pip install 'squeezetune[heif]'"
NEEDS_HEIF = f"its format is HEIC, which an extra reads: {HEIF_HINT}"
NEEDS_PILLOW = "its format is {format}, which this Pillow does not read: pip install -U Pillow"
# What Pillow needs for a pixel in memory, by mode, and for a row.
MODE_BYTES, ROW_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2}, 8
# A file holds this where a picture begins; a JPEG with several is decoded as a whole before its
# first row is there.
JPEG_SCAN = b"\xff\xda"
# Of a JPEG so large it is looked up how many there are; smaller ones are not worth it.
SCANNED_PIXELS = 12_000_000

# Pillow warns of damaged metadata, which do not matter here, from its decoders. A filter is global
# and must not be changed while threads run, so that it is set once; it leaves all other warnings
# alone.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.\w+ImagePlugin")
warnings.filterwarnings("ignore", category=UserWarning, module=r"pi_heif\b")


@dataclass(frozen=True)
class Decoder:
    """A class of a module that reads a format.

    `extra_bytes` is what it takes for a pixel besides the picture itself, measured
    (0022-images.md); `most_pixels` bounds the time where it is slow.
    """

    module: str
    name: str
    extra_bytes: float = 0
    most_pixels: int = 1 << 62
    missing: str = NEEDS_PILLOW
    prepare: Callable[[], None] = lambda: None


DECODERS: Mapping[str, Decoder] = {
    "JPEG": Decoder("PIL.JpegImagePlugin", "JpegImageFile"),
    "PNG": Decoder("PIL.PngImagePlugin", "PngImageFile"),
    "GIF": Decoder("PIL.GifImagePlugin", "GifImageFile"),
    "TIFF": Decoder("PIL.TiffImagePlugin", "TiffImageFile", prepare=silence_libtiff),
    # two canvases and a copy
    "WebP": Decoder("PIL.WebPImagePlugin", "WebPImageFile", extra_bytes=14),
    "BMP": Decoder("PIL.BmpImagePlugin", "BmpImageFile"),
    "AVIF": Decoder("PIL.AvifImagePlugin", "AvifImageFile", extra_bytes=8),
    "HEIC": Decoder("pi_heif.as_plugin", "HeifImageFile", extra_bytes=6, missing=NEEDS_HEIF),
    "JPEG 2000": Decoder("PIL.Jpeg2KImagePlugin", "Jpeg2KImageFile", extra_bytes=16),
    "PNM": Decoder("PIL.PpmImagePlugin", "PpmImageFile"),
    "TGA": Decoder("PIL.TgaImagePlugin", "TgaImageFile"),
}
# Pillow reads some kinds of formats in Python, a microsecond or two a number.
PYTHON_DECODERS, PYTHON_PIXELS = ("ppm", "ppm_plain", "bmp_rle"), 1 << 22


@cache
def _load_decoder(format_name: str) -> Callable[[BytesIO], ImageFile.ImageFile] | None:
    """Load the class that reads a format; None where it, or the library behind it, is not
    installed.
    """
    decoder = DECODERS[format_name]
    try:
        if find_spec(decoder.module.partition(".")[0]) is None:
            return None
        found: Any = import_module(decoder.module)
    except ImportError:
        return None
    decoder.prepare()
    has_library = getattr(found, "SUPPORTED", True)
    return getattr(found, decoder.name) if has_library else None


def open_header(data: bytes, format_name: str) -> ImageFile.ImageFile:
    """Open an image as far as its header; whatever a decoder raises over a damaged one is left as
    it is.

    Raises:
        ImageError: nothing that reads the format is installed.

    """
    make = _load_decoder(format_name)
    if make is None:
        raise ImageError(DECODERS[format_name].missing.format(format=format_name))
    return make(BytesIO(data))


def find_missing(format_name: str) -> str:
    """Say what has to be installed to read a format; nothing where that is there."""
    return (
        ""
        if _load_decoder(format_name)
        else DECODERS[format_name].missing.format(format=format_name)
    )


def find_most_pixels(image: ImageFile.ImageFile, format_name: str) -> int:
    """Find how many pixels of an image's kind are decoded in good time."""
    is_slow = any(tile[0] in PYTHON_DECODERS for tile in image.tile)
    return PYTHON_PIXELS if is_slow else DECODERS[format_name].most_pixels


def count_decoding_bytes(
    image: ImageFile.ImageFile, format_name: str, data: bytes, full: tuple[int, int]
) -> int:
    """Count what decoding an image takes at most besides its file; `full` is its size before it was
    made smaller.
    """
    pixels, whole = image.width * image.height, full[0] * full[1]
    size = (
        pixels * (MODE_BYTES.get(image.mode, 4) + DECODERS[format_name].extra_bytes)
        + ROW_BYTES * image.height
    )
    if format_name == "JPEG" and _has_scans(image, data, whole):
        size += 2 * whole * _count_samples(image)
    if format_name == "TIFF":
        size += _measure_strip(image) + 4 * pixels * _may_be_turned(image)
    return int(size)


def _has_scans(image: ImageFile.ImageFile, data: bytes, pixels: int) -> bool:
    return bool(image.info.get("progressive")) or (
        pixels > SCANNED_PIXELS and data.count(JPEG_SCAN) > 1
    )


def _count_samples(image: Any) -> float:
    """Count the numbers that a JPEG keeps of each pixel: 3, or 1.5 where colours are kept at half
    the size.
    """
    parts = [(part[1], part[2]) for part in image.layer]
    across, down = max(part[0] for part in parts), max(part[1] for part in parts)
    return float(sum(h * v for h, v in parts) / (across * down))


def _may_be_turned(image: Any) -> bool:
    """Say whether Pillow may turn a TIFF, which it does by itself: its own tag, or XMP, says
    how.
    """
    return bool(image.tag_v2.get(274, 1) != 1 or 700 in image.tag_v2)


def _measure_strip(image: Any) -> int:
    """Measure the largest part of a TIFF, which is unpacked as a whole."""
    tags = image.tag_v2
    rows = min(image.height, int(tags.get(278, image.height) or image.height))  # RowsPerStrip
    width = image.width
    if 322 in tags and 323 in tags:  # TileWidth, TileLength
        width, rows = int(tags[322]), int(tags[323])
    bits = tags.get(258, (8,))
    return int(width * rows * sum(bits) / 8)


def tell_missing(reasons: Iterable[str], listen: Listener) -> None:
    """Tell how many photos an extra would read that is not installed."""
    if count := sum(reason == NEEDS_HEIF for reason in reasons):
        were = "photo was" if count == 1 else "photos were"
        listen(Notice(f"{count:,} HEIC {were} skipped: {HEIF_HINT}"))
