"""The layers of a network as LiteRT's operators, in float32 and in int8."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeezetune.exporting.tflite_writer import ZERO, TfliteBuilder
from squeezetune.network.codes import raise_scales
from squeezetune.network.float_layers import fold_normalisation
from squeezetune.network.int8_layers import Int8
from squeezetune.network.layers import (
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
    measure_side,
)
from squeezetune.network.weights import Weights, detect_architecture

# As the schema numbers them.
SAME_PADDING, VALID = 0, 1
FUSED = {"": 0, "relu": 1, "relu6": 3}


class TfliteLayers:
    """Adds the layers of a network, in float32 or in int8."""

    def __init__(self, sheet: TfliteBuilder, weights: Weights, int8: Int8 | None) -> None:
        self.architecture = detect_architecture(weights)
        self._sheet, self._weights, self._int8 = sheet, weights, int8
        self._activations: dict[int, str] = {}  # which activation a map in int8 is

    def add_first(self, pixels: int) -> int:
        """Add normalisation and the first convolution with its function."""
        sheet, network, first = self._sheet, self.architecture, self.architecture.convolutions[0]
        shape = sheet.shape(pixels)
        if self._int8 and not first.padding:  # a step is a grey level
            pixels = sheet.add("QUANTIZE", [pixels], shape, scale=1.0)
            return self._convolve(first, pixels, *fold_normalisation(self._weights, network))
        scale, shift = (
            sheet.hold(name, values)
            for name, values in (
                ("1 / deviation", 1 / (255 * np.array(network.std))),
                ("-mean", -np.divide(network.mean, network.std)),
            )
        )
        x = sheet.add("ADD", [sheet.add("MUL", [pixels, scale], shape), shift], shape)
        if self._int8:
            x = sheet.add("QUANTIZE", [x], shape, scale=network.largest_pixel / 127, zero=0)
        return self._convolve(first, x, *self._find_parameters(first.path))

    def add(self, layer: Layer, inputs: Sequence[int]) -> int:
        """Add a layer, whatever its kind."""
        return _KINDS[type(layer)](self, layer, *inputs)

    def to_floats(self, x: int) -> int:
        """Give a map in float32."""
        return (
            self._sheet.add("DEQUANTIZE", [x], self._sheet.shape(x), version=2) if self._int8 else x
        )

    def restore(self, values: int, x: int) -> int:
        """Make a map, or its means, as large in every channel as it was before equalisation."""
        factors = self._int8.factors.get(self._activations[x]) if self._int8 else None
        if factors is None:
            return values
        return self._sheet.add(
            "MUL", [values, self._sheet.hold("factors", factors)], self._sheet.shape(values)
        )

    def _add_convolution(self, layer: Convolution, x: int) -> int:
        return self._convolve(layer, x, *self._find_parameters(layer.path))

    def _add_max_pool(self, layer: MaxPool, x: int) -> int:
        """Add a max pool; windows that hang over the border take what is there."""
        side = measure_side(layer, self._sheet.shape(x)[1])
        return self._pool("MAX_POOL_2D", layer, *self._pad_pool(layer, x), side)

    def _add_average_pool(self, layer: AveragePool, x: int) -> int:
        """Add an average pool; LiteRT's own padding would not count."""
        side = measure_side(layer, self._sheet.shape(x)[1])
        margin = (layer.padding, layer.padding)
        padded = self._add_margins(x, margin, margin) if layer.padding else x
        return self._pool("AVERAGE_POOL_2D", layer, padded, VALID, side)

    def _pool(
        self, operator: str, layer: MaxPool | AveragePool, x: int, padding: int, side: int
    ) -> int:
        """Pool a map to this side; a step stands for as much as before."""
        sheet = self._sheet
        scale = sheet.scale(x)
        pooled = sheet.add(
            operator,
            [x],
            (-1, side, side, sheet.shape(x)[3]),
            version=2 if scale else 1,
            scale=scale,
            zero=sheet.zero(x),
            padding=padding,
            strideW=layer.stride,
            strideH=layer.stride,
            filterWidth=layer.kernel,
            filterHeight=layer.kernel,
        )
        return self._keep(pooled, self._activations.get(x, ""))

    def _add_join(self, layer: Join, *inputs: int) -> int:
        name = self.architecture.activations[layer.output]
        if not self._int8 or all(self._activations[x] == name for x in inputs):
            return self._keep(add_join(self._sheet, inputs), name)
        return self._quantise(add_join(self._sheet, [self.to_floats(x) for x in inputs]), name)

    def _add_sum(self, layer: Sum, *inputs: int) -> int:
        first, *others = [self.to_floats(x) for x in inputs]
        for at, other in enumerate(others):
            function = FUSED[layer.activation if at == len(others) - 1 else ""]
            shape = self._sheet.shape(first)
            first = self._sheet.add("ADD", [first, other], shape, fusedActivationFunction=function)
        return self._quantise(first, layer.output)

    def _add_product(self, layer: Product, x: int, gates: int) -> int:
        values, shape = [self.to_floats(each) for each in (x, gates)], self._sheet.shape(x)
        return self._quantise(self._sheet.add("MUL", values, shape), layer.output)

    def _add_global_mean(self, layer: GlobalMean, x: int) -> int:
        shape = (-1, 1, 1, self._sheet.shape(x)[-1])
        positions = self._sheet.hold("positions", [1, 2])
        mean = self._sheet.add("MEAN", [self.to_floats(x), positions], shape, keepDims=True)
        return self._quantise(mean, layer.output)

    def _leave(self, layer: Dropout, x: int) -> int:
        return x

    def _find_parameters(self, path: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self._weights[f"{path}.weight"], self._weights[f"{path}.bias"]

    def _convolve(
        self, layer: Convolution, x: int, weight: NDArray[Any], bias: NDArray[Any]
    ) -> int:
        """Convolve, and apply the function behind it: in int8 where LiteRT fuses that, else in
        floats.
        """
        sheet, side = self._sheet, measure_side(layer, self._sheet.shape(x)[1])
        activation = self.architecture.activations[layer.output]
        is_fused = layer.activation in FUSED
        is_int8 = bool(self._int8) and is_fused
        x, padding = self._pad(layer, x if is_int8 else self.to_floats(x))
        options: dict[str, Any] = self._list_steps(activation) if is_int8 else {}
        options |= {"depthMultiplier": 1} if layer.is_depthwise else {}
        y = sheet.add(
            "DEPTHWISE_CONV_2D" if layer.is_depthwise else "CONV_2D",
            [x, *self._hold_parameters(layer, x, weight, bias, is_int8)],
            (-1, side, side, len(bias)),
            version=3 if is_int8 else 1,
            padding=padding,
            strideW=layer.stride,
            strideH=layer.stride,
            fusedActivationFunction=FUSED[layer.activation if is_fused else ""],
            **options,
        )
        if is_fused:
            return self._keep(y, activation)
        return self._quantise(_add_function(sheet, y, layer.activation), activation)

    def _hold_parameters(
        self, layer: Convolution, x: int, weight: NDArray[Any], bias: NDArray[Any], is_int8: bool
    ) -> list[int]:
        """Keep a convolution's parameters, codes in int8 or float16: outputs first, last if it is
        depth-wise.
        """
        sheet, path = self._sheet, layer.path
        order = (1, 2, 3, 0) if layer.is_depthwise else (0, 2, 3, 1)
        if not self._int8 or not is_int8:
            return [
                sheet.hold_kernel(path, weight.transpose(order)),
                sheet.hold(f"{path} bias", bias),
            ]
        codes = self._int8.codes[f"{path}.weight"]
        scales = codes.scales.ravel().astype(np.float32)
        values, scales = raise_scales(codes.values, scales, bias, sheet.scale(x))
        sums = scales * np.float32(sheet.scale(x))
        axis = 3 if layer.is_depthwise else 0
        return [
            sheet.hold_codes(path, values.transpose(order), scales, axis),
            sheet.hold_codes(f"{path} bias", np.round(bias / sums).astype(np.int32), sums),
        ]

    def _pad(self, layer: Convolution, x: int) -> tuple[int, int]:
        """Pad a map where none of LiteRT's own ways is that of a layer; returns it, and the way."""
        halves = tuple(side // 2 for side in layer.sides)
        if layer.padding == SAME or (layer.stride == 1 and layer.margins == halves):
            return x, SAME_PADDING
        if not any(layer.margins):
            return x, VALID
        return self._add_margins(x, *((margin, margin) for margin in layer.margins)), VALID

    def _pad_pool(self, layer: MaxPool, x: int) -> tuple[int, int]:
        """Do the same for a max pool.

        Raises:
            ValueError: the pool reads what may be below 0, and LiteRT adds nothing less than that.
        """
        side = self._sheet.shape(x)[1]
        behind = (measure_side(layer, side) - 1) * layer.stride + layer.kernel - side
        behind -= layer.padding
        if behind <= 0 and not layer.padding:
            return x, VALID
        # of its own accord LiteRT adds one pixel behind, or the same on all sides
        if (layer.padding, behind) == (0, 1) or (layer.stride == 1 and layer.padding == behind):
            return x, SAME_PADDING
        if self._find_scale(x) in self.architecture.signed:
            raise ValueError(f"LiteRT has no such max pool: {layer}")
        margins = (layer.padding, max(behind, 0))
        return self._add_margins(x, margins, margins), VALID

    def _find_scale(self, x: int) -> str:
        return self._activations.get(x, "")

    def _add_margins(self, x: int, down: tuple[int, int], across: tuple[int, int]) -> int:
        """Add zeros above and below a map, and left and right of it."""
        sheet = self._sheet
        _, height, width, channels = sheet.shape(x)
        margins = sheet.hold("margins", [[0, 0], down, across, [0, 0]])
        shape = (-1, height + sum(down), width + sum(across), channels)
        steps: dict[str, Any] = {"scale": sheet.scale(x), "zero": sheet.zero(x)}
        padded = sheet.add("PAD", [x, margins], shape, version=2 if self._int8 else 1, **steps)
        return self._keep(padded, self._find_scale(x))

    def _quantise(self, x: int, activation: str) -> int:
        """Give a map in int8, where that is computed in, for what it is."""
        if self._int8:
            steps = self._list_steps(activation)
            x = self._sheet.add("QUANTIZE", [x], self._sheet.shape(x), **steps)
        return self._keep(x, activation)

    def _list_steps(self, activation: str) -> dict[str, Any]:
        """List what a step of a map in int8 stands for, and the code of 0."""
        if not self._int8:
            return {"scale": 0.0}
        is_signed = activation in self.architecture.signed
        steps = 127 if is_signed else 255
        return {"scale": self._int8.ranges[activation] / steps, "zero": 0 if is_signed else ZERO}

    def _keep(self, x: int, activation: str) -> int:
        """Remember of a map which activation it is."""
        self._activations[x] = activation
        return x


# How each kind of layer is added.
_KINDS: Mapping[type, Callable[..., int]] = {
    Convolution: TfliteLayers._add_convolution,
    MaxPool: TfliteLayers._add_max_pool,
    AveragePool: TfliteLayers._add_average_pool,
    GlobalMean: TfliteLayers._add_global_mean,
    Join: TfliteLayers._add_join,
    Sum: TfliteLayers._add_sum,
    Product: TfliteLayers._add_product,
    Dropout: TfliteLayers._leave,
}


def _add_function(sheet: TfliteBuilder, x: int, name: str) -> int:
    """Add a function that LiteRT does not fuse into what is before it."""
    shape = sheet.shape(x)
    if name == "hard_swish":
        return sheet.add("HARD_SWISH", [x], shape)
    if name == "sigmoid":
        return sheet.add("LOGISTIC", [x], shape)
    three, relu6 = sheet.hold("three", [3.0]), FUSED["relu6"]
    clipped = sheet.add("ADD", [x, three], shape, fusedActivationFunction=relu6)
    return sheet.add("MUL", [clipped, sheet.hold("sixth", [1 / 6])], shape)


def add_join(sheet: TfliteBuilder, parts: Sequence[int]) -> int:
    """Join along the channels; in int8 all parts have one scale."""
    shape = sheet.shape(parts[0])
    joined = (*shape[:-1], sum(sheet.shape(part)[-1] for part in parts))
    scale = sheet.scale(parts[0])
    steps: dict[str, Any] = {"scale": scale, "zero": sheet.zero(parts[0])}
    version = 2 if scale else 1
    return sheet.add("CONCATENATION", parts, joined, version=version, axis=len(shape) - 1, **steps)


def add_mean(sheet: TfliteBuilder, x: int) -> int:
    """Take the mean of every channel over the positions: (n, channels)."""
    return sheet.add("MEAN", [x, sheet.hold("positions", [1, 2])], (-1, sheet.shape(x)[-1]))
