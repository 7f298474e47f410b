"""The resize of a model as products of matrices, which every runtime computes alike.

ONNX's antialiased `Resize` is what ONNX Runtime computes; other runtimes read it and compute something else without
a word (docs/decisions/0015-formats.md). Interpolation is linear along each axis, so that resize, crop and padding are
one matrix of weights for each: `rows @ image @ columns`.
"""

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from squeezetune.learn.graph import KEEP_ASPECT
from squeezetune.learn.onnx_builder import Graph

PREFIX = "fit."


def replace_resize(model: bytes) -> bytes:
    """Put matrices in the place of the `Resize`, and the crop or padding behind it, that images first go through."""
    loaded = onnx.load_from_string(model)
    nodes = loaded.graph.node
    first = next(at for at, node in enumerate(nodes) if node.op_type == "Resize")
    policy = {item.name: item.s.decode() for item in nodes[first].attribute}["keep_aspect_ratio_policy"]
    resize = next(name for name, found in KEEP_ASPECT.items() if found == policy)
    last = first + sum(node.op_type == "CenterCropPad" for node in nodes[first + 1 : first + 2])
    side = next(int(numpy_helper.to_array(item)[0]) for item in loaded.graph.initializer
                if item.name == nodes[first].input[3])  # fmt: skip
    graph = Graph()
    add_fit(graph, nodes[first].input[0], side, resize, name=nodes[last].output[0])
    kept = [*nodes[:first], *graph.nodes, *nodes[last + 1 :]]
    del nodes[:]
    nodes.extend(kept)
    loaded.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in graph.constants.items())
    onnx.checker.check_model(loaded)
    payload: bytes = loaded.SerializeToString(deterministic=True)
    return payload


def add_fit(graph: Graph, image: str, side: int, resize: str, name: str) -> str:
    """Add the resize of images (n, height, width, 3) uint8 to squares (n, side, side, 3) uint8 by a policy.

    An image is scaled by side / whole, where `whole` is its own length along each axis (squash), or the shorter (crop)
    or longer (pad) of both. All is reckoned in whole numbers up to the weights: a runtime may compute floats in
    bfloat16 unasked, which does not know the pixels of a photo apart.
    """
    lengths = _add(graph, "Shape", image, start=1, end=3)
    extent = lengths
    if resize != "squash":
        extent = _add(graph, "ReduceMin" if resize == "crop" else "ReduceMax", lengths, keepdims=1)
    doubled = _add(graph, "Mul", lengths, _whole(graph, "side.double", 2 * side))
    numerator, two = _add(graph, "Add", doubled, extent), _whole(graph, "two", 2)
    sizes = _add(graph, "Div", numerator, _add(graph, "Mul", extent, two))  # a half is rounded up
    is_kept, one = _add(graph, "Equal", sizes, lengths), _whole(graph, "one", 1)  # neither scaled nor shifted
    parts = _add(graph, "Where", is_kept, one, _whole(graph, "side", side))
    wholes = _add(graph, "Where", is_kept, one, extent)
    rows, columns = (_add_weights(graph, axis, side, lengths, sizes, parts, wholes) for axis in (0, 1))
    planes = _add(graph, "Cast", _add(graph, "Transpose", image, perm=[0, 3, 1, 2]), to=TensorProto.FLOAT)
    lines = _add(graph, "MatMul", rows, planes)
    squares = _add(graph, "MatMul", lines, _add(graph, "Transpose", columns, perm=[1, 0]))
    pixels = _add(graph, "Cast", _add(graph, "Round", squares), to=TensorProto.UINT8)
    return graph.add("Transpose", pixels, name=name, perm=[0, 2, 3, 1])


def _add_weights(graph: Graph, axis: int, side: int, lengths: str, sizes: str, parts: str, wholes: str) -> str:
    """Add the weights (side, length) of an axis; a line outside the resized image has none, and becomes black."""
    at = _whole(graph, f"axis.{axis}", axis)
    length, size, part, whole = (_add(graph, "Gather", values, at) for values in (lengths, sizes, parts, wholes))
    zero, one, two = (_whole(graph, name, value) for name, value in (("zero", 0), ("one", 1), ("two", 2)))
    # of what is longer the middle is taken, what is shorter comes into the middle; division is towards zero
    start = _add(graph, "Div", _add(graph, "Sub", size, _whole(graph, "side", side)), two)
    lines = _add(graph, "Add", _whole(graph, "lines", np.arange(side)[:, None]), start)
    pixels = _add(graph, "Range", zero, length, one)
    # the middles of lines and pixels, in units of 1 / (2 part) of a pixel
    centres = _add(graph, "Mul", _add(graph, "Add", _add(graph, "Mul", lines, two), one), whole)
    middles = _add(graph, "Mul", _add(graph, "Add", _add(graph, "Mul", pixels, two), one), part)
    # a triangle that reaches over a pixel at least, or over all pixels that become one
    reach = _add(graph, "Mul", _add(graph, "Max", part, whole), two)
    distance = _add(graph, "Abs", _add(graph, "Sub", middles, centres))
    weights = _add(graph, "Max", _add(graph, "Sub", reach, distance), zero)
    is_inside = _add(graph, "And", _add(graph, "GreaterOrEqual", lines, zero), _add(graph, "Less", lines, size))
    weights = _add(graph, "Where", is_inside, weights, zero)
    total = _add(graph, "Max", _add(graph, "ReduceSum", weights, _whole(graph, "last", [1]), keepdims=1), one)
    weights, total = (_add(graph, "Cast", values, to=TensorProto.FLOAT) for values in (weights, total))
    return _add(graph, "Div", weights, total)


def _add(graph: Graph, operator: str, *inputs: str, **attributes: object) -> str:
    return graph.add(operator, *inputs, name=f"{PREFIX}{operator.lower()}_{len(graph.nodes)}", **attributes)


def _whole(graph: Graph, name: str, value: object) -> str:
    return graph.constant(f"{PREFIX}{name}", value, np.int64)
