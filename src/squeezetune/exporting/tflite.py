"""LiteRT's format (.tflite), formerly TensorFlow Lite: for phones, small boards, and Python with little else.

Its resize knows no antialiasing, so that the file takes squares. How an image becomes one stands beside the network, in
a zip archive at the file's end, with the names of the classes and all that the file says of itself: LiteRT reads past
it, and any zip reader opens it. The network is written operator by operator after LiteRT's own schema, since the
converters bring torch and jax along.
"""

import json
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile, ZipInfo

import numpy as np

from squeezetune.exporting.order import Order
from squeezetune.exporting.tflite_sheet import Sheet
from squeezetune.learn.trained import TrainedNetwork
from squeezetune.learn.weights import MEAN, STD, detect_version, find_layout
from squeezetune.store import write_file

TAPS = 5  # the means of the last Fire modules are the features
# The members of the archive.
LABELS, PREPROCESSING, ABOUT = "labels.txt", "preprocessing.json", "metadata.json"
SQUARES = Path(__file__).with_name("squares.py")
SAME, VALID, RELU = 0, 1, 1  # as the schema numbers them


def write_tflite(order: Order, path: Path) -> None:
    """Write a network, and beside it a program that makes squares of images.

    Squares (n, side, side, 3) uint8 RGB in, probabilities (n, classes) out; kernels in float16.
    """
    network, class_names = order.network, json.loads(order.metadata["class_names"])
    members = {
        LABELS: "".join(f"{name}\n" for name in class_names),
        PREPROCESSING: json.dumps({"image_side": network.side, "resize": network.resize}),
        ABOUT: json.dumps(dict(order.metadata), ensure_ascii=False),
    }
    file = BytesIO(build_network(network))
    with ZipFile(file, "a") as archive:
        for name, text in members.items():
            archive.writestr(ZipInfo(name), text)  # without a date: the same always gives the same bytes
    write_file(path.with_name(SQUARES.name), SQUARES.read_bytes())
    write_file(path, file.getvalue())


def check_tflite(path: Path) -> None:
    """Load a file as LiteRT does before it runs it, which checks every operator."""
    from ai_edge_litert.interpreter import Interpreter

    Interpreter(str(path)).allocate_tensors()


def read_metadata(path: Path) -> Mapping[str, str]:
    """Read what a file says of itself."""
    with ZipFile(path) as archive:
        found: Mapping[str, str] = json.loads(archive.read(ABOUT))
    return found


def build_network(network: TrainedNetwork) -> bytes:
    """Build a network, without what it says of itself."""
    sheet, side, version = Sheet(), network.side, detect_version(network.weights)
    image = sheet.declare("image", (-1, side, side, 3), "UINT8")
    x = _add_views(sheet, sheet.add("CAST", [image], (-1, side, side, 3)), network.views)
    scale, shift = sheet.hold("1 / deviation", 1 / (255 * np.array(STD))), sheet.hold("-mean", -np.divide(MEAN, STD))
    x = sheet.add("ADD", [sheet.add("MUL", [x, scale], sheet.shape(x)), shift], sheet.shape(x))
    x = _convolve(sheet, x, network, "features.0", stride=2)
    means = []
    for place, layer in enumerate(find_layout(version).layers[1:], 2):
        if layer == "pool":
            x = _pool(sheet, x)
        else:
            x = _add_fire(sheet, x, network, f"features.{place}")
            means.append(_average(sheet, x))
    logits = (
        _classify_positions(sheet, x, network) if network.is_convolved else _classify(sheet, means[-TAPS:], network)
    )
    if network.views > 1:
        apart = (network.views, -1, network.class_count)
        logits = sheet.add("RESHAPE", [logits, sheet.hold("views apart", apart)], apart)
        logits = sheet.add("MEAN", [logits, sheet.hold("views", [0])], apart[1:])
    return sheet.finish(
        image,
        sheet.add("SOFTMAX", [logits], sheet.shape(logits), name="probabilities", beta=1.0),
        f"SqueezeNet {version}",
    )


def _add_views(sheet: Sheet, x: int, views: int) -> int:
    """Append the mirror images, and the middle 85 % of both."""
    shape = sheet.shape(x)
    side = shape[1]
    if views >= 2:
        mirrored = sheet.add("REVERSE_V2", [x, sheet.hold("across", [2])], shape)
        x = sheet.add("CONCATENATION", [x, mirrored], shape, axis=0)
    if views == 4:
        margin = 3 * side // 40
        begin, size = [0, margin, margin, 0], [-1, side - 2 * margin, side - 2 * margin, 3]
        middle = sheet.add("SLICE", [x, sheet.hold("corner", begin), sheet.hold("middle", size)], size)
        middle = sheet.add("RESIZE_BILINEAR", [middle, sheet.hold("side", [side, side])], shape, version=3,
                           halfPixelCenters=True)  # fmt: skip
        x = sheet.add("CONCATENATION", [x, sheet.add("FLOOR", [middle], shape)], shape, axis=0)
    return x


def _convolve(sheet: Sheet, x: int, network: TrainedNetwork, name: str, stride: int = 1) -> int:
    """Convolve, and cut negative values off; a step of more than one pixel leaves the borders out."""
    weight, bias = network.weights[f"{name}.weight"], network.weights[f"{name}.bias"]
    _, height, width, _ = sheet.shape(x)
    kernel = weight.shape[2]
    shape = (-1, height, width, len(bias))
    if stride > 1:
        shape = (-1, (height - kernel) // stride + 1, (width - kernel) // stride + 1, len(bias))
    return sheet.add(
        "CONV_2D",
        [x, sheet.hold_kernel(name, weight.transpose(0, 2, 3, 1)), sheet.hold(f"{name} bias", bias)],
        shape,
        padding=VALID if stride > 1 else SAME,
        strideW=stride,
        strideH=stride,
        fusedActivationFunction=RELU,
    )


def _pool(sheet: Sheet, x: int) -> int:
    """Take the largest of 3 x 3 at every second pixel; where the last ones have only two, of those."""
    _, side, _, channels = sheet.shape(x)
    smaller = side // 2
    # of an even number, one pixel is added behind the last; an odd one needs none
    padding = SAME if side % 2 == 0 else VALID
    return sheet.add("MAX_POOL_2D", [x], (-1, smaller, smaller, channels), padding=padding, strideW=2, strideH=2,
                     filterWidth=3, filterHeight=3)  # fmt: skip


def _add_fire(sheet: Sheet, x: int, network: TrainedNetwork, name: str) -> int:
    x = _convolve(sheet, x, network, f"{name}.squeeze")
    halves = [_convolve(sheet, x, network, f"{name}.{half}") for half in ("expand1x1", "expand3x3")]
    return _join(sheet, halves)


def _join(sheet: Sheet, parts: Sequence[int]) -> int:
    """Join along the channels."""
    shape = sheet.shape(parts[0])
    joined = (*shape[:-1], sum(sheet.shape(part)[-1] for part in parts))
    return sheet.add("CONCATENATION", parts, joined, axis=len(shape) - 1)


def _average(sheet: Sheet, x: int) -> int:
    return sheet.add("MEAN", [x, sheet.hold("positions", [1, 2])], (-1, sheet.shape(x)[-1]))


def _classify(sheet: Sheet, means: Sequence[int], network: TrainedNetwork) -> int:
    """Classify by the means of Fire modules, or their roots: logits."""
    x = _join(sheet, means)
    x = sheet.add("SQRT", [x], sheet.shape(x)) if network.use_roots else x
    for number, (weight, bias) in enumerate(network.head):
        kernel = sheet.hold_kernel(f"head.{number}", np.ascontiguousarray(weight.T))
        is_last = number == len(network.head) - 1
        x = sheet.add("FULLY_CONNECTED", [x, kernel, sheet.hold(f"head.{number} bias", bias)], (-1, len(bias)),
                      fusedActivationFunction=0 if is_last else RELU)  # fmt: skip
    return x


def _classify_positions(sheet: Sheet, x: int, network: TrainedNetwork) -> int:
    """Classify at every position, and take the mean: logits."""
    [(weight, bias)] = network.head
    kernel = sheet.hold_kernel("head.0", np.ascontiguousarray(weight.T)[:, None, None, :])
    shape = (*sheet.shape(x)[:-1], len(bias))
    x = sheet.add("CONV_2D", [x, kernel, sheet.hold("head.0 bias", bias)], shape, padding=SAME, strideW=1, strideH=1,
                  fusedActivationFunction=RELU)  # fmt: skip
    return _average(sheet, x)
