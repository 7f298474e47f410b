"""Grey images of more than 8 bits -> 256 levels, in strips."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# A deep image is looked at in strips: as a whole its numbers would take three times eight bytes a pixel.
STRIP_ROWS = 64
# What whole numbers may reach: those of 8 and 12 bits are often kept in 16, and would have 1 and 16 levels left there.
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

    Whole numbers of at most 16 bits begin with 0 and end with the most that 8, 12 or 16 bits hold, whichever is enough:
    a dark image stays dark unless hardly a level would be left of it. Floats are taken as 0 to 1 or 0 to 255 if they
    all lie there. Anything else is scaled from its lowest to its highest number.
    """
    ends = []
    for top in range(0, image.height, STRIP_ROWS):
        real = _to_real(_cut_strip(image, top))
        ends.append((float(real.min()), float(real.max())))
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    fitting = [top for top in (REAL_TOPS if image.mode == "F" else WHOLE_TOPS) if low >= 0 and high <= top]
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
