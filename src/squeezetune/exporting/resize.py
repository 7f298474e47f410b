"""The resize of a model as products of matrices, which every runtime computes alike.

ONNX's antialiased `Resize` is what ONNX Runtime computes; other runtimes read it and compute
something else without a word (docs/decisions/0015-formats.md). Interpolation is linear along each
axis, so that resize, crop and padding are one matrix of weights for each: `rows @ image @ columns`.
A line is made of few neighbouring pixels, so that only the blocks of those matrices that are not
zero are multiplied.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from squeezetune.network.graph_input import KEEP_ASPECT
from squeezetune.network.onnx_builder import Graph

TIE = 2.0**-12  # so near to the middle of two grey levels rounding is a matter of chance
PREFIX = "fit."
BLOCK = 8  # lines at most; fewer mean more products, more mean more zeros in them


def replace_resize(model: bytes) -> bytes:
    """Put matrices in the place of the `Resize`, and the crop or padding behind it, that images
    first go through.
    """
    loaded = onnx.load_from_string(model)
    nodes = loaded.graph.node
    first = next(at for at, node in enumerate(nodes) if node.op_type == "Resize")
    policy = {item.name: item.s.decode() for item in nodes[first].attribute}[
        "keep_aspect_ratio_policy"
    ]
    resize = next(name for name, found in KEEP_ASPECT.items() if found == policy)
    last = first + sum(node.op_type == "CenterCropPad" for node in nodes[first + 1 : first + 2])
    side = next(int(numpy_helper.to_array(item)[0]) for item in loaded.graph.initializer
                if item.name == nodes[first].input[3])  # fmt: skip
    graph = Graph()
    add_fit(graph, nodes[first].input[0], side, resize, name=nodes[last].output[0])
    order = [*nodes[:first], *graph.nodes, *nodes[last + 1 :]]
    del nodes[:]
    nodes.extend(order)
    used = {name for node in nodes for name in node.input}
    # runtimes complain about what is not
    kept = [item for item in loaded.graph.initializer if item.name in used]
    del loaded.graph.initializer[:]
    loaded.graph.initializer.extend(kept)
    loaded.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in graph.constants.items()
    )
    onnx.checker.check_model(loaded)
    payload: bytes = loaded.SerializeToString(deterministic=True)
    return payload


def add_fit(graph: Graph, image: str, side: int, resize: str, name: str) -> str:
    """Add the resize of images (n, height, width, 3) uint8 to squares (n, side, side, 3) uint8 by a
    policy.

    An image is scaled by side / whole, where `whole` is its own length along each axis (squash), or
    the shorter (crop) or longer (pad) of both. All is reckoned in whole numbers up to the weights:
    a runtime may compute floats in bfloat16 unasked, which does not know the pixels of a photo
    apart.
    """
    lengths = _add(graph, "Shape", image, start=1, end=3)
    extent = lengths
    if resize != "squash":
        extent = _add(graph, "ReduceMin" if resize == "crop" else "ReduceMax", lengths, keepdims=1)
    doubled = _add(graph, "Mul", lengths, _whole(graph, "side.double", 2 * side))
    numerator, two = _add(graph, "Add", doubled, extent), _whole(graph, "two", 2)
    sizes = _add(graph, "Div", numerator, _add(graph, "Mul", extent, two))  # a half is rounded up
    # neither scaled nor shifted
    is_kept, one = (_add(graph, "Equal", sizes, lengths), _whole(graph, "one", 1))
    parts = _add(graph, "Where", is_kept, one, _whole(graph, "side", side))
    wholes = _add(graph, "Where", is_kept, one, extent)
    measures = lengths, sizes, parts, wholes
    # width first, and whole grey levels between, as ONNX Runtime and Pillow do it
    upright = _add(graph, "Transpose", image, perm=[0, 2, 3, 1])  # (n, width, 3, height)
    lines = _reshape(
        graph, _add_axis(graph, upright, _Axis(1, side, *measures)), "turned", [0, 3 * side, -1]
    )
    pixels = _add_axis(
        graph, _add(graph, "Transpose", lines, perm=[0, 2, 1]), _Axis(0, side, *measures)
    )
    squares = _reshape(
        graph, _add(graph, "Cast", pixels, to=TensorProto.UINT8), "square", [0, side, side, 3]
    )
    return graph.add("Identity", squares, name=name)


@dataclass(frozen=True)
class _Axis:
    """What becomes of an axis: the tensors with lengths, new sizes and scales (parts / wholes), of
    which it is one.
    """

    number: int
    side: int
    lengths: str
    sizes: str
    parts: str
    wholes: str

    @property
    def block(self) -> int:
        """The number of neighbouring lines that are weighed together."""
        return max(count for count in range(1, BLOCK + 1) if self.side % count == 0)


def _add_axis(graph: Graph, image: str, axis: _Axis) -> str:
    """Resize the second axis of images (n, length, ...): (n, blocks, lines of a block, ...) in
    whole grey levels.

    Each block of lines is a product of its weights with the window of pixels that it reaches.
    """
    weights, pixels = _add_weights(graph, axis)
    windows = _reshape(
        graph, _add(graph, "Gather", image, pixels, axis=1), "windows", [0, 0, 0, -1]
    )
    lines = _add(graph, "MatMul", weights, _add(graph, "Cast", windows, to=TensorProto.FLOAT))
    # where two grey levels are equally near, errors of one direction cannot add up to those of the
    # other
    half = graph.constant(
        f"{PREFIX}half.{axis.number}", 0.5 + (TIE if axis.number else -TIE), np.float32
    )
    return _add(graph, "Floor", _add(graph, "Add", lines, half))


def _reshape(graph: Graph, values: str, name: str, shape: Sequence[int]) -> str:
    return _add(graph, "Reshape", values, _whole(graph, f"shape.{name}", shape))


def _add_weights(graph: Graph, axis: _Axis) -> tuple[str, str]:
    """Add weights (blocks, lines of a block, window), and the pixels (blocks, window) that they are
    of.

    A line outside the resized image has no weights, and becomes black.
    """
    at = _whole(graph, f"axis.{axis.number}", axis.number)
    length, size, part, whole = (
        _add(graph, "Gather", values, at)
        for values in (axis.lengths, axis.sizes, axis.parts, axis.wholes)
    )
    zero, one, two = (
        _whole(graph, name, value) for name, value in (("zero", 0), ("one", 1), ("two", 2))
    )
    # of what is longer the middle is taken, what is shorter comes into the middle; division is
    # towards zero
    start = _add(graph, "Div", _add(graph, "Sub", size, _whole(graph, "side", axis.side)), two)
    numbers = np.arange(axis.side).reshape(-1, axis.block, 1)
    lines = _add(graph, "Add", _whole(graph, "lines", numbers), start)
    # the middles of lines and pixels, in units of 1 / (2 part) of a pixel
    centres = _add(graph, "Mul", _add(graph, "Add", _add(graph, "Mul", lines, two), one), whole)
    # a triangle that reaches over a pixel at least, or over all pixels that become one
    reach = _add(graph, "Mul", _add(graph, "Max", part, whole), two)
    pixels = _add_windows(graph, axis, (centres, reach, length, part, whole))
    apart = _add(graph, "Unsqueeze", pixels, one)
    middles = _add(graph, "Mul", _add(graph, "Add", _add(graph, "Mul", apart, two), one), part)
    distance = _add(graph, "Abs", _add(graph, "Sub", middles, centres))
    weights = _add(graph, "Max", _add(graph, "Sub", reach, distance), zero)
    is_inside = _add(
        graph, "And", _add(graph, "GreaterOrEqual", lines, zero), _add(graph, "Less", lines, size)
    )
    weights = _add(graph, "Where", is_inside, weights, zero)
    total = _add(
        graph, "Max", _add(graph, "ReduceSum", weights, _whole(graph, "last", [2]), keepdims=1), one
    )
    weights, total = (
        _add(graph, "Cast", values, to=TensorProto.FLOAT) for values in (weights, total)
    )
    return _add(graph, "Div", weights, total), pixels


def _add_windows(graph: Graph, axis: _Axis, measures: tuple[str, str, str, str, str]) -> str:
    """Add the numbers of the pixels (blocks, window) that the lines of each block can reach."""
    centres, reach, length, part, whole = measures
    zero, one, two = (
        _whole(graph, name, value) for name, value in (("zero", 0), ("one", 1), ("two", 2))
    )
    first = _add(graph, "Gather", centres, zero, axis=1)  # (blocks, 1)
    lowest = _add(graph, "Sub", _add(graph, "Sub", first, reach), part)
    lowest = _add(graph, "Div", lowest, _add(graph, "Mul", part, two))
    span = _add(
        graph, "Add", _add(graph, "Mul", whole, _whole(graph, "steps", axis.block - 1)), reach
    )
    window = _add(graph, "Min", length, _add(graph, "Add", _add(graph, "Div", span, part), two))
    begin = _add(graph, "Max", _add(graph, "Min", lowest, _add(graph, "Sub", length, window)), zero)
    return _add(graph, "Add", begin, _add(graph, "Range", zero, window, one))


def _add(graph: Graph, operator: str, *inputs: str, **attributes: object) -> str:
    return graph.add(
        operator, *inputs, name=f"{PREFIX}{operator.lower()}_{len(graph.nodes)}", **attributes
    )


def _whole(graph: Graph, name: str, value: object) -> str:
    return graph.constant(f"{PREFIX}{name}", value, np.int64)
