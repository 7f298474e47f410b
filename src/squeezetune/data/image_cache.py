"""A row of numbers for every image of an index, computed once and kept: its pixels, and whatever
else.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from squeezetune.data.index import ImageIndex
from squeezetune.data.pixels import PixelSettings, load_indexed
from squeezetune.errors import ImageError, SourceError
from squeezetune.events import Listener, tell_stage
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
    """What was computed of some images of an index: their rows of every kind, each (n, *shape), and
    their own `sizes` (n, 2); and why others cannot be decoded, by position.
    """

    positions: NDArray[np.int64]
    rows: tuple[NDArray[Any], ...]
    sizes: NDArray[np.int32]
    failures: Mapping[int, str] = field(default_factory=dict)

    @property
    def values(self) -> NDArray[Any]:
        """The rows of the last kind: what the batch is computed for."""
        return self.rows[-1]


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


class RowSaver:
    """Saves batches of rows now and then, and what is left when it is left, however that comes.

    `stores` are those of the rows' kinds; a kind without one is not kept. Where one cannot be
    written `fail` is called, and if that returns nothing more is saved.
    """

    def __init__(
        self,
        digests: NDArray[np.uint8],
        stores: Sequence[RowStore | None],
        fail: Callable[[RowStore, OSError], None],
        segment_bytes: int,
        pause_share: float,
    ) -> None:
        """Begin with nothing; `pause_share` of the time that has passed is what may be lost."""
        self._digests, self._stores, self._fail = digests, stores, fail
        self._segment_bytes, self._pause_share = segment_bytes, pause_share
        self._unsaved: list[RowBatch] = []
        self._started = self._saved_at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.save()

    def add(self, batch: RowBatch) -> None:
        """Take a batch, and save what is waiting if that is much, or has waited long."""
        if not any(self._stores):
            return
        self._unsaved.append(batch)
        row_bytes = sum(store.row_bytes for store in self._stores if store)
        waiting = sum(len(item.positions) for item in self._unsaved) * row_bytes
        pause = max(SAVE_EVERY_S, self._pause_share * (time.monotonic() - self._started))
        if waiting >= self._segment_bytes or time.monotonic() > self._saved_at + pause:
            self.save()
            self._saved_at = time.monotonic()

    def save(self) -> None:
        """Save what is waiting: a segment in every store."""
        batches, self._unsaved = self._unsaved, []
        if not any(len(batch.positions) for batch in batches):
            return
        digests = self._digests[np.concatenate([batch.positions for batch in batches])]
        sizes = np.concatenate([batch.sizes for batch in batches])
        for kind, store in enumerate(self._stores):
            if store is None:
                continue
            try:
                store.save(digests, np.concatenate([batch.rows[kind] for batch in batches]), sizes)
            except OSError as error:
                self._fail(store, error)
                self._stores = ()
                return


def compute_batches(
    work: RowWork,
    positions: NDArray[np.int64],
    saver: RowSaver,
    executor: Executor,
    listen: Listener,
    take: Callable[[RowBatch], None],
) -> None:
    """Compute the rows of the images at these positions; each batch is given to `take`, and saved.

    An interrupted or killed run keeps what it has done.
    """
    if not len(positions):
        return
    done, size = 0, work.batch_size
    parts = [positions[at : at + size] for at in range(0, len(positions), size)]
    with tell_stage(work.stage, listen, len(positions)) as advance, saver:
        for batch in executor.map(work.open(), parts):
            saver.add(batch)
            take(batch)
            done += len(batch.positions) + len(batch.failures)
            advance(done)


def compute_rows(
    index: ImageIndex,
    work: RowWork,
    store: RowStore,
    executor: Executor,
    listen: Listener,
    positions: NDArray[np.int64] | None = None,
) -> tuple[StoredRows, dict[int, str]]:
    """Compute, and keep, the rows that the store lacks; return the rows of the index, to be
    gathered by position, and why some of those asked for cannot be decoded.

    Only the images at `positions` are computed; without them all. Equal contents are computed once,
    and what is kept of these images is read through first, so that what is damaged is computed
    again.

    Raises:
        DataError: the disk has not enough room.
    """
    wanted = np.arange(len(index)) if positions is None else positions
    rows, failures = store.open_rows(index.digests).drop_damaged(wanted), dict[int, str]()
    asked = np.intersect1d(rows.missing, wanted)
    if not len(asked):
        return rows, failures
    firsts = find_firsts(index.digests)
    missing = np.unique(firsts[asked])
    check_room(store.folder, len(missing) * store.row_bytes)
    saver = RowSaver(index.digests, (store,), _refuse, SEGMENT_BYTES, SAVE_EVERY_SHARE)
    compute_batches(
        work, missing, saver, executor, listen, lambda batch: failures.update(batch.failures)
    )
    return store.open_rows(index.digests), spread_failures(failures, firsts, asked)


def find_firsts(digests: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Find for each image the first one of the same content, (n,)."""
    _, first, inverse = np.unique(digests, axis=0, return_index=True, return_inverse=True)
    firsts: NDArray[np.int64] = first[inverse.ravel()]
    return firsts


def spread_failures(
    failures: Mapping[int, str], firsts: NDArray[np.int64], positions: NDArray[np.int64]
) -> dict[int, str]:
    """Say why those of the images at these positions cannot be decoded whose content's first image
    failed.
    """
    return {
        at: failures[first] for at in positions.tolist() if (first := int(firsts[at])) in failures
    }


def decode_batch(
    index: ImageIndex, positions: NDArray[np.int64], pixels: PixelSettings, room: int = 0
) -> RowBatch:
    """Decode what can be decoded of the images at these positions: (n, side, side, 3) uint8.

    With `room` for more images than that black ones follow them.
    """
    images = np.zeros((max(room, len(positions)), pixels.side, pixels.side, 3), np.uint8)
    good: list[int] = []
    sizes: list[tuple[int, int]] = []
    failures: dict[int, str] = {}
    for position in positions.tolist():
        try:
            images[len(good)], size = load_indexed(index, position, pixels)
        except ImageError as error:
            failures[position] = error.message
            continue
        good.append(position)
        sizes.append(size)
    own = np.array(sizes, np.int32).reshape(-1, 2)
    return RowBatch(
        np.array(good, np.int64), (images if room else images[: len(good)],), own, failures
    )


def load_batch(index: ImageIndex, positions: NDArray[np.int64], pixels: PixelSettings) -> RowBatch:
    """Decode all images at these positions: (n, side, side, 3) uint8.

    Raises:
        SourceError: one cannot be decoded; the message names it.
    """
    batch = decode_batch(index, positions, pixels)
    for position, reason in batch.failures.items():
        raise SourceError(
            f"{index.names[position]} could be read a moment ago, and now cannot: {reason}",
            "Leave the photos as they are during a run, and run again.",
        )
    return batch


def _refuse(store: RowStore, error: OSError) -> None:
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
    work = RowWork(STAGE, BATCH_IMAGES, lambda: lambda part: load_batch(index, part, pixels))
    return compute_rows(index, work, store, executor, listen, positions)[0]


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
    work = RowWork(STAGE, BATCH_IMAGES, lambda: lambda part: decode_batch(index, part, pixels))
    return compute_rows(index, work, store, executor, listen, positions)
