"""The input of images of an ONNX file, and its one output: found, or refused in words."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from squeezetune.data.sources.source import list_some
from squeezetune.errors import WeightsError

# The types of numbers that a network is computed in; all of them are computed in float32 here.
FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16}
HALVES = FLOATS - {TensorProto.FLOAT}
HINT = "Export the network again: one input of images, in floats, with standard operators."


@dataclass(frozen=True)
class ImageInput:
    """The input of images: (n, 3, side, side), or with `channels_last` (n, side, side, 3).

    `batch` and `side` are 0 where any is possible; with `is_uint8` it takes pixels as they are.
    """

    name: str
    channels_last: bool
    is_uint8: bool
    batch: int
    side: int

    def make_noise(self, count: int, side: int) -> NDArray[Any]:
        """Draw images in the input's own layout and type, always the same."""
        shape = (count, side, side, 3) if self.channels_last else (count, 3, side, side)
        pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        return pixels if self.is_uint8 else (pixels / np.float32(64) - 2)


def find_image_input(model: onnx.ModelProto) -> ImageInput:
    """Find the input of images, and how it wants them.

    Raises:
        WeightsError: there are others, or it is none of square RGB images.
    """
    constants = {item.name for item in model.graph.initializer}
    inputs = [item for item in model.graph.input if item.name not in constants]
    if len(inputs) != 1:
        raise WeightsError(
            f"The network has {len(inputs)} inputs ({list_some([each.name for each in inputs])}); "
            f"needed is one, of images.",
            "Of a network for images and texts, export the part for images alone.",
        )
    [item] = inputs
    kind = item.type.tensor_type
    sizes = [axis.dim_value if axis.dim_value > 0 else 0 for axis in kind.shape.dim]
    shown = f"{item.name!r} ({', '.join(str(size or '?') for size in sizes)})"
    if kind.elem_type not in FLOATS | {TensorProto.UINT8}:
        name = TensorProto.DataType.Name(kind.elem_type).lower()
        raise WeightsError(f"The input {shown} is {name}; needed are floats or uint8.", HINT)
    if len(sizes) != 4:
        raise WeightsError(
            f"The input {shown} has {len(sizes)} dimensions; needed are four: images, channels, "
            f"height, width.",
            HINT,
        )
    channels_last = _is_channels_last(model, item.name, sizes)
    count, *others = sizes[3:] + sizes[1:3] if channels_last else sizes[1:]
    if count not in (0, 3):
        raise WeightsError(f"The input {shown} has {count} channels; needed are 3: RGB.", HINT)
    if len({size for size in others if size}) > 1:
        raise WeightsError(f"The input {shown} is not square; needed are square images.", HINT)
    is_uint8 = kind.elem_type == TensorProto.UINT8
    return ImageInput(item.name, channels_last, is_uint8, sizes[0], max(others))


def _is_channels_last(model: onnx.ModelProto, name: str, sizes: list[int]) -> bool:
    """Say where the channels are: where there are three, or else where the first operators look for
    them.
    """
    if (sizes[1] == 3) != (sizes[3] == 3):
        return sizes[3] == 3
    readers = [node for node in model.graph.node if name in node.input]
    while len(readers) == 1 and readers[0].op_type in ("Cast", "Sub", "Mul", "Div", "Add"):
        name = readers[0].output[0]
        readers = [node for node in model.graph.node if name in node.input]
    return any(
        node.op_type == "Transpose" and list(helper.get_node_attr_value(node, "perm"))[1] == 3
        for node in readers
    )


def find_output(model: onnx.ModelProto) -> str:
    """Find the output that all others are steps towards; "" where they part."""
    producers = {name: node for node in model.graph.node for name in node.output}
    names = [item.name for item in model.graph.output]

    def list_before(name: str) -> set[str]:
        found, waiting = set[str](), [name]
        while waiting:
            at = waiting.pop()
            if at in producers and at not in found:
                found.add(at)
                waiting += producers[at].input
        return found

    return next((name for name in names if list_before(name) >= set(names)), "")
