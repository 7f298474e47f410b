"""The part of a model's file that makes an image of any size as large as the network wants it, run by itself."""

from typing import Any

import numpy as np
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from numpy.typing import NDArray

from squeezetune.errors import ArtifactError, ImageError
from squeezetune.learn.tensor_names import FITTED, IMAGE
from squeezetune.runtimes import import_onnxruntime

# What is read or changed of ONNX's messages, by its field numbers (onnx.proto3); protobuf keeps the rest as it is. The
# package onnx would know it all, for eight times the time and a fifth of the memory that the server begins with.
SCHEMA: dict[str, dict[str, tuple[int, str]]] = {
    "Model": {"graph": (7, "Graph")},
    "Graph": {"node": (1, "Node*"), "initializer": (5, "Tensor*"), "input": (11, "Value*"), "output": (12, "Value*")},
    "Node": {"input": (1, "string*"), "output": (2, "string*")},
    "Tensor": {"name": (8, "string")},
    "Value": {"name": (1, "string"), "type": (2, "Type")},
    "Type": {"tensor_type": (1, "TensorType")},
    "TensorType": {"elem_type": (1, "int32")},
}
UINT8 = 2  # TensorProto.DataType


class Fit:
    """The first operators of a model, those that resize.

    Run on what they give they change nothing, so that the whole model gives for a fitted image what it gives for the
    image itself; images of different sizes can then be run together.

    Raises:
        ArtifactError: the file is no model that begins so.

    """

    def __init__(self, payload: bytes) -> None:
        onnxruntime = import_onnxruntime()  # slow
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # each thread runs images of its own
        options.enable_cpu_mem_arena = False  # which would keep for ever what the largest photo took
        options.log_severity_level = 3
        try:
            graph = cut_fit(payload)
            self._session: Any = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except ArtifactError:
            raise
        except Exception as error:  # those of protobuf and ONNX Runtime share no other base
            raise ArtifactError(f"The model cannot be opened: {error}", "Train the model again.") from error

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Make one image (height, width, 3) as large as the network wants it: (side, side, 3).

        Raises:
            ImageError: the runtime fails over it.

        """
        try:
            fitted: NDArray[np.uint8] = self._session.run(None, {IMAGE: pixels[None]})[0][0]
        except Exception as error:  # ONNX Runtime's own errors share no other base
            raise ImageError(f"it cannot be made as large as the model wants it: {error}") from error
        return fitted


def cut_fit(payload: bytes) -> bytes:
    """Cut the operators that resize from the beginning of a model."""
    model = _declare_model().FromString(payload)
    graph, read = model.graph, {FITTED}
    for at in reversed(range(len(graph.node))):
        if read.isdisjoint(graph.node[at].output):
            del graph.node[at]
        else:
            read.update(graph.node[at].input)
    if not graph.node:
        raise ArtifactError("The model does not begin by resizing its images", "Train the model again.")
    _keep_named(graph.initializer, read)
    _keep_named(graph.input, {IMAGE})
    del graph.output[:]
    graph.output.add(name=FITTED).type.tensor_type.elem_type = UINT8
    cut: bytes = model.SerializeToString()
    return cut


def _keep_named(items: Any, names: set[str]) -> None:
    """Remove all items of a repeated field that are called otherwise."""
    for at in reversed(range(len(items))):
        if items[at].name not in names:
            del items[at]


def _declare_model() -> Any:
    """Declare the messages of the schema, and return the class of a model."""
    file = FileDescriptorProto(name="onnx_cut.proto", package="onnx_cut", syntax="proto3")
    for name, fields in SCHEMA.items():
        message = DescriptorProto(name=name)
        for field, (number, kind) in fields.items():
            message.field.append(_declare_field(field, number, kind))
        file.message_type.append(message)
    pool = DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return GetMessageClass(pool.FindMessageTypeByName("onnx_cut.Model"))


def _declare_field(name: str, number: int, kind: str) -> FieldDescriptorProto:
    one, many = FieldDescriptorProto.LABEL_OPTIONAL, FieldDescriptorProto.LABEL_REPEATED
    field = FieldDescriptorProto(name=name, number=number, label=many if kind.endswith("*") else one)
    plain = {"string": FieldDescriptorProto.TYPE_STRING, "int32": FieldDescriptorProto.TYPE_INT32}
    kind = kind.removesuffix("*")
    field.type = plain.get(kind, FieldDescriptorProto.TYPE_MESSAGE)
    if kind not in plain:
        field.type_name = f".onnx_cut.{kind}"
    return field
