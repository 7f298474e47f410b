"""LiteRT's format (.tflite), formerly TensorFlow Lite: for phones, small boards, and Python with
little else.

Its resize knows no antialiasing, so that the file takes squares. How an image becomes one stands
beside the network, in a zip archive at the file's end, with the names of the classes and all that
the file says of itself: LiteRT reads past it, and any zip reader opens it. The network is written
operator by operator after LiteRT's own schema, since the converters bring torch and jax along.
"""

import json
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile, ZipInfo

import numpy as np
from numpy.typing import NDArray

from squeezetune.exporting.export_inputs import ExportInputs
from squeezetune.exporting.onnx_formats import fit_int8
from squeezetune.exporting.tflite_writer import TfliteBuilder
from squeezetune.network.float_layers import fold_normalisation
from squeezetune.network.graph import TAPS
from squeezetune.network.int8_layers import Int8
from squeezetune.network.trained import TrainedNetwork
from squeezetune.network.weights import MEAN, STD, Weights, detect_version, find_architecture
from squeezetune.system.disk import write_file

# The members of the archive.
LABELS, PREPROCESSING, ABOUT = "labels.txt", "preprocessing.json", "metadata.json"
SQUARES = Path(__file__).parent / "copied" / "squares.py"
SAME, VALID, RELU = 0, 1, 1  # as the schema numbers them


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
    side, version = network.side, detect_version(network.weights)
    sheet, fires = (
        TfliteBuilder(),
        {place: fire for fire, place in find_architecture(version).fires.items()},
    )
    layers = TfliteLayers(sheet, network.weights, int8)
    image = sheet.declare("image", (-1, side, side, 3), "UINT8")
    x = layers.add_first(
        _add_views(sheet, sheet.add("CAST", [image], (-1, side, side, 3)), network.views)
    )
    given = []  # by the Fire modules
    for place in range(2, 13):
        if place in fires:
            x = layers.add_fire(x, f"features.{place}", fires[place])
            given.append(x)
        else:
            x = layers.pool(x)
    if network.is_convolved:
        logits = _classify_positions(sheet, layers.restore(layers.to_floats(x), x), network)
    else:
        means = [
            layers.restore(_average(sheet, layers.to_floats(x)), x) for x in given[-len(TAPS) :]
        ]
        logits = _classify(sheet, means, network)
    if network.views > 1:
        apart = (network.views, -1, network.class_count)
        logits = sheet.add("RESHAPE", [logits, sheet.hold("views apart", apart)], apart)
        logits = sheet.add("MEAN", [logits, sheet.hold("views", [0])], apart[1:])
    probabilities = sheet.add(
        "SOFTMAX", [logits], sheet.shape(logits), name="probabilities", beta=1.0
    )
    return sheet.finish(image, probabilities, f"SqueezeNet {version}")


class TfliteLayers:
    """Adds the layers of SqueezeNet, in float32 or in int8."""

    def __init__(self, sheet: TfliteBuilder, weights: Weights, int8: Int8 | None) -> None:
        self._sheet, self._weights, self._int8 = sheet, weights, int8
        self._activations: dict[int, str] = {}  # which activation a map in int8 is

    def add_first(self, pixels: int) -> int:
        """Add normalisation and the first convolution with its ReLU."""
        sheet = self._sheet
        shape, weight, bias = sheet.shape(pixels), *self._find_parameters("features.0")
        if self._int8:  # a step is a grey level
            pixels = sheet.add("QUANTIZE", [pixels], shape, scale=1.0)
            return self._convolve(
                pixels, "features.0", *fold_normalisation(self._weights), "conv1", stride=2
            )
        scale, shift = (
            sheet.hold(name, values)
            for name, values in (
                ("1 / deviation", 1 / (255 * np.array(STD))),
                ("-mean", -np.divide(MEAN, STD)),
            )
        )
        x = sheet.add("ADD", [sheet.add("MUL", [pixels, scale], shape), shift], shape)
        return self._convolve(x, "features.0", weight, bias, "conv1", stride=2)

    def add_fire(self, x: int, layer: str, fire: str) -> int:
        """Add a Fire module: squeeze, expand and join."""
        name = f"{layer}.squeeze"
        x = self._convolve(x, name, *self._find_parameters(name), f"{fire}.squeeze")
        names = [f"{layer}.{half}" for half in ("expand1x1", "expand3x3")]
        activation = f"{fire}.expand"
        halves = [
            self._convolve(x, name, *self._find_parameters(name), activation) for name in names
        ]
        return self._keep(_join(self._sheet, halves), activation)

    def pool(self, x: int) -> int:
        """Take the largest of 3 x 3 at every second pixel; where the last ones have only two, of
        those.
        """
        sheet = self._sheet
        _, side, _, channels = sheet.shape(x)
        # of an even number, one pixel is added behind the last; an odd one needs none
        padding = SAME if side % 2 == 0 else VALID
        shape, scale = (-1, side // 2, side // 2, channels), sheet.scale(x)
        pooled = sheet.add(
            "MAX_POOL_2D",
            [x],
            shape,
            version=2 if scale else 1,
            scale=scale,
            padding=padding,
            strideW=2,
            strideH=2,
            filterWidth=3,
            filterHeight=3,
        )
        return self._keep(pooled, self._activations.get(x, ""))

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

    def _find_parameters(self, layer: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self._weights[f"{layer}.weight"], self._weights[f"{layer}.bias"]

    def _convolve(
        self,
        x: int,
        layer: str,
        weight: NDArray[Any],
        bias: NDArray[Any],
        activation: str,
        stride: int = 1,
    ) -> int:
        """Convolve, and cut negative values off; a step of more than one pixel leaves the borders
        out.
        """
        sheet, kernel = self._sheet, weight.shape[2]
        height, width = (
            (each - kernel) // stride + 1 if stride > 1 else each for each in sheet.shape(x)[1:3]
        )
        if self._int8:
            codes = self._int8.codes[f"{layer}.weight"]
            scales = codes.scales.ravel().astype(np.float32)
            sums = scales * np.float32(sheet.scale(x))
            parameters = [
                sheet.hold_codes(layer, codes.values.transpose(0, 2, 3, 1), scales),
                sheet.hold_codes(f"{layer} bias", np.round(bias / sums).astype(np.int32), sums),
            ]
        else:
            parameters = [
                sheet.hold_kernel(layer, weight.transpose(0, 2, 3, 1)),
                sheet.hold(f"{layer} bias", bias),
            ]
        y = sheet.add(
            "CONV_2D",
            [x, *parameters],
            (-1, height, width, len(bias)),
            version=3 if self._int8 else 1,
            scale=self._int8.ranges[activation] / 255 if self._int8 else 0.0,
            padding=VALID if stride > 1 else SAME,
            strideW=stride,
            strideH=stride,
            fusedActivationFunction=RELU,
        )
        return self._keep(y, activation)

    def _keep(self, x: int, activation: str) -> int:
        """Remember of a map which activation it is."""
        self._activations[x] = activation
        return x


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
        padding=SAME,
        strideW=1,
        strideH=1,
        fusedActivationFunction=RELU,
    )
    return _average(sheet, x)
