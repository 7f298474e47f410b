"""One image of a source, read whole and within limits, and the same as it was when it was indexed."""

from collections.abc import Iterator
from contextlib import contextmanager

from squeezetune.data.allotment import DECODING
from squeezetune.data.content import RawImage, hash_bytes
from squeezetune.data.listing import ImageSource
from squeezetune.errors import ImageError

CHANGED = "the file has changed since it was first read in this run"


@contextmanager
def read_image(source: ImageSource, name: str, digest: bytes = b"") -> Iterator[RawImage]:
    """Read an image of a source for the block; large files are held one at a time.

    With a `digest`, bytes that have another one are refused: what is computed of them would be kept as if it were of
    the image that was indexed.

    Raises:
        ImageError: it cannot be read, or has changed; the message is the reason alone.

    """
    with DECODING.hold_file(measure_image(source, name)):
        raw = source.read(name)
        if digest and isinstance(raw, bytes) and hash_bytes(raw) != digest:
            raise ImageError(CHANGED)
        yield raw


def measure_image(source: ImageSource, name: str) -> int:
    """Return how many bytes the file of an image has; 0 where there is none, or its source cannot tell."""
    measure = getattr(source, "measure", None)
    return int(measure(name)) if measure else 0
