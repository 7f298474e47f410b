"""Digests of files that were read before, remembered by the files' stamps, so that they need not be read again.

What was no image is not remembered: what counts as one may change with the program, and to see it takes the first bytes
alone. A damaged cache costs no more than reading again.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from squeezetune.data.content import DIGEST_BYTES
from squeezetune.data.listing import ImageSource, StampedSource
from squeezetune.engine import Engine
from squeezetune.events import Listener, Notice
from squeezetune.store import RowStore

# Of the way in which a stamp and a digest are made: another one forgets all that is remembered.
VERSION = "1-blake2b"
BATCH_STAMPS = 1024
# A killed run loses at most 5 seconds or 5 % of its reading, and a long one still leaves few segments in the store.
SAVE_EVERY_S = 5.0
SAVE_EVERY_SHARE = 0.05


@dataclass
class RememberedDigests:
    """The memory for some files; `keys` (n, 16) uint8 are made of their stamps, where `is_settled` (n,) says so."""

    store: RowStore
    keys: NDArray[np.uint8]
    is_settled: NDArray[np.bool_]
    listen: Listener
    _unsaved: list[int] = field(default_factory=list)
    _started: float = field(default_factory=time.monotonic)
    _saved_at: float = field(default_factory=time.monotonic)

    def recall(self, digests: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Fill in the digests (n, 16) that are remembered, and say which they are, (n,)."""
        asked = np.flatnonzero(self.is_settled)
        found, sizes = np.zeros((len(asked), DIGEST_BYTES), np.uint8), np.zeros((len(asked), 2), np.int32)
        is_found = self.store.load(self.keys[asked], found, sizes)
        digests[asked[is_found]] = found[is_found]
        known = np.zeros(len(digests), np.bool_)
        known[asked[is_found]] = True
        return known

    def note(self, position: int, digests: NDArray[np.uint8]) -> None:
        """Note that a file has been read; what was noted is saved now and then."""
        if self.is_settled[position]:
            self._unsaved.append(position)
        now = time.monotonic()
        if now >= self._saved_at + max(SAVE_EVERY_S, SAVE_EVERY_SHARE * (now - self._started)):
            self.save(digests)

    def save(self, digests: NDArray[np.uint8]) -> None:
        """Save what was noted; where that is not possible the work goes on without."""
        if self._unsaved:
            try:
                sizes = np.zeros((len(self._unsaved), 2), np.int32)  # the store's rows have one each
                self.store.save(self.keys[self._unsaved], digests[self._unsaved], sizes)
            except OSError as error:
                reason = error.strerror or str(error)
                self.listen(Notice(f"what was read cannot be remembered in {self.store.folder}: {reason}"))
                self.is_settled[:] = False
        self._unsaved, self._saved_at = [], time.monotonic()


def open_remembered(
    source: ImageSource, names: Sequence[str], engine: Engine, listen: Listener, cache: Path | None
) -> RememberedDigests | None:
    """Look at the stamps of all files; None where nothing may be kept, or where images do not come from files."""
    if cache is None or not isinstance(source, StampedSource):
        return None
    # before all stamps, and those before the reading: whatever is written later has another stamp
    now_ns = time.time_ns()
    batches = (names[start : start + BATCH_STAMPS] for start in range(0, len(names), BATCH_STAMPS))
    keys = b"".join(engine.map(partial(_make_keys, source, now_ns), batches))
    rows = np.frombuffer(keys, np.uint8).reshape(-1, DIGEST_BYTES)
    store = RowStore(cache / "digests" / VERSION, (DIGEST_BYTES,), "|u1")
    return RememberedDigests(store, rows, np.any(rows != 0, axis=1), listen)


def _make_keys(source: StampedSource, now_ns: int, names: Sequence[str]) -> bytes:
    """Make a key for each file, 16 bytes; zeros for one that cannot be known by its stamp."""
    stamps = [source.stamp(name) for name in names]
    return b"".join(
        hashlib.blake2b(stamp.mark, digest_size=DIGEST_BYTES).digest()
        if stamp and stamp.is_settled(now_ns)
        else bytes(DIGEST_BYTES)
        for stamp in stamps
    )
