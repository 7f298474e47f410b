"""Room for arrays that may be larger than memory: files that nobody sees, and that are gone with
the process.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray

from squeezetune.errors import DataError
from squeezetune.system.disk import check_room, explain_full_disk, find_large_temporary_folder

# Larger arrays than this are not held in memory unless somebody says so.
HELD_BYTES = 256_000_000
BLOCK_IMAGES = 1024


@dataclass(frozen=True)
class Scratch:
    """Gives out arrays: those of at most `held_bytes` in memory, larger ones in a file, mapped.

    What is mapped behaves like any other array; the system writes it to the disk, and reads it
    again, as it needs memory. The files lie in `folder`, without one where this system keeps large
    temporary files. Where the disk has no room for them memory must do, unless `is_strict`.
    """

    folder: Path | None = None
    held_bytes: float = HELD_BYTES
    is_strict: bool = False

    def make_zeros(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Make an array of zeros.

        Raises:
            DataError: it must not be in memory, and the disk has not enough room.
        """
        size = prod(shape) * np.dtype(dtype).itemsize
        if size <= self.held_bytes:
            return np.zeros(shape, dtype)
        folder = self.folder or find_large_temporary_folder()
        try:
            return _map_zeros(folder, shape, np.dtype(dtype), size)
        except (DataError, OSError) as error:
            if not self.is_strict:
                return np.zeros(shape, dtype)
            if isinstance(error, DataError):
                raise
            raise explain_full_disk(folder, error.strerror or str(error)) from error


IN_MEMORY = Scratch(held_bytes=math.inf)


def _map_zeros(
    folder: Path, shape: tuple[int, ...], dtype: np.dtype[Any], size: int
) -> NDArray[Any]:
    folder.mkdir(parents=True, exist_ok=True)
    check_room(folder, size)
    with TemporaryFile(dir=folder) as file:
        _reserve(file, size)
        # a plain array: slices of a memmap cost three times as much; it keeps the file
        return np.asarray(np.memmap(file, dtype, "r+", shape=shape))


def _reserve(file: BinaryIO, size: int) -> None:
    """Make a file of so many zeros that has its place on the disk: a mapped one could not say that
    the disk is full.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    block = bytes(2**20)
    for at in range(0, size, len(block)):
        file.write(block[: size - at])
    file.flush()


@dataclass(frozen=True)
class Selection:
    """Some rows of an array, in this order; they are copied when they are asked for, and not
    before.
    """

    values: NDArray[Any]
    positions: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that all rows have together."""
        return (len(self.positions), *self.values.shape[1:])

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        """Copy some of the rows."""
        copied: NDArray[Any] = self.values[self.positions[rows]]
        return copied


def list_blocks(count: int) -> Iterator[slice]:
    """List the parts of so many rows that are worked on at once, so that memory stays flat."""
    yield from (slice(at, min(at + BLOCK_IMAGES, count)) for at in range(0, count, BLOCK_IMAGES))
