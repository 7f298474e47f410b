"""Graphs that were exported for one image, made to take any number of them."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from squeezetune.network.graph_cuts import Dataflow

Shapes = Mapping[str, tuple[int, ...]]


def free_batch(model: onnx.ModelProto, flow: Dataflow, shapes: Shapes) -> onnx.ModelProto:
    """Rewrite what holds the number of images in a graph; `shapes` are those of all its tensors,
    with that number.

    The images stand first in the shapes that constants name; what is the same for all images and
    joins them, such as a class token, is repeated for each. Whether it worked, only running tells.
    """
    freed = onnx.ModelProto()
    freed.CopyFrom(model)
    graph = freed.graph
    nodes = list(graph.node)
    graph.ClearField("node")
    for at, node in enumerate(nodes):
        live = flow.read_live(node)
        if node.op_type == "Reshape" and node.input[0] in flow.live:
            _free_reshape(graph, node, shapes[node.output[0]], f"batch.{at}")
        elif node.op_type == "Concat" and 0 < len(live) < len(node.input):
            _repeat_constants(graph, node, live, flow, f"batch.{at}")
        graph.node.append(node)
    [image] = [item for item in graph.input if item.name == flow.image]
    image.type.tensor_type.shape.dim[0].dim_param = "n"
    for item in graph.output:
        item.type.tensor_type.ClearField("shape")
    return freed


def _free_reshape(
    graph: onnx.GraphProto, node: onnx.NodeProto, shape: Sequence[int], name: str
) -> None:
    """Let the first axis be what the others leave."""
    sizes = np.array([-1, *shape[1:]], np.int64)
    graph.initializer.append(numpy_helper.from_array(sizes, name))
    node.input[1] = name
    node.ClearField("attribute")


def _repeat_constants(
    graph: onnx.GraphProto, node: onnx.NodeProto, live: Sequence[str], flow: Dataflow, name: str
) -> None:
    """Repeat what a join reads that is not computed from the images, once for each of them."""
    if helper.get_node_attr_value(node, "axis") == 0:
        return
    count, ends = f"{name}.count", {"from": 0, "to": 1}
    for key, value in ends.items():
        graph.initializer.append(numpy_helper.from_array(np.array([value]), f"{name}.{key}"))
    graph.node.append(helper.make_node("Shape", [live[0]], [count], start=0, end=1))
    for place, read in enumerate(node.input):
        if read in flow.live:
            continue
        first, rest, sizes, repeated = (
            f"{name}.{place}.{key}" for key in ("first", "rest", "sizes", "repeated")
        )
        graph.node.extend([
            helper.make_node("Slice", [read, *(f"{name}.{key}" for key in ends)], [first]),
            helper.make_node("Shape", [read], [rest], start=1),
            helper.make_node("Concat", [count, rest], [sizes], axis=0),
            helper.make_node("Expand", [first, sizes], [repeated]),
        ])  # fmt: skip
        node.input[place] = repeated


def scan_images(
    nodes: Sequence[onnx.NodeProto], image: str, result: str, width: int, side_shape: Sequence[int]
) -> onnx.NodeProto:
    """Make one node that runs nodes on one image after the other: `image` (n, ...) in, `result` (n,
    width) out.

    The nodes read `<image>.one` (1, ...), and give `<result>.one` (1, width).
    """
    first = helper.make_tensor(f"{image}.axis", TensorProto.INT64, [1], [0])
    inside = [
        helper.make_node("Constant", [], [f"{image}.axis"], value=first),
        helper.make_node("Unsqueeze", [f"{image}.row", f"{image}.axis"], [f"{image}.one"]),
        *nodes,
        helper.make_node("Squeeze", [f"{result}.one", f"{image}.axis"], [f"{result}.row"]),
    ]
    floats = TensorProto.FLOAT
    row = helper.make_tensor_value_info(f"{image}.row", floats, list(side_shape))
    given = helper.make_tensor_value_info(f"{result}.row", floats, [width])
    body = helper.make_graph(inside, "one_image", [row], [given])
    return helper.make_node("Scan", [image], [result], name=result, body=body, num_scan_inputs=1)
