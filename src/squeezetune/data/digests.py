"""The digests of all files of a source: each is read once, by several threads."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from squeezetune.data.content import DIGEST_BYTES
from squeezetune.data.listing import ImageSource
from squeezetune.data.remembered import open_remembered
from squeezetune.engine import Engine
from squeezetune.errors import ImageError
from squeezetune.events import Listener, StageAdvanced, StageFinished, StageStarted

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
    source: ImageSource, names: Sequence[str], engine: Engine, listen: Listener, cache: Path | None = None
) -> Digests:
    """Find the digests of the images, and the reasons why other files are none; each file is read once.

    With a `cache`, a file that was read before and has not changed is not read; an interrupted run goes on.
    """
    started = time.perf_counter()
    listen(StageStarted(STAGE, len(names), "files"))
    values = np.zeros((len(names), DIGEST_BYTES), np.uint8)
    remembered = open_remembered(source, names, engine, listen, cache)
    is_known = remembered.recall(values) if remembered else np.zeros(len(names), np.bool_)
    reasons: dict[int, str] = {}
    try:
        for position, found in _read_files(source, names, np.flatnonzero(~is_known), engine, listen):
            if isinstance(found, str):
                reasons[position] = found
                continue
            values[position] = np.frombuffer(found, np.uint8)
            if remembered:
                remembered.note(position, values)
    finally:
        if remembered:
            remembered.save(values)
    listen(StageFinished(STAGE, time.perf_counter() - started))
    return Digests(values, reasons)


def _read_files(
    source: ImageSource, names: Sequence[str], positions: NDArray[np.int64], engine: Engine, listen: Listener
) -> Iterator[tuple[int, bytes | str]]:
    """Yield the digest of each file at these positions, or the reason why there is none, and tell of the progress."""
    told, done = time.perf_counter(), len(names) - len(positions)
    if done:
        listen(StageAdvanced(STAGE, done))
    batches = (positions[start : start + BATCH_FILES].tolist() for start in range(0, len(positions), BATCH_FILES))
    for batch in engine.map(partial(_digest_batch, source, names), batches):
        yield from batch
        done += len(batch)
        if time.perf_counter() - told >= TELL_EVERY_S:
            told = time.perf_counter()
            listen(StageAdvanced(STAGE, done))


def _digest_batch(source: ImageSource, names: Sequence[str], positions: Sequence[int]) -> list[tuple[int, bytes | str]]:
    return [(position, _digest(source, names[position])) for position in positions]


def _digest(source: ImageSource, name: str) -> bytes | str:
    """Return the digest of an image, or the reason why there is none."""
    try:
        return source.digest(name)
    except ImageError as error:
        return error.message
