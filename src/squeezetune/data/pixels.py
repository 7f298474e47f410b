"""From one image as it was found to a square of uint8 RGB pixels, and to a thumbnail."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from math import ceil, floor
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from squeezetune.data.decoding import LARGE_PIXELS, MAX_PIXELS, Box, Size, open_image, open_photo
from squeezetune.data.reading import read_image
from squeezetune.data.sources.content import RawImage
from squeezetune.data.sources.source import ImageSource
from squeezetune.errors import ImageError, SettingsError
from squeezetune.system.executor import Executor

if TYPE_CHECKING:
    from squeezetune.data.index import (
        ImageIndex,  # much is behind it, and a prediction needs none of that
    )

THUMBNAIL_QUALITY = 80
MOST_SIDE = 4096
# Part of every key: raise it when the same image and settings would give other pixels.
DECODING_VERSION = 2
# An image as (side, side, 3) uint8, and the width and height that it had, upright.
Loaded: TypeAlias = tuple[NDArray[np.uint8], Size]


@dataclass(frozen=True)
class PixelSettings:
    """How an image becomes a square of `side` pixels.

    `resize` is squash (the whole image, its ratio lost), crop (the middle) or pad (the whole, black
    around it).

    Raises:
        SettingsError: there is no such resize policy, or the side is out of its limits.

    """

    side: int
    resize: str = "squash"

    @property
    def key(self) -> str:
        """Name all that the pixels of an image depend on, for what is kept of them and of all that
        follows.
        """
        return f"{self.side}-{self.resize}-{DECODING_VERSION}-pillow-{PIL.__version__}"

    def __post_init__(self) -> None:
        if self.resize not in FITS or not 1 <= self.side <= MOST_SIDE:
            raise SettingsError(
                f"side is {self.side} and resize is {self.resize!r}; needed are 1 to {MOST_SIDE:,} "
                f"and {' or '.join(FITS)}"
            )


def load_indexed(index: "ImageIndex", position: int, settings: PixelSettings) -> Loaded:
    """Load an image of an index; it must be what it was when it was indexed.

    Raises:
        ImageError: it cannot be read or decoded, or has changed; the message is the reason alone.

    """
    return load_pixels(
        index.source, index.names[position], settings, index.digests[position].tobytes()
    )


def load_pixels(
    source: ImageSource, name: str, settings: PixelSettings, digest: bytes = b""
) -> Loaded:
    """Load an image as a square of pixels; with a `digest`, only bytes that have that one are
    taken.

    Raises:
        ImageError: it cannot be read or decoded, or has changed; the message is the reason alone.

    """
    with read_image(source, name, digest) as raw, open_photo(raw, settings.side) as photo:
        return fit_image(photo.image, settings, photo.box), photo.size


def load_prepared(source: ImageSource, name: str, settings: PixelSettings) -> NDArray[np.uint8]:
    """Load an image as a model takes it: see `prepare_pixels`.

    Raises:
        ImageError: it cannot be read or decoded; the message is the reason alone.

    """
    with read_image(source, name) as raw:
        return prepare_pixels(raw, settings)


def prepare_pixels(
    raw: RawImage, settings: PixelSettings, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """Return an image as a model takes it, (height, width, 3) uint8: upright, and of a size that it
    resizes quickly.

    What is very large or long is made square here, within one grey level of how the model would do
    it: ONNX Runtime would take gigabytes over some shapes, and refuses others.

    Raises:
        ImageError: it cannot be decoded; the message is the reason alone.

    """
    with open_photo(raw, settings.side, max_pixels) as photo:
        if count_resizing(photo.image.size, settings) > LARGE_PIXELS:
            return fit_image(photo.image, settings, photo.box)
        return np.asarray(photo.image)


def count_resizing(size: Size, settings: PixelSettings) -> int:
    """Count the pixels that an antialiasing resize reads and writes: it makes all rows as short as
    wanted first.
    """
    width, height = size
    across, down = settings.side / width, settings.side / height
    if settings.resize != "squash":
        across = down = (max if settings.resize == "crop" else min)(across, down)
    return width * height + _scale_length(width, across) * (height + _scale_length(height, down))


def fit_image(
    image: Image.Image, settings: PixelSettings, box: Box | None = None
) -> NDArray[np.uint8]:
    """Make an RGB image, or a box of it, square by antialiased linear interpolation: (side, side,
    3) uint8.

    The geometry is that of ONNX: crop and pad are Resize with the keep_aspect_ratio_policy
    not_smaller and not_larger, half_pixel coordinates and exclude_outside, followed by
    CenterCropPad. They agree within one grey level, but for the last line of an image that rounding
    has made longer.
    """
    square = FITS[settings.resize](image, box or (0, 0, *image.size), settings.side)
    return np.frombuffer(square.tobytes(), np.uint8).reshape(settings.side, settings.side, 3)


def make_thumbnail(source: ImageSource, name: str, side: int = 160) -> bytes:
    """Return a small JPEG of an image, its longer side `side` pixels at most, for a report.

    Raises:
        ImageError: it cannot be read or decoded.

    """
    with read_image(source, name) as raw:
        image = open_image(raw, side)
    scale = min(1.0, side / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    buffer = BytesIO()
    image.resize(size, Image.Resampling.BILINEAR).save(buffer, "JPEG", quality=THUMBNAIL_QUALITY)
    return buffer.getvalue()


def make_thumbnails(
    source: ImageSource, names: Sequence[str], side: int, executor: Executor
) -> dict[str, bytes]:
    """Return thumbnails by name; an image that cannot be read any more is left out."""

    def make(name: str) -> bytes | None:
        try:
            return make_thumbnail(source, name, side)
        except ImageError:
            return None

    made = zip(names, executor.map(make, names), strict=True)
    return {name: thumbnail for name, thumbnail in made if thumbnail is not None}


def _squash(image: Image.Image, box: Box, side: int) -> Image.Image:
    return _resample(image, (side, side), box)


def _crop(image: Image.Image, box: Box, side: int) -> Image.Image:
    """Resize the shorter side to `side`, and take the middle of the longer one."""
    left, top, width, height = _measure(box)
    scale = max(side / width, side / height)
    left += (_scale_length(width, scale) - side) // 2 / scale
    top += (_scale_length(height, scale) - side) // 2 / scale
    return _resize_box(image, (side, side), (left, top, left + side / scale, top + side / scale))


def _pad(image: Image.Image, box: Box, side: int) -> Image.Image:
    """Resize the longer side to `side`, and put the image into the middle of a black square."""
    left, top, width, height = _measure(box)
    scale = min(side / width, side / height)
    size = (_scale_length(width, scale), _scale_length(height, scale))
    fitted = _resize_box(image, size, (left, top, left + size[0] / scale, top + size[1] / scale))
    square = Image.new("RGB", (side, side))
    square.paste(fitted, ((side - size[0]) // 2, (side - size[1]) // 2))
    return square


FITS: dict[str, Callable[[Image.Image, Box, int], Image.Image]] = {
    "squash": _squash,
    "crop": _crop,
    "pad": _pad,
}


def _measure(box: Box) -> Box:
    """Return the left, top, width and height of a box."""
    left, top, right, bottom = box
    return left, top, right - left, bottom - top


def _scale_length(length: float, scale: float) -> int:
    """Return a scaled length in whole pixels, one at least; a half is rounded up, as ONNX does."""
    return max(1, floor(length * scale + 0.5))


def _resize_box(image: Image.Image, size: Size, box: Box) -> Image.Image:
    """Resize a box of an image; if rounding put it beyond the image's end, the last pixels are
    repeated.
    """
    beyond_right = max(0, ceil(box[2] - image.width - 1e-6))
    beyond_bottom = max(0, ceil(box[3] - image.height - 1e-6))
    if beyond_right or beyond_bottom:
        edges = ((0, beyond_bottom), (0, beyond_right), (0, 0))
        image = Image.fromarray(np.pad(np.asarray(image), edges, mode="edge"))
    end = (min(box[2], image.width), min(box[3], image.height))
    return _resample(image, size, (box[0], box[1], *end))


def _resample(image: Image.Image, size: Size, box: Box) -> Image.Image:
    """Resize a box of an image; of a very long one the rows are made fewer before they are made
    longer or shorter.
    """
    left, top, right, bottom = box
    if size[0] * (bottom - top) > LARGE_PIXELS:
        image = (
            image.crop((floor(left), 0, ceil(right), image.height))
            if right - left < image.width
            else image
        )
        left, right = left - floor(left), right - floor(left)
        image = image.resize(
            (image.width, size[1]), Image.Resampling.BILINEAR, box=(0, top, image.width, bottom)
        )
        top, bottom = 0, size[1]
    return image.resize(size, Image.Resampling.BILINEAR, box=(left, top, right, bottom))
