"""The layers of a network as ONNX nodes, in float32."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from squeezetune.network.architecture import Architecture
from squeezetune.network.codes import LowRankTensor, QuantizedTensor
from squeezetune.network.layers import (
    SAME,
    AveragePool,
    Convolution,
    Dropout,
    GlobalMean,
    Join,
    Layer,
    Linear,
    MaxPool,
    Product,
    Sum,
    count_groups,
)
from squeezetune.network.onnx_builder import Graph
from squeezetune.network.weights import Weights, detect_architecture

# Adds a parameter to a graph under a name; returns the name of the tensor that holds it, or stands
# for it, in float32.
WeightEncoder: TypeAlias = Callable[[Graph, str, NDArray[Any]], str]


def store_floats(graph: Graph, name: str, value: NDArray[Any]) -> str:
    """Store a parameter as float32."""
    return graph.constant(name, value, np.float32)


def store_halves(graph: Graph, name: str, value: NDArray[Any]) -> str:
    """Store a parameter as float16: half the file. The runtime folds the cast away when it loads
    the model. Where a value is too large for that, it is stored as float32.
    """
    with np.errstate(over="ignore"):
        halves = np.asarray(value, np.float16)
    if not np.isfinite(halves).all():
        return store_floats(graph, name, value)
    half = graph.constant(f"{name}.half", halves)
    return graph.add("Cast", half, to=TensorProto.FLOAT, name=name)


def store_exactly(graph: Graph, name: str, value: NDArray[Any]) -> str:
    """Store a parameter as float16 where that holds it exactly, else as float32."""
    with np.errstate(over="ignore"):
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
    """Adds layers to a graph; maps are names of tensors, (n, channels, height, width).

    How a map's values are kept between layers is the layers' own affair.
    """

    @property
    def architecture(self) -> Architecture:
        """Which network the weights are of."""
        ...

    def begin(self, pixels: str, *, mirror: bool = False) -> dict[str, str]:
        """Add normalisation and the first layer, or the first few; return their maps by name.

        `pixels` is (n, h, w, 3) uint8; with `mirror` the mirror images of all of them follow in the
        batch.
        """
        ...

    def add(self, layer: Layer, inputs: Sequence[str]) -> str:
        """Add a layer, whatever its kind."""
        ...

    def mean(self, x: str) -> str:
        """Add the mean of every channel over its positions: (n, channels) float32."""
        ...

    def to_floats(self, x: str) -> str:
        """Give a map in float32."""
        ...


def fold_normalisation(
    weights: Weights, architecture: Architecture
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Fold x / 255, minus mean, over std into the first convolution; exact where it has no
    padding.
    """
    path = architecture.convolutions[0].path
    kernel = weights[f"{path}.weight"].astype(np.float64)
    kernel = kernel / np.asarray(architecture.std)[:, None, None]
    shift = np.einsum("oihw,i->o", kernel, np.asarray(architecture.mean))
    bias = weights[f"{path}.bias"] - shift
    return (kernel / 255).astype(np.float32), bias.astype(np.float32)


def unfold_normalisation(
    kernel: NDArray[np.float32], bias: NDArray[np.float32], architecture: Architecture
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Take the normalisation out of the first convolution again: what `fold_normalisation` makes
    these of.
    """
    shift = np.einsum("oihw,i->o", kernel.astype(np.float64) * 255, np.asarray(architecture.mean))
    std = np.asarray(architecture.std)[:, None, None]
    unfolded = kernel.astype(np.float64) * 255 * std
    return unfolded.astype(np.float32), (bias + shift).astype(np.float32)


def find_zero_pixel(architecture: Architecture) -> int | None:
    """Find the pixel, of 0 to 255, that normalisation makes 0; None where there is none, or the
    colours do not share their mean and deviation.
    """
    (mean, *others), deviations = architecture.mean, architecture.std
    pixel = round(255 * mean)
    is_one = np.isclose(255 * mean, pixel) and {mean} == {mean, *others}
    return pixel if is_one and len(set(deviations)) == 1 else None


class FloatLayers:
    """Layers that compute in float32; how their parameters are stored is another matter."""

    def __init__(self, graph: Graph, weights: Weights, store: WeightEncoder = store_floats) -> None:
        self.architecture = detect_architecture(weights)
        self._graph = graph
        self._weights = weights
        self._store = store

    def begin(self, pixels: str, *, mirror: bool = False) -> dict[str, str]:
        """Add normalisation and the first convolution with its function."""
        first = self.architecture.convolutions[0]
        pixels = add_mirror(self._graph, pixels) if mirror else pixels
        planes = self._graph.add(
            "Transpose", self._graph.add("Cast", pixels, to=TensorProto.FLOAT), perm=[0, 3, 1, 2]
        )
        if first.padding:
            statistics = self.architecture.mean, self.architecture.std
            planes = add_normalisation(self._graph, planes, *statistics)
            return {first.output: self.add(first, [planes])}
        parameters = fold_normalisation(self._weights, self.architecture)
        return {first.output: self._convolve(first, planes, *parameters)}

    def add(self, layer: Layer, inputs: Sequence[str]) -> str:
        """Add a layer, whatever its kind."""
        return _FLOAT_KINDS[type(layer)](self, layer, *inputs)

    def mean(self, x: str) -> str:
        """Add the mean over the positions."""
        return self._graph.add(
            "ReduceMean", x, self._graph.constant("positions", [2, 3]), keepdims=0
        )

    def to_floats(self, x: str) -> str:
        """Give the map itself."""
        return x

    def _add_convolution(self, layer: Convolution, x: str) -> str:
        parameters = (self._weights[f"{layer.path}.{part}"] for part in ("weight", "bias"))
        return self._convolve(layer, x, *parameters)

    def _add_max_pool(self, layer: MaxPool, x: str) -> str:
        return self._graph.add("MaxPool", x, **list_pool_attributes(layer))

    def _add_average_pool(self, layer: AveragePool, x: str) -> str:
        return self._graph.add("AveragePool", x, **list_pool_attributes(layer))

    def _add_global_mean(self, layer: GlobalMean, x: str) -> str:
        # of images of the network's own side, each part is one position
        return x if layer.side > 1 else self._graph.add("GlobalAveragePool", x, name=layer.output)

    def _add_join(self, layer: Join, *inputs: str) -> str:
        return self._graph.add("Concat", *inputs, name=layer.output, axis=1)

    def _add_sum(self, layer: Sum, *inputs: str) -> str:
        return self._end(layer, self._graph.add("Sum", *inputs, name=self._name(layer)))

    def _add_product(self, layer: Product, x: str, gates: str) -> str:
        return self._graph.add("Mul", x, gates, name=layer.output)

    def _add_linear(self, layer: Linear, x: str) -> str:
        weight, bias = (
            self._store(self._graph, f"{layer.path}.{part}", self._weights[f"{layer.path}.{part}"])
            for part in ("weight", "bias")
        )
        rows = self._graph.add("Flatten", x)
        y = self._graph.add("Gemm", rows, weight, bias, name=self._name(layer), transB=1)
        return self._end(layer, y)

    def _leave(self, layer: Dropout, x: str) -> str:
        return x

    def _convolve(
        self, layer: Convolution, x: str, kernel: NDArray[Any], bias: NDArray[Any]
    ) -> str:
        w = self._store(self._graph, f"{layer.path}.weight", kernel)
        b = self._store(self._graph, f"{layer.path}.bias", bias)
        attributes = list_attributes(layer, self.architecture.channels[layer.reads[0]])
        return self._end(
            layer, self._graph.add("Conv", x, w, b, name=self._name(layer), **attributes)
        )

    def _name(self, layer: Convolution | Sum | Linear) -> str:
        """Name a node whose values are the layer's, where no function follows."""
        return "" if layer.activation else layer.output

    def _end(self, layer: Convolution | Sum | Linear, x: str) -> str:
        return add_activation(self._graph, x, layer.activation, layer.output)


# How each kind of layer is added.
_FLOAT_KINDS: Mapping[type, Callable[..., str]] = {
    Convolution: FloatLayers._add_convolution,
    MaxPool: FloatLayers._add_max_pool,
    AveragePool: FloatLayers._add_average_pool,
    GlobalMean: FloatLayers._add_global_mean,
    Join: FloatLayers._add_join,
    Sum: FloatLayers._add_sum,
    Product: FloatLayers._add_product,
    Linear: FloatLayers._add_linear,
    Dropout: FloatLayers._leave,
}
# The operators of functions behind layers, and their attributes.
_ACTIVATIONS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "relu": ("Relu", {}),
    "sigmoid": ("Sigmoid", {}),
    "hard_sigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    "hard_swish": ("HardSwish", {}),
}


def add_activation(graph: Graph, x: str, activation: str, name: str = "") -> str:
    """Add the function behind a layer, if there is one."""
    if activation == "relu6":
        limits = (graph.constant(f"relu6.{each}", each, np.float32) for each in (0, 6))
        return graph.add("Clip", x, *limits, name=name)
    if not activation:
        return x
    operator, attributes = _ACTIVATIONS[activation]
    return graph.add(operator, x, name=name, **attributes)


def add_normalisation(graph: Graph, x: str, mean: Sequence[float], std: Sequence[float]) -> str:
    """Add x / 255, minus mean, over std, for images (n, 3, height, width) float32."""
    centre, scale = (np.asarray(each)[:, None, None] for each in (mean, std))
    scaled = graph.add("Mul", x, graph.constant("pixels.scale", 1 / (255 * scale), np.float32))
    return graph.add("Sub", scaled, graph.constant("pixels.shift", centre / scale, np.float32))


def list_attributes(layer: Convolution, inputs: int) -> dict[str, Any]:
    """List the attributes of a convolution's node; what they are without being named is left
    out.
    """
    attributes: dict[str, Any] = {"kernel_shape": [*layer.sides]}
    if layer.padding == SAME:
        attributes["auto_pad"] = "SAME_UPPER"
    elif layer.padding:
        attributes["pads"] = [*layer.margins] * 2
    if layer.stride > 1:
        attributes["strides"] = [layer.stride] * 2
    if layer.is_depthwise:
        attributes["group"] = count_groups(layer, inputs)
    return attributes


def list_pool_attributes(layer: MaxPool | AveragePool) -> dict[str, Any]:
    """List the attributes of a pool's node."""
    pads = {"pads": [layer.padding] * 4} if layer.padding else {}
    sizes = {"kernel_shape": [layer.kernel] * 2, "strides": [layer.stride] * 2}
    if isinstance(layer, AveragePool):
        return {**sizes, "count_include_pad": 1, **pads}
    return {**sizes, "ceil_mode": int(layer.is_ceil), **pads}


def add_mirror(graph: Graph, pixels: str) -> str:
    """Append the mirror image of every image behind the batch: (n, h, w, 3) -> (2n, h, w, 3)."""
    return graph.add("Concat", pixels, add_reversal(graph, pixels, axis=2), axis=0)


def add_reversal(graph: Graph, x: str, axis: int) -> str:
    """Add what turns an axis round."""
    reverse = {"starts": [-1], "ends": [np.iinfo(np.int64).min], "axes": [axis], "steps": [-1]}
    constants = [graph.constant(f"reverse.{axis}.{name}", value) for name, value in reverse.items()]
    return graph.add("Slice", x, *constants)
