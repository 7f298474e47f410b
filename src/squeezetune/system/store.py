"""Rows of numbers kept on disk by the content that they were computed from.

A store is a folder of segments. Each is a file that is written whole (temporary name, fsync,
rename), so a store survives a kill at any moment, two runs may share it, and a damaged segment
costs no more than computing its rows again.

A segment holds four arrays in numpy's format, one behind the other: checksums, digests, sizes,
values. The values come last and are mapped, so that finding a row does not read its neighbours.

A row is bound to its content and to its store: the checksum goes over values, size and digest, and
begins with the names of the store's folder and of the one above. It is compared each time that a
row is read. A cryptographic hash would take longer than what the cache saves; this one sums the
64-bit words of every 4 KiB, as a disk loses them, and then multiplies the sums by odd numbers of
the store (a multilinear hash, modulo 2^64). So it finds every flipped bit, blocks that were lost,
zeroed or changed places, and files of another store.
"""

import hashlib
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeezetune.errors import DataError
from squeezetune.system.disk import write_file

DIGEST_BYTES = 16
# Each open segment takes a file handle, of which macOS gives a process 256.
MAX_OPEN = 64
# Rows that are read at once where all are looked at.
LOAD_BYTES = 32_000_000
# 64-bit words that a checksum sums before it multiplies: 4 KiB.
BLOCK_WORDS = 512
RUN_AGAIN = "Run again: what is missing is computed anew."


@dataclass(frozen=True)
class Segment:
    """What is known of a segment: the columns of its rows, and where in the file their values
    begin.
    """

    path: Path
    checks: NDArray[np.uint64]  # (rows,)
    digests: NDArray[np.uint8]  # (rows, 16)
    sizes: NDArray[np.int32]  # (rows, 2)
    offset: int


@dataclass(frozen=True)
class RowStore:
    """Rows of numbers of one shape and type, found by digest; `size` is the image's (width,
    height).
    """

    folder: Path
    shape: tuple[int, ...]
    dtype: str = "<f2"

    @property
    def place(self) -> str:
        """What its rows are bound to, wherever the cache lies: the names of its folder and of the
        one above.
        """
        return "/".join(self.folder.absolute().parts[-2:])

    @property
    def load_rows(self) -> int:
        """How many rows are read at once."""
        return max(1, LOAD_BYTES // max(1, self.row_bytes))

    @property
    def row_bytes(self) -> int:
        """How many bytes the values of one row take."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize

    def load(
        self, digests: NDArray[np.uint8], values: NDArray[Any], sizes: NDArray[Any]
    ) -> NDArray[np.bool_]:
        """Fill the rows of `values` (n, *shape) and `sizes` (n, 2) whose digests (n, 16) are known;
        say which (n,).
        """
        rows = self.open_rows(digests)
        known = rows.is_known
        for at in range(0, len(digests), self.load_rows):
            positions = at + np.flatnonzero(known[at : at + self.load_rows])
            try:
                values[positions], sizes[positions] = rows.gather(positions), rows.sizes[positions]
            except DataError:  # damaged: what is here is computed again
                known[positions] = False
        return known

    def open_rows(self, digests: NDArray[np.uint8]) -> "StoredRows":
        """Find the rows of these digests (n, 16) once, to be gathered by position; their values
        stay on disk.
        """
        found = [
            _read_segment(path, self.shape, self.dtype)
            for path in sorted(self.folder.glob("*.npy"))
        ]
        segments = tuple(segment for segment in found if segment)
        known = np.concatenate(
            [np.empty((0, DIGEST_BYTES), np.uint8), *[segment.digests for segment in segments]]
        )
        return StoredRows(self, segments, _find_rows(known, digests))

    def save(self, digests: NDArray[np.uint8], values: NDArray[Any], sizes: NDArray[Any]) -> None:
        """Add rows as one new segment."""
        values = np.ascontiguousarray(values, self.dtype)
        sizes, digests = np.ascontiguousarray(sizes, "<i4"), np.ascontiguousarray(digests, np.uint8)
        columns = BytesIO()
        for column in (_checksum_rows(self.place, values, sizes, digests), digests, sizes):
            np.lib.format.write_array(columns, column, version=(1, 0))
        np.lib.format.write_array_header_1_0(
            columns, np.lib.format.header_data_from_array_1_0(values)
        )
        # the values go to the disk from where they are: they may be large
        path = self.folder / f"{uuid.uuid4().hex}.npy"
        write_file(path, columns.getbuffer(), values.reshape(-1).view(np.uint8).data)


@dataclass(frozen=True, eq=False)
class StoredRows:
    """Rows that were found in a store: they stay on disk, mapped, and are copied when they are
    gathered.

    `numbers` (n,) int64 counts through the rows of all `segments`, -1 where a row is not in the
    store. Several threads may gather at once.
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
        return np.concatenate([*[segment.sizes for segment in self.segments], unknown])[
            self.numbers
        ]

    def gather(self, positions: NDArray[np.integer[Any]]) -> NDArray[Any]:
        """Copy the rows at these positions, (len(positions), *shape), and compare their checksums.

        Raises:
            ValueError: one of them is not in the store.
            DataError: one of them is damaged, or is gone; its segment is deleted, so that the next
                run computes it.
        """
        values, damaged = self._copy(positions)
        if len(damaged):
            self._discard(damaged)
            raise DataError(
                f"what was kept in {self.segments[damaged[0]].path} is damaged", RUN_AGAIN
            )
        return values

    def drop_damaged(self, positions: NDArray[np.integer[Any]]) -> "StoredRows":
        """Read what is known at these positions; what is damaged goes, and is missing in the rows
        that are returned.
        """
        known, lost = positions[self.is_known[positions]], [np.empty(0, np.int64)]
        for at in range(0, len(known), self.store.load_rows):
            part = known[at : at + self.store.load_rows]
            try:
                lost.append(self._copy(part)[1])
            except DataError:
                lost.append(self._find_segments(self.numbers[part]))
        damaged = np.unique(np.concatenate(lost))
        self._discard(damaged)
        is_lost = self.is_known & np.isin(self._find_segments(self.numbers), damaged)
        return replace(self, numbers=np.where(is_lost, -1, self.numbers))

    def _copy(self, positions: NDArray[np.integer[Any]]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Copy the rows at these positions, and name the segments of those that are damaged."""
        numbers = self.numbers[positions]
        if len(numbers) and numbers.min() < 0:
            raise ValueError("a row is not in the store")
        segments = self._find_segments(numbers)
        values = np.empty((len(numbers), *self.store.shape), self.store.dtype)
        try:
            # row by row: for a hundred rows as fast as the memory, where one fancy index a segment
            # is not
            rows = (numbers - self._starts[segments]).tolist()
            for target, (segment, row) in enumerate(zip(segments.tolist(), rows, strict=True)):
                values[target] = self._map_values(segment)[row]
        except (OSError, ValueError) as error:
            raise DataError(
                f"what was kept in {self.store.folder} is gone: {error}", RUN_AGAIN
            ) from error
        checks = _checksum_rows(
            self.store.place, values, self.sizes[positions], self._digests[numbers]
        )
        return values, np.unique(segments[checks != self._checks[numbers]])

    def _find_segments(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(self._ends, numbers, side="right")

    def _discard(self, segments: NDArray[np.int64]) -> None:
        for segment in segments:
            # a folder that cannot be written, or a file that Windows does not let go
            with suppress(OSError):
                self.segments[segment].path.unlink()

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        return np.cumsum([len(segment.digests) for segment in self.segments], dtype=np.int64)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.concatenate([np.zeros(1, np.int64), self._ends])

    @cached_property
    def _digests(self) -> NDArray[np.uint8]:
        return np.concatenate(
            [np.empty((0, DIGEST_BYTES), np.uint8), *[part.digests for part in self.segments]]
        )

    @cached_property
    def _checks(self) -> NDArray[np.uint64]:
        return np.concatenate(
            [np.empty(0, np.uint64), *[segment.checks for segment in self.segments]]
        )

    @cached_property
    def _map_values(self) -> Callable[[int], NDArray[Any]]:
        """Map the values of a segment by its number, (rows, *shape); the maps used last stay
        open.
        """
        # no circle through self: the files are let go with the rows
        segments, store = (self.segments, self.store)

        @lru_cache(MAX_OPEN)
        def map_values(number: int) -> NDArray[Any]:
            segment = segments[number]
            shape = (len(segment.digests), *store.shape)
            # a plain array: slices of a memmap cost three times as much
            return np.asarray(np.memmap(segment.path, store.dtype, "r", segment.offset, shape))

        return map_values


def _read_segment(path: Path, shape: tuple[int, ...], dtype: str) -> Segment | None:
    """Read what is known of a segment; None where the file is damaged or its rows are of another
    kind.
    """
    try:
        with path.open("rb") as file:
            checks, digests, sizes = (np.lib.format.read_array(file) for _ in range(3))
            np.lib.format.read_magic(file)
            values_shape, _, values_dtype = np.lib.format.read_array_header_1_0(file)
            segment = Segment(path, checks, digests, sizes, file.tell())
        count = len(digests)
        size = segment.offset + count * prod(shape) * np.dtype(dtype).itemsize
        found = [(column.dtype, column.shape) for column in (checks, digests, sizes)] + [
            (values_dtype, values_shape)
        ]
        needed = [
            ("<u8", (count,)),
            ("u1", (count, DIGEST_BYTES)),
            ("<i4", (count, 2)),
            (dtype, (count, *shape)),
        ]
        return segment if found == needed and path.stat().st_size == size else None
    except Exception:  # numpy raises nearly anything over a damaged header
        return None


def _find_rows(known: NDArray[np.uint8], wanted: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Find each wanted digest (n, 16) among the known ones (m, 16): the first place, or -1,
    (n,).
    """
    keys, targets = (
        np.ascontiguousarray(digests).view(f"V{DIGEST_BYTES}").ravel()
        for digests in (known, wanted)
    )
    order = np.argsort(keys, kind="stable")
    places = np.searchsorted(keys[order], targets)
    candidates = np.append(order, -1)[places]
    is_found = candidates >= 0
    is_found[is_found] = keys[candidates[is_found]] == targets[is_found]
    return np.where(is_found, candidates, -1)


def _checksum_rows(
    place: str, values: NDArray[Any], sizes: NDArray[np.int32], digests: NDArray[np.uint8]
) -> NDArray[np.uint64]:
    """Compute the checksum of every row's values, size and digest in the store of that place, (n,)
    uint64.
    """
    n = len(values)
    rows = values.reshape(-1).view(np.uint8).reshape(n, -1) if n else np.empty((0, 0), np.uint8)
    end = rows.shape[1] // 8 * 8
    words, whole = rows[:, :end].view("<u8"), end // 8 // BLOCK_WORDS * BLOCK_WORDS
    blocks = (
        words[:, :whole].reshape(n, whole // BLOCK_WORDS, BLOCK_WORDS).sum(axis=2, dtype=np.uint64)
    )
    rest = words[:, whole:].sum(axis=1, dtype=np.uint64, keepdims=True)
    last = np.zeros((n, 8), np.uint8)
    last[:, : rows.shape[1] - end] = rows[:, end:]
    known = [
        np.ascontiguousarray(column).view("<u8") for column in (last, sizes.astype("<i4"), digests)
    ]
    # the row of ones gives even an empty row a checksum
    terms = np.concatenate(
        [np.ones((n, 1), np.uint64), blocks, rest, *known], axis=1, dtype=np.uint64
    )
    sums: NDArray[np.uint64] = terms @ _draw_factors(place, terms.shape[1])
    return sums


@lru_cache(maxsize=32)
def _draw_factors(place: str, count: int) -> NDArray[np.uint64]:
    """Draw odd numbers (count,) that belong to a store: times one of them, no flipped bit is
    lost.
    """
    stream = hashlib.shake_128(place.encode(errors="surrogatepass")).digest(8 * count)
    factors: NDArray[np.uint64] = np.frombuffer(stream, "<u8").astype(np.uint64) | np.uint64(1)
    return factors
