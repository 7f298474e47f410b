"""Which images may show the same picture: candidates, found fast among all pairs.

An image is described by the low frequencies of its brightness, as pHash and PDQ do (Facebook 2019,
"The TMK+PDQF video-hashing algorithm and the PDQ image-hashing algorithm"), but by their values
instead of bits. Turning or mirroring an image swaps these values or changes their signs, so that
one description serves for all eight. Pairs with like descriptions are candidates, if a small change
of place and size explains what is different (the tangent distance of Simard, LeCun and Denker
1993).
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from squeezetune.array_types import Floats, Ints
from squeezetune.system.executor import Executor
from squeezetune.system.scratch import list_blocks

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # Rec. 601
FREQUENCIES = 6
TURNS = 8
# Descriptions are compared if their cosine is above this; of 5 % crops 99 % are.
LEAST_COSINE = 0.65
MOST_CANDIDATES = 16  # of one image
# The share of a description that a change of place, size and contrast may leave unexplained.
MOST_UNEXPLAINED = 0.1
# Images with less contrast (standard deviation in grey levels) are blank: all of them would be
# alike.
LEAST_CONTRAST = 4.0
# A coefficient so near to zero, of a description of length 1, may have the other sign in a copy.
UNSURE = 0.1
# By no more do the first values of copies differ.
MOST_MOVE = 0.2
STEPS = 50
BLOCK_BYTES = 32_000_000  # of cosines at once, for each thread


@dataclass(frozen=True)
class Pairs:
    """Pairs of images by their positions, `first` < `second` (p,); `turned` (p,) maps the first on
    the second.
    """

    first: Ints
    second: Ints
    turned: Ints

    def __len__(self) -> int:
        return len(self.first)

    def take(self, rows: Ints) -> "Pairs":
        """Take some of the pairs."""
        return Pairs(self.first[rows], self.second[rows], self.turned[rows])


@dataclass(frozen=True)
class DctDescriptors:
    """The low frequencies of images (n, 6, 6), of length 1, without the mean.

    `changes` (n, 5, 35) are orthonormal directions in which a description moves if the image is
    shifted or stretched either way, and the description itself; `is_blank` (n,) tells images
    without contrast, whose rows are 0.
    """

    values: Floats
    changes: Floats
    is_blank: NDArray[np.bool_]


def describe_thumbs(thumbs: NDArray[np.uint8]) -> DctDescriptors:
    """Describe thumbnails (n, side, side, 3); n is at least 1."""
    parts = [_describe_block(thumbs[block]) for block in list_blocks(len(thumbs))]
    values, changes, is_blank = (np.concatenate(column) for column in zip(*parts, strict=True))
    return DctDescriptors(values, changes, is_blank)


def _describe_block(thumbs: NDArray[np.uint8]) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    grey = thumbs.astype(np.float32) @ LUMA
    is_blank = grey.std(axis=(1, 2)) < LEAST_CONTRAST
    along = np.linspace(-1, 1, grey.shape[1], dtype=np.float32)
    down, right = np.gradient(grey, axis=(1, 2))
    moves = (grey, right, down, right * along, down * along[:, None])
    low = np.stack([_take_low(each) for each in moves], axis=2)
    changes, _ = np.linalg.qr(low)
    lengths = np.linalg.norm(low[:, :, 0], axis=1, keepdims=True)
    values = np.zeros((len(low), FREQUENCIES**2), np.float32)  # the first, the mean, stays 0
    values[:, 1:] = low[:, :, 0] / np.maximum(lengths, 1e-6) * ~is_blank[:, None]
    return values.reshape(-1, FREQUENCIES, FREQUENCIES), changes.transpose(0, 2, 1), is_blank


def _take_low(grey: Floats) -> Floats:
    """Take the low frequencies of images (n, side, side), (n, 35); the higher ones count somewhat
    more.
    """
    waves = _make_waves(grey.shape[1])
    order = np.arange(FREQUENCIES)
    low: Floats = (waves @ grey @ waves.T) * np.sqrt(1 + order[:, None] + order).astype(np.float32)
    return low.reshape(len(grey), -1)[:, 1:]


@cache
def _make_waves(side: int) -> Floats:
    """Make the first rows of the discrete cosine transform (DCT-II), (6, side)."""
    angles = np.arange(FREQUENCIES)[:, None] * (np.arange(side) + 0.5) * np.pi / side
    return np.cos(angles).astype(np.float32)


# ---- the eight turns: bit 2 swaps the axes, then bit 1 mirrors the vertical axis
# and bit 0 the horizontal one


def turn_images(images: NDArray[np.generic], turn: int) -> NDArray[np.generic]:
    """Turn or mirror images (n, side, side, ...) in one of the eight ways."""
    turned = images.swapaxes(1, 2) if turn & 4 else images
    return turned[:, :: -1 if turn & 2 else 1, :: -1 if turn & 1 else 1]


def _turn_values(values: Floats, turn: int) -> Floats:
    """Turn the descriptions (n, 6, 6) as their images would be turned."""
    signs = (-1.0) ** np.arange(FREQUENCIES, dtype=np.float32)
    turned = values.swapaxes(1, 2) if turn & 4 else values
    turned = turned * signs[:, None] if turn & 2 else turned
    return turned * signs if turn & 1 else turned


def compose_turns(first: int, second: int) -> int:
    """Find the turn that does what `first` and then the reverse of `second` do."""
    probe = np.arange(4).reshape(1, 2, 2)
    wanted = turn_images(probe, first)
    return next(
        t
        for t in range(TURNS)
        if np.array_equal(turn_images(turn_images(probe, t), second), wanted)
    )


# ---- candidates


@dataclass(frozen=True)
class _Versions:
    """Images turned: `images` (m,) are their positions, `turns` (m,) says how, `values` (m, 35) are
    described so.
    """

    images: Ints
    turns: Ints
    values: Floats

    def cut(self, rows: slice | Ints) -> "_Versions":
        """Take some of them."""
        return _Versions(self.images[rows], self.turns[rows], self.values[rows])

    def sort(self) -> "_Versions":
        """Sort them by their first value."""
        return self.cut(np.argsort(self.values[:, 0], kind="stable"))


def find_candidates(descriptions: DctDescriptors, executor: Executor) -> Pairs:
    """Find the pairs of images that may show the same picture, all in one order."""
    queries, known = (versions.sort() for versions in _turn_upright(descriptions))
    changes = _turn_changes(descriptions.changes, known)
    rows = max(1, BLOCK_BYTES // (4 * max(1, len(known.images))))
    parts = [queries.cut(slice(at, at + rows)) for at in range(0, len(queries.images), rows)]
    hits = np.concatenate(
        [np.empty((0, 4)), *executor.map(lambda part: _search(part, known, changes), parts)]
    )
    first, second = hits[:, :2].min(axis=1), hits[:, :2].max(axis=1)
    order = np.lexsort((hits[:, 3], second, first))
    is_best = np.ones(len(order), np.bool_)
    is_best[1:] = (first[order][1:] != first[order][:-1]) | (
        second[order][1:] != second[order][:-1]
    )
    best = order[is_best]
    turned = [
        turn if i < j else compose_turns(0, turn)
        for i, j, turn in hits[best, :3].astype(int).tolist()
    ]
    return Pairs(
        first[best].astype(np.int64), second[best].astype(np.int64), np.array(turned, np.int64)
    )


def _turn_upright(descriptions: DctDescriptors) -> tuple[_Versions, _Versions]:
    """Turn every image as it may have to be to be compared, and in the one way in which it is
    compared with.

    That is so that it grows darker to the right and downwards, and more to the right. A copy may do
    so a little differently: all ways in which an image nearly does so are tried.
    """
    versions = [_turn_values(descriptions.values, turn) for turn in range(TURNS)]
    right, down = (
        np.stack([each[:, y, x] for each in versions], axis=1) for y, x in ((0, 1), (1, 0))
    )
    # (n, 8), 0 or more in one of the eight
    margin = np.minimum(np.minimum(right, down), right - down)
    margin[descriptions.is_blank] = -1
    flat = np.stack(versions, axis=1).reshape(len(margin), TURNS, -1)[:, :, 1:]
    images, turns = np.nonzero(margin > -UNSURE)
    queries = _Versions(images, turns, flat[images, turns])
    seen = np.flatnonzero(~descriptions.is_blank)
    best = margin[seen].argmax(axis=1)
    return queries, _Versions(seen, best, flat[seen, best])


def _turn_changes(changes: Floats, known: _Versions) -> Floats:
    """Turn the directions (n, 5, 35) in which descriptions move, as the images that are compared
    with are turned.
    """
    padded = np.concatenate([np.zeros((*changes.shape[:2], 1), np.float32), changes], axis=2)[
        known.images
    ]
    squares = padded.reshape(-1, FREQUENCIES, FREQUENCIES)
    turned = np.empty_like(squares)
    turns = np.repeat(known.turns, changes.shape[1])
    for turn in range(TURNS):
        turned[turns == turn] = _turn_values(squares[turns == turn], turn)
    return turned.reshape(padded.shape)[:, :, 1:]


def _search(queries: _Versions, known: _Versions, changes: Floats) -> NDArray[np.float64]:
    """Find what images resemble: rows of image, other image, turn between them, unexplained share.

    All are sorted by their first value, so that only those have to be compared whose first values
    are near enough.
    """
    ends = queries.values[0, 0] - MOST_MOVE, queries.values[-1, 0] + MOST_MOVE
    near = slice(*np.searchsorted(known.values[:, 0], ends).tolist())
    known, changes = known.cut(near), changes[near]
    row, column = find_nearest(queries.values @ known.values.T)
    is_other = queries.images[row] != known.images[column]
    row, column = row[is_other], column[is_other]
    explained = np.einsum("pcd,pd->pc", changes[column], queries.values[row])
    unexplained = 1 - (explained**2).sum(axis=1)
    is_like = unexplained < MOST_UNEXPLAINED
    row, column = row[is_like], column[is_like]
    turned = _list_compositions()[queries.turns[row], known.turns[column]]
    return np.stack(
        [queries.images[row], known.images[column], turned, unexplained[is_like]], axis=1
    )


def find_nearest(cosines: Floats) -> tuple[Ints, Ints]:
    """Find the entries (rows, n) above the least cosine: of each row the highest few, and those
    about as high.
    """
    flat = np.flatnonzero(cosines > LEAST_COSINE)
    row, column = np.divmod(flat, cosines.shape[1])
    # heights in steps: a histogram of each row says from which step on there are enough, and needs
    # no sorting
    step = (
        ((cosines.ravel()[flat] - LEAST_COSINE) * (STEPS / (1.0001 - LEAST_COSINE)))
        .astype(np.int64)
        .clip(0, STEPS - 1)
    )
    counts = np.bincount(row * STEPS + step, minlength=len(cosines) * STEPS).reshape(-1, STEPS)
    from_above = counts[:, ::-1].cumsum(axis=1)[:, ::-1]
    least = np.maximum((from_above >= MOST_CANDIDATES).sum(axis=1) - 1, 0)
    keep = step >= least[row]
    return row[keep], column[keep]


@cache
def _list_compositions() -> Ints:
    """List what `compose_turns` says of all turns, (8, 8)."""
    return np.array(
        [[compose_turns(first, second) for second in range(TURNS)] for first in range(TURNS)]
    )
