"""Near-duplicates: the same picture in another format or size, cropped a little, turned or
mirrored.
"""

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from threadpoolctl import threadpool_limits

from squeezetune.array_types import Floats
from squeezetune.data.duplicates.alignment import Alignment, join_overlays, overlay_images
from squeezetune.data.duplicates.candidates import (
    LUMA,
    TURNS,
    Pairs,
    describe_thumbs,
    find_candidates,
    turn_images,
)
from squeezetune.data.index import ImageIndex
from squeezetune.data.pixels import PixelSettings, load_indexed
from squeezetune.data.thumbnails import LOOK_SIDE, LOOKS_VERSION, Thumbnails
from squeezetune.errors import ImageError
from squeezetune.system.disk import read_sealed, write_sealed
from squeezetune.system.executor import Executor

# Part of the key of what is kept: raise it when the same images would have other near-duplicates.
LIKENESS_VERSION = 1
POINTS_AT_ONCE = 1 << 18


@dataclass(frozen=True)
class Level:
    """How pairs are compared at one size, after `steps` of laying over.

    They show the same picture if no patch differs by more than `patch`, and their likeness and
    detail are those of `alike`; where no patch differs by half as much, those of `close` will do:
    JPEG changes all detail of a smooth or a noisy picture, but no patch. With the figures of
    `passing` a pair goes on to the next size.
    """

    side: int
    steps: int
    patch: float
    alike: tuple[float, float]
    close: tuple[float, float]
    passing: tuple[float, float] = (0.0, 0.0)

    def accepts(self, overlay: Alignment) -> NDArray[np.bool_]:
        """Say which pairs show the same picture, (p,)."""
        is_near, is_close = (overlay.patch <= limit for limit in (self.patch, self.patch / 2))
        return (is_near & _reaches(overlay, self.alike)) | (
            is_close & _reaches(overlay, self.close)
        )

    def passes(self, overlay: Alignment) -> NDArray[np.bool_]:
        """Say which pairs may show the same picture, (p,)."""
        return _reaches(overlay, self.passing)


def _reaches(overlay: Alignment, figures: tuple[float, float]) -> NDArray[np.bool_]:
    return (overlay.likeness >= figures[0]) & (overlay.detail >= figures[1])


# Measured on copies of ETH-80's and CIFAR-10's images: docs/decisions/0008-near-duplicates.md.
LEVELS = (
    Level(16, 5, 24.0, alike=(0.93, 0.75), close=(0.93, 0.75), passing=(0.89, 0.65)),
    Level(32, 2, 28.0, alike=(0.91, 0.50), close=(0.91, 0.50), passing=(0.88, 0.65)),
    Level(64, 2, 9.0, alike=(0.985, 0.85), close=(0.94, 0.40)),
)


@dataclass(frozen=True)
class DuplicatePairs:
    """Pairs of images that show the same picture: positions `first` < `second` (p,) in the index.

    `turned` (p,) is the turn, one of eight, that maps the first on the second, 0 where there is
    none; `difference` (p,) float32 is the root mean square of the difference that is left, in grey
    levels.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    turned: NDArray[np.int64]
    difference: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.first)


def find_near_duplicates(
    index: ImageIndex, looks: Thumbnails, resize: str, executor: Executor
) -> DuplicatePairs:
    """Find the pairs of images that show the same picture, by how they look in small and, if need
    be, in larger.

    `looks` are those of the index's images, made square as `resize` says. Of images with the same
    bytes the first one stands for all; blank images have no near-duplicates.
    """
    _, firsts = np.unique(index.digests, axis=0, return_index=True)
    firsts.sort()
    with threadpool_limits(1):  # the engine's threads share the work
        pairs = find_candidates(describe_thumbs(looks.thumbs[firsts]), executor)
        pairs = Pairs(firsts[pairs.first], firsts[pairs.second], pairs.turned)
        return _compare_pairs(pairs, index, looks, resize, executor)


def join_pairs(count: int, likeness: DuplicatePairs) -> NDArray[np.int64]:
    """Give the images (count,) numbers: one for those joined by pairs, directly or through
    others.
    """
    ones = np.ones(len(likeness), np.int8)
    links = coo_array((ones, (likeness.first, likeness.second)), shape=(count, count))
    numbers: NDArray[np.int64] = connected_components(links, directed=False)[1].astype(np.int64)
    return numbers


def name_contents(
    digests: NDArray[np.uint8], seen: NDArray[np.int64], pixels: PixelSettings
) -> str:
    """Name the contents of images (n, 16), those that were looked at, and all else that
    near-duplicates depend on.
    """
    about = f"{LIKENESS_VERSION} {LOOKS_VERSION} {pixels}".encode()
    contents = (np.unique(each, axis=0).tobytes() for each in (digests, digests[seen]))
    return hashlib.blake2b(b"/".join((about, *contents)), digest_size=16).hexdigest()


def locate_pictures(
    folder: Path, digests: NDArray[np.uint8], seen: NDArray[np.int64], pixels: PixelSettings
) -> Path:
    """Locate what is kept of near-duplicates among images (n, 16) of which those `seen` were looked
    at.
    """
    return folder / "near-duplicates" / f"{name_contents(digests, seen, pixels)}.sealed"


def load_pictures(path: Path, digests: NDArray[np.uint8]) -> NDArray[np.int64] | None:
    """Load the numbers of pictures that `save_pictures` has kept, for images of the same contents;
    None without.
    """
    _, contents = np.unique(digests, axis=0, return_inverse=True)
    kept = read_sealed(path)
    return None if kept is None else np.frombuffer(kept, "<i8").astype(np.int64)[contents.ravel()]


def save_pictures(path: Path, digests: NDArray[np.uint8], numbers: NDArray[np.int64]) -> None:
    """Keep the numbers of pictures by the order of the images' contents, whatever names and order
    they have.

    Raises:
        OSError: the file cannot be written.
    """
    _, firsts = np.unique(digests, axis=0, return_index=True)
    write_sealed(path, numbers[firsts].astype("<i8").tobytes())


def _compare_pairs(
    pairs: Pairs, index: ImageIndex, looks: Thumbnails, resize: str, executor: Executor
) -> DuplicatePairs:
    """Compare candidates size by size, up to the size that both images really have."""
    own = np.minimum(looks.sizes[pairs.first].min(axis=1), looks.sizes[pairs.second].min(axis=1))
    last = np.clip(
        np.searchsorted([level.side for level in LEVELS], own, side="right") - 1, 0, None
    )
    left, place = np.arange(len(pairs)), np.zeros((len(pairs), 4), np.float32)
    found = [np.empty((2, 0))]
    for number, level in enumerate(LEVELS):
        images = sorted({*pairs.first[left].tolist(), *pairs.second[left].tolist()})
        grey = _load_grey(images, level.side, index, looks, resize, executor)
        overlay = _overlay_pairs(pairs.take(left), images, grey, place[left], level, executor)
        place[left] = overlay.place
        is_last = last[left] == number
        is_same = is_last & level.accepts(overlay)
        found.append(np.stack([left[is_same], overlay.difference[is_same]]))
        left = left[~is_last & level.passes(overlay)]
    rows, difference = np.concatenate(found, axis=1)
    order = np.argsort(rows)
    same = pairs.take(rows[order].astype(np.int64))
    return DuplicatePairs(
        same.first, same.second, same.turned, difference[order].astype(np.float32)
    )


def _load_grey(
    images: list[int],
    side: int,
    index: ImageIndex,
    looks: Thumbnails,
    resize: str,
    executor: Executor,
) -> Floats:
    """Load the brightness of images at some size (n, side, side): from their looks, or anew where
    these are smaller.
    """
    if side <= LOOK_SIDE:
        block = LOOK_SIDE // side
        thumbs = looks.thumbs[images].astype(np.float32) @ LUMA
        small: Floats = thumbs.reshape(-1, side, block, side, block).mean(axis=(2, 4))
        return small
    load = partial(_load_one, index, PixelSettings(side, resize))
    return np.array(list(executor.map(load, images)), np.float32).reshape(-1, side, side)


def _load_one(index: ImageIndex, pixels: PixelSettings, position: int) -> Floats:
    """Load the brightness of one image; one that cannot be read any more is blank, and like no
    other.
    """
    try:
        image, _ = load_indexed(index, position, pixels)
    except ImageError:
        return np.zeros((pixels.side, pixels.side), np.float32)
    grey: Floats = image.astype(np.float32) @ LUMA
    return grey


def _overlay_pairs(
    pairs: Pairs, images: list[int], grey: Floats, place: Floats, level: Level, executor: Executor
) -> Alignment:
    """Lay the first images of pairs over the second ones; `grey` are those of all `images`, by
    their positions.
    """
    first, second = (
        np.searchsorted(images, positions) for positions in (pairs.first, pairs.second)
    )
    at_once = max(1, POINTS_AT_ONCE // level.side**2)
    parts = [
        rows[at : at + at_once]
        for turn in range(TURNS)
        for rows in [np.flatnonzero(pairs.turned == turn)]
        for at in range(0, len(rows), at_once)
    ]

    def overlay(rows: NDArray[np.int64]) -> Alignment:
        turned = np.ascontiguousarray(turn_images(grey[first[rows]], int(pairs.turned[rows[0]])))
        return overlay_images(turned, grey[second[rows]], place[rows], level.steps)

    return join_overlays(len(pairs), zip(parts, executor.map(overlay, parts), strict=True))
