"""A trained network's parameters as whole numbers of few bits, layer after layer, so that its
answers change least.

Every layer is first fitted anew, in closed form: on what the layers before it give now, it has to
give what it gave on what they gave before. Then its values are rounded (`codes.round_rows`), each
error made good by those not yet rounded. No label and no gradient is needed, only some images.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from typing import Any, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from squeezetune.compression.bit_widths import choose_bits
from squeezetune.heads.linear import Rows
from squeezetune.heads.scaling import take_roots
from squeezetune.network.architecture import Architecture
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
from squeezetune.network.int8_layers import Ranges
from squeezetune.network.layers import (
    PIXELS,
    AveragePool,
    Convolution,
    GlobalMean,
    HeightWidth,
    Join,
    MaxPool,
    Product,
    Sum,
    measure_same_padding,
    measure_side,
    spell_size,
)
from squeezetune.network.trained import TrainedNetwork
from squeezetune.network.weights import Weights, detect_architecture

Maps: TypeAlias = NDArray[np.float32]  # (n, height, width, channels)
FeatureArray: TypeAlias = NDArray[np.float32]  # (n, views, 2048)
# Patches of so many images are held at a time, and of so many positions the sums are made.
CHUNK_IMAGES = 4
SAMPLED_PATCHES = 40_000
# Of a depth-wise convolution fewer do: a channel has a few numbers of its own.
SAMPLED_CHANNEL_PATCHES = 1_500
# Where variances are below this share of the squares of the means, the difference of the two would
# be float32's noise.
LEAST_SPREAD = 0.03


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

    def merge(self, others: Sequence["Streams"], merge: Callable[..., Maps]) -> "Streams":
        """Make one map of several, in both."""
        return Streams(
            merge(self.exact, *(other.exact for other in others)),
            merge(self.changed, *(other.changed for other in others)),
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


# The functions behind layers.
FUNCTIONS: Mapping[str, Callable[[Maps], Any]] = {
    "": lambda maps: maps,
    "relu": lambda maps: np.maximum(maps, 0),
    "relu6": lambda maps: np.clip(maps, 0, 6),
    "sigmoid": lambda maps: 1 / (1 + np.exp(-maps)),
    "hard_sigmoid": lambda maps: np.clip(maps + 3, 0, 6) / 6,
    "hard_swish": lambda maps: maps * np.clip(maps + 3, 0, 6) / 6,
}


@dataclass(frozen=True)
class Kernel:
    """A convolution: its kernel (outputs, inputs, height, width), its biases, and how it steps over
    the maps.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    stride: int = 1
    padding: HeightWidth | str = 0
    activation: str = "relu"
    is_depthwise: bool = False

    @property
    def rows(self) -> Matrix:
        """The kernel as rows (outputs, inputs * height * width)."""
        return self.weight.reshape(len(self.weight), -1).astype(np.float64)

    def cut(self, maps: Maps) -> Iterator[Maps]:
        """Cut the patches (n, height, width, inputs * height * width) that it reads, of a few
        images at a time.
        """
        for padded in self._pad(maps):
            windows = sliding_window_view(padded, self.weight.shape[2:], axis=(1, 2))[
                :, :: self.stride, :: self.stride
            ]
            yield windows.reshape(*windows.shape[:3], -1)

    def cut_sample(self, maps: Maps, step: int) -> Iterator[Maps]:
        """Cut every so many-th of the patches, by channels: (channels, n, height * width)."""
        for padded in self._pad(maps):
            shape = (len(padded), *self._count_places(padded))
            images, rows, columns = np.unravel_index(np.arange(0, np.prod(shape), step), shape)
            rows, columns = rows * self.stride, columns * self.stride
            places = np.ndindex(self.weight.shape[2:])
            sample = [padded[images, rows + down, columns + right] for down, right in places]
            yield np.ascontiguousarray(np.stack(sample, axis=2).transpose(1, 0, 2))

    def convolve(self, maps: Maps) -> Maps:
        """Compute the layer with its function."""
        weigh = self._weigh_channels if self.is_depthwise else self._weigh
        return np.concatenate(list(map(FUNCTIONS[self.activation], weigh(maps))))

    def _weigh(self, maps: Maps) -> Iterator[Maps]:
        rows = self.weight.reshape(len(self.weight), -1)
        return (patches @ rows.T + self.bias for patches in self.cut(maps))

    def _weigh_channels(self, maps: Maps) -> Iterator[Maps]:
        """Add up the maps, shifted by each place of the kernel."""
        for padded in self._pad(maps):
            rows, columns = self._count_places(padded)
            summed = np.broadcast_to(self.bias, (len(padded), rows, columns, len(self.bias))).copy()
            for down, right in np.ndindex(self.weight.shape[2:]):
                shifted = padded[:, down :: self.stride, right :: self.stride][:, :rows, :columns]
                summed += shifted * self.weight[:, 0, down, right]
            yield summed

    def _count_places(self, padded: Maps) -> tuple[int, int]:
        """Count the rows and the columns of what padded maps give."""
        lengths = zip(padded.shape[1:3], self.weight.shape[2:], strict=True)
        rows, columns = ((length - extent) // self.stride + 1 for length, extent in lengths)
        return rows, columns

    def _pad(self, maps: Maps) -> Iterator[Maps]:
        margins = [self._find_margin(maps, axis) for axis in (0, 1)]
        for at in range(0, len(maps), CHUNK_IMAGES):
            yield np.pad(maps[at : at + CHUNK_IMAGES], ((0, 0), *margins, (0, 0)))

    def _find_margin(self, maps: Maps, axis: int) -> tuple[int, int]:
        """Find how many lines are added above and below, or with axis 1 left and right."""
        if isinstance(self.padding, str):
            return measure_same_padding(
                maps.shape[1 + axis], self.weight.shape[2 + axis], self.stride
            )
        margin = spell_size(self.padding)[axis]
        return margin, margin


def compress_layers(
    network: TrainedNetwork, pixels: NDArray[np.uint8], bits: int = 4, ranges: Ranges | None = None
) -> Compressed:
    """Compress the convolutions, looking at images (n, side, side, 3).

    Their parameters get so many bits, or eight where that pays (`choose_bits`). The biases take up
    what they can. With `ranges` activations are rounded on the way, as in int8. The dense layers
    stay as they are: `compress_head` follows. A convolved classifier is one of the convolutions,
    with eight bits.
    """
    weights, codes, damping = dict(network.weights), {}, FINE_DAMPING if bits == 8 else DAMPING
    architecture = detect_architecture(network.weights)
    first, widths = architecture.convolutions[0], choose_bits(architecture, bits)
    maps = pixels.astype(np.float32)
    if first.padding:
        mean, std = (
            255 * np.array(each, np.float32) for each in (architecture.mean, architecture.std)
        )
        maps = (maps - mean) / std
    streams = {PIXELS: Streams(maps, maps)}
    last_reads = {name: layer.output for layer in architecture.layers for name in layer.reads}

    def compress(layer: Convolution, read: Streams) -> Streams:
        kernel = take_kernel(network.weights, layer, architecture)
        changed, codes[f"{layer.path}.weight"] = compress_kernel(
            kernel, read, widths[layer.path], damping
        )
        parameters = changed.weight, changed.bias
        if layer is first and not layer.padding:
            parameters = unfold_normalisation(*parameters, architecture)
        weights[f"{layer.path}.weight"], weights[f"{layer.path}.bias"] = parameters
        return Streams(kernel.convolve(read.exact), changed.convolve(read.changed))

    for layer in architecture.layers:
        read = [streams[name] for name in layer.reads]
        if isinstance(layer, Convolution):
            given = compress(layer, read[0])
        else:
            given = read[0].merge(read[1:], partial(_MERGES[type(layer)], layer))
        scale = architecture.activations[layer.output]
        if ranges and not isinstance(layer, MaxPool | Join):
            rounded = round_maps(given.changed, ranges[scale], scale in architecture.signed)
            given = Streams(given.exact, rounded)
        streams[layer.output] = given
        for name in layer.reads:
            if last_reads[name] == layer.output:
                del streams[name]
    compressed = Compressed(replace(network, weights=weights), codes)
    if not network.is_convolved:
        return compressed
    return compress_convolved(compressed, streams[architecture.layers[-1].output], damping)


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
    return take_roots(rows) if use_roots else rows


def compress_kernel(
    kernel: Kernel, streams: Streams, bits: int, damping: float = DAMPING
) -> tuple[Kernel, QuantizedTensor]:
    """Fit a convolution to what it reads now, and round it."""
    if kernel.is_depthwise:
        return _compress_depthwise(kernel, streams, bits, damping)
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


def _compress_depthwise(
    kernel: Kernel, streams: Streams, bits: int, damping: float
) -> tuple[Kernel, QuantizedTensor]:
    """Do the same for the kernel of every channel by itself."""
    shape, rows = kernel.weight.shape, kernel.rows
    parts, biases = list[QuantizedTensor](), kernel.bias.astype(np.float64)
    for at, sums in enumerate(add_up_channels(kernel, streams)):
        row = rows[at : at + 1]
        fitted = fit_rows(row, sums.cross, sums.gram, damping)
        parts.append(round_rows(fitted, sums.gram, bits, damping))
        biases[at] += (row @ sums.mean_exact - parts[-1].decode() @ sums.mean_changed)[0]
    values, scales = (
        np.concatenate([getattr(codes, name) for codes in parts]) for name in ("values", "scales")
    )
    codes = QuantizedTensor(values.reshape(shape), scales.reshape(-1, 1, 1, 1), bits)
    bias = biases.astype(np.float16).astype(np.float32)
    return replace(kernel, weight=codes.decode(), bias=bias), codes


def add_up_channels(kernel: Kernel, streams: Streams) -> Iterator[Sums]:
    """Make the sums for each channel of a depth-wise convolution over an even sample of its
    patches.
    """
    positions = streams.exact[..., 0].size // kernel.stride**2
    step = max(1, positions // SAMPLED_CHANNEL_PATCHES) | 1  # odd, as above
    samples = [
        np.concatenate(list(kernel.cut_sample(maps, step)), axis=1)
        for maps in (streams.exact, streams.changed)
    ]
    means = [each.mean(axis=1, dtype=np.float64) for each in samples]
    exact, changed = (
        each - mean.astype(np.float32)[:, None] for each, mean in zip(samples, means, strict=True)
    )
    cross, gram = (each.transpose(0, 2, 1) @ changed / each.shape[1] for each in (exact, changed))
    for sums in zip(*means, cross.astype(np.float64), gram.astype(np.float64), strict=True):
        yield Sums(*sums)


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
    if np.trace(moments) < LEAST_SPREAD * (mean @ mean):
        centred = both - mean.astype(np.float32)
        moments = (centred.T @ centred).astype(np.float64) / len(both)
    return Sums(mean[:width], mean[width:], moments[:width, width:], moments[width:, width:])


def round_maps(maps: Maps, top: float, is_signed: bool = False) -> Maps:
    """Round values to 255 steps from 0 to the largest value that int8 knows, or with a sign to 127
    to either side.
    """
    steps, least = (127, -128) if is_signed else (255, 0)
    step = np.float32(top / steps)
    rounded: Maps = np.clip(np.round(maps / step), least, steps) * step
    return rounded


def pool(layer: MaxPool, maps: Maps) -> Maps:
    """Compute a max pool of maps (n, height, width, channels)."""
    margins = []
    for length in maps.shape[1:3]:
        steps = measure_side(layer, length) - 1
        behind = max(steps * layer.stride + layer.kernel - length - layer.padding, 0)
        margins.append((layer.padding, behind))
    padded = np.pad(maps, ((0, 0), *margins, (0, 0)), constant_values=-np.inf)
    windows = sliding_window_view(padded, (layer.kernel, layer.kernel), axis=(1, 2))
    pooled: Maps = windows[:, :: layer.stride, :: layer.stride].max(axis=(4, 5))
    return pooled


def average(layer: AveragePool, maps: Maps) -> Maps:
    """Compute an average pool of maps (n, height, width, channels)."""
    margin = (layer.padding, layer.padding)
    padded = np.pad(maps, ((0, 0), margin, margin, (0, 0)))
    windows = sliding_window_view(padded, (layer.kernel, layer.kernel), axis=(1, 2))
    averaged: Maps = windows[:, :: layer.stride, :: layer.stride].mean(axis=(4, 5))
    return averaged


# What makes one map of those that a layer reads, but for convolutions.
_MERGES: Mapping[type, Callable[..., Maps]] = {
    MaxPool: pool,
    AveragePool: average,
    Join: lambda layer, *maps: np.concatenate(maps, axis=3),
    Sum: lambda layer, *maps: FUNCTIONS[layer.activation](np.sum(maps, axis=0)),
    Product: lambda layer, maps, gates: maps * gates,
    GlobalMean: lambda layer, maps: maps.mean(axis=(1, 2), keepdims=True),
}


def take_kernel(weights: Weights, layer: Convolution, network: Architecture) -> Kernel:
    """Take a convolution's kernel; the first reads pixels as they are, where it has no padding."""
    is_first = layer is network.convolutions[0] and not layer.padding
    weight, bias = (
        fold_normalisation(weights, network)
        if is_first
        else (weights[f"{layer.path}.weight"], weights[f"{layer.path}.bias"])
    )
    return Kernel(weight, bias, layer.stride, layer.padding, layer.activation, layer.is_depthwise)
