"""The layers of a network as ONNX nodes, in int8."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from squeezetune.network.codes import QuantizedTensor, raise_scales
from squeezetune.network.float_layers import (
    add_activation,
    add_mirror,
    add_normalisation,
    add_reversal,
    find_zero_pixel,
    fold_normalisation,
    list_attributes,
    list_pool_attributes,
)
from squeezetune.network.layers import (
    PIXELS,
    SAME,
    AveragePool,
    Convolution,
    Dropout,
    GlobalMean,
    Join,
    Layer,
    MaxPool,
    Product,
    Sum,
    measure_same_padding,
    measure_side,
)
from squeezetune.network.onnx_builder import Graph
from squeezetune.network.pixel_cells import CELL, spread_kernel
from squeezetune.network.weights import Weights, detect_architecture

# By name of a scale (`Architecture.activations`) the largest value, which uint8 255 stands for: 0
# stands for 0 where all values follow a ReLU, and else 128 does.
Ranges = Mapping[str, float]


@dataclass(frozen=True)
class Int8:
    """What layers in int8 have to know: how large activations are, and in pixels the side of the
    images.

    With the side the graph only takes images of that size, and is laid out as ONNX Runtime computes
    it fastest; without it the graph takes all, and is what OpenVINO knows how to fuse. `codes` has
    kernels that are rounded already, by name, and `factors` what the channels of equalised
    activations have to be multiplied with (`learn.equalisation`).
    """

    ranges: Ranges
    side: int = 0
    codes: Mapping[str, QuantizedTensor] = field(default_factory=dict)
    factors: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Rounded:
    """A convolution's kernel as the name of its int8 codes, with their scales (outputs,), and its
    biases in float32.
    """

    codes: str
    scale: NDArray[Any]
    bias: NDArray[Any]


class Int8Layers:
    """Layers in int8: activations uint8 per tensor, kernels int8 per output channel, sums int32.

    Written as QuantizeLinear/DequantizeLinear pairs around float operators, which runtimes fuse
    into integer ones (Jacob et al. 2018, "Quantization and Training of Neural Networks for
    Efficient Integer-Arithmetic-Only Inference"). Between layers a map is its uint8 values.
    """

    def __init__(self, graph: Graph, weights: Weights, int8: Int8) -> None:
        self.architecture = detect_architecture(weights)
        self._graph = graph
        self._weights = weights
        self._int8 = int8
        self._sides: dict[str, int] = {}  # by name of a map; 0 where any is possible
        self._scales: dict[str, float] = {}  # by name of a map
        self._activations: dict[str, str] = {}  # whose scale a map has
        graph.constant("zero", 0, np.uint8)

    def begin(self, pixels: str, *, mirror: bool = False) -> dict[str, str]:
        """Add normalisation and the first convolution, with the max pool behind it where both read
        cells of pixels.
        """
        first, side = self.architecture.convolutions[0], self._int8.side
        if not first.padding:  # pixels are uint8 already, their scale is 1
            parameters = fold_normalisation(self._weights, self.architecture)
            pool = self._find_pool_of_cells(first)
            if pool:
                return {pool.output: self._first_of_cells(pixels, first, pool, parameters, mirror)}
            pixels = add_mirror(self._graph, pixels) if mirror else pixels
            planes = self._graph.add("Transpose", pixels, perm=[0, 3, 1, 2])
            planes = self._keep(planes, PIXELS, side, scale=1.0)
            return {first.output: self._convolve(first, planes, *parameters)}
        if side and side % CELL == 0 and (first.kernel, first.stride) == (3, 2):
            return {first.output: self._first_of_padded_cells(pixels, first, mirror)}
        pixels = add_mirror(self._graph, pixels) if mirror else pixels
        if side:
            planes = self._graph.add("Transpose", self._normalise_rows(pixels), perm=[0, 3, 1, 2])
            planes = self._keep(planes, PIXELS, side, self._find_scale(PIXELS))
        else:
            floats = self._graph.add("Cast", pixels, to=TensorProto.FLOAT)
            planes = self._graph.add("Transpose", floats, perm=[0, 3, 1, 2])
            statistics = self.architecture.mean, self.architecture.std
            normal = add_normalisation(self._graph, planes, *statistics)
            planes = self._quantise(normal, PIXELS, side)
        return {first.output: self._convolve(first, planes, *self._find_parameters(first))}

    def add(self, layer: Layer, inputs: Sequence[str]) -> str:
        """Add a layer, whatever its kind."""
        return _INT8_KINDS[type(layer)](self, layer, *inputs)

    def mean(self, x: str) -> str:
        """Add the mean over the positions; where their number is known as a product of integers
        with ones.
        """
        side = self._sides[x]
        if not side or self._is_signed(self._activations[x]):
            return self._graph.add(
                "ReduceMean",
                self.to_floats(x),
                self._graph.constant("positions", [2, 3]),
                keepdims=0,
            )
        graph, count = self._graph, side**2
        ones = graph.constant(f"ones.{count}", np.ones((1, count)), np.uint8)
        rows = graph.add("Transpose", x, perm=[0, 2, 3, 1])
        rows = graph.add("Reshape", rows, graph.constant(f"{x}.rows", [0, count, -1]))
        sums = graph.add(
            "Squeeze", graph.add("MatMulInteger", ones, rows), graph.constant("one.row", [1])
        )
        scale = self._scales[x] / count * self._find_factors(x)
        scale_name = graph.constant(f"{x}.mean.scale", scale, np.float32)
        return graph.add("Mul", graph.add("Cast", sums, to=TensorProto.FLOAT), scale_name)

    def to_floats(self, x: str) -> str:
        """Give a map in float32, each channel as large as it was before equalisation."""
        factors = self._find_factors(x)
        if np.all(factors == 1):
            return self._to_floats(x)
        return self._graph.add(
            "Mul",
            self._to_floats(x),
            self._graph.constant(f"{x}.factors", factors[:, None, None], np.float32),
        )

    def _add_convolution(self, layer: Convolution, x: str) -> str:
        return self._convolve(layer, x, *self._find_parameters(layer))

    def _add_max_pool(self, layer: MaxPool, x: str) -> str:
        """Add a max pool, which keeps the scale."""
        pooled = self._graph.add("MaxPool", x, **list_pool_attributes(layer))
        return self._keep_as(x, pooled, self._measure(layer, x))

    def _add_average_pool(self, layer: AveragePool, x: str) -> str:
        """Add an average pool, whose values have the scale of what it reads."""
        y = self._graph.add("AveragePool", self._to_floats(x), **list_pool_attributes(layer))
        return self._quantise(y, self._activations[x], self._measure(layer, x))

    def _add_join(self, layer: Join, *inputs: str) -> str:
        """Put maps together: where they have one scale that is a copy."""
        name = self.architecture.activations[layer.output]
        if all(self._activations[x] == name for x in inputs):
            joined = self._graph.add("Concat", *inputs, axis=1)
            return self._keep_as(inputs[0], joined, self._sides[inputs[0]])
        joined = self._graph.add("Concat", *(self._to_floats(x) for x in inputs), axis=1)
        return self._quantise(joined, name, self._sides[inputs[0]])

    def _add_sum(self, layer: Sum, *inputs: str) -> str:
        y = self._graph.add("Add", *(self._to_floats(x) for x in inputs))
        y = add_activation(self._graph, y, layer.activation)
        return self._quantise(y, layer.output, self._sides[inputs[0]])

    def _add_product(self, layer: Product, x: str, gates: str) -> str:
        y = self._graph.add("Mul", self._to_floats(x), self._to_floats(gates))
        return self._quantise(y, layer.output, self._sides[x])

    def _add_global_mean(self, layer: GlobalMean, x: str) -> str:
        y = self._graph.add("GlobalAveragePool", self._to_floats(x))
        return self._quantise(y, layer.output, 1)

    def _leave(self, layer: Dropout, x: str) -> str:
        return x

    def _find_pool_of_cells(self, first: Convolution) -> MaxPool | None:
        """Find the max pool that can be had with the first convolution of cells of pixels."""
        readers = self.architecture.readers[first.output]
        has_shape = (first.kernel, first.stride, first.activation) == (3, 2, "relu")
        side = self._int8.side
        if not side or side % CELL or not has_shape or first.output in self.architecture.taps:
            return None
        pool = readers[0] if len(readers) == 1 else None
        return pool if isinstance(pool, MaxPool) and pool == MaxPool(
            pool.output, pool.path, reads=pool.reads) else None  # fmt: skip

    def _first_of_cells(
        self,
        pixels: str,
        first: Convolution,
        pool: MaxPool,
        parameters: tuple[NDArray[np.float32], NDArray[np.float32]],
        mirror: bool,
    ) -> str:
        """Add the first convolution and its pool over cells of four pixels, whose twelve channels
        runtimes read faster than three.

        The mirror image is not computed: the kernel is turned round instead, and then what it
        gives, behind the pool.
        """
        graph, (kernel, bias), side = self._graph, parameters, self._int8.side
        values, scale = self._round(first.path, kernel)
        cells = graph.add("Reshape", pixels, graph.constant("cells", [0, 0, -1, 3 * CELL]))
        cells = graph.add("Transpose", cells, perm=[0, 3, 1, 2])
        cells = self._keep(cells, PIXELS, side, scale=1.0)
        codes = graph.constant(f"{first.path}.codes", values)
        spread = Rounded(spread_kernel(graph, codes, 0), np.tile(scale, 2), np.tile(bias, 2))
        maps = self._pool_cells(cells, first, pool, spread)
        if not mirror:
            return maps
        turned = spread_kernel(graph, add_reversal(graph, codes, axis=3), 1)
        mirrored = replace(first, path=f"{first.path}.mirrored")
        turned = self._pool_cells(cells, mirrored, pool, replace(spread, codes=turned))
        joined = graph.add("Concat", maps, add_reversal(graph, turned, axis=3), axis=0)
        return self._keep_as(maps, joined, side // CELL - 1)

    def _first_of_padded_cells(self, pixels: str, first: Convolution, mirror: bool) -> str:
        """Add the first convolution, of 3 x 3 pixels in steps of two and with padding, over cells.

        The mirror image is had as in `_first_of_cells`; its padding is on the other side.
        """
        graph, side = self._graph, self._int8.side
        kernel, bias = self._find_parameters(first)
        step = self._find_scale(PIXELS)
        values, scale = raise_scales(*self._round(first.path, kernel), bias, step)
        cells = self._normalise_rows(pixels)
        cells = graph.add("Reshape", cells, graph.constant("cells", [0, 0, -1, 3 * CELL]))
        cells = graph.add("Transpose", cells, perm=[0, 3, 1, 2])
        cells = self._keep(cells, PIXELS, side, step)
        codes = graph.constant(f"{first.path}.codes", values)
        before = measure_same_padding(side, 3, 2)[0] if first.padding == SAME else 1

        def convolve(layer: Convolution, codes: str, left: int) -> str:
            # a step reads a cell and, for the padding, the one before or behind it
            spread = spread_kernel(graph, codes, CELL - 1 if left else 0)
            rounded = Rounded(spread, np.tile(scale, 2), np.tile(bias, 2))
            return self._convolve_cells(cells, layer, rounded, [before, left, 1 - before, 1 - left])

        maps = convolve(first, codes, before)
        self._sides[maps] = side // 2
        if not mirror:
            return maps
        turned = add_reversal(graph, codes, axis=3)
        turned = convolve(replace(first, path=f"{first.path}.mirrored"), turned, 1 - before)
        joined = graph.add("Concat", maps, add_reversal(graph, turned, axis=3), axis=0)
        return self._keep_as(maps, joined, side // 2)

    def _normalise_rows(self, pixels: str) -> str:
        """Add the codes of normalised pixels, (n, side, side, 3).

        Where the colours share mean and deviation, and a pixel can have this mean, they are the
        pixels themselves. Else rows are multiplied by rows of factors: three factors at a time take
        ONNX Runtime many times as long.
        """
        graph, network, side = self._graph, self.architecture, self._int8.side
        if find_zero_pixel(network) is not None:
            return pixels
        std, mean = (np.tile(each, side) for each in (network.std, network.mean))
        floats = graph.add("Cast", pixels, to=TensorProto.FLOAT)
        rows = graph.add("Reshape", floats, graph.constant("pixels.rows", [0, 0, -1]))
        scaled = graph.add("Mul", rows, graph.constant("pixels.scale", 1 / (255 * std), np.float32))
        normal = graph.add("Sub", scaled, graph.constant("pixels.shift", mean / std, np.float32))
        codes = self._quantise(normal, PIXELS, side)
        return graph.add("Reshape", codes, graph.constant("pixels.single", [0, 0, -1, 3]))

    def _pool_cells(self, cells: str, layer: Convolution, pool: MaxPool, spread: "Rounded") -> str:
        """Add one convolution of cells, and the max pool: its last column would come of pixels
        beyond the image.
        """
        planes = self._convolve_cells(cells, layer, spread, [0, 0, 0, 1])
        unpadded = replace(pool, is_ceil=False)
        pooled = self._graph.add("MaxPool", planes, **list_pool_attributes(unpadded))
        return self._keep_as(planes, pooled, self._int8.side // CELL - 1)

    def _convolve_cells(
        self, cells: str, layer: Convolution, spread: "Rounded", pads: list[int]
    ) -> str:
        """Add one convolution of cells, which gives two outputs at each, beside each other."""
        graph, sizes = self._graph, {"kernel_shape": [3, 2], "strides": [2, 1], "pads": pads}
        y = self._convolve_codes(layer, cells, spread, sizes, side=0)
        y_last = graph.add("Transpose", y, perm=[0, 2, 3, 1])
        columns = graph.add(
            "Reshape", y_last, graph.constant("columns.single", [0, 0, -1, len(spread.bias) // 2])
        )
        planes = graph.add("Transpose", columns, perm=[0, 3, 1, 2])
        return self._keep_as(y, planes, side=0)

    def _find_parameters(
        self, layer: Convolution
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self._weights[f"{layer.path}.weight"], self._weights[f"{layer.path}.bias"]

    def _convolve(
        self, layer: Convolution, x: str, kernel: NDArray[Any], bias: NDArray[Any]
    ) -> str:
        codes, scale = raise_scales(*self._round(layer.path, kernel), bias, self._scales[x])
        name = self._graph.constant(f"{layer.path}.codes", codes)
        attributes = list_attributes(layer, self.architecture.channels[layer.reads[0]])
        rounded = Rounded(name, scale, bias)
        return self._convolve_codes(layer, x, rounded, attributes, self._measure(layer, x))

    def _convolve_codes(
        self,
        layer: Convolution,
        x: str,
        rounded: "Rounded",
        attributes: Mapping[str, Any],
        side: int,
    ) -> str:
        w = self._dequantise(f"{layer.path}.weight", rounded.codes, np.int8, rounded.scale)
        scale = rounded.scale * self._scales[x]  # the scale of the int32 sums
        wholes = np.round(rounded.bias / scale)
        biases = self._graph.constant(f"{layer.path}.bias.codes", wholes, np.int32)
        b = self._dequantise(f"{layer.path}.bias", biases, np.int32, scale)
        y = self._graph.add("Conv", self._to_floats(x), w, b, **attributes)
        y = add_activation(self._graph, y, layer.activation)
        return self._quantise(y, self.architecture.activations[layer.output], side)

    def _round(
        self, layer: str, kernel: NDArray[np.float32]
    ) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        """Take the codes (outputs, inputs, height, width) of a layer and their scales (outputs,),
        or make them.
        """
        codes = self._int8.codes.get(f"{layer}.weight")
        return (
            round_kernel(kernel)
            if codes is None
            else (codes.values, codes.scales.ravel().astype(np.float32))
        )

    def _to_floats(self, x: str) -> str:
        """Add the values that the codes of a map stand for."""
        scale = self._graph.constant(f"{x}.scale", self._scales[x], np.float32)
        return self._graph.add("DequantizeLinear", x, scale, self._find_zero(self._activations[x]))

    def _find_factors(self, x: str) -> NDArray[np.float32]:
        """Find what a map's channels have to be multiplied with: (channels,), or 1 for all of
        them.
        """
        return self._int8.factors.get(self._activations.get(x, ""), np.ones(1, np.float32))

    def _dequantise(self, name: str, codes: str, dtype: type, scale: NDArray[Any]) -> str:
        """Add the parameter `codes * scale`, one scale for each output channel."""
        scale_name = self._graph.constant(f"{name}.scale", scale, np.float32)
        zeros = self._graph.constant(
            f"zeros.{dtype.__name__}.{len(scale)}", np.zeros(len(scale)), dtype
        )
        return self._graph.add("DequantizeLinear", codes, scale_name, zeros, name=name, axis=0)

    def _quantise(self, x: str, activation: str, side: int) -> str:
        scale = self._find_scale(activation)
        name = self._graph.constant(f"{x}.scale", scale, np.float32)
        codes = self._graph.add("QuantizeLinear", x, name, self._find_zero(activation))
        return self._keep(codes, activation, side, scale)

    def _find_scale(self, activation: str) -> float:
        """Find what a step from code to code stands for."""
        if activation == PIXELS and find_zero_pixel(self.architecture) is not None:
            return 1 / (255 * self.architecture.std[0])
        return self._find_range(activation) / (127 if self._is_signed(activation) else 255)

    def _find_range(self, activation: str) -> float:
        """Find the largest value that codes can stand for; that of normalised pixels is known."""
        is_known = activation == PIXELS
        return self.architecture.largest_pixel if is_known else self._int8.ranges[activation]

    def _find_zero(self, activation: str) -> str:
        """Name the code that stands for 0."""
        if not self._is_signed(activation):
            return "zero"
        pixel = find_zero_pixel(self.architecture) if activation == PIXELS else None
        if pixel is not None:
            return self._graph.constant("zero.pixels", pixel, np.uint8)
        return self._graph.constant("zero.signed", 128, np.uint8)

    def _is_signed(self, activation: str) -> bool:
        """Say whether values may be below 0; pixels are, where they are normalised."""
        if activation == PIXELS:
            return bool(self.architecture.convolutions[0].padding)
        return activation in self.architecture.signed

    def _measure(self, layer: Layer, x: str) -> int:
        """Tell the side of what a layer gives, 0 where any is possible."""
        return self._sides[x] and measure_side(layer, self._sides[x])

    def _keep(self, x: str, activation: str, side: int, scale: float) -> str:
        """Remember of a map what its codes stand for, and its side."""
        self._scales[x], self._activations[x], self._sides[x] = scale, activation, side
        return x

    def _keep_as(self, known: str, x: str, side: int) -> str:
        """Remember of a map that its codes stand for what another one's do."""
        return self._keep(x, self._activations[known], side, self._scales[known])


# How each kind of layer is added.
_INT8_KINDS: Mapping[type, Callable[..., str]] = {
    Convolution: Int8Layers._add_convolution,
    MaxPool: Int8Layers._add_max_pool,
    AveragePool: Int8Layers._add_average_pool,
    GlobalMean: Int8Layers._add_global_mean,
    Join: Int8Layers._add_join,
    Sum: Int8Layers._add_sum,
    Product: Int8Layers._add_product,
    Dropout: Int8Layers._leave,
}


def round_kernel(kernel: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round a kernel (outputs, ...) to int8 with one scale for each output channel; a kernel of
    nothing but zeros has some scale, too.
    """
    scale = np.abs(kernel).max(axis=(1, 2, 3)) / 127
    scale = np.where(scale > 0, scale, np.float32(1e-9))
    return np.round(kernel / scale[:, None, None, None]).astype(np.int8), scale
