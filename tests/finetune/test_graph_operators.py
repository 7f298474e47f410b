"""Every operator of the table, beside ONNX Runtime's."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from sessions import open_session

torch = pytest.importorskip("torch", reason="torch is an extra")

from squeezetune.finetune.graph_layers import UnknownOperatorError  # noqa: E402
from squeezetune.finetune.graph_operators import OPERATORS, make_operator  # noqa: E402

RNG = np.random.default_rng(0)
# opset 23 has RMSNormalization, 24 Swish, which older runtimes lack
LATER = {"RMSNormalization": 23, "Swish": 24}


def draw(*shape, low=-2.0, high=2.0):
    return RNG.uniform(low, high, shape).astype(np.float32)


def ints(*values):
    return np.array(values, np.int64)


MAP, ODD, ROWS = draw(2, 4, 6, 6), draw(2, 4, 7, 7), draw(3, 5)
POSITIVE = draw(3, 5, low=0.1)
BOOLS = RNG.integers(0, 2, (3, 5)).astype(bool)
SAME = [("Abs", "Ceil", "Celu", "Cos", "Elu", "Erf", "Exp", "Floor", "HardSigmoid", "HardSwish",
         "Identity", "IsInf", "IsNaN", "LeakyRelu", "LogSoftmax", "Mish", "Neg", "Relu", "Round",
         "Selu", "Sigmoid", "Sign", "Sin", "Softmax", "Softplus", "Softsign", "Tanh", "Dropout",
         "Gelu", "Swish"), ("Log", "Sqrt", "Reciprocal")]  # fmt: skip
PAIRS = ("Add", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean",
         "Min", "Mul", "Sub", "Sum", "PRelu")  # fmt: skip
SUMS = ("ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
        "ReduceSum", "ReduceSumSquare")  # fmt: skip
KERNEL, WIDE = draw(6, 2, 3, 3), draw(6, 4, 3, 3)
FOUR = [draw(4) for _ in range(3)]

# Operator, inputs (None is absent), attributes.
CASES = [
    *((name, [ROWS], {}) for name in SAME[0]),
    *((name, [POSITIVE], {}) for name in SAME[1]),
    *((name, [ROWS, draw(3, 5)], {}) for name in PAIRS),
    *((name, [MAP, ints(1, -1)], {"keepdims": keep}) for name in SUMS for keep in (0, 1)),
    *((name, [MAP], {}) for name in SUMS),
    *((name, [BOOLS, BOOLS[::-1].copy()], {}) for name in ("And", "Or")),
    ("Not", [BOOLS], {}),
    ("Gelu", [ROWS], {"approximate": "tanh"}),
    ("LeakyRelu", [ROWS], {"alpha": 0.3}),
    ("Softmax", [MAP], {"axis": 1}),
    ("ReduceMean", [MAP, ints()], {"noop_with_empty_axes": 1}),
    ("Div", [ints(7, -7, 6), ints(2, 2, -4)], {}),
    ("Mod", [ints(7, -7, 6), ints(2, 3, 4)], {}),
    ("Mod", [ROWS, POSITIVE], {"fmod": 1}),
    ("Pow", [POSITIVE, draw(1)], {}),
    ("Pow", [ROWS, ints(2)], {}),
    ("Cast", [ROWS], {"to": TensorProto.INT64}),
    ("Clip", [ROWS, np.float32(-0.5), np.float32(1)], {}),
    ("Clip", [ROWS, None, np.float32(1)], {}),
    ("Where", [BOOLS, ROWS, POSITIVE], {}),
    # shapes
    ("Concat", [MAP, ODD[:, :, :6, :6]], {"axis": 1}),
    ("ConstantOfShape", [ints(2, 3)], {"value": onnx.numpy_helper.from_array(ints(5))}),
    ("CumSum", [ROWS, np.int64(1)], {}),
    ("DepthToSpace", [MAP], {"blocksize": 2}),
    ("DepthToSpace", [MAP], {"blocksize": 2, "mode": "CRD"}),
    ("Einsum", [ROWS, draw(5, 2)], {"equation": "ij,jk->ki"}),
    ("Expand", [draw(3, 1), ints(2, 1, 4)], {}),
    ("Flatten", [MAP], {"axis": 2}),
    ("Gather", [MAP, ints(0, -1, 2)], {"axis": 1}),
    ("Gather", [ROWS, np.int64(1)], {"axis": -1}),
    ("GatherElements", [ROWS, np.array([[0, 1], [2, 3], [4, 0]])], {"axis": 1}),
    ("Pad", [MAP, ints(0, 0, 1, 2, 0, 0, 3, 0), np.float32(7)], {}),
    ("Pad", [MAP, ints(1, 2), None, ints(3)], {"mode": "reflect"}),
    ("Pad", [MAP, ints(0, 0, 1, 2, 0, 0, 3, 0)], {"mode": "edge"}),
    ("Range", [np.int64(1), np.int64(9), np.int64(3)], {}),
    ("Reshape", [MAP, ints(0, -1, 6)], {}),
    ("Shape", [MAP], {"start": 1}),
    ("Size", [MAP], {}),
    ("Slice", [MAP, ints(1, -3), ints(3, 99), ints(1, 3)], {}),
    ("Slice", [MAP, ints(5, 0), ints(-99, 6), ints(2, 3), ints(-2, 2)], {}),
    ("SpaceToDepth", [MAP], {"blocksize": 2}),
    ("Split", [MAP, ints(1, 3)], {"axis": 1}),
    ("Split", [ROWS], {"axis": 1, "num_outputs": 2}),
    ("Squeeze", [draw(3, 1, 2, 1), ints(1)], {}),
    ("Squeeze", [draw(3, 1, 2, 1)], {}),
    ("Tile", [ROWS, ints(2, 3)], {}),
    ("Transpose", [MAP], {"perm": [0, 2, 3, 1]}),
    ("Transpose", [ROWS], {}),
    ("Trilu", [ROWS, np.int64(1)], {"upper": 0}),
    ("Unsqueeze", [ROWS, ints(-1, 0)], {}),
    # layers
    ("AveragePool", [ODD], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("AveragePool", [ODD], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]}),
    ("AveragePool", [ODD], {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER",
                            "count_include_pad": 1}),
    ("AveragePool", [ODD], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("BatchNormalization", [MAP, *FOUR, draw(4, low=0.5)], {"epsilon": 1e-3}),
    ("Conv", [MAP, WIDE, draw(6)], {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ("Conv", [MAP, KERNEL], {"group": 2, "pads": [0, 1, 2, 1], "dilations": [1, 2]}),
    ("Conv", [MAP, WIDE], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("Conv", [MAP, WIDE], {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    ("Conv", [draw(2, 4, 9), draw(6, 4, 3)], {"auto_pad": "VALID"}),
    ("ConvTranspose", [MAP, draw(4, 3, 3, 3), draw(3)], {"strides": [2, 2], "pads": [1, 0, 0, 1],
                                                         "output_padding": [1, 0]}),
    ("Gemm", [ROWS, draw(5, 2), draw(2)], {"alpha": 0.5, "beta": 2.0}),
    ("Gemm", [ROWS, draw(2, 3)], {"transA": 1, "transB": 1}),
    ("GlobalAveragePool", [MAP], {}),
    ("GlobalMaxPool", [MAP], {}),
    ("GroupNormalization", [MAP, draw(2), draw(2)], {"num_groups": 2}),
    ("InstanceNormalization", [MAP, *FOUR[:2]], {}),
    ("LRN", [MAP], {"size": 3, "alpha": 0.1}),
    ("LayerNormalization", [MAP, draw(6), draw(6)], {}),
    ("LayerNormalization", [MAP, draw(4, 6, 6)], {"axis": 1, "epsilon": 1e-3}),
    ("LpNormalization", [MAP], {"axis": 1}),
    ("MatMul", [draw(2, 3, 5), draw(5, 4)], {}),
    ("MaxPool", [ODD], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("MaxPool", [ODD], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1],
                        "ceil_mode": 1}),
    ("MaxPool", [ODD], {"kernel_shape": [2, 2], "auto_pad": "SAME_LOWER"}),
    ("RMSNormalization", [MAP, draw(6)], {}),
    ("Resize", [MAP, None, None, ints(2, 4, 12, 15)], {"mode": "linear"}),
    ("Resize", [MAP, None, np.array([1, 1, 2, 2], np.float32)],
     {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
    ("Resize", [MAP, None, np.array([1, 1, 1.5, 2], np.float32)],
     {"mode": "linear", "coordinate_transformation_mode": "align_corners"}),
    ("Resize", [MAP, None, None, ints(2, 4, 9, 9)],
     {"mode": "cubic", "coordinate_transformation_mode": "half_pixel"}),
]  # fmt: skip


def run_engine(node, inputs):
    kinds = [helper.np_dtype_to_tensor_dtype(value.dtype) for value in inputs.values()]
    given = [helper.make_tensor_value_info(name, kind, value.shape)
             for (name, value), kind in zip(inputs.items(), kinds, strict=True)]  # fmt: skip
    wanted = [onnx.ValueInfoProto(name=name) for name in node.output]
    graph = helper.make_graph([node], "one", given, wanted)
    opset = helper.make_opsetid("", LATER.get(node.op_type, 20 if node.op_type == "Gelu" else 18))
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    return open_session(model.SerializeToString()).run(None, inputs)


@pytest.mark.parametrize(("name", "inputs", "attributes"), CASES)
def test_an_operator_gives_what_the_engine_does(name, inputs, attributes):
    names = ["" if value is None else f"in{at}" for at, value in enumerate(inputs)]
    count = 2 if name == "Split" else 1
    outputs = [f"out{at}" for at in range(count)]
    node = helper.make_node(name, names, outputs, **attributes)
    arrays = {key: np.asarray(value) for key, value in zip(names, inputs, strict=True) if key}
    try:
        expected = run_engine(node, arrays)
    except Exception as error:
        if name in (*LATER, "Gelu", "Mod") and "not" in str(error).lower():
            pytest.skip("this version of ONNX Runtime does not know the operator")
        raise
    tensors = [None if value is None else torch.from_numpy(np.array(value)) for value in inputs]
    found = make_operator(node)(*tensors)
    for own, theirs in zip(found if isinstance(found, tuple) else (found,), expected, strict=True):
        assert own.shape == theirs.shape
        assert own.numpy().dtype == theirs.dtype
        np.testing.assert_allclose(own.numpy(), theirs, rtol=1e-4, atol=1e-5)


def test_every_operator_of_the_table_is_tried():
    assert {name for name, _, _ in CASES} == set(OPERATORS)


@pytest.mark.parametrize(
    ("name", "attributes", "words"),
    [
        ("NonZero", {}, "NonZero"),
        ("Cast", {"to": TensorProto.STRING}, r"Cast \(to STRING\)"),
        ("BatchNormalization", {"training_mode": 1}, r"BatchNormalization \(training mode\)"),
        ("Pad", {"mode": "wrap"}, r"Pad \(wrap\)"),
        ("ConvTranspose", {"auto_pad": "SAME_UPPER"}, r"ConvTranspose \(padding that goes by"),
    ],
)
def test_what_is_not_in_the_table_is_named(name, attributes, words):
    with pytest.raises(UnknownOperatorError, match=f"^{words}"):
        make_operator(helper.make_node(name, ["x"], ["y"], **attributes))
