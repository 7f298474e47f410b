"""Thumbnails and sharpness of every image, for near-duplicates and checks of quality."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from squeezetune.data.image_cache import RowBatch, RowWork, compute_rows, decode_batch
from squeezetune.data.index import ImageIndex
from squeezetune.data.pixels import PixelSettings
from squeezetune.events import Listener
from squeezetune.system.executor import Executor
from squeezetune.system.scratch import IN_MEMORY, Scratch, list_blocks
from squeezetune.system.store import RowStore

STAGE = "looks"
BATCH_IMAGES = 16
# Part of the key: raise it when the same image would give another row.
LOOKS_VERSION = 2
LOOK_SIDE = 32
THUMB_BYTES = LOOK_SIDE * LOOK_SIDE * 3
ROW_BYTES = THUMB_BYTES + 4  # the thumbnail, and the sharpness as float32


@dataclass(frozen=True)
class Thumbnails:
    """How the images of an index look; what could not be decoded is black, and its size 0.

    `thumbs` (n, 32, 32, 3) uint8 is the whole image made small; `sharpness` (n,) float32 is the
    standard deviation of the brightness's Laplacian in grey levels, `sizes` (n, 2) int32 the
    image's own width and height.
    """

    thumbs: NDArray[np.uint8]
    sharpness: NDArray[np.float32]
    sizes: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.thumbs)


def open_look_store(folder: Path, pixels: PixelSettings) -> RowStore:
    """Open the store of looks below a cache's folder, in a place named by all that they depend
    on.
    """
    name = f"{pixels.key}-{LOOKS_VERSION}"
    return RowStore(folder / "looks" / name, (ROW_BYTES,), "u1")


def load_thumbnails(
    index: ImageIndex,
    pixels: PixelSettings,
    store: RowStore,
    executor: Executor,
    listen: Listener,
    positions: NDArray[np.int64] | None = None,
    scratch: Scratch = IN_MEMORY,
) -> Thumbnails:
    """Look at the images that the store lacks, and keep what was seen; return how all images of the
    index look.

    Only the images at `positions` are looked at, without them all; the others are black, unless the
    store knows them.

    Raises:
        DataError: the disk has not enough room.
    """
    work = RowWork(STAGE, BATCH_IMAGES, lambda: partial(_look_at_batch, index, pixels))
    rows, _ = compute_rows(index, work, store, executor, listen, positions)
    values = scratch.make_zeros((len(index), ROW_BYTES), np.uint8)
    sizes = np.zeros((len(index), 2), np.int32)
    for block in list_blocks(len(index)):
        known = block.start + np.flatnonzero(rows.is_known[block])
        values[known], sizes[known] = rows.gather(known), rows.sizes[known]
    return read_look_rows(values, sizes)


def _look_at_batch(
    index: ImageIndex, pixels: PixelSettings, positions: NDArray[np.int64]
) -> RowBatch:
    batch = decode_batch(index, positions, pixels)
    return replace(batch, rows=(make_look_rows(batch.values, batch.sizes),))


def make_look_rows(images: NDArray[np.uint8], sizes: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Make a row (ROW_BYTES,) for the store of each square image (n, side, side, 3) of its own
    width and height.
    """
    rows = np.empty((len(images), ROW_BYTES), np.uint8)
    for row, pixels, size in zip(rows, images, sizes, strict=True):
        image = Image.fromarray(pixels)
        row[:THUMB_BYTES] = np.asarray(
            image.resize((LOOK_SIDE, LOOK_SIDE), Image.Resampling.BOX)
        ).ravel()
        row[THUMB_BYTES:] = np.array([measure_sharpness(image, size)], "<f4").view(np.uint8)
    return rows


def read_look_rows(rows: NDArray[np.uint8], sizes: NDArray[np.int32]) -> Thumbnails:
    """Read rows (n, ROW_BYTES) of the store."""
    thumbs = rows[:, :THUMB_BYTES].reshape(-1, LOOK_SIDE, LOOK_SIDE, 3)
    sharpness = np.ascontiguousarray(rows[:, THUMB_BYTES:]).view("<f4")[:, 0]
    return Thumbnails(thumbs, sharpness, sizes)


def measure_sharpness(image: Image.Image, size: NDArray[np.int32]) -> float:
    """Measure the standard deviation of the brightness's Laplacian (Pech-Pacheco et al. 2000).

    An image that was enlarged to be seen is made as small again as it is, since what enlarging adds
    is smooth.
    """
    own = (min(image.width, max(3, int(size[0]))), min(image.height, max(3, int(size[1]))))
    grey = np.asarray(image.convert("L").resize(own, Image.Resampling.BOX), np.int16)
    edges = (
        4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    )
    return float(edges.std())
