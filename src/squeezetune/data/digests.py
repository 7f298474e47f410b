"""The digests of all files of a source: each is read once, and remembered by its stamp.

What was no image is not remembered: what counts as one may change with the program, and to see it
takes the first bytes alone. A damaged cache costs no more than reading again.
"""

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from squeezetune.data.sources.content import DIGEST_BYTES
from squeezetune.data.sources.source import ImageSource, StampedSource
from squeezetune.errors import ImageError
from squeezetune.events import Listener, Notice, StageAdvanced, tell_stage
from squeezetune.system.executor import Executor
from squeezetune.system.store import RowStore

# Of the way in which a stamp and a digest are made: another one forgets all that is remembered.
VERSION = "1-blake2b"
BATCH_STAMPS = 1024
# A killed run loses at most 5 seconds or 5 % of its reading, and a long one still leaves few
# segments in the store.
SAVE_EVERY_S = 5.0
SAVE_EVERY_SHARE = 0.05


@dataclass
class RememberedDigests:
    """The memory for some files; `keys` (n, 16) uint8 are made of their stamps, where `is_settled`
    (n,) says so.
    """

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
        found = np.zeros((len(asked), DIGEST_BYTES), np.uint8)
        sizes = np.zeros((len(asked), 2), np.int32)
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
                # the store's rows have one each
                sizes = np.zeros((len(self._unsaved), 2), np.int32)
                self.store.save(self.keys[self._unsaved], digests[self._unsaved], sizes)
            except OSError as error:
                reason = error.strerror or str(error)
                self.listen(
                    Notice(f"what was read cannot be remembered in {self.store.folder}: {reason}")
                )
                self.is_settled[:] = False
        self._unsaved, self._saved_at = [], time.monotonic()


def open_remembered(
    source: ImageSource,
    names: Sequence[str],
    executor: Executor,
    listen: Listener,
    cache: Path | None,
) -> RememberedDigests | None:
    """Look at the stamps of all files; None where nothing may be kept, or where images do not come
    from files.
    """
    if cache is None or not isinstance(source, StampedSource):
        return None
    # before all stamps, and those before the reading: whatever is written later has another stamp
    now_ns = time.time_ns()
    batches = (names[start : start + BATCH_STAMPS] for start in range(0, len(names), BATCH_STAMPS))
    keys = b"".join(executor.map(partial(_make_keys, source, now_ns), batches))
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


STAGE = "reading"
BATCH_FILES = 64  # of one task of the engine: a task costs about as much as reading one small file
TELL_EVERY_S = 0.05


@dataclass(frozen=True)
class Digests:
    """The digests of files, (n, 16) uint8; `reasons` says by position why some are no images."""

    values: NDArray[np.uint8]
    reasons: Mapping[int, str]

    @cached_property
    def is_image(self) -> NDArray[np.bool_]:
        """Which files are images, (n,)."""
        found = np.ones(len(self.values), np.bool_)
        found[list(self.reasons)] = False
        return found


def read_digests(
    source: ImageSource,
    names: Sequence[str],
    executor: Executor,
    listen: Listener,
    cache: Path | None = None,
) -> Digests:
    """Find the digests of the images, and the reasons why other files are none; each file is read
    once.

    With a `cache`, a file that was read before and has not changed is not read; an interrupted run
    goes on.
    """
    with tell_stage(STAGE, listen, len(names), "files"):
        values = np.zeros((len(names), DIGEST_BYTES), np.uint8)
        remembered = open_remembered(source, names, executor, listen, cache)
        is_known = remembered.recall(values) if remembered else np.zeros(len(names), np.bool_)
        reasons: dict[int, str] = {}
        try:
            for position, found in _read_files(
                source, names, np.flatnonzero(~is_known), executor, listen
            ):
                if isinstance(found, str):
                    reasons[position] = found
                    continue
                values[position] = np.frombuffer(found, np.uint8)
                if remembered:
                    remembered.note(position, values)
        finally:
            if remembered:
                remembered.save(values)
    return Digests(values, reasons)


def _read_files(
    source: ImageSource,
    names: Sequence[str],
    positions: NDArray[np.int64],
    executor: Executor,
    listen: Listener,
) -> Iterator[tuple[int, bytes | str]]:
    """Yield the digest of each file at these positions, or the reason why there is none, and tell
    of the progress.
    """
    told, done = time.perf_counter(), len(names) - len(positions)
    if done:
        listen(StageAdvanced(STAGE, done))
    batches = (
        positions[start : start + BATCH_FILES].tolist()
        for start in range(0, len(positions), BATCH_FILES)
    )
    for batch in executor.map(partial(_digest_batch, source, names), batches):
        yield from batch
        done += len(batch)
        if time.perf_counter() - told >= TELL_EVERY_S:
            told = time.perf_counter()
            listen(StageAdvanced(STAGE, done))


def _digest_batch(
    source: ImageSource, names: Sequence[str], positions: Sequence[int]
) -> list[tuple[int, bytes | str]]:
    return [(position, _digest(source, names[position])) for position in positions]


def _digest(source: ImageSource, name: str) -> bytes | str:
    """Return the digest of an image, or the reason why there is none."""
    try:
        return source.digest(name)
    except ImageError as error:
        return error.message
