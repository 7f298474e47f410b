"""Makes squares of images as `model.onnx` does, antialiased and in whole grey levels, for formats
that take no others.

Needs numpy alone, and is free to be copied and changed.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


def make_square(image: NDArray[np.uint8], side: int, resize: str) -> NDArray[np.uint8]:
    """Resize an image (height, width, 3) to (side, side, 3): squash it, crop its middle, or pad it
    with black.
    """
    height, width, _ = image.shape
    extents = {
        "squash": (height, width),
        "crop": (min(height, width),) * 2,
        "pad": (max(height, width),) * 2,
    }[resize]
    rows, columns = (
        _weigh_pixels(*lengths, side) for lengths in zip((height, width), extents, strict=True)
    )
    lines = (rows @ image.reshape(height, -1).astype(np.float32)).reshape(side, width, 3)
    planes = (lines.transpose(0, 2, 1).reshape(-1, width) @ columns.T).reshape(side, 3, side)
    square: NDArray[np.uint8] = np.rint(planes).astype(np.uint8).transpose(0, 2, 1)
    return square


@lru_cache(maxsize=16)  # photos are often of one size
def _weigh_pixels(length: int, extent: int, side: int) -> NDArray[np.float32]:
    """Weigh the pixels of an axis for every line of a square, (side, length), if `extent` pixels
    become `side`.

    Lines that lie beside the image weigh nothing. An axis that keeps its length is left alone.
    """
    size = (2 * side * length + extent) // (2 * extent)
    part, whole = (1, 1) if size == length else (side, extent)
    lines = np.arange(side)[:, None] + int((size - side) / 2)
    distance = np.abs((2 * np.arange(length) + 1) * part - (2 * lines + 1) * whole)
    weights = np.clip(2 * max(part, whole) - distance, 0, None) * ((lines >= 0) & (lines < size))
    found: NDArray[np.float32] = (
        weights / np.clip(weights.sum(axis=1, keepdims=True), 1, None)
    ).astype(np.float32)
    return found
