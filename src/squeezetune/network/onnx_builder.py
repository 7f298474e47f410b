"""An ONNX graph under construction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from squeezetune.network.codes import QuantizedTensor, pack_nibbles

# The set of operators and the version of the file. Usually: the first with antialiased Resize, and
# what ONNX Runtime of 2022 already reads. With codes of four bits: the first that know INT4, which
# ONNX Runtime of 2024 reads.
OPSET, IR_VERSION = 18, 8
NIBBLE_OPSET, NIBBLE_IR_VERSION = 21, 10

Shape = Sequence[str | int]


@dataclass(frozen=True)
class Output:
    """A tensor that a graph gives: its name, its shape and its type in numpy's words."""

    name: str
    shape: Shape
    dtype: Any = np.float32


@dataclass
class Graph:
    """Nodes and constants; every method that adds something returns the name of the resulting
    tensor.

    `least_opset` is the set of operators that foreign nodes among them are of, if it is a later
    one.
    """

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    nibbles: dict[str, onnx.TensorProto] = field(default_factory=dict)
    least_opset: int = OPSET

    def add(self, operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Append a node with one output."""
        name = name or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, name: str, value: Any, dtype: Any = None) -> str:
        """Keep an array (or what numpy makes one of)."""
        self.constants[name] = np.ascontiguousarray(value, dtype).reshape(np.shape(value))
        return name

    def codes(self, name: str, codes: QuantizedTensor) -> str:
        """Keep codes of four bits as INT4, others as INT8."""
        if codes.bits > 4:
            return self.constant(name, codes.values, np.int8)
        packed = pack_nibbles(codes.values)
        self.nibbles[name] = helper.make_tensor(
            name, TensorProto.INT4, codes.values.shape, packed, raw=True
        )
        return name

    def to_bytes(
        self, pixels: str, output: str, shape: Shape, metadata: Mapping[str, str] | None = None
    ) -> bytes:
        """Check the graph and serialise it; the same graph always gives the same bytes.

        The input `pixels` is (n, height, width, 3) uint8, the output float32 of this shape.
        """
        return self.serialise(pixels, [Output(output, shape)], metadata)

    def serialise(
        self, pixels: str, outputs: Sequence[Output], metadata: Mapping[str, str] | None = None
    ) -> bytes:
        """Check the graph and serialise it, with several outputs."""
        graph = helper.make_graph(
            self.nodes,
            "squeezetune",
            [helper.make_tensor_value_info(pixels, TensorProto.UINT8, ["n", "height", "width", 3])],
            [_describe_output(output) for output in outputs],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()]
            + [*self.nibbles.values()],
        )
        opset, version = (NIBBLE_OPSET, NIBBLE_IR_VERSION) if self.nibbles else (OPSET, IR_VERSION)
        if self.least_opset > opset:
            opset, version = self.least_opset, find_ir_version(self.least_opset)
        opsets = [helper.make_opsetid("", opset)]
        model = helper.make_model(
            graph, opset_imports=opsets, ir_version=version, producer_name="squeezetune"
        )
        helper.set_model_props(model, dict(metadata or {}))
        onnx.checker.check_model(model)
        payload: bytes = model.SerializeToString(deterministic=True)
        return payload


def find_ir_version(opset: int) -> int:
    """Find the earliest version of the file that knows a set of operators."""
    version: int = helper.find_min_ir_version_for([helper.make_opsetid("", opset)])
    return max(version, IR_VERSION)


def _describe_output(output: Output) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(output.dtype))
    return helper.make_tensor_value_info(output.name, kind, list(output.shape))
