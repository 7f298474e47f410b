"""The digests of all files of a source: each is read once, by several threads."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from squeezetune.data.content import DIGEST_BYTES
from squeezetune.data.listing import ImageSource
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


def read_digests(source: ImageSource, names: Sequence[str], engine: Engine, listen: Listener) -> Digests:
    """Read every file once: the digests of the images, and the reasons why the others are none."""
    values = np.zeros((len(names), DIGEST_BYTES), np.uint8)
    reasons: dict[int, str] = {}
    started = told = time.perf_counter()
    listen(StageStarted(STAGE, len(names), "files"))
    batches = (names[start : start + BATCH_FILES] for start in range(0, len(names), BATCH_FILES))
    done = 0
    for batch in engine.map(partial(_digest_batch, source), batches):
        for position, found in enumerate(batch, done):
            if isinstance(found, str):
                reasons[position] = found
            else:
                values[position] = np.frombuffer(found, np.uint8)
        done += len(batch)
        if time.perf_counter() - told >= TELL_EVERY_S:
            told = time.perf_counter()
            listen(StageAdvanced(STAGE, done))
    listen(StageFinished(STAGE, time.perf_counter() - started))
    return Digests(values, reasons)


def _digest_batch(source: ImageSource, names: Sequence[str]) -> list[bytes | str]:
    return [_digest(source, name) for name in names]


def _digest(source: ImageSource, name: str) -> bytes | str:
    """Return the digest of an image, or the reason why there is none."""
    try:
        return source.digest(name)
    except ImageError as error:
        return error.message
