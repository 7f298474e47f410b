"""The pixels of every image as one square each, decoded once and kept on disk for training."""

from functools import partial
from math import ceil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from squeezetune.data.index import ImageIndex
from squeezetune.data.pixels import PixelSettings
from squeezetune.data.rows import RowBatch, RowWork, compute_rows, load_batch, try_batch
from squeezetune.engine import Engine
from squeezetune.events import Listener
from squeezetune.store import RowStore, StoredRows

STAGE = "pixels"
BATCH_IMAGES = 16
# Training cuts its crops out of what is kept, so that is a little larger.
MARGIN = 1.15
SIDE_STEP = 8


def choose_pixel_side(side: int, sizes: NDArray[np.int32]) -> int:
    """Choose the side in pixels at which to keep images of these sizes (n, 2) for training at `side`.

    It is 15 % more than `side`, so that crops lose nothing, but no more than half of the images have themselves:
    enlarging can wait until training. Sizes that nobody has looked at are 0 and do not count. Example:

        >>> choose_pixel_side(224, np.array([[640, 480], [500, 700]], np.int32))
        264
        >>> choose_pixel_side(128, np.array([[32, 32]], np.int32))
        32
    """
    wanted = SIDE_STEP * ceil(MARGIN * side / SIDE_STEP)
    known = sizes[sizes.min(axis=1) > 0]
    return max(1, min(wanted, int(np.median(known.max(axis=1))))) if len(known) else wanted


def open_pixel_store(folder: Path, pixels: PixelSettings) -> RowStore:
    """Open the store of squares below a cache's folder, in a place named by all that the pixels depend on."""
    return RowStore(folder / "pixels" / pixels.key, (pixels.side, pixels.side, 3), "u1")


def compute_pixel_rows(
    index: ImageIndex,
    pixels: PixelSettings,
    store: RowStore,
    engine: Engine,
    listen: Listener,
    positions: NDArray[np.int64] | None = None,
) -> StoredRows:
    """Decode the images that the store lacks, and keep them; return rows (side, side, 3) uint8 by position.

    Only the images at `positions` are decoded; without them all. Equal contents are decoded once.

    Raises:
        SourceError: an image cannot be decoded (any more).
        DataError: the disk has not enough room.
    """
    work = RowWork(STAGE, BATCH_IMAGES, lambda: partial(_decode_batch, index, pixels))
    return compute_rows(index, work, store, engine, listen, positions)


def find_pixel_rows(
    index: ImageIndex,
    pixels: PixelSettings,
    store: RowStore,
    engine: Engine,
    listen: Listener,
    positions: NDArray[np.int64],
) -> tuple[StoredRows, dict[int, str]]:
    """Decode the images at these positions that the store lacks, as far as they can be decoded.

    Returns the rows, and why each of the others cannot be.

    Raises:
        DataError: the disk has not enough room.
    """
    reasons: dict[bytes, str] = {}  # by digest, since equal contents are decoded once
    work = RowWork(STAGE, BATCH_IMAGES, lambda: partial(try_batch, index, pixels, reasons))
    rows = compute_rows(index, work, store, engine, listen, positions)
    failed = np.intersect1d(rows.missing, positions).tolist()
    return rows, {position: reasons[index.digests[position].tobytes()] for position in failed}


def _decode_batch(index: ImageIndex, pixels: PixelSettings, positions: NDArray[np.int64]) -> RowBatch:
    return RowBatch(positions, *load_batch(index, positions, pixels))
