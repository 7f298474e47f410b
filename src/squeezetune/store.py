"""Rows of numbers kept on disk by the content that they were computed from.

A store is a folder of segments, each a numpy file of records (digest, size, values) that is written whole: temporary
name, fsync, rename. So a store survives a kill at any moment, two runs may share it, and a damaged segment
costs no more than computing its rows again.
"""

import os
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DIGEST_BYTES = 16


def find_cache_folder() -> Path:
    """Return the folder for caches: $SQUEEZETUNE_CACHE, or the usual place of this system."""
    if own := os.environ.get("SQUEEZETUNE_CACHE"):
        return Path(own)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "squeezetune"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "squeezetune"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "squeezetune"


def write_file(path: Path, payload: bytes | memoryview, *, is_durable: bool = True) -> None:
    """Write a file whole or not at all: temporary sibling, fsync, rename.

    Without `is_durable` there is no fsync: many small files are faster by far, and a power failure may empty them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(payload)
            file.flush()
            if is_durable:
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class RowStore:
    """Rows of numbers of one shape and type, found by digest; `size` is the image's (width, height)."""

    folder: Path
    shape: tuple[int, ...]
    dtype: str = "<f2"

    def load(self, digests: NDArray[np.uint8], values: NDArray[Any], sizes: NDArray[Any]) -> NDArray[np.bool_]:
        """Fill the rows of `values` (n, *shape) and `sizes` (n, 2) whose digests (n, 16) are known; say which (n,)."""
        positions: dict[bytes, list[int]] = {}
        for position, digest in enumerate(digests):
            positions.setdefault(digest.tobytes(), []).append(position)
        known = np.zeros(len(digests), np.bool_)
        for path in sorted(self.folder.glob("*.npy")):
            segment = self._read_segment(path)
            targets, rows = _match_rows(segment["digest"], positions)
            fresh = ~known[targets]
            targets, rows = targets[fresh], rows[fresh]
            values[targets], sizes[targets] = segment["values"][rows], segment["size"][rows]
            known[targets] = True
        return known

    def save(self, digests: NDArray[np.uint8], values: NDArray[Any], sizes: NDArray[Any]) -> None:
        """Add rows as one new segment."""
        segment = np.empty(len(digests), self._record)
        segment["digest"], segment["values"], segment["size"] = digests, values, sizes
        buffer = BytesIO()
        np.save(buffer, segment)
        write_file(self.folder / f"{uuid.uuid4().hex}.npy", buffer.getbuffer())

    @property
    def _record(self) -> np.dtype[Any]:
        return np.dtype([("digest", "u1", DIGEST_BYTES), ("size", "<i4", 2), ("values", self.dtype, self.shape)])

    def _read_segment(self, path: Path) -> NDArray[Any]:
        try:
            segment: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
        except Exception:  # numpy raises nearly anything over a damaged header
            return np.empty(0, self._record)
        return segment if segment.dtype == self._record else np.empty(0, self._record)


def _match_rows(
    digests: NDArray[np.uint8], positions: Mapping[bytes, list[int]]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pair wanted positions with the rows of a segment that hold them."""
    pairs = [(position, row) for row, digest in enumerate(digests) for position in positions.get(digest.tobytes(), ())]
    table = np.array(pairs, np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]
