"""Images of every shape and kind that a format has to take, as files, and how two formats are
compared on them.
"""

from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from typing import NamedTuple

import numpy as np
import onnx
import pytest
from PIL import Image
from sessions import open_session

from squeezetune.data.decoding import open_image
from squeezetune.network.inference import FITTED

# width, height: single pixels and lines, just beside the sides of networks, odd aspect ratios
SMALL = [
    *[
        (1, 1),
        (1, 2),
        (2, 1),
        (2, 2),
        (3, 3),
        (1, 64),
        (64, 1),
        (1, 500),
        (500, 1),
        (2, 333),
        (333, 2),
        (5, 7),
    ],
    *[
        (63, 63),
        (63, 65),
        (64, 64),
        (65, 64),
        (64, 63),
        (65, 65),
        (127, 128),
        (129, 127),
        (223, 225),
        (224, 224),
    ],
    *[
        (85, 64),
        (64, 85),
        (97, 211),
        (211, 97),
        (31, 20),
        (640, 480),
        (480, 641),
        (900, 17),
        (17, 900),
        (333, 1000),
    ],
]
LARGE = [(4000, 3000), (2449, 4900), (12_000, 90)]  # two of 12 megapixels, and a panorama
# How many images a comparison takes: every size that is odd, and every kind with every content; and
# many more, which takes long.
COUNTS = [64, pytest.param(200, marks=pytest.mark.slow)]
KINDS = ["RGB", "L", "CMYK", "turned", "RGBA", "P", "I;16", "1"]
FLAT, SMOOTH, NOISE, EDGES = range(4)

# Images (n, height, width, 3) uint8 in; (n, classes) probabilities, or (n, side, side, 3) pixels,
# out.
Run = Callable[[np.ndarray], np.ndarray]


class Agreement(NamedTuple):
    """How two formats agree: the share of images with the same class, and the largest and mean
    difference.
    """

    same_class: float
    largest: float
    mean: float


def make_odd_images(count: int = 200, large: int = 2, seed: int = 0) -> Iterator[np.ndarray]:
    """Make images one by one: each encoded as a file of some kind, and decoded to upright RGB, (h,
    w, 3) uint8.
    """
    for file in make_odd_files(count, large, seed):
        yield np.asarray(open_image(file))


def make_odd_files(count: int = 200, large: int = 2, seed: int = 0) -> Iterator[bytes]:
    """Make `count` files, `large` of them large; the same seed makes the same."""
    rng = np.random.default_rng(seed)
    for at, size in enumerate([*LARGE[:large], *SMALL, *_draw_sizes(rng, count)][:count]):
        yield encode(
            draw_image(rng, size, content=(at // len(KINDS)) % 4), KINDS[at % len(KINDS)], rng
        )


def draw_image(rng: np.random.Generator, size: tuple[int, int], content: int) -> Image.Image:
    """Draw an RGB image of one of four contents: one colour, smooth, noise, or edges that alias
    when they shrink.
    """
    width, height = size
    if content == FLAT:
        return Image.new("RGB", size, tuple(rng.choice([0, 1, 127, 254, 255], 3).tolist()))
    if (
        content == SMOOTH or width * height > 1_000_000
    ):  # noise of 12 megapixels takes a second to encode
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        return coarse.resize(size, Image.Resampling.BICUBIC)
    if content == NOISE:
        return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    period, colours = int(rng.integers(1, 5)), rng.integers(0, 256, (2, 3), dtype=np.uint8)
    return Image.fromarray(colours[np.add.outer(np.arange(height), np.arange(width)) // period % 2])


def _draw_sizes(rng: np.random.Generator, count: int) -> list[tuple[int, int]]:
    """Draw widths and heights of 1 to 700 pixels, as many small ones as large ones."""
    return [
        tuple(size) for size in np.exp(rng.uniform(0, np.log(700), (count, 2))).astype(int).tolist()
    ]


def encode(image: Image.Image, kind: str, rng: np.random.Generator) -> bytes:
    """Encode an image as one of `KINDS`: JPEG where that knows the kind, else PNG."""
    buffer = BytesIO()
    if kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = int(rng.integers(2, 9))
        image.save(buffer, "JPEG", exif=exif)
    elif kind == "RGBA":
        image.putalpha(int(rng.integers(0, 256)))
        image.save(buffer, "PNG", compress_level=1)
    elif kind == "I;16":
        deep = np.asarray(image.convert("L")).astype(np.uint16) * 257
        Image.fromarray(deep).save(buffer, "PNG", compress_level=1)
    elif kind in {"P", "1"}:
        image.convert(kind).save(buffer, "PNG", compress_level=1)
    else:
        image.convert(kind).save(buffer, "JPEG")
    return buffer.getvalue()


def open_model(model: bytes) -> Run:
    """Run an ONNX file in ONNX Runtime, for its first output: what all other formats are compared
    with.
    """
    session = open_session(model)
    return lambda images: session.run(None, {"image": images})[0]


def keep_pixels_only(model: bytes) -> bytes:
    """Cut a classifier's ONNX file behind its resize: images in, what the network sees, (n, side,
    side, 3), out.
    """
    loaded = onnx.load_from_string(model)
    cut = [node.output[0] for node in loaded.graph.node].index(FITTED)
    pixels = onnx.helper.make_tensor_value_info(
        FITTED, onnx.TensorProto.UINT8, ["n", "side", "side", 3]
    )
    del loaded.graph.node[cut + 1 :], loaded.graph.output[:]
    loaded.graph.output.append(pixels)
    return loaded.SerializeToString()


def compare(expected: Run, found: Run, images: Iterable[np.ndarray]) -> Agreement:
    """Compare two formats' probabilities on images of any sizes, one at a time."""
    same, gaps = [], []
    for image in images:
        a, b = expected(image[None])[0], found(image[None])[0]
        assert a.shape == b.shape
        same.append(a.argmax() == b.argmax())
        gaps.append(np.abs(a - b).max())
    return Agreement(float(np.mean(same)), float(np.max(gaps)), float(np.mean(gaps)))


def measure_pixel_gap(expected: Run, found: Run, images: Iterable[np.ndarray]) -> int:
    """Measure by how many grey levels two formats' input of the network differs at most."""
    return max(
        int(np.abs(expected(image[None]).astype(int) - found(image[None]).astype(int)).max())
        for image in images
    )
