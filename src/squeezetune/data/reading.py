"""An image of a source, read whole and within limits, and the memory that all images in flight
take.
"""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from squeezetune.data.sources.content import RawImage, hash_bytes
from squeezetune.data.sources.source import ImageSource
from squeezetune.errors import ImageError

# Of all threads together: with what a small program takes besides, a process stays below 800 MB.
DECODING_BYTES = 600_000_000
# Larger files are read one at a time.
LARGE_FILE_BYTES = 1 << 24


class Allotment:
    """So many bytes, of which each thread holds what it needs while it needs that; whoever came
    first has it first.

    A thread takes all that a decoder needs at once, and waits for nothing while it holds that. Only
    the one that has a large file takes twice, for the file and for decoding it: it goes before all
    others then, and what both take together must never be more than there is (`most_bytes`), so
    that nobody waits for ever.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._free = most_bytes
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._file_lock = threading.Lock()
        self._file_thread = 0

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Hold so many bytes for the block; wait for them if need be."""
        size = min(size, self.most_bytes)
        self._take(size)
        try:
            yield
        finally:
            self._give(size)

    @contextmanager
    def hold_file(self, size: int) -> Iterator[None]:
        """Hold the bytes of a file while it is read and decoded; a small one needs no leave."""
        if size <= LARGE_FILE_BYTES:
            yield
            return
        with self._file_lock, self.hold(size):
            self._file_thread = threading.get_ident()
            try:
                yield
            finally:
                self._file_thread = 0

    def _take(self, size: int) -> None:
        turn = object()
        with self._changed:
            if self._file_thread == threading.get_ident():
                self._waiting.appendleft(turn)
            else:
                self._waiting.append(turn)
            try:
                while self._waiting[0] is not turn or size > self._free:
                    self._changed.wait()
                self._free -= size
            finally:  # also if it is interrupted
                self._waiting.remove(turn)
                self._changed.notify_all()

    def _give(self, size: int) -> None:
        with self._changed:
            self._free += size
            self._changed.notify_all()


DECODING = Allotment(DECODING_BYTES)


CHANGED = "the file has changed since it was first read in this run"


@contextmanager
def read_image(source: ImageSource, name: str, digest: bytes = b"") -> Iterator[RawImage]:
    """Read an image of a source for the block; large files are held one at a time.

    With a `digest`, bytes that have another one are refused: what is computed of them would be kept
    as if it were of the image that was indexed.

    Raises:
        ImageError: it cannot be read, or has changed; the message is the reason alone.

    """
    with DECODING.hold_file(measure_image(source, name)):
        raw = source.read(name)
        if digest and isinstance(raw, bytes) and hash_bytes(raw) != digest:
            raise ImageError(CHANGED)
        yield raw


def measure_image(source: ImageSource, name: str) -> int:
    """Return how many bytes the file of an image has; 0 where there is none, or its source cannot
    tell.
    """
    measure = getattr(source, "measure", None)
    return int(measure(name)) if measure else 0
