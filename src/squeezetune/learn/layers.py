"""The layers of SqueezeNet as ONNX nodes, in float32 and in int8."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from squeezetune.learn.codes import Codes
from squeezetune.learn.onnx_builder import Graph
from squeezetune.learn.weights import MEAN, STD, Layout, Weights, detect_version, find_layout

# By name of an activation the value that uint8 255 stands for; activations follow a ReLU, so all start at 0.
Ranges = Mapping[str, float]

POOL: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}


def unfold_normalisation(
    kernel: NDArray[np.float32], bias: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Take the normalisation out of the first convolution again: what `fold_normalisation` makes these of."""
    shift = np.einsum("oihw,i->o", kernel.astype(np.float64) * 255, np.asarray(MEAN))
    unfolded = kernel.astype(np.float64) * 255 * np.asarray(STD)[:, None, None]
    return unfolded.astype(np.float32), (bias + shift).astype(np.float32)


# Adds a parameter to a graph under a name; returns the name of the tensor that holds it, or stands for it, in float32.
Store: TypeAlias = Callable[[Graph, str, NDArray[Any]], str]


def store_floats(graph: Graph, name: str, value: NDArray[Any]) -> str:
    """Store a parameter as float32."""
    return graph.constant(name, value, np.float32)


def store_halves(graph: Graph, name: str, value: NDArray[Any]) -> str:
    """Store a parameter as float16: half the file. The runtime folds the cast away when it loads the model."""
    half = graph.constant(f"{name}.half", value, np.float16)
    return graph.add("Cast", half, to=TensorProto.FLOAT, name=name)


def store_exactly(graph: Graph, name: str, value: NDArray[Any]) -> str:
    """Store a parameter as float16 where that holds it exactly, else as float32."""
    is_exact = np.array_equal(value.astype(np.float16), value)
    return (store_halves if is_exact else store_floats)(graph, name, value)


@dataclass(frozen=True)
class CodedStore:
    """Stores parameters as whole numbers of few bits and a scale for each output, by name; others as float16.

    Standard operators turn them into float32, which a runtime does once, when it loads the model. DequantizeLinear
    would say the same, but ONNX Runtime leaves it to be computed with every image, and convolves more slowly for it.
    """

    codes: Mapping[str, Codes]

    def __call__(self, graph: Graph, name: str, value: NDArray[Any]) -> str:
        """Add the codes of a parameter; the value itself only counts where there are none."""
        codes = self.codes.get(name)
        if codes is None:
            return store_halves(graph, name, value)
        whole = graph.codes(f"{name}.codes", codes)
        scale = store_halves(graph, f"{name}.scale", codes.scales)
        return graph.add("Mul", graph.add("Cast", whole, to=TensorProto.FLOAT), scale, name=name)


class Layers(Protocol):
    """Adds layers to a graph; each method takes and returns names of tensors, (n, channels, height, width)."""

    @property
    def layout(self) -> Layout:
        """Which version of SqueezeNet the weights are of."""
        ...

    def first(self, pixels: str) -> str:
        """Add normalisation and conv1 (stride 2, no padding) with its ReLU; `pixels` is (n, h, w, 3) uint8."""
        ...

    def squeeze(self, x: str, layer: str, activation: str) -> str:
        """Add a Fire module's 1x1 squeeze convolution with its ReLU."""
        ...

    def expand(self, x: str, layer: str, activation: str) -> str:
        """Add a Fire module's 1x1 and 3x3 expand convolutions with their ReLUs, side by side."""
        ...

    def pool(self, x: str) -> str:
        """Add a 3x3 max pool of stride 2 in ceil mode."""
        ...


def fold_normalisation(weights: Weights) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Fold x / 255, minus mean, over std into the first convolution; exact, since it has no padding."""
    kernel = weights["features.0.weight"].astype(np.float64) / np.asarray(STD)[:, None, None]
    shift = np.einsum("oihw,i->o", kernel, np.asarray(MEAN))
    return (kernel / 255).astype(np.float32), (weights["features.0.bias"] - shift).astype(np.float32)


class FloatLayers:
    """Layers that compute in float32; how their parameters are stored is another matter."""

    def __init__(self, graph: Graph, weights: Weights, store: Store = store_floats) -> None:
        self.layout = find_layout(detect_version(weights))
        self._graph = graph
        self._weights = weights
        self._store = store

    def first(self, pixels: str) -> str:
        """Add normalisation, conv1 and its ReLU."""
        planes = self._graph.add("Transpose", self._graph.add("Cast", pixels, to=TensorProto.FLOAT), perm=[0, 3, 1, 2])
        kernel, bias = fold_normalisation(self._weights)
        return self._convolve(planes, "features.0", kernel, bias, "conv1", strides=[2, 2])

    def squeeze(self, x: str, layer: str, activation: str) -> str:
        """Add the squeeze convolution and its ReLU."""
        return self._convolve(x, f"{layer}.squeeze", *self._parameters(f"{layer}.squeeze"), activation)

    def expand(self, x: str, layer: str, activation: str) -> str:
        """Add the expand convolutions and their ReLUs."""
        one, three = f"{layer}.expand1x1", f"{layer}.expand3x3"
        a = self._convolve(x, one, *self._parameters(one), f"{activation}1x1")
        b = self._convolve(x, three, *self._parameters(three), f"{activation}3x3", pads=[1, 1, 1, 1])
        return self._graph.add("Concat", a, b, name=activation, axis=1)

    def pool(self, x: str) -> str:
        """Add the max pool."""
        return self._graph.add("MaxPool", x, **POOL)

    def _parameters(self, layer: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self._weights[f"{layer}.weight"], self._weights[f"{layer}.bias"]

    def _convolve(
        self, x: str, layer: str, kernel: NDArray[Any], bias: NDArray[Any], activation: str, **attributes: Any
    ) -> str:
        w = self._store(self._graph, f"{layer}.weight", kernel)
        b = self._store(self._graph, f"{layer}.bias", bias)
        y = self._graph.add("Conv", x, w, b, kernel_shape=list(kernel.shape[2:]), **attributes)
        return self._graph.add("Relu", y, name=activation)


class Int8Layers:
    """Layers in int8: activations uint8 per tensor, kernels int8 per output channel, sums int32.

    Written as QuantizeLinear/DequantizeLinear pairs around float operators, which runtimes fuse into integer ones
    (Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference").
    """

    def __init__(self, graph: Graph, weights: Weights, ranges: Ranges) -> None:
        self.layout = find_layout(detect_version(weights))
        self._graph = graph
        self._weights = weights
        self._ranges = ranges
        self._scales: dict[str, float] = {}  # by name of a dequantised tensor
        graph.constant("zero", 0, np.uint8)

    def first(self, pixels: str) -> str:
        """Add normalisation, conv1 and its ReLU; pixels are uint8 already, so the scale of 1 is exact."""
        planes = self._graph.add("Transpose", pixels, perm=[0, 3, 1, 2])
        x = self._graph.add("DequantizeLinear", planes, self._graph.constant("pixels.scale", 1, np.float32), "zero")
        self._scales[x] = 1.0
        kernel, bias = fold_normalisation(self._weights)
        return self._convolve(x, "features.0", kernel, bias, "conv1", strides=[2, 2])

    def squeeze(self, x: str, layer: str, activation: str) -> str:
        """Add the squeeze convolution and its ReLU."""
        return self._convolve(x, f"{layer}.squeeze", *self._parameters(f"{layer}.squeeze"), activation)

    def expand(self, x: str, layer: str, activation: str) -> str:
        """Add the expand convolutions and their ReLUs, all with one scale, so that joining them is a copy."""
        one, three = f"{layer}.expand1x1", f"{layer}.expand3x3"
        a = self._convolve(x, one, *self._parameters(one), activation)
        b = self._convolve(x, three, *self._parameters(three), activation, pads=[1, 1, 1, 1])
        return self._requantise(self._graph.add("Concat", a, b, axis=1), self._ranges[activation] / 255)

    def pool(self, x: str) -> str:
        """Add the max pool, which keeps the scale."""
        return self._requantise(self._graph.add("MaxPool", x, **POOL), self._scales[x])

    def _parameters(self, layer: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self._weights[f"{layer}.weight"], self._weights[f"{layer}.bias"]

    def _convolve(
        self, x: str, layer: str, kernel: NDArray[Any], bias: NDArray[Any], activation: str, **attributes: Any
    ) -> str:
        scale = np.abs(kernel).max(axis=(1, 2, 3)) / 127
        w = self._dequantise(f"{layer}.weight", np.round(kernel / scale[:, None, None, None]).astype(np.int8), scale)
        scale = scale * self._scales[x]  # the scale of the int32 sums
        b = self._dequantise(f"{layer}.bias", np.round(bias / scale).astype(np.int32), scale)
        y = self._graph.add("Conv", x, w, b, kernel_shape=list(kernel.shape[2:]), **attributes)
        return self._requantise(self._graph.add("Relu", y), self._ranges[activation] / 255)

    def _dequantise(self, name: str, codes: NDArray[Any], scale: NDArray[Any]) -> str:
        """Add the parameter `codes * scale`, one scale for each output channel."""
        codes_name = self._graph.constant(f"{name}.codes", codes)
        scale_name = self._graph.constant(f"{name}.scale", scale, np.float32)
        zero = self._graph.constant(f"{name}.zero", np.zeros(len(codes)), codes.dtype)
        return self._graph.add("DequantizeLinear", codes_name, scale_name, zero, name=name, axis=0)

    def _requantise(self, x: str, scale: float) -> str:
        name = self._graph.constant(f"{x}.scale", scale, np.float32)
        y = self._graph.add("DequantizeLinear", self._graph.add("QuantizeLinear", x, name, "zero"), name, "zero")
        self._scales[y] = scale
        return y


@dataclass(frozen=True)
class Form:
    """How a classifier is stored and computed: how parameters are kept, and with `ranges` convolutions in int8.

    Those keep their kernels as int8; `store` then says it of the dense layers alone.
    """

    store: Store
    ranges: Ranges | None = None

    def make_layers(self, graph: Graph, weights: Weights) -> Layers:
        """Make what adds the layers to a graph."""
        return (
            FloatLayers(graph, weights, self.store) if self.ranges is None else Int8Layers(graph, weights, self.ranges)
        )


EXACT = Form(store_exactly)
