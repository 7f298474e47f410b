"""The layers of SqueezeNet as ONNX nodes, in float32."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from squeezetune.network.codes import LowRankTensor, QuantizedTensor
from squeezetune.network.onnx_builder import Graph
from squeezetune.network.weights import (
    MEAN,
    STD,
    Architecture,
    Weights,
    detect_version,
    find_architecture,
)

POOL: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}


def unfold_normalisation(
    kernel: NDArray[np.float32], bias: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Take the normalisation out of the first convolution again: what `fold_normalisation` makes
    these of.
    """
    shift = np.einsum("oihw,i->o", kernel.astype(np.float64) * 255, np.asarray(MEAN))
    unfolded = kernel.astype(np.float64) * 255 * np.asarray(STD)[:, None, None]
    return unfolded.astype(np.float32), (bias + shift).astype(np.float32)


# Adds a parameter to a graph under a name; returns the name of the tensor that holds it, or stands
# for it, in float32.
WeightEncoder: TypeAlias = Callable[[Graph, str, NDArray[Any]], str]


def store_floats(graph: Graph, name: str, value: NDArray[Any]) -> str:
    """Store a parameter as float32."""
    return graph.constant(name, value, np.float32)


def store_halves(graph: Graph, name: str, value: NDArray[Any]) -> str:
    """Store a parameter as float16: half the file. The runtime folds the cast away when it loads
    the model.
    """
    half = graph.constant(f"{name}.half", value, np.float16)
    return graph.add("Cast", half, to=TensorProto.FLOAT, name=name)


def store_exactly(graph: Graph, name: str, value: NDArray[Any]) -> str:
    """Store a parameter as float16 where that holds it exactly, else as float32."""
    is_exact = np.array_equal(value.astype(np.float16), value)
    return (store_halves if is_exact else store_floats)(graph, name, value)


@dataclass(frozen=True)
class CodedStore:
    """Stores parameters as whole numbers of few bits and a scale for each output, by name; others
    as float16.

    Standard operators turn them into float32, which a runtime does once, when it loads the model.
    DequantizeLinear would say the same, but ONNX Runtime leaves it to be computed with every image,
    and convolves more slowly for it.
    """

    codes: Mapping[str, QuantizedTensor]
    products: Mapping[str, LowRankTensor] = field(default_factory=dict)

    def __call__(self, graph: Graph, name: str, value: NDArray[Any]) -> str:
        """Add the codes of a parameter; the value itself only counts where there are none."""
        if name in self.codes:
            return self._add(graph, name, self.codes[name])
        if name in self.products:
            product = self.products[name]
            factors = [
                self._add(graph, f"{name}.{part}", codes)
                for part, codes in (("first", product.first), ("second", product.second))
            ]
            return graph.add("MatMul", *factors, name=name)
        return store_halves(graph, name, value)

    def _add(self, graph: Graph, name: str, codes: QuantizedTensor) -> str:
        whole = graph.codes(f"{name}.codes", codes)
        scale = store_halves(graph, f"{name}.scale", codes.scales)
        return graph.add("Mul", graph.add("Cast", whole, to=TensorProto.FLOAT), scale, name=name)


class GraphLayers(Protocol):
    """Adds layers to a graph; each method takes and returns names of tensors, (n, channels, height,
    width).

    How a map's values are kept between layers is the layers' own affair.
    """

    @property
    def layout(self) -> Architecture:
        """Which version of SqueezeNet the weights are of."""
        ...

    def first(self, pixels: str, *, mirror: bool = False) -> str:
        """Add normalisation, conv1 (stride 2, no padding) with its ReLU, and the max pool behind
        it.

        `pixels` is (n, h, w, 3) uint8; with `mirror` the mirror images of all of them follow in the
        batch.
        """
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

    def mean(self, x: str) -> str:
        """Add the mean of every channel over its positions: (n, channels) float32."""
        ...

    def to_floats(self, x: str) -> str:
        """Give a map in float32."""
        ...


def fold_normalisation(weights: Weights) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Fold x / 255, minus mean, over std into the first convolution; exact, since it has no
    padding.
    """
    kernel = weights["features.0.weight"].astype(np.float64) / np.asarray(STD)[:, None, None]
    shift = np.einsum("oihw,i->o", kernel, np.asarray(MEAN))
    return (kernel / 255).astype(np.float32), (weights["features.0.bias"] - shift).astype(
        np.float32
    )


class FloatLayers:
    """Layers that compute in float32; how their parameters are stored is another matter."""

    def __init__(self, graph: Graph, weights: Weights, store: WeightEncoder = store_floats) -> None:
        self.layout = find_architecture(detect_version(weights))
        self._graph = graph
        self._weights = weights
        self._store = store

    def first(self, pixels: str, *, mirror: bool = False) -> str:
        """Add normalisation, conv1 with its ReLU, and the max pool."""
        pixels = add_mirror(self._graph, pixels) if mirror else pixels
        planes = self._graph.add(
            "Transpose", self._graph.add("Cast", pixels, to=TensorProto.FLOAT), perm=[0, 3, 1, 2]
        )
        kernel, bias = fold_normalisation(self._weights)
        return self.pool(
            self._convolve(planes, "features.0", kernel, bias, "conv1", strides=[2, 2])
        )

    def squeeze(self, x: str, layer: str, activation: str) -> str:
        """Add the squeeze convolution and its ReLU."""
        return self._convolve(
            x, f"{layer}.squeeze", *self._parameters(f"{layer}.squeeze"), activation
        )

    def expand(self, x: str, layer: str, activation: str) -> str:
        """Add the expand convolutions and their ReLUs."""
        one, three = f"{layer}.expand1x1", f"{layer}.expand3x3"
        a = self._convolve(x, one, *self._parameters(one), f"{activation}1x1")
        b = self._convolve(
            x, three, *self._parameters(three), f"{activation}3x3", pads=[1, 1, 1, 1]
        )
        return self._graph.add("Concat", a, b, name=activation, axis=1)

    def pool(self, x: str) -> str:
        """Add the max pool."""
        return self._graph.add("MaxPool", x, **POOL)

    def mean(self, x: str) -> str:
        """Add the mean over the positions."""
        return self._graph.add(
            "ReduceMean", x, self._graph.constant("positions", [2, 3]), keepdims=0
        )

    def to_floats(self, x: str) -> str:
        """Give the map itself."""
        return x

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
        w = self._store(self._graph, f"{layer}.weight", kernel)
        b = self._store(self._graph, f"{layer}.bias", bias)
        y = self._graph.add("Conv", x, w, b, kernel_shape=list(kernel.shape[2:]), **attributes)
        return self._graph.add("Relu", y, name=activation)


def add_mirror(graph: Graph, pixels: str) -> str:
    """Append the mirror image of every image behind the batch: (n, h, w, 3) -> (2n, h, w, 3)."""
    return graph.add("Concat", pixels, add_reversal(graph, pixels, axis=2), axis=0)


def add_reversal(graph: Graph, x: str, axis: int) -> str:
    """Add what turns an axis round."""
    reverse = {"starts": [-1], "ends": [np.iinfo(np.int64).min], "axes": [axis], "steps": [-1]}
    constants = [graph.constant(f"reverse.{axis}.{name}", value) for name, value in reverse.items()]
    return graph.add("Slice", x, *constants)
