"""A row of numbers for every image of an index, computed once and kept: its pixels, and whatever
else.
"""

import time
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from squeezetune.data.index import ImageIndex
from squeezetune.data.pixels import PixelSettings, load_indexed
from squeezetune.errors import ImageError, SourceError
from squeezetune.events import Listener, StageAdvanced, StageFinished, StageStarted
from squeezetune.system.disk import check_room, explain_full_disk
from squeezetune.system.executor import Executor
from squeezetune.system.store import RowStore, StoredRows

# A segment is written when this much is waiting for it in memory, or time has passed: a killed run
# loses at most 5 seconds or 5 % of its work, and a long one still leaves few segments.
SEGMENT_BYTES = 64_000_000
SAVE_EVERY_S = 5.0
SAVE_EVERY_SHARE = 0.05


@dataclass(frozen=True)
class RowBatch:
    """The rows of some images of an index: `values` (n, *shape) and the images' own `sizes` (n,
    2).
    """

    positions: NDArray[np.int64]
    values: NDArray[Any]
    sizes: NDArray[np.int32]


# Computes the rows of the images at some positions; may be called from several threads at once.
ComputeBatch: TypeAlias = Callable[[NDArray[np.int64]], RowBatch]


@dataclass(frozen=True)
class RowWork:
    """How rows are computed: so many images at once, by what `open` gives; it is called only if any
    are missing.
    """

    stage: str
    batch_size: int
    open: Callable[[], ComputeBatch]


def compute_rows(
    index: ImageIndex,
    work: RowWork,
    store: RowStore,
    executor: Executor,
    listen: Listener,
    positions: NDArray[np.int64] | None = None,
) -> StoredRows:
    """Compute, and keep, the rows that the store lacks; return the rows of the index, to be
    gathered by position.

    Only the images at `positions` are computed; without them all. Equal contents are computed once,
    and what is kept of these images is read through first, so that what is damaged is computed
    again.

    Raises:
        SourceError: an image cannot be decoded (any more).
        DataError: the disk has not enough room.
    """
    wanted = np.arange(len(index)) if positions is None else positions
    rows = store.open_rows(index.digests).drop_damaged(wanted)
    missing = np.intersect1d(rows.missing, wanted)
    missing = _leave_out_copies(index.digests, missing)
    if not len(missing):
        return rows
    check_room(store.folder, len(missing) * store.row_bytes)
    started, done = time.perf_counter(), 0
    listen(StageStarted(work.stage, len(missing)))
    parts = [missing[at : at + work.batch_size] for at in range(0, len(missing), work.batch_size)]
    # closing: an interrupted run keeps what it has done, at once
    with closing(_keep_batches(executor.map(work.open(), parts), index, store)) as batches:
        for batch in batches:
            done += len(batch.positions)
            listen(StageAdvanced(work.stage, done))
    listen(StageFinished(work.stage, time.perf_counter() - started))
    return store.open_rows(index.digests)


def load_batch(
    index: ImageIndex, positions: NDArray[np.int64], pixels: PixelSettings
) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Decode images of an index: (n, side, side, 3) uint8, and their own widths and heights (n, 2).

    Raises:
        SourceError: one cannot be decoded; the message names it.
    """
    images = np.empty((len(positions), pixels.side, pixels.side, 3), np.uint8)
    sizes = np.empty((len(positions), 2), np.int32)
    for row, position in enumerate(positions):
        try:
            images[row], sizes[row] = load_indexed(index, int(position), pixels)
        except ImageError as error:
            raise SourceError(
                f"{index.names[position]} could be read a moment ago, and now cannot: "
                f"{error.message}",
                "Leave the photos as they are during a run, and run again.",
            ) from error
    return images, sizes


def try_batch(
    index: ImageIndex,
    pixels: PixelSettings,
    reasons: dict[bytes, str],
    positions: NDArray[np.int64],
) -> RowBatch:
    """Decode what can be decoded of a batch, and note the reasons of the others, by digest."""
    good, squares, sizes = [], [], []
    for position in positions:
        try:
            square, size = load_indexed(index, int(position), pixels)
        except ImageError as error:
            reasons[index.digests[position].tobytes()] = error.message
            continue
        good.append(position)
        squares.append(square)
        sizes.append(size)
    values = np.array(squares, np.uint8).reshape(-1, pixels.side, pixels.side, 3)
    return RowBatch(np.array(good, np.int64), values, np.array(sizes, np.int32).reshape(-1, 2))


def _leave_out_copies(
    digests: NDArray[np.uint8], positions: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the first position of every content, in order."""
    _, first = np.unique(digests[positions], axis=0, return_index=True)
    return positions[np.sort(first)]


def _keep_batches(
    batches: Iterable[RowBatch], index: ImageIndex, store: RowStore
) -> Generator[RowBatch, None, None]:
    """Pass batches on, and save them now and then."""
    unsaved: list[RowBatch] = []
    started = saved_at = time.monotonic()
    try:
        for batch in batches:
            unsaved.append(batch)
            yield batch
            waiting = sum(len(item.positions) for item in unsaved) * store.row_bytes
            pause = max(SAVE_EVERY_S, SAVE_EVERY_SHARE * (time.monotonic() - started))
            if waiting >= SEGMENT_BYTES or time.monotonic() > saved_at + pause:
                finished, unsaved = unsaved, []
                _save_batches(finished, index, store)
                saved_at = time.monotonic()
    finally:
        _save_batches(unsaved, index, store)


def _save_batches(batches: list[RowBatch], index: ImageIndex, store: RowStore) -> None:
    if not batches:
        return
    positions, values, sizes = (
        np.concatenate([getattr(batch, column) for batch in batches])
        for column in ("positions", "values", "sizes")
    )
    try:
        store.save(index.digests[positions], values, sizes)
    except OSError as error:
        raise explain_full_disk(store.folder, error.strerror or str(error)) from error


STAGE = "pixels"
BATCH_IMAGES = 16
# Training cuts its crops out of what is kept, so that is a little larger.
MARGIN = 1.15
SIDE_STEP = 8


def choose_pixel_side(side: int, sizes: NDArray[np.int32]) -> int:
    """Choose the side in pixels at which to keep images of these sizes (n, 2) for training at
    `side`.

    It is 15 % more than `side`, so that crops lose nothing, but no more than half of the images
    have themselves: enlarging can wait until training. Sizes that nobody has looked at are 0 and do
    not count. Example:

        >>> choose_pixel_side(224, np.array([[640, 480], [500, 700]], np.int32))
        264
        >>> choose_pixel_side(128, np.array([[32, 32]], np.int32))
        32
    """
    wanted = SIDE_STEP * ceil(MARGIN * side / SIDE_STEP)
    known = sizes[sizes.min(axis=1) > 0]
    return max(1, min(wanted, int(np.median(known.max(axis=1))))) if len(known) else wanted


def open_pixel_store(folder: Path, pixels: PixelSettings) -> RowStore:
    """Open the store of squares below a cache's folder, in a place named by all that the pixels
    depend on.
    """
    return RowStore(folder / "pixels" / pixels.key, (pixels.side, pixels.side, 3), "u1")


def compute_pixel_rows(
    index: ImageIndex,
    pixels: PixelSettings,
    store: RowStore,
    executor: Executor,
    listen: Listener,
    positions: NDArray[np.int64] | None = None,
) -> StoredRows:
    """Decode the images that the store lacks, and keep them; return rows (side, side, 3) uint8 by
    position.

    Only the images at `positions` are decoded; without them all. Equal contents are decoded once.

    Raises:
        SourceError: an image cannot be decoded (any more).
        DataError: the disk has not enough room.
    """
    work = RowWork(STAGE, BATCH_IMAGES, lambda: partial(_decode_batch, index, pixels))
    return compute_rows(index, work, store, executor, listen, positions)


def find_pixel_rows(
    index: ImageIndex,
    pixels: PixelSettings,
    store: RowStore,
    executor: Executor,
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
    rows = compute_rows(index, work, store, executor, listen, positions)
    failed = np.intersect1d(rows.missing, positions).tolist()
    return rows, {position: reasons[index.digests[position].tobytes()] for position in failed}


def _decode_batch(
    index: ImageIndex, pixels: PixelSettings, positions: NDArray[np.int64]
) -> RowBatch:
    return RowBatch(positions, *load_batch(index, positions, pixels))
