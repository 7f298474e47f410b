"""CIFAR-10 in two of the forms in which it is published, as images.

50,000 + 10,000 images of 32 x 32 pixels in five training batches and one test batch (Krizhevsky
2009). A row of a batch is 3,072 bytes: all red values of an image, line by line, then all green,
then all blue ones. https://www.cs.toronto.edu/~kriz/cifar.html
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from squeezetune.data.datasets.pickles import PickleError, read_array, read_pickle
from squeezetune.data.sources.source import FilesSource, ImageSource
from squeezetune.errors import SourceError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
SIDE_PX = 32
ROW_BYTES = 3 * SIDE_PX * SIDE_PX
# The pixels (n, 3072) and labels (n,) of a batch; checked afterwards.
Batch: TypeAlias = tuple[NDArray[Any], NDArray[Any]]


def read_cifar10(
    source: ImageSource, names: Sequence[str], archive_format: str
) -> Iterator[tuple[str, bytes]]:
    """Read all images as PNG files, under the paths `<part>/<class>/<number>.png`, in the official
    order.

    Numbers count through a part. Which form it is, is told by the files' names, unless
    `archive_format` says so.

    Raises:
        SourceError: there is no batch, or one is damaged.

    """
    batches = find_batches(names, archive_format)
    for part, stems in BATCHES.items():
        number = 0
        for stem in stems:
            if stem not in batches:
                continue
            name, read = batches[stem]
            for row, label in zip(*_read_batch(source, name, read), strict=True):
                number += 1
                yield f"{part}/{CLASSES[label]}/{number:05}.png", encode_row(row)


def find_batches(
    names: Sequence[str], archive_format: str
) -> dict[str, tuple[str, Callable[[bytes], Batch]]]:
    """Find the files of the batches of one form, and what reads each, by the name of the batch;
    nothing without any.
    """
    by_base = {name.rpartition("/")[2]: name for name in reversed(names)}
    for ending, read in [FORMATS[archive_format]] if archive_format else FORMATS.values():
        stems = [stem for stems in BATCHES.values() for stem in stems if stem + ending in by_base]
        if stems:
            return {stem: (by_base[stem + ending], read) for stem in stems}
    return {}


def encode_row(row: NDArray[np.uint8]) -> bytes:
    """Encode a row of a batch as a PNG file."""
    buffer = BytesIO()
    pixels = np.ascontiguousarray(row.reshape(3, SIDE_PX, SIDE_PX).transpose(1, 2, 0))
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _read_batch(
    source: ImageSource, name: str, read: Callable[[bytes], Batch]
) -> tuple[NDArray[np.uint8], list[int]]:
    """Read a batch and check it."""
    try:
        pixels, labels = read(source.read_bytes(name) if isinstance(source, FilesSource) else b"")
    except Exception as error:  # scipy raises whatever it likes where a file is damaged
        raise SourceError(
            f"{name!r} is no batch of CIFAR-10: {error}", "Fetch the archive again."
        ) from error
    is_right = pixels.dtype == np.uint8 and pixels.shape == (len(labels), ROW_BYTES) and len(labels)
    if not is_right or labels.min() < 0 or labels.max() >= len(CLASSES):
        raise SourceError(
            f"{name!r} is no batch of CIFAR-10: it holds {pixels.dtype} of shape {pixels.shape} "
            f"and {len(labels):,} labels; needed are uint8 of shape (n, {ROW_BYTES}) and n labels "
            f"from 0 to {len(CLASSES) - 1}",
            "Fetch the archive again.",
        )
    return pixels, labels.tolist()


def _read_python(payload: bytes) -> Batch:
    """Read a pickle of Python 2, of which nothing is run."""
    batch = read_pickle(payload)
    if not isinstance(batch, dict):
        raise PickleError("it holds no table of values")
    return read_array(batch[b"data"]), np.array(batch[b"labels"], np.int64)


def _read_binary(payload: bytes) -> Batch:
    """Read records of one byte, the label, and a row of pixels."""
    records = np.frombuffer(payload, np.uint8).reshape(-1, 1 + ROW_BYTES)
    return records[:, 1:], records[:, 0].astype(np.int64)


# The end of a batch's name, and what reads it.
FORMATS: Mapping[str, tuple[str, Callable[[bytes], Batch]]] = {
    "binary": (".bin", _read_binary),
    "python": ("", _read_python),
}
