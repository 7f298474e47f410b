"""A trained network's parameters as whole numbers of few bits, layer after layer, so that its
answers change least.

Every layer is first fitted anew, in closed form: on what the layers before it give now, it has to
give what it gave on what they gave before. Then its values are rounded (`codes.round_rows`), each
error made good by those not yet rounded. No label and no gradient is needed, only some images.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import inf
from typing import TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from squeezetune.heads.linear import Rows
from squeezetune.network.codes import (
    DAMPING,
    FINE_DAMPING,
    LowRankTensor,
    Matrix,
    QuantizedTensor,
    factor_rows,
    fit_rows,
    round_rows,
    transpose,
)
from squeezetune.network.float_layers import CodedStore, fold_normalisation, unfold_normalisation
from squeezetune.network.graph import BLOCKS
from squeezetune.network.int8_layers import Ranges
from squeezetune.network.trained import TrainedNetwork
from squeezetune.network.weights import Weights, detect_version, find_architecture

Maps: TypeAlias = NDArray[np.float32]  # (n, height, width, channels)
FeatureArray: TypeAlias = NDArray[np.float32]  # (n, views, 2048)
# Patches of so many images are held at a time, and of so many positions the sums are made.
CHUNK_IMAGES = 4
SAMPLED_PATCHES = 40_000

FIRST = "features.0"


@dataclass(frozen=True)
class Compressed:
    """A network whose parameters are what their codes, or the products of codes, stand for; and
    these by name.
    """

    network: TrainedNetwork
    codes: Mapping[str, QuantizedTensor]
    products: Mapping[str, LowRankTensor] = field(default_factory=dict)

    @property
    def store(self) -> CodedStore:
        """Say how a file keeps the parameters."""
        return CodedStore(self.codes, self.products)


@dataclass(frozen=True)
class Streams:
    """What a layer reads, (n, height, width, channels): as it was, and as the layers before it give
    it now.
    """

    exact: Maps
    changed: Maps

    def map(self, change: Callable[[Maps], Maps]) -> "Streams":
        """Do the same to both."""
        return Streams(change(self.exact), change(self.changed))

    def join(self, other: "Streams") -> "Streams":
        """Put the other's channels behind these."""
        return Streams(
            *(
                np.concatenate(pair, axis=3)
                for pair in ((self.exact, other.exact), (self.changed, other.changed))
            )
        )


@dataclass(frozen=True)
class Sums:
    """Means and centred second moments of patches: old ones with changed ones, and changed ones
    with themselves.
    """

    mean_exact: Matrix
    mean_changed: Matrix
    cross: Matrix
    gram: Matrix


@dataclass(frozen=True)
class Kernel:
    """A convolution: its kernel (outputs, inputs, height, width), its biases, and how it steps over
    the maps.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    stride: int = 1

    @property
    def rows(self) -> Matrix:
        """The kernel as rows (outputs, inputs * height * width)."""
        return self.weight.reshape(len(self.weight), -1).astype(np.float64)

    def cut(self, maps: Maps) -> Iterator[Maps]:
        """Cut the patches (n, height, width, inputs * height * width) that it reads, of a few
        images at a time.
        """
        side = self.weight.shape[2]
        margin = side // 2 if self.stride == 1 else 0
        for at in range(0, len(maps), CHUNK_IMAGES):
            padded = np.pad(
                maps[at : at + CHUNK_IMAGES], ((0, 0), (margin, margin), (margin, margin), (0, 0))
            )
            windows = sliding_window_view(padded, (side, side), axis=(1, 2))[
                :, :: self.stride, :: self.stride
            ]
            yield windows.reshape(*windows.shape[:3], -1)

    def convolve(self, maps: Maps) -> Maps:
        """Compute the layer with its ReLU."""
        rows = self.weight.reshape(len(self.weight), -1).T
        return np.concatenate(
            [np.maximum(patches @ rows + self.bias, 0) for patches in self.cut(maps)]
        )


def compress_layers(
    network: TrainedNetwork, pixels: NDArray[np.uint8], bits: int = 4, ranges: Ranges | None = None
) -> Compressed:
    """Compress the convolutions, looking at images (n, side, side, 3).

    Their parameters get so many bits; eight in the first layer, which has few, and each of them
    counts for more. The biases take up what they can. With `ranges` activations are rounded on the
    way, as in int8. The dense layers stay as they are: `compress_head` follows. A convolved
    classifier is one of the convolutions, with eight bits.
    """
    weights, codes, damping = dict(network.weights), {}, FINE_DAMPING if bits == 8 else DAMPING
    layout = find_architecture(detect_version(network.weights))

    def compress(streams: Streams, layer: str, activation: str) -> Streams:
        kernel = _take_kernel(network.weights, layer)
        changed, codes[f"{layer}.weight"] = compress_kernel(
            kernel, streams, 8 if layer == FIRST else bits, damping
        )
        parameters = changed.weight, changed.bias
        parameters = unfold_normalisation(*parameters) if layer == FIRST else parameters
        weights[f"{layer}.weight"], weights[f"{layer}.bias"] = parameters
        found = changed.convolve(streams.changed)
        return Streams(
            kernel.convolve(streams.exact),
            round_maps(found, ranges[activation]) if ranges else found,
        )

    maps = pixels.astype(np.float32)
    streams = compress(Streams(maps, maps), FIRST, BLOCKS[0])
    for previous, fire in pairwise(BLOCKS):
        streams = streams.map(pool) if previous in layout.pooled else streams
        layer = f"features.{layout.fires[fire]}"
        streams = compress(streams, f"{layer}.squeeze", f"{fire}.squeeze")
        halves = [
            compress(streams, f"{layer}.expand{kind}", f"{fire}.expand") for kind in ("1x1", "3x3")
        ]
        streams = halves[0].join(halves[1])
    compressed = Compressed(replace(network, weights=weights), codes)
    return compress_convolved(compressed, streams, damping) if network.is_convolved else compressed


def compress_convolved(compressed: Compressed, streams: Streams, damping: float) -> Compressed:
    """Compress a classifier that is a layer at every position of what fire9 gives."""
    [(weight, bias)] = compressed.network.head
    kernel, codes = compress_kernel(Kernel(weight.T[:, :, None, None], bias), streams, 8, damping)
    head = ((kernel.weight[:, :, 0, 0].T.copy(), kernel.bias),)
    return Compressed(
        replace(compressed.network, head=head), {**compressed.codes, "classifier.weight": codes}
    )


def compress_head(
    compressed: Compressed,
    exact: FeatureArray,
    changed: FeatureArray,
    damping: float = DAMPING,
    hidden_size: float = inf,
) -> Compressed:
    """Compress the dense layers to eight bits, looking at features (n, views, 2048) of some images.

    They are the trained network's own, and those that the compressed layers give of the same
    images. A hidden layer of more parameters than `hidden_size` becomes a product of two that have
    no more together.
    """
    network, codes, layers = compressed.network, dict(compressed.codes), []
    products: dict[str, LowRankTensor] = {}
    before, now = (_list_rows(features, network.use_roots) for features in (exact, changed))
    for number, (weight, bias) in enumerate(network.head):
        before, now = (before, now) if not number else (np.maximum(before, 0), np.maximum(now, 0))
        fitted, sums = fit_dense(weight, before, now, damping)
        name, is_hidden = f"head.{number}.weight", number + 1 < len(network.head)
        if is_hidden and weight.size > hidden_size:
            counts = np.linalg.norm(
                network.head[number + 1][0], axis=1
            )  # how much each output is made of later
            products[name] = factor_rows(
                fitted, sums.gram, counts, int(hidden_size) // sum(weight.shape)
            )
            decoded = products[name].decode()
        else:
            codes[name] = transpose(round_rows(fitted, sums.gram, 8, damping))
            decoded = codes[name].decode()
        shift = weight.T.astype(np.float64) @ sums.mean_exact - decoded.T @ sums.mean_changed
        layers.append((decoded, (bias + shift).astype(np.float16).astype(np.float32)))
        before, now = before @ weight + bias, now @ layers[-1][0] + layers[-1][1]
    return Compressed(replace(network, head=tuple(layers)), codes, products)


def fit_dense(weight: Rows, exact: Rows, changed: Rows, damping: float) -> tuple[Matrix, Sums]:
    """Fit a dense layer (inputs, outputs) to changed rows (n, inputs); returns its rows (outputs,
    inputs).
    """
    sums = sum_moments(np.concatenate([exact, changed], axis=1), exact.shape[1])
    return fit_rows(weight.T.astype(np.float64), sums.cross, sums.gram, damping), sums


def _list_rows(features: FeatureArray, use_roots: bool) -> Rows:
    rows = features.reshape(-1, features.shape[-1]).astype(np.float32)
    return np.sqrt(rows) if use_roots else rows


def compress_kernel(
    kernel: Kernel, streams: Streams, bits: int, damping: float = DAMPING
) -> tuple[Kernel, QuantizedTensor]:
    """Fit a convolution to what it reads now, and round it."""
    sums = add_up(kernel, streams)
    fitted = fit_rows(kernel.rows, sums.cross, sums.gram, damping)
    codes = round_rows(fitted, sums.gram, bits, damping)
    decoded = codes.decode()
    bias = kernel.bias + kernel.rows @ sums.mean_exact - decoded @ sums.mean_changed
    shape = kernel.weight.shape
    codes = QuantizedTensor(codes.values.reshape(shape), codes.scales.reshape(-1, 1, 1, 1), bits)
    return replace(
        kernel, weight=codes.decode(), bias=bias.astype(np.float16).astype(np.float32)
    ), codes


def add_up(kernel: Kernel, streams: Streams) -> Sums:
    """Make the sums over an even sample of the patches that a convolution reads."""
    positions = streams.exact[..., 0].size // kernel.stride**2
    step = (
        max(1, positions // SAMPLED_PATCHES) | 1
    )  # odd, so that no column of the maps is passed over
    both = [
        np.concatenate([maps.reshape(-1, maps.shape[-1])[::step] for maps in pair], axis=1)
        for pair in zip(kernel.cut(streams.exact), kernel.cut(streams.changed), strict=True)
    ]
    return sum_moments(np.concatenate(both), both[0].shape[1] // 2)


def sum_moments(both: NDArray[np.float32], width: int) -> Sums:
    """Make the sums over rows of which the first `width` values are the old ones and the others the
    changed ones.
    """
    mean = both.mean(axis=0, dtype=np.float64)
    moments = (both.T @ both).astype(np.float64) / len(both) - np.outer(mean, mean)
    return Sums(mean[:width], mean[width:], moments[:width, width:], moments[width:, width:])


def round_maps(maps: Maps, top: float) -> Maps:
    """Round what is behind a ReLU to 255 steps from 0 to the largest value that int8 knows."""
    step = np.float32(top / 255)
    rounded: Maps = np.minimum(np.round(maps / step), 255) * step
    return rounded


def pool(maps: Maps) -> Maps:
    """Compute the 3x3 max pool of stride 2 in ceil mode."""
    sides = [-(-(side - 3) // 2) * 2 + 3 - side for side in maps.shape[1:3]]
    padded = np.pad(
        maps, ((0, 0), (0, sides[0]), (0, sides[1]), (0, 0))
    )  # behind a ReLU nothing is below 0
    pooled: Maps = sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::2, ::2].max(axis=(4, 5))
    return pooled


def _take_kernel(weights: Weights, layer: str) -> Kernel:
    if layer == FIRST:
        return Kernel(*fold_normalisation(weights), stride=2)
    return Kernel(weights[f"{layer}.weight"], weights[f"{layer}.bias"])
