"""LiteRT's format (.tflite), formerly TensorFlow Lite: each kind of layer as its operators, and
what a file says of itself.

Its resize knows no antialiasing, so that the file takes squares. How an image becomes one stands
beside the network, in a zip archive at the file's end, with the names of the classes and all that
the file says of itself: LiteRT reads past it, and any zip reader opens it. The network is written
operator by operator after LiteRT's own schema, since the converters bring torch and jax along.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile, ZipInfo

import numpy as np
from numpy.typing import NDArray

from squeezetune.exporting.export_inputs import ExportInputs
from squeezetune.exporting.onnx_formats import fit_int8
from squeezetune.exporting.tflite_writer import ZERO, TfliteBuilder
from squeezetune.network.architecture import (
    SAME,
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
from squeezetune.network.float_layers import fold_normalisation
from squeezetune.network.int8_layers import Int8
from squeezetune.network.trained import TrainedNetwork
from squeezetune.network.weights import Weights, detect_architecture
from squeezetune.system.disk import write_file

# The members of the archive.
LABELS, PREPROCESSING, ABOUT = "labels.txt", "preprocessing.json", "metadata.json"
SQUARES = Path(__file__).parent / "copied" / "squares.py"
# As the schema numbers them.
SAME_PADDING, VALID = 0, 1
FUSED = {"": 0, "relu": 1, "relu6": 3}
RELU = FUSED["relu"]


def write_tflite(order: ExportInputs, path: Path) -> None:
    """Write a network, and beside it a program that makes squares of images.

    Squares (n, side, side, 3) uint8 RGB in, probabilities (n, classes) out; kernels in float16.
    """
    _write(order, build_network(order.network), path)


def write_tflite_int8(order: ExportInputs, path: Path) -> None:
    """Write the same with convolutions in int8, parameters and activations, as `onnx-int8` has
    them.
    """
    compressed, int8 = fit_int8(order)
    _write(order, build_network(compressed.network, int8), path)


def _write(order: ExportInputs, network: bytes, path: Path) -> None:
    """Write a network, with what it says of itself behind it."""
    class_names = json.loads(order.metadata["class_names"])
    members = {
        LABELS: "".join(f"{_write_on_one_line(name)}\n" for name in class_names),
        PREPROCESSING: json.dumps(
            {"image_side": order.network.side, "resize": order.network.resize}
        ),
        ABOUT: json.dumps(dict(order.metadata), ensure_ascii=False),
    }
    file = BytesIO(network)
    with ZipFile(file, "a") as archive:
        for name, text in members.items():
            # without a date: the same always gives the same bytes. Bytes that are no text become
            # escapes, also of JSON
            archive.writestr(ZipInfo(name), text.encode(errors="backslashreplace"))
    write_file(path.with_name(SQUARES.name), SQUARES.read_bytes())
    write_file(path, file.getvalue())


def _write_on_one_line(name: str) -> str:
    """Write a class's name so that it is a line, whatever is in it."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in name
    )


def check_tflite(path: Path) -> None:
    """Load a file as LiteRT does before it runs it, which checks every operator."""
    from ai_edge_litert.interpreter import Interpreter

    Interpreter(str(path)).allocate_tensors()


def read_metadata(path: Path) -> Mapping[str, str]:
    """Read what a file says of itself."""
    with ZipFile(path) as archive:
        found: Mapping[str, str] = json.loads(archive.read(ABOUT))
    return found


def build_network(network: TrainedNetwork, int8: Int8 | None = None) -> bytes:
    """Build a network, with `int8` the convolutions in int8, without what it says of itself."""
    side, architecture = network.side, detect_architecture(network.weights)
    sheet = TfliteBuilder()
    layers = TfliteLayers(sheet, network.weights, int8)
    image = sheet.declare("image", (-1, side, side, 3), "UINT8")
    pixels = _add_views(sheet, sheet.add("CAST", [image], (-1, side, side, 3)), network.views)
    first, *others = architecture.layers
    maps = {first.output: layers.add_first(pixels)}
    for layer in others:
        maps[layer.output] = layers.add(layer, [maps[name] for name in layer.reads])
    x = maps[architecture.layers[-1].output]
    if network.is_convolved:
        logits = _classify_positions(sheet, layers.restore(layers.to_floats(x), x), network)
    else:
        tapped = [maps[name] for name in architecture.taps]
        means = [layers.restore(_average(sheet, layers.to_floats(x)), x) for x in tapped]
        logits = _classify(sheet, means, network)
    if network.views > 1:
        apart = (network.views, -1, network.class_count)
        logits = sheet.add("RESHAPE", [logits, sheet.hold("views apart", apart)], apart)
        logits = sheet.add("MEAN", [logits, sheet.hold("views", [0])], apart[1:])
    probabilities = sheet.add(
        "SOFTMAX", [logits], sheet.shape(logits), name="probabilities", beta=1.0
    )
    return sheet.finish(image, probabilities, architecture.title)


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
        sheet = self._sheet
        side = measure_side(layer, sheet.shape(x)[1])
        x, padding = self._pad_pool(layer, x)
        scale = sheet.scale(x)
        pooled = sheet.add(
            "MAX_POOL_2D",
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
            return self._keep(_join(self._sheet, inputs), name)
        return self._quantise(_join(self._sheet, [self.to_floats(x) for x in inputs]), name)

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
        sums = scales * np.float32(sheet.scale(x))
        axis = 3 if layer.is_depthwise else 0
        return [
            sheet.hold_codes(path, codes.values.transpose(order), scales, axis),
            sheet.hold_codes(f"{path} bias", np.round(bias / sums).astype(np.int32), sums),
        ]

    def _pad(self, layer: Convolution, x: int) -> tuple[int, int]:
        """Pad a map where none of LiteRT's own ways is that of a layer; returns it, and the way."""
        if layer.padding == SAME or (layer.stride == 1 and layer.padding == layer.kernel // 2):
            return x, SAME_PADDING
        if not layer.padding:
            return x, VALID
        return self._add_margins(x, int(layer.padding), int(layer.padding)), VALID

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
        return self._add_margins(x, layer.padding, max(behind, 0)), VALID

    def _find_scale(self, x: int) -> str:
        return self._activations.get(x, "")

    def _add_margins(self, x: int, before: int, behind: int) -> int:
        """Add zeros on all sides of a map."""
        sheet = self._sheet
        _, side, _, channels = sheet.shape(x)
        margins = sheet.hold("margins", [[0, 0], [before, behind], [before, behind], [0, 0]])
        shape = (-1, side + before + behind, side + before + behind, channels)
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


def _add_views(sheet: TfliteBuilder, x: int, views: int) -> int:
    """Append the mirror images, and the middle 85 % of both."""
    shape = sheet.shape(x)
    side = shape[1]
    if views >= 2:
        mirrored = sheet.add("REVERSE_V2", [x, sheet.hold("across", [2])], shape)
        x = sheet.add("CONCATENATION", [x, mirrored], shape, axis=0)
    if views == 4:
        margin = 3 * side // 40
        begin, size = [0, margin, margin, 0], [-1, side - 2 * margin, side - 2 * margin, 3]
        middle = sheet.add(
            "SLICE", [x, sheet.hold("corner", begin), sheet.hold("middle", size)], size
        )
        middle = sheet.add(
            "RESIZE_BILINEAR",
            [middle, sheet.hold("side", [side, side])],
            shape,
            version=3,
            halfPixelCenters=True,
        )
        x = sheet.add("CONCATENATION", [x, sheet.add("FLOOR", [middle], shape)], shape, axis=0)
    return x


def _join(sheet: TfliteBuilder, parts: Sequence[int]) -> int:
    """Join along the channels."""
    shape = sheet.shape(parts[0])
    joined = (*shape[:-1], sum(sheet.shape(part)[-1] for part in parts))
    scale = sheet.scale(parts[0])
    return sheet.add(
        "CONCATENATION", parts, joined, version=2 if scale else 1, scale=scale, axis=len(shape) - 1
    )


def _average(sheet: TfliteBuilder, x: int) -> int:
    return sheet.add("MEAN", [x, sheet.hold("positions", [1, 2])], (-1, sheet.shape(x)[-1]))


def _classify(sheet: TfliteBuilder, means: Sequence[int], network: TrainedNetwork) -> int:
    """Classify by the means of Fire modules, or their roots: logits."""
    x = _join(sheet, means)
    x = sheet.add("SQRT", [x], sheet.shape(x)) if network.use_roots else x
    for number, (weight, bias) in enumerate(network.head):
        kernel = sheet.hold_kernel(f"head.{number}", np.ascontiguousarray(weight.T))
        is_last = number == len(network.head) - 1
        x = sheet.add(
            "FULLY_CONNECTED",
            [x, kernel, sheet.hold(f"head.{number} bias", bias)],
            (-1, len(bias)),
            fusedActivationFunction=0 if is_last else RELU,
        )
    return x


def _classify_positions(sheet: TfliteBuilder, x: int, network: TrainedNetwork) -> int:
    """Classify at every position, and take the mean: logits."""
    [(weight, bias)] = network.head
    kernel = sheet.hold_kernel("head.0", np.ascontiguousarray(weight.T)[:, None, None, :])
    shape = (*sheet.shape(x)[:-1], len(bias))
    x = sheet.add(
        "CONV_2D",
        [x, kernel, sheet.hold("head.0 bias", bias)],
        shape,
        padding=SAME_PADDING,
        strideW=1,
        strideH=1,
        fusedActivationFunction=RELU,
    )
    return _average(sheet, x)
