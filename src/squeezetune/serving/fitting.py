"""The part of a model's file that makes an image of any size as large as the network wants it, run by itself."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from squeezetune.errors import ArtifactError
from squeezetune.learn.graph import FITTED

IMAGE = "image"


class Fit:
    """The first operators of a model, those that resize.

    Run on what they give they change nothing, so that the whole model gives for a fitted image what it gives for the
    image itself; images of different sizes can then be run together.

    Raises:
        ArtifactError: the file is no model that begins so.

    """

    def __init__(self, payload: bytes, side: int) -> None:
        import onnxruntime  # slow to import

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # each thread runs images of its own
        options.enable_cpu_mem_arena = False  # which would keep for ever what the largest photo took
        options.log_severity_level = 3
        try:
            graph = cut_fit(onnx.load_model_from_string(payload), side)
            self._session: Any = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except ArtifactError:
            raise
        except Exception as error:  # those of protobuf and ONNX Runtime share no other base
            raise ArtifactError(f"The model cannot be opened: {error}", "Train the model again.") from error

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Make one image (height, width, 3) as large as the network wants it: (side, side, 3)."""
        fitted: NDArray[np.uint8] = self._session.run(None, {IMAGE: pixels[None]})[0][0]
        return fitted


def cut_fit(model: onnx.ModelProto, side: int) -> bytes:
    """Cut the operators that resize from the beginning of a model."""
    nodes, read = [], {FITTED}
    for node in reversed(model.graph.node):
        if read.intersection(node.output):
            nodes.append(node)
            read.update(node.input)
    if not nodes:
        raise ArtifactError("The model does not begin by resizing its images", "Train the model again.")
    graph = helper.make_graph(
        nodes[::-1],
        "fit",
        [item for item in model.graph.input if item.name == IMAGE],
        [helper.make_tensor_value_info(FITTED, TensorProto.UINT8, ["n", side, side, 3])],
        [item for item in model.graph.initializer if item.name in read],
    )
    cut = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    payload: bytes = cut.SerializeToString()
    return payload
