"""What the frozen layers up to a block make of every image, computed once and kept on disk for
training the rest.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from squeezetune.data.image_cache import ComputeBatch, RowBatch, RowWork, compute_rows, load_batch
from squeezetune.data.index import ImageIndex
from squeezetune.data.pixels import PixelSettings
from squeezetune.events import Listener
from squeezetune.network.architecture import Architecture
from squeezetune.network.backbone import FLOAT_RUNTIME, Backbone, DrawSample, recall_measurement
from squeezetune.network.graph import build_activations
from squeezetune.network.inference import (
    Runtime,
    batch_size,
    describe_versions,
    open_graph,
    open_outputs,
)
from squeezetune.network.weights import Weights, detect_architecture
from squeezetune.system.executor import Executor, count_cores
from squeezetune.system.machine import hash_bytes
from squeezetune.system.store import RowStore

STAGE = "activations"
KINDS = {"uint8": "u1", "bfloat16": "<u2"}
# uint8 reaches this far beyond the largest value that a sample shows
# (docs/decisions/0004-activations.md).
MARGIN = 2.0
# Part of the key: raise it when `draw_view` or the form of a row changes.
VERSION = 1

# Makes a random view of pixels (side, side, 3) uint8.
DrawView: TypeAlias = Callable[[NDArray[np.uint8], np.random.Generator], NDArray[np.uint8]]


def draw_view(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw a random view of an image: a part of it, enlarged, perhaps mirrored, in slightly other
    colours.
    """
    view = _draw_part(pixels, rng)
    return _colour(
        view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else view, rng
    )


def draw_unmirrored_view(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw a random view of an image that must not be mirrored, such as writing."""
    return _colour(_draw_part(pixels, rng), rng)


def _draw_part(pixels: NDArray[np.uint8], rng: np.random.Generator) -> Image.Image:
    side = len(pixels)
    length = side * rng.uniform(0.75, 1)
    left, top = rng.uniform(0, side - length, 2)
    box = (left, top, left + length, top + length)
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR, box=box)


def _colour(view: Image.Image, rng: np.random.Generator) -> NDArray[np.uint8]:
    contrast = rng.uniform(0.8, 1.2)
    light = rng.uniform(-25, 25)
    colours = rng.uniform(0.95, 1.05, (3, 1))
    tones = 128 + light + contrast * colours * (np.arange(256) - 128)
    return np.asarray(view.point(tones.clip(0, 255).astype(np.uint8).ravel().tolist()))


@dataclass(frozen=True)
class ActivationOptions:
    """What is kept of each image: the output of `block` for several views, as uint8 or bfloat16.

    `views` is 1 for the image itself or 2 with its mirror image; `extra_views` are drawn at random,
    from the `seed` and the image's content.
    """

    block: str
    kind: str = "uint8"
    views: int = 1
    extra_views: int = 0
    seed: int = 0
    threads: int = field(default_factory=count_cores)
    draw: DrawView = draw_view


@dataclass(frozen=True, eq=False)
class ActivationForm:
    """How the activations of an image lie in a row of bytes: those of all views, then the means of
    earlier taps.

    Activations are (views, height, width, channels), channels last; uint8 counts in steps of
    `scales` / 255, bfloat16 is the upper half of float32. The taps are (views, taps) float16.
    """

    kind: str
    views: int
    shape: tuple[int, int, int]
    taps: int
    scales: NDArray[np.float32] | None = None

    @property
    def row_bytes(self) -> int:
        """How many bytes a row has."""
        return self._code_bytes + self.views * self.taps * 2

    @property
    def _code_bytes(self) -> int:
        return self.views * prod(self.shape) * np.dtype(KINDS[self.kind]).itemsize

    def pack(self, activations: NDArray[Any], taps: NDArray[Any]) -> NDArray[np.uint8]:
        """Put activations (n, views, *shape), uint8 codes or float32, and taps (n, views, t) into
        rows of bytes.
        """
        codes = activations if self.kind == "uint8" else round_to_bfloat16(activations)
        rows = np.empty((len(codes), self.row_bytes), np.uint8)
        rows[:, : self._code_bytes] = codes.reshape(len(codes), -1).view(np.uint8)
        rows[:, self._code_bytes :] = taps.astype("<f2").reshape(len(codes), -1).view(np.uint8)
        return rows

    def split(self, rows: NDArray[np.uint8]) -> tuple[NDArray[Any], NDArray[np.float16]]:
        """View rows as codes (n, views, *shape), uint8 or the bits of bfloat16 as uint16, and taps;
        nothing is copied.

        In torch the bits are `torch.from_numpy(codes.view(np.int16)).view(torch.bfloat16)`.
        """
        codes = (
            rows[:, : self._code_bytes]
            .view(KINDS[self.kind])
            .reshape(len(rows), self.views, *self.shape)
        )
        taps = rows[:, self._code_bytes :].view("<f2").reshape(len(rows), self.views, self.taps)
        return codes, taps

    def decode(
        self, rows: NDArray[np.uint8], views: NDArray[np.integer[Any]] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return activations (n, views, *shape) and taps (n, views, t) of rows, float32.

        With `views` (n,) one view is taken of each row, and that axis is left out.
        """
        codes, taps = self.split(rows)
        if views is not None:
            codes, taps = codes[np.arange(len(rows)), views], taps[np.arange(len(rows)), views]
        if self.scales is None:
            return (codes.astype(np.uint32) << 16).view(np.float32), taps.astype(np.float32)
        return np.multiply(codes, self.scales / 255, dtype=np.float32), taps.astype(np.float32)


@dataclass(frozen=True, eq=False)
class FrozenBlocks:
    """The frozen layers up to a block as a graph, what runs it, and what becomes of its output."""

    model: bytes
    runtime: Runtime
    pixels: PixelSettings
    options: ActivationOptions
    form: ActivationForm

    @property
    def batch_size(self) -> int:
        """How many images go through the graph at once, each in all its views."""
        return batch_size(self.pixels.side, self.form.views)

    @property
    def key(self) -> str:
        """Name everything that the activations depend on, but the image itself."""
        options, draw = self.options, self.options.draw
        views = [options.views, options.extra_views, options.seed if options.extra_views else 0,
                 draw.__qualname__]  # fmt: skip
        graph = [str(self.runtime), describe_versions([self.runtime]), hash_bytes(self.model)]
        return hash_bytes(
            json.dumps([VERSION, options.kind, views, self.pixels.key, graph]).encode()
        )

    def open_store(self, folder: Path) -> RowStore:
        """Open the store of these activations below a cache's folder."""
        return RowStore(folder / "activations" / self.key, (self.form.row_bytes,), "u1")


class ActivationRows(Protocol):
    """Rows of numbers that need not be in memory."""

    def gather(self, positions: NDArray[np.int64]) -> NDArray[Any]:
        """Return the rows at these positions, (n, ...)."""
        ...


@dataclass(frozen=True, eq=False)
class Activations:
    """The activations of an index, on disk: `rows` are gathered by position, `form` makes numbers
    of them.
    """

    form: ActivationForm
    rows: ActivationRows


def prepare_activations(
    weights: Weights,
    backbone: Backbone,
    options: ActivationOptions,
    index: ImageIndex,
    draw: DrawSample,
    cache: Path | None,
) -> FrozenBlocks:
    """Make the frozen layers up to a block ready, in the engine, precision and pixels of the trunk.

    `draw` gives the sample of images on which the scales of uint8 are measured, unless an earlier
    run kept them.
    """
    scales = (
        recall_scales(weights, backbone.pixels, options.block, index, draw, cache)
        if options.kind == "uint8"
        else None
    )
    network, views = detect_architecture(weights), options.views + options.extra_views
    form = make_form(options.block, options.kind, views, backbone.pixels.side, network, scales)
    model = build_activations(weights, options.block, int8=backbone.int8, scales=scales)
    return FrozenBlocks(model, backbone.runtime, backbone.pixels, options, form)


def choose_kind(network: Architecture, block: str) -> str:
    """Choose how what a block gives is kept: as uint8, or as bfloat16 where it may be below 0."""
    output = network.find_block(block).layers[-1].output
    return "bfloat16" if network.activations[output] in network.signed else "uint8"


def make_form(
    block: str,
    kind: str,
    views: int,
    side: int,
    network: Architecture,
    scales: NDArray[np.float32] | None = None,
) -> ActivationForm:
    """Say how what a block makes of pixels of this side lies in a row of bytes."""
    shape, taps = network.measure_block(block, side), network.count_features(block)
    return ActivationForm(kind, views, shape, taps, scales)


def recall_scales(
    weights: Weights,
    pixels: PixelSettings,
    block: str,
    index: ImageIndex,
    draw: DrawSample,
    cache: Path | None,
) -> NDArray[np.float32]:
    """Take the scales (channels,) measured earlier on photos that are still in the index, or
    measure them now.
    """
    model = build_activations(weights, block)
    folder = cache and cache / "scales" / f"{pixels.side}-{pixels.resize}-{hash_bytes(model)}"
    measured = recall_measurement(
        folder, index, draw, lambda images: {"tops": _measure_tops(model, images).tolist()}
    )
    return np.array(MARGIN * np.array(measured["tops"]).clip(1e-3), np.float32)


def compute_activations(
    index: ImageIndex,
    frozen: FrozenBlocks,
    store: RowStore,
    executor: Executor,
    listen: Listener,
    positions: NDArray[np.int64] | None = None,
) -> Activations:
    """Compute, and keep, the activations that the store lacks; only of the images at `positions`,
    without them of all.

    Raises:
        SourceError: an image cannot be decoded (any more).
        DataError: the disk has not enough room.
    """
    work = RowWork(STAGE, frozen.batch_size, lambda: _open_blocks(index, frozen))
    rows, _ = compute_rows(index, work, store, executor, listen, positions)
    return Activations(frozen.form, rows)


def round_to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round float32 to bfloat16, a half to even, and return its bits; NaN is not expected."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)


def make_views(
    images: NDArray[np.uint8], digests: NDArray[np.uint8], options: ActivationOptions
) -> NDArray[np.uint8]:
    """Make all views of images (n, side, side, 3): (n, views, side, side, 3); content and seed
    decide random ones.
    """
    plain = [images, images[:, :, ::-1]][: options.views]
    views = np.empty(
        (len(images), options.views + options.extra_views, *images.shape[1:]), np.uint8
    )
    views[:, : options.views] = np.stack(plain, axis=1)
    for row, (image, digest) in enumerate(zip(images, digests, strict=True)):
        words = np.ascontiguousarray(digest).view("<u4").tolist()
        for number in range(options.extra_views):
            rng = np.random.default_rng([options.seed, number, *words])
            views[row, options.views + number] = options.draw(image, rng)
    return views


def _open_blocks(index: ImageIndex, frozen: FrozenBlocks) -> ComputeBatch:
    run = open_outputs(frozen.model, frozen.runtime, frozen.options.threads)
    form, side, size = frozen.form, frozen.pixels.side, frozen.batch_size

    def compute(positions: NDArray[np.int64]) -> RowBatch:
        batch = load_batch(index, positions, frozen.pixels)
        images = batch.values
        # always a full batch: engines may choose another kernel, with other rounding, for another
        # batch size
        views = np.zeros((size, form.views, side, side, 3), np.uint8)
        views[: len(images)] = make_views(images, index.digests[positions], frozen.options)
        activations, *taps = run(views.reshape(-1, side, side, 3))
        means = taps[0] if taps else np.empty((len(activations), 1, 0), np.float32)
        shaped = (
            activations.reshape(size, form.views, *form.shape),
            means.reshape(size, form.views, form.taps),
        )
        return replace(batch, rows=(form.pack(*(values[: len(images)] for values in shaped)),))

    return compute


def _measure_tops(model: bytes, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Measure the largest value of every channel over images (n, side, side, 3): (channels,)."""
    run = open_graph(model, FLOAT_RUNTIME, 1)
    tops = [run(images[at : at + 8]).max(axis=(0, 1, 2, 3)) for at in range(0, len(images), 8)]
    return np.max(tops, axis=0)  # type: ignore[no-any-return]
