"""The layers of SqueezeNet as ONNX nodes, in int8."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from squeezetune.network.codes import QuantizedTensor
from squeezetune.network.float_layers import POOL, add_mirror, add_reversal, fold_normalisation
from squeezetune.network.onnx_builder import Graph
from squeezetune.network.weights import Weights, detect_version, find_architecture

# By name of an activation the value that uint8 255 stands for; activations follow a ReLU, so all
# start at 0.
Ranges = Mapping[str, float]

# So many pixels of a line are read as one cell of 12 channels, for two outputs of conv1.
CELL = 4


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


class Int8Layers:
    """Layers in int8: activations uint8 per tensor, kernels int8 per output channel, sums int32.

    Written as QuantizeLinear/DequantizeLinear pairs around float operators, which runtimes fuse
    into integer ones (Jacob et al. 2018, "Quantization and Training of Neural Networks for
    Efficient Integer-Arithmetic-Only Inference"). Between layers a map is its uint8 values.
    """

    def __init__(self, graph: Graph, weights: Weights, int8: Int8) -> None:
        self.layout = find_architecture(detect_version(weights))
        self._graph = graph
        self._weights = weights
        self._int8 = int8
        self._side = int8.side  # of the maps that the latest layer gives
        self._scales: dict[str, float] = {}  # by name of a map
        self._activations: dict[str, str] = {}  # which activation a map is
        graph.constant("zero", 0, np.uint8)

    def first(self, pixels: str, *, mirror: bool = False) -> str:
        """Add normalisation, conv1 with its ReLU, and the max pool; pixels are uint8 already, their
        scale is 1.
        """
        kernel, bias = fold_normalisation(self._weights)
        if self._side and self._side % CELL == 0 and kernel.shape[2:] == (3, 3):
            return self._first_of_cells(pixels, kernel, bias, mirror)
        pixels = add_mirror(self._graph, pixels) if mirror else pixels
        planes = self._keep(self._graph.add("Transpose", pixels, perm=[0, 3, 1, 2]), 1.0)
        self._side = self._side and (self._side - kernel.shape[2]) // 2 + 1
        return self.pool(
            self._convolve(planes, "features.0", kernel, bias, "conv1", strides=[2, 2])
        )

    def squeeze(self, x: str, layer: str, activation: str) -> str:
        """Add the squeeze convolution and its ReLU."""
        return self._convolve(
            x, f"{layer}.squeeze", *self._parameters(f"{layer}.squeeze"), activation
        )

    def expand(self, x: str, layer: str, activation: str) -> str:
        """Add the expand convolutions and their ReLUs, all with one scale, so that joining them is
        a copy.
        """
        one, three = f"{layer}.expand1x1", f"{layer}.expand3x3"
        a = self._convolve(x, one, *self._parameters(one), activation)
        b = self._convolve(x, three, *self._parameters(three), activation, pads=[1, 1, 1, 1])
        return self._keep_as(a, self._graph.add("Concat", a, b, axis=1))

    def pool(self, x: str) -> str:
        """Add the max pool, which keeps the scale."""
        self._side = self._side and ceil((self._side - 3) / 2) + 1
        return self._keep_as(x, self._graph.add("MaxPool", x, **POOL))

    def mean(self, x: str) -> str:
        """Add the mean over the positions; where their number is known as a product of integers
        with ones.
        """
        if not self._side:
            return self._graph.add(
                "ReduceMean",
                self.to_floats(x),
                self._graph.constant("positions", [2, 3]),
                keepdims=0,
            )
        graph, count = self._graph, self._side**2
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

    def _first_of_cells(
        self, pixels: str, kernel: NDArray[np.float32], bias: NDArray[np.float32], mirror: bool
    ) -> str:
        """Add conv1 and its pool over cells of four pixels, whose twelve channels runtimes read
        faster than three.

        The mirror image is not computed: the kernel is turned round instead, and then what it
        gives, behind the pool.
        """
        graph, (values, scale) = self._graph, self._round("features.0", kernel)
        cells = graph.add("Reshape", pixels, graph.constant("cells", [0, 0, -1, 3 * CELL]))
        cells = self._keep(graph.add("Transpose", cells, perm=[0, 3, 1, 2]), 1.0)
        codes, scale, bias = (
            graph.constant("features.0.codes", values),
            np.tile(scale, 2),
            np.tile(bias, 2),
        )
        maps = self._pool_cells(cells, "features.0", self._spread_kernel(codes, 0), scale, bias)
        self._side = self._side // CELL - 1
        if not mirror:
            return maps
        turned = self._spread_kernel(add_reversal(graph, codes, axis=3), 1)
        turned = self._pool_cells(cells, "features.0.mirrored", turned, scale, bias)
        return self._keep_as(
            maps, graph.add("Concat", maps, add_reversal(graph, turned, axis=3), axis=0)
        )

    def _spread_kernel(self, codes: str, start: int) -> str:
        """Spread conv1's kernel (outputs, 3, 3, 3) over cells: (2 outputs, 12, 3, 2), which a
        runtime does once.

        A step from cell to cell gives two outputs, of the columns 0 to 2 and 2 to 4 of both cells.
        From column 1 on, with the kernel turned round, it is what the mirror image gives, from
        right to left.
        """
        graph, halves = self._graph, []
        for column in (start, start + 2):
            around = [0, 0, 0, column, 0, 0, 0, 2 * CELL - 3 - column]
            halves.append(graph.add("Pad", codes, graph.constant(f"columns.{column}", around)))
        parts = graph.add("Concat", *halves, axis=0)  # (2 outputs, colour, row, column)
        parts = graph.add("Reshape", parts, graph.constant("columns.parts", [0, 0, 0, 2, CELL]))
        parts = graph.add(
            "Transpose", parts, perm=[0, 4, 1, 2, 3]
        )  # (2 outputs, pixel, colour, row, cell)
        return graph.add("Reshape", parts, graph.constant("columns.spread", [0, 3 * CELL, 3, 2]))

    def _pool_cells(
        self,
        cells: str,
        layer: str,
        codes: str,
        scale: NDArray[np.float32],
        bias: NDArray[np.float32],
    ) -> str:
        """Add one convolution of cells, and the max pool: its last column would come of pixels
        beyond the image.
        """
        graph, sizes = (
            self._graph,
            {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [0, 0, 0, 1]},
        )
        y = self._convolve_codes(cells, layer, codes, scale, bias, "conv1", **sizes)
        y_last = graph.add("Transpose", y, perm=[0, 2, 3, 1])
        columns = graph.add(
            "Reshape", y_last, graph.constant("columns.single", [0, 0, -1, len(bias) // 2])
        )
        planes = graph.add("Transpose", columns, perm=[0, 3, 1, 2])
        return self._keep_as(y, graph.add("MaxPool", planes, **{**POOL, "ceil_mode": 0}))

    def _parameters(self, layer: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self._weights[f"{layer}.weight"], self._weights[f"{layer}.bias"]

    def _convolve(
        self,
        x: str,
        layer: str,
        kernel: NDArray[Any],
        bias: NDArray[Any],
        activation: str,
        **attributes: Any,
    ) -> str:
        codes, scale = self._round(layer, kernel)
        name = self._graph.constant(f"{layer}.codes", codes)
        shape = list(kernel.shape[2:])
        return self._convolve_codes(
            x, layer, name, scale, bias, activation, kernel_shape=shape, **attributes
        )

    def _convolve_codes(
        self,
        x: str,
        layer: str,
        codes: str,
        scale: NDArray[Any],
        bias: NDArray[Any],
        activation: str,
        **attributes: Any,
    ) -> str:
        w = self._dequantise(f"{layer}.weight", codes, np.int8, scale)
        scale = scale * self._scales[x]  # the scale of the int32 sums
        biases = self._graph.constant(f"{layer}.bias.codes", np.round(bias / scale), np.int32)
        b = self._dequantise(f"{layer}.bias", biases, np.int32, scale)
        y = self._graph.add("Conv", self._to_floats(x), w, b, **attributes)
        return self._quantise(self._graph.add("Relu", y), activation)

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
        return self._graph.add("DequantizeLinear", x, scale, "zero")

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

    def _quantise(self, x: str, activation: str) -> str:
        scale = self._int8.ranges[activation] / 255
        name = self._graph.constant(f"{x}.scale", scale, np.float32)
        return self._keep(self._graph.add("QuantizeLinear", x, name, "zero"), scale, activation)

    def _keep(self, x: str, scale: float, activation: str = "") -> str:
        """Remember of a map what its codes stand for."""
        self._scales[x], self._activations[x] = scale, activation
        return x

    def _keep_as(self, known: str, x: str) -> str:
        """Remember of a map that its codes stand for what another one's do."""
        return self._keep(x, self._scales[known], self._activations[known])


def round_kernel(kernel: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round a kernel (outputs, ...) to int8 with one scale for each output channel."""
    scale = np.abs(kernel).max(axis=(1, 2, 3)) / 127
    return np.round(kernel / scale[:, None, None, None]).astype(np.int8), scale
