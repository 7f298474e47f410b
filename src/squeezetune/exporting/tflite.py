"""LiteRT's format (.tflite), formerly TensorFlow Lite: a network with its classifier, and what a
file says of itself.

Its resize knows no antialiasing, so that the file takes squares. How an image becomes one stands
beside the network, in a zip archive at the file's end, with the names of the classes and all that
the file says of itself: LiteRT reads past it, and any zip reader opens it. The network is written
operator by operator after LiteRT's own schema, since the converters bring torch and jax along.
"""

import json
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile, ZipInfo

import numpy as np

from squeezetune.exporting.export_inputs import ExportInputs
from squeezetune.exporting.onnx_formats import fit_int8
from squeezetune.exporting.tflite_layers import (
    FUSED,
    SAME_PADDING,
    TfliteLayers,
    add_join,
    add_mean,
)
from squeezetune.exporting.tflite_writer import TfliteBuilder
from squeezetune.network.int8_layers import Int8
from squeezetune.network.trained import TrainedNetwork
from squeezetune.network.weights import detect_architecture
from squeezetune.system.disk import write_file

# The members of the archive.
LABELS, PREPROCESSING, ABOUT = "labels.txt", "preprocessing.json", "metadata.json"
SQUARES = Path(__file__).parent / "copied" / "squares.py"
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
        means = [layers.restore(add_mean(sheet, layers.to_floats(x)), x) for x in tapped]
        logits = _classify(sheet, means, network)
    if network.views > 1:
        apart = (network.views, -1, network.class_count)
        logits = sheet.add("RESHAPE", [logits, sheet.hold("views apart", apart)], apart)
        logits = sheet.add("MEAN", [logits, sheet.hold("views", [0])], apart[1:])
    probabilities = sheet.add(
        "SOFTMAX", [logits], sheet.shape(logits), name="probabilities", beta=1.0
    )
    return sheet.finish(image, probabilities, architecture.title)


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


def _add_roots(sheet: TfliteBuilder, x: int, network: TrainedNetwork) -> int:
    """Add square roots; of what may be below 0 those of the sizes, with their signs."""
    shape = sheet.shape(x)
    if not detect_architecture(network.weights).has_signed_taps:
        return sheet.add("SQRT", [x], shape)
    sizes = sheet.add("SQRT", [sheet.add("ABS", [x], shape)], shape)
    return sheet.add("MUL", [sheet.add("SIGN", [x], shape), sizes], shape)


def _classify(sheet: TfliteBuilder, means: Sequence[int], network: TrainedNetwork) -> int:
    """Classify by the means of the taps, or their roots: logits."""
    x = add_join(sheet, means)
    x = _add_roots(sheet, x, network) if network.use_roots else x
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
    return add_mean(sheet, x)
