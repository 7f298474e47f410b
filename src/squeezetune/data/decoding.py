"""From one image as it was found to upright RGB: any mode, any orientation, and a plain reason where it fails."""

import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from squeezetune.data.content import RawImage, check_array, recognise_format
from squeezetune.errors import ImageError

Size = tuple[int, int]  # width, height
Box = tuple[float, float, float, float]  # left, top, right, bottom

# Of large images at least a byte must stand for so many pixels; a blank page of one bit a pixel has 8,256 as a PNG.
PIXELS_A_BYTE, BLANK_PIXELS = 10_000, 1 << 24
# Where Pillow refuses by default, twice the number at which it warns: 13,377 x 13,377 pixels, 0.7 GB decoded.
MAX_PIXELS = 178_956_970
# A large JPEG is decoded at 1/2, 1/4 or 1/8, but never below this multiple of the side that is asked for.
# Against full decoding the resized pixels differ by 0.1 to 0.5 grey levels on average with 2, by 0.6 to 1.2 with 1
# (47 photos of 256 to 1,411 px, made 32 to 224 px large; the worst photo by 1.7 and 3.4).
DRAFT_HEADROOM = 2
# What a pixel takes while it is decoded: four bytes for transparency or 16 bits, and four more for a copy.
BYTES_A_PIXEL = 8
# A deep image is reduced to 8 bits in strips: as a whole its numbers would take three times eight bytes a pixel.
STRIP_ROWS = 64

# Made directly, since `Image.open` tries one decoder after another and warns of large images.
DECODERS: dict[str, Callable[[BytesIO], ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
}


class Turn(NamedTuple):
    """How to turn an image upright: what to do, and to which sides its first column and row then move."""

    method: Image.Transpose
    is_sideways: bool
    to_right: bool
    to_bottom: bool


TURNS = {  # by the EXIF orientation
    2: Turn(Image.Transpose.FLIP_LEFT_RIGHT, False, True, False),
    3: Turn(Image.Transpose.ROTATE_180, False, True, True),
    4: Turn(Image.Transpose.FLIP_TOP_BOTTOM, False, False, True),
    5: Turn(Image.Transpose.TRANSPOSE, True, False, False),
    6: Turn(Image.Transpose.ROTATE_270, True, True, False),
    7: Turn(Image.Transpose.TRANSVERSE, True, True, True),
    8: Turn(Image.Transpose.ROTATE_90, True, False, True),
}
ORIENTATION_TAG = 0x0112
# What a decoder's message means, the first match; None of these: the message itself.
REASONS = {
    "truncated": "the file is cut short",
    "not enough": "the file is cut short",
    "broken": "the image data are damaged",
    "not support": "this kind of {format} is not supported",
    "unsupported": "this kind of {format} is not supported",
    "unknown": "this kind of {format} is not supported",
}

# Pillow warns of damaged metadata, which do not matter here, from its decoders. A filter is global and must
# not be changed while threads run, so that it is set once; it leaves all other warnings alone.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.(Jpeg|Png|Tiff)ImagePlugin")


@dataclass(frozen=True)
class Photo:
    """An upright RGB image, perhaps reduced, and the size (width, height) that it has in full.

    `box` is where the picture is: a decoder that reduces rounds the sides up, and leaves part of a pixel empty.
    """

    image: Image.Image
    size: Size
    box: Box


def open_image(raw: RawImage, min_side: int = 0, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an image to RGB, upright, its first frame only; transparency becomes white.

    With `min_side`, a large JPEG may come smaller, but with both sides of twice `min_side` at least: faster,
    and nearly the same once it is resized. Safe to call from many threads.

    Raises:
        ImageError: it is no image, damaged, of more than `max_pixels` pixels or of an unsupported kind; the
            message is the reason alone.

    """
    return decode_photo(raw, min_side, max_pixels).image


def read_size(raw: RawImage) -> Size:
    """Return width and height as the image's header has them, not turned; nothing is decoded.

    Raises:
        ImageError: it is no image, or its header is damaged.

    """
    if not isinstance(raw, bytes):
        return raw.size if isinstance(raw, Image.Image) else (raw.shape[1], raw.shape[0])
    name = recognise_format(raw[:32])
    try:
        return DECODERS[name](BytesIO(raw)).size
    except Exception as error:  # decoders raise nearly anything over a damaged file
        raise ImageError(_explain(error, name)) from error


def estimate_memory(raw: RawImage, min_side: int = 0) -> int:
    """Estimate from the header how many bytes decoding an image as `open_image` does takes at most.

    Raises:
        ImageError: it is no image, or its header is damaged.

    """
    if not isinstance(raw, bytes):
        return BYTES_A_PIXEL * int(np.prod(read_size(raw)))
    name = recognise_format(raw[:32])
    try:
        image = DECODERS[name](BytesIO(raw))
        # a progressive JPEG is held as coefficients, 2 bytes for each of three colours, until its last pass is read
        coefficients = 6 * image.width * image.height if image.info.get("progressive") else 0
        if min_side:
            image.draft("RGB", (DRAFT_HEADROOM * min_side, DRAFT_HEADROOM * min_side))
        return len(raw) + coefficients + BYTES_A_PIXEL * image.width * image.height
    except Exception as error:  # decoders raise nearly anything over a damaged file
        raise ImageError(_explain(error, name)) from error


def decode_photo(raw: RawImage, min_side: int = 0, max_pixels: int = MAX_PIXELS) -> Photo:
    """Decode an image as `open_image` does, and keep its full size."""
    name = recognise_format(raw[:32]) if isinstance(raw, bytes) else "image"
    try:
        photo = _decode_file(raw, name, min_side, max_pixels) if isinstance(raw, bytes) else _take_image(raw)
        # a TIFF has been turned by Pillow, and has its tags elsewhere
        turn = TURNS.get(read_orientation(photo.image.info.get("exif", b"")))
        photo = replace(photo, image=_to_rgb(photo.image))
        return photo if turn is None else _turn_photo(photo, turn)
    except ImageError:
        raise
    except Exception as error:  # decoders raise nearly anything over a damaged file
        raise ImageError(_explain(error, name)) from error


def _decode_file(data: bytes, name: str, min_side: int, max_pixels: int) -> Photo:
    """Decode the bytes of a file, in its own mode and not yet turned."""
    image = DECODERS[name](BytesIO(data))
    _check_size(image.size, max_pixels)
    _check_density(image.size, len(data))
    size = image.size
    reach = DRAFT_HEADROOM * min_side
    reduced = image.draft("RGB", (reach, reach)) if min_side else None
    image.load()
    if reduced:
        return Photo(image, size, reduced[1])
    return Photo(image, image.size, (0, 0, *image.size))  # a TIFF on its side has its size only now


def _take_image(raw: Image.Image | NDArray[np.uint8]) -> Photo:
    """Return what is already in memory, which is never changed."""
    if isinstance(raw, Image.Image):
        _check_size(raw.size, MAX_PIXELS)
        raw.load()
        return Photo(raw, raw.size, (0, 0, *raw.size))
    array = check_array(raw)
    image = Image.fromarray(array[:, :, 0] if array.shape[2:] == (1,) else array)
    return Photo(image, image.size, (0, 0, *image.size))


def _turn_photo(photo: Photo, turn: Turn) -> Photo:
    """Turn a photo upright; its picture may then be away from the upper left corner."""
    image, size = photo.image.transpose(turn.method), photo.size
    width, height = photo.box[2:]
    if turn.is_sideways:
        size, width, height = size[::-1], height, width
    left = image.width - width if turn.to_right else 0
    top = image.height - height if turn.to_bottom else 0
    return Photo(image, size, (left, top, left + width, top + height))


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageError(f"{width:,} x {height:,} pixels; at most {max_pixels:,} pixels are read")


def _check_density(size: tuple[int, int], file_bytes: int) -> None:
    """Refuse a bomb: a file of a thousand bytes that would take a gigabyte and many seconds."""
    pixels = size[0] * size[1]
    if pixels > max(BLANK_PIXELS, PIXELS_A_BYTE * file_bytes):
        raise ImageError(f"{pixels:,} pixels in {file_bytes:,} bytes: blank, or made to use up memory")


def _explain(error: Exception, name: str) -> str:
    """Say in words why a decoder failed."""
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    message = str(error).lower()
    for part, reason in REASONS.items():
        if part in message:
            return reason.format(format=name)
    return f"the image data are damaged ({message or type(error).__name__})"


def read_orientation(exif: bytes) -> int:
    """Return the orientation that EXIF data give, 1 to 8; 1 where there are none or they are damaged.

    Pillow's reader would read all tags, and warn of damaged ones.
    """
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        entries = (struct.unpack_from(f"{order}HHIH", tiff, start + 2 + 12 * row) for row in range(count))
        found: int = next((value for tag, _, _, value in entries if tag == ORIENTATION_TAG), 1)
    except struct.error:
        return 1
    return found if 1 <= found <= 8 else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        return _reduce_depth(np.asarray(image)).convert("RGB")
    if image.has_transparency_data:
        canvas = Image.new("RGBA", image.size, "white")
        canvas.alpha_composite(image.convert("RGBA"))
        return canvas.convert("RGB")
    return image.convert("RGB")


def _reduce_depth(values: NDArray[np.generic]) -> Image.Image:
    """Return a grey image of 8 bits from one of 16 or 32 bits or of floats, (h, w).

    16 bits are scaled from their full range, and so are 32 bits that fit into 16. Floats are taken as 0 to 1
    or 0 to 255 if they all lie there. Anything else is scaled from its lowest to its highest value.
    """
    strips = [values[top : top + STRIP_ROWS] for top in range(0, len(values), STRIP_ROWS)]
    ends = [(float(real.min()), float(real.max())) for real in map(_to_real, strips)]
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    tops = (1, 255) if values.dtype.kind == "f" else (65535,)
    fitting = [top for top in tops if low >= 0 and high <= top]
    if fitting:
        low, high = 0, fitting[0]
    reduced = np.empty(values.shape, np.uint8)
    for top, strip in enumerate(strips):
        scaled = (_to_real(strip) - low) / (high - low if high > low else 1) * 255
        reduced[top * STRIP_ROWS : (top + 1) * STRIP_ROWS] = np.rint(scaled)
    return Image.fromarray(reduced)


def _to_real(values: NDArray[np.generic]) -> NDArray[np.float64]:
    real: NDArray[np.float64] = np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0)
    return real
