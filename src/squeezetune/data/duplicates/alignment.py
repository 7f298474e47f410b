"""Laying one image over another as well as shifting, stretching, contrast and brightness can, and
comparing them.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from squeezetune.array_types import Floats

PATCHES = 8  # a side
# Further a copy is not cropped: shares of the side.
MOST_STRETCH = 0.2
MOST_SHIFT = 0.12


@dataclass(frozen=True)
class Alignment:
    """How images fit after one was laid over the other; figures (p,) of the part that both show.

    `likeness` is the correlation of their brightness, `detail` that of its Laplacian, which hears
    of every edge; `difference` is the root of the mean squared difference in grey levels, `patch`
    the largest difference between the means of a patch, of 8 x 8: something is there in one image
    and not in the other. `place` (p, 4) is how the second lies on the first: stretch and shift to
    the right, then downwards, in half sides.
    """

    likeness: Floats
    detail: Floats
    difference: Floats
    patch: Floats
    place: Floats


def overlay_images(first: Floats, second: Floats, place: Floats, steps: int) -> Alignment:
    """Lay the brightness of images (p, side, side) over that of others in so many steps from a
    place (p, 4).

    The inverse compositional method (Baker and Matthews 2004, "Lucas-Kanade 20 years on"): the
    steps that lead from one place to the next follow from the first image's slopes, which are found
    once.
    """
    count, side, _ = first.shape
    along = np.linspace(-1, 1, side, dtype=np.float32)
    down, right = (slope * ((side - 1) / 2) for slope in np.gradient(first, axis=(1, 2)))
    slopes = np.stack([right * along, right, down * along[:, None], down], axis=1).reshape(
        count, 4, -1
    )
    normal = slopes @ slopes.swapaxes(1, 2)
    normal += np.eye(4, dtype=np.float32) * (
        np.trace(normal, axis1=1, axis2=2)[:, None, None] * 1e-3 + 1e-3
    )
    for _ in range(steps):
        moved, shown = _move(second, place)
        error = (_level(moved, shown, first) - first) * shown
        step = np.linalg.solve(normal, slopes @ error.reshape(count, -1, 1))[:, :, 0]
        place = _undo_step(place, step)
    return _compare(first, *_move(second, place), place)


def join_overlays(count: int, parts: Iterable[tuple[NDArray[np.int64], Alignment]]) -> Alignment:
    """Put the overlays of parts of all pairs in their rows."""
    likeness, detail, difference, patch = np.zeros((4, count), np.float32)
    place = np.zeros((count, 4), np.float32)
    for rows, part in parts:
        likeness[rows], detail[rows], difference[rows] = part.likeness, part.detail, part.difference
        patch[rows], place[rows] = part.patch, part.place
    return Alignment(likeness, detail, difference, patch, place)


def _undo_step(place: Floats, step: Floats) -> Floats:
    """Go from a place to where the reverse of a step leads first; `stretch` and `shift` are those
    of each axis.
    """
    stretch, shift = 1 + place[:, ::2], place[:, 1::2]
    stretch = stretch / (1 + step[:, ::2])
    shift = shift - stretch * step[:, 1::2]
    moved = np.empty_like(place)
    moved[:, ::2] = np.clip(stretch - 1, -MOST_STRETCH, MOST_STRETCH)
    moved[:, 1::2] = np.clip(shift, -2 * MOST_SHIFT, 2 * MOST_SHIFT)
    return moved


def _move(images: Floats, place: Floats) -> tuple[Floats, Floats]:
    """Look at images (p, side, side) from another place; also say which points they show, 1 or
    0.
    """
    side = images.shape[1]
    along = np.linspace(-1, 1, side, dtype=np.float32)
    right, down = (
        ((along * (1 + place[:, at, None]) + place[:, at + 1, None]) + 1) * ((side - 1) / 2)
        for at in (0, 2)
    )
    is_shown = [
        ((points >= 0) & (points <= side - 1)).astype(np.float32) for points in (right, down)
    ]
    moved: Floats = np.matmul(_make_blends(down) @ images, _make_blends(right).swapaxes(1, 2))
    return moved, is_shown[1][:, :, None] * is_shown[0][:, None, :]


def _make_blends(points: Floats) -> Floats:
    """Make the matrices (p, side, side) that blend lines linearly to give those at some points (p,
    side).
    """
    count, side = points.shape
    points = np.clip(points, 0, side - 1)
    below = np.minimum(points.astype(np.int64), side - 2)
    share = points - below
    blends = np.zeros((count, side, side), np.float32)
    image, line = np.ogrid[:count, :side]
    blends[image, line, below] = 1 - share
    blends[image, line, below + 1] = share
    return blends


def _level(moved: Floats, shown: Floats, first: Floats) -> Floats:
    """Give images the mean and contrast of the first ones, where both are shown."""
    (first_mean, first_spread), (mean, spread) = (_measure(each, shown) for each in (first, moved))
    contrast = first_spread / np.maximum(spread, np.float32(1e-3))
    leveled: Floats = np.multiply(moved - mean, contrast) + first_mean
    return leveled


def _measure(images: Floats, shown: Floats) -> tuple[Floats, Floats]:
    """Measure the mean and standard deviation of images where they are shown, (p, 1, 1)."""
    count = np.maximum(shown.sum(axis=(1, 2), keepdims=True), 1)
    mean = (images * shown).sum(axis=(1, 2), keepdims=True) / count
    spread = np.sqrt((((images - mean) * shown) ** 2).sum(axis=(1, 2), keepdims=True) / count)
    return mean, spread


def _compare(first: Floats, moved: Floats, shown: Floats, place: Floats) -> Alignment:
    errors = (_level(moved, shown, first) - first) * shown
    difference = np.sqrt((errors**2).sum(axis=(1, 2)) / np.maximum(shown.sum(axis=(1, 2)), 1))
    detail = _correlate(_find_edges(first), _find_edges(moved), shown[:, 1:-1, 1:-1])
    points = (first.shape[1] // PATCHES) ** 2
    patches = _sum_patches(errors) / np.maximum(_sum_patches(shown), points / 2)
    return Alignment(
        _correlate(first, moved, shown), detail, difference, np.abs(patches).max(axis=(1, 2)), place
    )


def _sum_patches(images: Floats) -> Floats:
    """Add up images (p, side, side) in each of 8 x 8 patches."""
    size = images.shape[1] // PATCHES
    sums: Floats = images.reshape(-1, PATCHES, size, PATCHES, size).sum(axis=(2, 4))
    return sums


def _find_edges(images: Floats) -> Floats:
    """Take the Laplacian of images, (p, side - 2, side - 2)."""
    edges: Floats = 4 * images[:, 1:-1, 1:-1]
    for side in (
        images[:, :-2, 1:-1],
        images[:, 2:, 1:-1],
        images[:, 1:-1, :-2],
        images[:, 1:-1, 2:],
    ):
        edges = edges - side
    return edges


def _correlate(first: Floats, second: Floats, shown: Floats) -> Floats:
    """Correlate images (p, ...) where both are shown, (p,)."""
    (first_mean, first_spread), (mean, spread) = (_measure(each, shown) for each in (first, second))
    products = ((first - first_mean) * (second - mean) * shown).sum(axis=(1, 2))
    scale = np.maximum(shown.sum(axis=(1, 2)), 1) * np.maximum(
        (first_spread * spread)[:, 0, 0], 1e-6
    )
    correlations: Floats = products / scale
    return correlations
