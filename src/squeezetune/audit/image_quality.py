"""Photos that are poor as photos: blurred, dark, bright, blank, tiny or of an unusual shape, by how
they look in small.

The thresholds were set on ETH-80 and CIFAR-10, of which hardly an image is flagged, and on images
of both that were made worse: docs/decisions/0010-audit.md.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeezetune.array_types import Floats
from squeezetune.data.duplicates.candidates import LEAST_CONTRAST, LUMA
from squeezetune.data.thumbnails import Thumbnails
from squeezetune.system.scratch import list_blocks

# Grey levels, 0 to 255.
DARK_TOP = 80  # of the brightest per cent
BRIGHT_BOTTOM = 215  # of the darkest twentieth
# Shares of what is usual here.
BLURRED_SHARPNESS = 0.28
BLURRED_CRISPNESS = 0.5
TINY_PX = 32
TINY_SHARE = 0.25
# Longer than wide, or wider than long, by so much more than usual.
UNUSUAL_RATIO = 2.0


@dataclass(frozen=True)
class Flaw:
    """What is poor about the image at a position, by a word, and what was measured, in words."""

    kind: str
    position: int
    evidence: str


def find_flaws(looks: Thumbnails) -> list[Flaw]:
    """Find poor photos, by kind and the worst first; of blank, dark, bright and blurred an image
    has one at most.
    """
    return [*_find_poor_light(looks), *_find_odd_sizes(looks.sizes)]


def _find_poor_light(looks: Thumbnails) -> Iterator[Flaw]:
    top, bottom, contrast = _measure_light(looks.thumbs)
    is_blank = contrast < LEAST_CONTRAST
    is_dark = ~is_blank & (top < DARK_TOP)
    is_bright = ~is_blank & ~is_dark & (bottom > BRIGHT_BOTTOM)
    is_lit = ~(is_blank | is_dark | is_bright)
    sharpness, crispness = looks.sharpness, looks.sharpness / np.maximum(contrast, 1)
    usual = _take_median(sharpness[is_lit])
    is_blurred = is_lit & (sharpness < BLURRED_SHARPNESS * usual)
    # an image of few edges is no blurred one: what edges it has must be soft too
    is_blurred &= crispness < BLURRED_CRISPNESS * _take_median(crispness[is_lit])
    for at in _sort_worst(is_blank, contrast):
        yield Flaw("blank", at, f"a contrast of {contrast[at]:.1f} grey levels")
    for at in _sort_worst(is_dark, top):
        yield Flaw("dark", at, f"hardly a spot is brighter than {top[at]:.0f} of 255")
    for at in _sort_worst(is_bright, -bottom):
        yield Flaw("bright", at, f"hardly a spot is darker than {bottom[at]:.0f} of 255")
    for at in _sort_worst(is_blurred, sharpness):
        yield Flaw(
            "blurred", at, f"its edges are {sharpness[at] / usual:.0%} as strong as is usual here"
        )


def _find_odd_sizes(sizes: NDArray[np.int32]) -> Iterator[Flaw]:
    short, long = sizes.min(axis=1), sizes.max(axis=1)
    ratio = (long / np.maximum(short, 1)).astype(np.float32)
    is_tiny = (short < TINY_PX) | (short < TINY_SHARE * _take_median(short.astype(np.float32)))
    for at in _sort_worst(is_tiny, short):
        yield Flaw("tiny", at, f"{sizes[at, 0]:,} x {sizes[at, 1]:,} pixels")
    for at in _sort_worst(ratio > UNUSUAL_RATIO * _take_median(ratio), -ratio):
        yield Flaw(
            "shape",
            at,
            f"{sizes[at, 0]:,} x {sizes[at, 1]:,} pixels, {ratio[at]:.1f} times as long as wide",
        )


def _measure_light(thumbs: NDArray[np.uint8]) -> tuple[Floats, Floats, Floats]:
    """Measure the light of each thumbnail in grey levels, (n,): its brightest and darkest parts and
    its contrast.
    """
    parts = []
    for block in list_blocks(len(thumbs)):
        grey = (thumbs[block].astype(np.float32) @ LUMA).reshape(
            -1, thumbs.shape[1] * thumbs.shape[2]
        )
        parts.append([*np.percentile(grey, (99, 5), axis=1), grey.std(axis=1)])
    top, bottom, contrast = (
        np.concatenate(column).astype(np.float32) for column in zip(*parts, strict=True)
    )
    return top, bottom, contrast


def _take_median(values: NDArray[np.floating[Any]]) -> float:
    return float(np.median(values)) if len(values) else 0.0


def _sort_worst(is_found: NDArray[np.bool_], order: NDArray[Any]) -> list[int]:
    """List the positions of what was found, by the order of some values, the lowest first."""
    positions = np.flatnonzero(is_found)
    sorted_positions: list[int] = positions[np.argsort(order[positions], kind="stable")].tolist()
    return sorted_positions
