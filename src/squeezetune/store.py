"""Rows of numbers kept on disk by the content that they were computed from.

A store is a folder of segments. Each is a file that is written whole (temporary name, fsync, rename), so a store
survives a kill at any moment, two runs may share it, and a damaged segment costs no more than computing its rows again.

A segment holds four arrays in numpy's format, one behind the other: checksums, digests, sizes, values. The
values come last and are mapped, so that finding a row does not read its neighbours.

A checksum is the sum of a row's 64-bit words, modulo 2^64. It is compared each time that a row is read, which costs a
fraction of copying the row (1.7 ms for 52 MB); a cryptographic hash of a whole segment would take longer than what
the cache saves. It finds every flipped bit and every lost block, though not two blocks that changed places.
"""

import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from io import BytesIO
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from squeezetune.errors import DataError

DIGEST_BYTES = 16
# Each open segment takes a file handle, of which macOS gives a process 256.
MAX_OPEN = 64
LOAD_ROWS = 1024
SPARE_ROOM = 1.1
RUN_AGAIN = "Run again: what is missing is computed anew."


def find_cache_folder() -> Path:
    """Return the folder for caches: $SQUEEZETUNE_CACHE, or the usual place of this system."""
    if own := os.environ.get("SQUEEZETUNE_CACHE"):
        return Path(own)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "squeezetune"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "squeezetune"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "squeezetune"


@contextmanager
def lend_folder(cache: Path | None) -> Iterator[Path]:
    """Lend the cache's folder, or one that is deleted at the end where nothing may be kept."""
    if cache:
        yield cache
        return
    with TemporaryDirectory(prefix="squeezetune-", dir=find_roomy_folder(), ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def find_roomy_folder() -> Path:
    """Find where large temporary files may go: many systems keep /tmp in memory, where they must not."""
    roomy = Path("/var/tmp")
    is_better = sys.platform == "linux" and "TMPDIR" not in os.environ and os.access(roomy, os.W_OK)
    return roomy if is_better else Path(gettempdir())


def check_room(folder: Path, needed: int) -> None:
    """Make sure that so many bytes, and a tenth more, can be written below a folder that need not exist yet.

    Raises:
        DataError: the disk has less room.
    """
    free = measure_room(folder)
    if free < needed:
        raise explain_full_disk(
            folder, f"needed are {SPARE_ROOM * needed / 1e9:,.1f} GB, and {SPARE_ROOM * free / 1e9:,.1f} GB are free"
        )


def measure_room(folder: Path) -> int:
    """Measure how many bytes may be written below a folder that need not exist yet, with a tenth to spare."""
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    _, _, free = shutil.disk_usage(existing)
    return round(free / SPARE_ROOM)


def explain_full_disk(folder: Path, reason: str) -> DataError:
    """Say that rows cannot be kept, why, and what helps."""
    return DataError(
        f"what training reads again and again cannot be kept in {folder}: {reason}",
        "Free some space, or name a folder on another disk in the variable SQUEEZETUNE_CACHE.",
    )


def write_file(path: Path, *parts: bytes | memoryview, is_durable: bool = True) -> None:
    """Write a file whole or not at all, its parts one behind the other: temporary sibling, fsync, rename.

    Without `is_durable` there is no fsync: many small files are faster by far, and a power failure may empty them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            if is_durable:
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class Segment:
    """What is known of a segment: the columns of its rows, and where in the file their values begin."""

    path: Path
    checks: NDArray[np.uint64]  # (rows,)
    digests: NDArray[np.uint8]  # (rows, 16)
    sizes: NDArray[np.int32]  # (rows, 2)
    offset: int


@dataclass(frozen=True)
class RowStore:
    """Rows of numbers of one shape and type, found by digest; `size` is the image's (width, height)."""

    folder: Path
    shape: tuple[int, ...]
    dtype: str = "<f2"

    @property
    def row_bytes(self) -> int:
        """How many bytes the values of one row take."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize

    def load(self, digests: NDArray[np.uint8], values: NDArray[Any], sizes: NDArray[Any]) -> NDArray[np.bool_]:
        """Fill the rows of `values` (n, *shape) and `sizes` (n, 2) whose digests (n, 16) are known; say which (n,)."""
        rows = self.open_rows(digests)
        known = rows.is_known
        for at in range(0, len(digests), LOAD_ROWS):
            positions = at + np.flatnonzero(known[at : at + LOAD_ROWS])
            try:
                values[positions], sizes[positions] = rows.gather(positions), rows.sizes[positions]
            except DataError:  # damaged: what is here is computed again
                known[positions] = False
        return known

    def open_rows(self, digests: NDArray[np.uint8]) -> "StoredRows":
        """Find the rows of these digests (n, 16) once, to be gathered by position; their values stay on disk."""
        found = [_read_segment(path, self.shape, self.dtype) for path in sorted(self.folder.glob("*.npy"))]
        segments = tuple(segment for segment in found if segment)
        known = np.concatenate([np.empty((0, DIGEST_BYTES), np.uint8), *[segment.digests for segment in segments]])
        return StoredRows(self, segments, _find_rows(known, digests))

    def save(self, digests: NDArray[np.uint8], values: NDArray[Any], sizes: NDArray[Any]) -> None:
        """Add rows as one new segment."""
        values = np.ascontiguousarray(values, self.dtype)
        sizes = np.ascontiguousarray(sizes, "<i4")
        columns = BytesIO()
        for column in (_sum_rows(values, sizes), np.ascontiguousarray(digests, np.uint8), sizes):
            np.lib.format.write_array(columns, column, version=(1, 0))
        np.lib.format.write_array_header_1_0(columns, np.lib.format.header_data_from_array_1_0(values))
        # the values go to the disk from where they are: they may be large
        path = self.folder / f"{uuid.uuid4().hex}.npy"
        write_file(path, columns.getbuffer(), values.reshape(-1).view(np.uint8).data)


@dataclass(frozen=True, eq=False)
class StoredRows:
    """Rows that were found in a store: they stay on disk, mapped, and are copied when they are gathered.

    `numbers` (n,) int64 counts through the rows of all `segments`, -1 where a row is not in the store. Several
    threads may gather at once.
    """

    store: RowStore
    segments: tuple[Segment, ...]
    numbers: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def is_known(self) -> NDArray[np.bool_]:
        """Which rows are in the store, (n,)."""
        return self.numbers >= 0

    @property
    def missing(self) -> NDArray[np.int64]:
        """The positions of the rows that are not in the store."""
        return np.flatnonzero(self.numbers < 0)

    @cached_property
    def sizes(self) -> NDArray[np.int32]:
        """The images' widths and heights, (n, 2) int32; -1 for rows that are not in the store."""
        unknown = np.full((1, 2), -1, np.int32)  # the last: number -1 finds it
        return np.concatenate([*[segment.sizes for segment in self.segments], unknown])[self.numbers]

    def gather(self, positions: NDArray[np.integer[Any]]) -> NDArray[Any]:
        """Copy the rows at these positions, (len(positions), *shape), and compare their checksums.

        Raises:
            ValueError: one of them is not in the store.
            DataError: one of them is damaged, or is gone; its segment is deleted, so that the next run computes it.
        """
        numbers = self.numbers[positions]
        if len(numbers) and numbers.min() < 0:
            raise ValueError("a row is not in the store")
        segments = np.searchsorted(self._ends, numbers, side="right")
        values = np.empty((len(numbers), *self.store.shape), self.store.dtype)
        try:
            # row by row: for a hundred rows as fast as the memory, where one fancy index a segment is not
            rows = (numbers - self._starts[segments]).tolist()
            for target, (segment, row) in enumerate(zip(segments.tolist(), rows, strict=True)):
                values[target] = self._map_values(segment)[row]
        except (OSError, ValueError) as error:
            raise DataError(f"what was kept in {self.store.folder} is gone: {error}", RUN_AGAIN) from error
        damaged = np.flatnonzero(_sum_rows(values, self.sizes[positions]) != self._checks[numbers])
        if len(damaged):
            self._discard(segments[damaged])
        return values

    def _discard(self, segments: NDArray[np.int64]) -> NoReturn:
        paths = sorted({self.segments[segment].path for segment in segments})
        for path in paths:
            with suppress(OSError):  # a folder that cannot be written, or a file that Windows does not let go
                path.unlink()
        raise DataError(f"what was kept in {paths[0]} is damaged", RUN_AGAIN)

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        return np.cumsum([len(segment.digests) for segment in self.segments], dtype=np.int64)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.concatenate([np.zeros(1, np.int64), self._ends])

    @cached_property
    def _checks(self) -> NDArray[np.uint64]:
        return np.concatenate([np.empty(0, np.uint64), *[segment.checks for segment in self.segments]])

    @cached_property
    def _map_values(self) -> Callable[[int], NDArray[Any]]:
        """Map the values of a segment by its number, (rows, *shape); the maps used last stay open."""
        segments, store = self.segments, self.store  # no circle through self: the files are let go with the rows

        @lru_cache(MAX_OPEN)
        def map_values(number: int) -> NDArray[Any]:
            segment = segments[number]
            shape = (len(segment.digests), *store.shape)
            # a plain array: slices of a memmap cost three times as much
            return np.asarray(np.memmap(segment.path, store.dtype, "r", segment.offset, shape))

        return map_values


def _read_segment(path: Path, shape: tuple[int, ...], dtype: str) -> Segment | None:
    """Read what is known of a segment; None where the file is damaged or its rows are of another kind."""
    try:
        with path.open("rb") as file:
            checks, digests, sizes = (np.lib.format.read_array(file) for _ in range(3))
            np.lib.format.read_magic(file)
            values_shape, _, values_dtype = np.lib.format.read_array_header_1_0(file)
            segment = Segment(path, checks, digests, sizes, file.tell())
        count = len(digests)
        size = segment.offset + count * prod(shape) * np.dtype(dtype).itemsize
        found = [(column.dtype, column.shape) for column in (checks, digests, sizes)] + [(values_dtype, values_shape)]
        needed = [("<u8", (count,)), ("u1", (count, DIGEST_BYTES)), ("<i4", (count, 2)), (dtype, (count, *shape))]
        return segment if found == needed and path.stat().st_size == size else None
    except Exception:  # numpy raises nearly anything over a damaged header
        return None


def _find_rows(known: NDArray[np.uint8], wanted: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Find each wanted digest (n, 16) among the known ones (m, 16): the first place, or -1, (n,)."""
    keys, targets = (np.ascontiguousarray(digests).view(f"V{DIGEST_BYTES}").ravel() for digests in (known, wanted))
    order = np.argsort(keys, kind="stable")
    places = np.searchsorted(keys[order], targets)
    candidates = np.append(order, -1)[places]
    is_found = candidates >= 0
    is_found[is_found] = keys[candidates[is_found]] == targets[is_found]
    return np.where(is_found, candidates, -1)


def _sum_rows(values: NDArray[Any], sizes: NDArray[np.int32]) -> NDArray[np.uint64]:
    """Sum the 64-bit words of every row's values and size modulo 2^64, (n,); bytes at the end count singly."""
    rows = values.reshape(-1).view(np.uint8).reshape(len(values), -1) if len(values) else np.empty((0, 0), np.uint8)
    whole = rows.shape[1] // 8 * 8
    sums = np.ascontiguousarray(sizes, "<i4").view("<u8")[:, 0].astype(np.uint64)
    sums += rows[:, :whole].view("<u8").sum(axis=1, dtype=np.uint64)
    sums += rows[:, whole:].sum(axis=1, dtype=np.uint64)
    return sums
