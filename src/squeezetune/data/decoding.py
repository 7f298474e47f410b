"""An image's bytes -> upright RGB pixels, with as little memory as its size needs."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from squeezetune.data.reading import DECODING
from squeezetune.data.sources.content import (
    HEAD_BYTES,
    RawImage,
    check_array,
    load_image,
    recognise_format,
)
from squeezetune.data.sources.image_formats import (
    count_decoding_bytes,
    find_most_pixels,
    open_header,
)
from squeezetune.data.sources.orientation import TURNS, Turn, find_orientation
from squeezetune.errors import ImageError
from squeezetune.system.monitor import release_memory

# A deep image is looked at in strips: as a whole its numbers would take three times eight bytes a
# pixel.
STRIP_ROWS = 64
# What whole numbers may reach: those of 8 and 12 bits are often kept in 16, and would have 1 and 16
# levels left there.
WHOLE_TOPS = (255, 4095, 65535)
REAL_TOPS = (1, 255)


class Levels(NamedTuple):
    """The numbers that become black and white."""

    black: float
    white: float


def is_deep(image: Image.Image) -> bool:
    """Say whether the image is grey with more than 8 bits, or with floats."""
    return image.mode == "F" or image.mode.startswith("I")


def find_levels(image: Image.Image) -> Levels:
    """Find what is black and white in a deep image.

    Whole numbers of at most 16 bits begin with 0 and end with the most that 8, 12 or 16 bits hold,
    whichever is enough: a dark image stays dark unless hardly a level would be left of it. Floats
    are taken as 0 to 1 or 0 to 255 if they all lie there. Anything else is scaled from its lowest
    to its highest number.
    """
    ends = []
    for top in range(0, image.height, STRIP_ROWS):
        real = _to_real(_cut_strip(image, top))
        ends.append((float(real.min()), float(real.max())))
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    fitting = [
        top for top in (REAL_TOPS if image.mode == "F" else WHOLE_TOPS) if low >= 0 and high <= top
    ]
    return Levels(0, fitting[0]) if fitting else Levels(low, high)


def reduce_depth(image: Image.Image, levels: Levels) -> Image.Image:
    """Return a deep image with 8 bits."""
    reduced = np.empty((image.height, image.width), np.uint8)
    span = levels.white - levels.black if levels.white > levels.black else 1
    for top in range(0, image.height, STRIP_ROWS):
        scaled = (_to_real(_cut_strip(image, top)) - levels.black) / span * 255
        reduced[top : top + STRIP_ROWS] = np.rint(scaled)
    return Image.fromarray(reduced)


def _cut_strip(image: Image.Image, top: int) -> NDArray[np.generic]:
    return np.asarray(image.crop((0, top, image.width, min(image.height, top + STRIP_ROWS))))


def _to_real(values: NDArray[np.generic]) -> NDArray[np.float64]:
    real: NDArray[np.float64] = np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0)
    return real


Size = tuple[int, int]  # width, height
Box = tuple[float, float, float, float]  # left, top, right, bottom

# Of large images at least a byte must stand for so many pixels; a blank page of one bit a pixel has
# 8,256 as a PNG.
PIXELS_A_BYTE, BLANK_PIXELS = 10_000, 1 << 24
# Where Pillow refuses by default, twice the number at which it warns: 13,377 x 13,377 pixels.
MAX_PIXELS = 178_956_970
# No JPEG is longer. What makes images smaller takes memory for each pixel of a side: ONNX Runtime
# gigabytes.
MAX_SIDE = 65_535
# A large JPEG is decoded at 1/2, 1/4 or 1/8, but never below this multiple of the side that is
# asked for. Against full decoding the resized pixels differ by 0.1 to 0.5 grey levels on average
# with 2, by 0.6 to 1.2 with 1 (47 photos of 256 to 1,411 px, made 32 to 224 px large; the worst
# photo by 1.7 and 3.4).
DRAFT_HEADROOM = 2
# Images of other formats become smaller in the same way once they are decoded, if they have more
# pixels than this.
LARGE_PIXELS = 12_000_000
# What a pixel of an RGB image takes: four bytes, and four more for a copy that is turned.
BYTES_A_PIXEL = 8
# What a decoder's message means, the first match; None of these: the message itself.
REASONS = {
    "truncated": "the file is cut short",
    "not enough": "the file is cut short",
    "end of file": "the file is cut short",
    "eof": "the file is cut short",
    "broken": "the image data are damaged",
    "not support": "this kind of {format} is not supported",
    "unsupported": "this kind of {format} is not supported",
    "unknown": "this kind of {format} is not supported",
}


@dataclass(frozen=True)
class Photo:
    """An upright RGB image, perhaps reduced, and the size (width, height) that it has in full.

    `box` is where the picture is: what is reduced has its sides rounded up, and leaves part of a
    pixel empty.
    """

    image: Image.Image
    size: Size
    box: Box


def open_image(raw: RawImage, min_side: int = 0, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an image to RGB, upright, its first frame only; transparency becomes white.

    With `min_side`, a large JPEG, and a very large image of any kind, may come smaller, but with
    both sides of twice `min_side` at least: faster, and nearly the same once it is resized. Safe to
    call from many threads.

    Raises:
        ImageError: it is no image, damaged, of more than `max_pixels` pixels, takes too much
            memory, or is of an unsupported kind; the message is the reason alone.

    """
    with open_photo(raw, min_side, max_pixels) as photo:
        return photo.image


@contextmanager
def open_photo(raw: RawImage, min_side: int = 0, max_pixels: int = MAX_PIXELS) -> Iterator[Photo]:
    """Decode an image as `open_image` does, and keep its full size; its memory counts as taken
    within the block.
    """
    with ExitStack() as held:
        yield _decode(raw, min_side, max_pixels, held)


def read_size(raw: RawImage) -> Size:
    """Return width and height as the image's header has them, not turned; nothing is decoded.

    Raises:
        ImageError: it is no image, or its header is damaged.

    """
    if not isinstance(raw, bytes):
        return raw.size if isinstance(raw, Image.Image) else (raw.shape[1], raw.shape[0])
    name = recognise_format(raw[:HEAD_BYTES])
    try:
        return open_header(raw, name).size
    except Exception as error:
        raise _translate(error, name) from error


def estimate_memory(raw: RawImage, min_side: int = 0) -> int:
    """Estimate from the header how many bytes decoding an image as `open_image` does takes at most,
    with its file.

    Raises:
        ImageError: it is no image, or its header is damaged.

    """
    if not isinstance(raw, bytes):
        return BYTES_A_PIXEL * int(np.prod(read_size(raw)))
    name = recognise_format(raw[:HEAD_BYTES])
    try:
        image = open_header(raw, name)
        size = image.size
        _draft(image, min_side)
        return len(raw) + _count_bytes(image, name, raw, size, min_side)
    except Exception as error:
        raise _translate(error, name) from error


def _decode(raw: RawImage, min_side: int, max_pixels: int, held: ExitStack) -> Photo:
    """Decode an image; what is held of memory meanwhile, and for the photo, goes on to the
    stack.
    """
    name = recognise_format(raw[:HEAD_BYTES]) if isinstance(raw, bytes) else "image"
    try:
        photo = (
            _decode_file(raw, name, min_side, max_pixels, held)
            if isinstance(raw, bytes)
            else _take_image(raw)
        )
        # a TIFF has been turned by Pillow, and has its tags elsewhere
        turn = TURNS.get(find_orientation(photo.image.info))
        photo = _to_rgb(photo, _find_factor(photo.image.size, min_side))
        return photo if turn is None else _turn_photo(photo, turn)
    except Exception as error:
        raise _translate(error, name) from error


def _decode_file(data: bytes, name: str, min_side: int, max_pixels: int, held: ExitStack) -> Photo:
    """Decode the bytes of a file, in its own mode and not yet turned."""
    image = open_header(data, name)
    _check_size(image.size, min(max_pixels, find_most_pixels(image, name)))
    _check_density(image.size, len(data))
    size = image.size
    reduced = _draft(image, min_side)
    needed = _count_bytes(image, name, data, size, min_side)
    if needed + len(data) > DECODING.most_bytes:
        raise ImageError(
            f"{size[0]:,} x {size[1]:,} pixels of this kind of {name} take "
            f"{(needed + len(data)) // 10**6:,} MB to "
            f"decode; at most {DECODING.most_bytes // 10**6:,} MB are taken"
        )
    if needed > LARGE_PIXELS * BYTES_A_PIXEL:
        # of a large image the C library would keep a part, of every thread
        held.callback(release_memory)
    held.enter_context(DECODING.hold(needed))
    image.load()
    if reduced:
        return Photo(image, size, reduced)
    return Photo(image, image.size, (0, 0, *image.size))  # a TIFF on its side has its size only now


def _draft(image: ImageFile.ImageFile, min_side: int) -> Box | None:
    """Let a decoder that can make the image smaller; say where in it the picture then is."""
    reach = DRAFT_HEADROOM * min_side
    reduced = image.draft("RGB", (reach, reach)) if min_side else None
    return reduced[1] if reduced else None


def _count_bytes(
    image: ImageFile.ImageFile, name: str, data: bytes, full: Size, min_side: int
) -> int:
    """Count what decoding takes, and then what is made of it, besides the file."""
    factor, pixels = _find_factor(image.size, min_side), image.width * image.height
    # a large one becomes RGB in strips, and is turned; others are turned, and made opaque with a
    # few copies before that
    a_pixel = 8 / factor**2 if pixels > LARGE_PIXELS else 16.0
    if factor == 1 and image.mode == "RGB":
        a_pixel = 4.0
    made = int(a_pixel * pixels)
    return count_decoding_bytes(image, name, data, full) + made


def _find_factor(size: Size, min_side: int) -> int:
    """Find by which whole number a decoded image is made smaller."""
    if size[0] * size[1] <= LARGE_PIXELS or not min_side:
        return 1
    return max(1, min(size) // (DRAFT_HEADROOM * min_side))


def _take_image(raw: Image.Image | NDArray[np.uint8]) -> Photo:
    """Return what is already in memory, which is never changed."""
    if isinstance(raw, Image.Image):
        _check_size(raw.size, MAX_PIXELS)
        image = load_image(raw)
    else:
        array = check_array(raw)
        _check_size(array.shape[1::-1], array.size)
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


def _check_size(size: Size, max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageError(f"{width:,} x {height:,} pixels; at most {max_pixels:,} pixels are read")
    if max(size) > MAX_SIDE:
        raise ImageError(
            f"{width:,} x {height:,} pixels; a side of at most {MAX_SIDE:,} is read; cut it into "
            f"parts"
        )


def _check_density(size: Size, file_bytes: int) -> None:
    """Refuse a bomb: a file of a thousand bytes that would take a gigabyte and many seconds."""
    pixels = size[0] * size[1]
    if pixels > max(BLANK_PIXELS, PIXELS_A_BYTE * file_bytes):
        raise ImageError(
            f"{pixels:,} pixels in {file_bytes:,} bytes: blank, or made to use up memory"
        )


def _translate(error: Exception, name: str) -> ImageError:
    """Say in words why a decoder, which may raise nearly anything over a damaged file, has
    failed.
    """
    return error if isinstance(error, ImageError) else ImageError(_explain(error, name))


def _explain(error: Exception, name: str) -> str:
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    message = str(error).lower()
    for part, reason in REASONS.items():
        if part in message:
            return reason.format(format=name)
    return f"the image data are damaged ({message or type(error).__name__})"


def _to_rgb(photo: Photo, factor: int) -> Photo:
    """Convert a photo of any mode to RGB, and make a large one smaller by a whole number."""
    image = photo.image
    levels = find_levels(image) if is_deep(image) else None
    if factor == 1 and (image.mode == "RGB" or image.width * image.height <= LARGE_PIXELS):
        return replace(photo, image=_convert(image, levels))
    # in strips, since several copies in full are what there is no memory for
    small = Image.new("RGB", (-(-image.width // factor), -(-image.height // factor)))
    rows = factor * max(1, STRIP_ROWS // factor)
    for top in range(0, image.height, rows):
        strip = _convert(image.crop((0, top, image.width, min(image.height, top + rows))), levels)
        small.paste(strip if factor == 1 else strip.reduce(factor), (0, top // factor))
    small.info = image.info
    left, upper, right, lower = (edge / factor for edge in photo.box)
    return Photo(small, photo.size, (left, upper, right, lower))


def _convert(image: Image.Image, levels: Levels | None) -> Image.Image:
    """Convert an image of any mode to RGB; a deep one has levels."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if levels:
        return reduce_depth(image, levels).convert("RGB")
    if image.has_transparency_data:
        canvas = Image.new("RGBA", image.size, "white")
        canvas.alpha_composite(image if image.mode == "RGBA" else image.convert("RGBA"))
        return canvas.convert("RGB")
    return image.convert("RGB")
