"""ONNX's operators as functions of torch, with gradients: a table, by the operators' names.

Each is made of a node's attributes; what it computes is said by ONNX's own reference
(https://onnx.ai/onnx/operators/). An absent input is None.
"""

from collections.abc import Mapping
from functools import reduce
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from squeezetune.finetune.graph_layers import (
    LAYERS,
    Attributes,
    MakeOperator,
    Operator,
    UnknownOperatorError,
)
from squeezetune.finetune.torch_layers import Tensor

# isort: split
# after `torch_layers`, which says how to install torch where it is missing
import torch
from torch.nn import functional

KINDS = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.INT64: torch.int64,
    TensorProto.INT32: torch.int32,
    TensorProto.UINT8: torch.uint8,
    TensorProto.BOOL: torch.bool,
}


def make_operator(node: onnx.NodeProto) -> Operator:
    """Make the function of a node: tensors in, a tensor out, or several.

    Raises:
        UnknownOperatorError: there is none; it says of what.
    """
    make = OPERATORS.get(node.op_type)
    if make is None or node.domain not in ("", "ai.onnx"):
        raise UnknownOperatorError(node.op_type)
    try:
        return make({item.name: _read_attribute(item) for item in node.attribute})
    except UnknownOperatorError as error:
        raise UnknownOperatorError(f"{node.op_type} ({error})") from error


def _read_attribute(item: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(item)
    if isinstance(value, bytes):
        return value.decode()
    return to_tensor(value) if isinstance(value, TensorProto) else value


def to_tensor(value: onnx.TensorProto) -> Tensor:
    """Copy a constant."""
    return torch.from_numpy(np.array(numpy_helper.to_array(value)))


# ---- values one by one


def _always(run: Operator) -> MakeOperator:
    """Make an operator that has no attributes."""
    return lambda attributes: run


def _fold(run: Operator) -> MakeOperator:
    """Make an operator that takes any number of tensors, of one that takes two."""
    return lambda attributes: lambda *values: reduce(run, values)


def _divide(a: Tensor, b: Tensor) -> Tensor:
    is_whole = not (a.is_floating_point() or b.is_floating_point())
    return torch.div(a, b, rounding_mode="trunc" if is_whole else None)


def _make_clip(attributes: Attributes) -> Operator:
    def run(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
        return x if low is None and high is None else torch.clamp(x, low, high)

    return run


def _make_gelu(attributes: Attributes) -> Operator:
    way = attributes.get("approximate", "none")
    return lambda x: functional.gelu(x, approximate=way)


def _make_hard_sigmoid(attributes: Attributes) -> Operator:
    alpha, beta = attributes.get("alpha", 0.2), attributes.get("beta", 0.5)
    return lambda x: (alpha * x + beta).clamp(0, 1)


def _make_swish(attributes: Attributes) -> Operator:
    alpha = attributes.get("alpha", 1.0)
    return lambda x: x * torch.sigmoid(alpha * x)


def _make_mod(attributes: Attributes) -> Operator:
    run: Operator = torch.fmod if attributes.get("fmod", 0) else torch.remainder
    return run


def _make_softmax(run: Operator) -> MakeOperator:
    return lambda attributes: lambda x: run(x, attributes.get("axis", -1))


def _make_cast(attributes: Attributes) -> Operator:
    if attributes["to"] not in KINDS:
        raise UnknownOperatorError(f"to {TensorProto.DataType.Name(attributes['to'])}")
    return lambda x: x.to(KINDS[attributes["to"]])


def _with_slope(run: Operator, **defaults: float) -> MakeOperator:
    """Make an activation whose attributes are torch's further arguments, in this order."""
    return lambda attributes: (
        lambda x: run(x, *(attributes.get(name, value) for name, value in defaults.items()))
    )


VALUES: Mapping[str, MakeOperator] = {
    "Abs": _always(torch.abs),
    "Add": _always(torch.add),
    "And": _always(torch.logical_and),
    "Cast": _make_cast,
    "Ceil": _always(torch.ceil),
    "Celu": _with_slope(torch.celu, alpha=1.0),
    "Clip": _make_clip,
    "Cos": _always(torch.cos),
    "Div": _always(_divide),
    "Dropout": _always(lambda x, *others: x),
    "Elu": _with_slope(functional.elu, alpha=1.0),
    "Equal": _always(torch.eq),
    "Erf": _always(torch.erf),
    "Exp": _always(torch.exp),
    "Floor": _always(torch.floor),
    "Gelu": _make_gelu,
    "Greater": _always(torch.gt),
    "GreaterOrEqual": _always(torch.ge),
    "HardSigmoid": _make_hard_sigmoid,
    "HardSwish": _always(functional.hardswish),
    "Identity": _always(lambda x: x),
    "IsInf": _always(torch.isinf),
    "IsNaN": _always(torch.isnan),
    "LeakyRelu": _with_slope(functional.leaky_relu, alpha=0.01),
    "Less": _always(torch.lt),
    "LessOrEqual": _always(torch.le),
    "Log": _always(torch.log),
    "LogSoftmax": _make_softmax(torch.log_softmax),
    "Max": _fold(torch.maximum),
    "Mean": _always(lambda *values: sum(values) / len(values)),
    "Min": _fold(torch.minimum),
    "Mish": _always(functional.mish),
    "Mod": _make_mod,
    "Mul": _always(torch.mul),
    "Neg": _always(torch.neg),
    "Not": _always(torch.logical_not),
    "Or": _always(torch.logical_or),
    "PRelu": _always(lambda x, slope: torch.where(x < 0, x * slope, x)),
    "Pow": _always(lambda x, y: torch.pow(x, y).to(x.dtype)),
    "Reciprocal": _always(torch.reciprocal),
    "Relu": _always(torch.relu),
    "Round": _always(torch.round),
    "Selu": _always(torch.selu),
    "Sigmoid": _always(torch.sigmoid),
    "Sign": _always(torch.sign),
    "Sin": _always(torch.sin),
    "Softmax": _make_softmax(torch.softmax),
    "Softplus": _always(functional.softplus),
    "Softsign": _always(functional.softsign),
    "Sqrt": _always(torch.sqrt),
    "Sub": _always(torch.sub),
    "Sum": _fold(torch.add),
    "Swish": _make_swish,
    "Tanh": _always(torch.tanh),
    "Where": _always(torch.where),
}

# ---- shapes


def _make_concat(attributes: Attributes) -> Operator:
    return lambda *values: torch.cat(values, attributes["axis"])


def _make_filled(attributes: Attributes) -> Operator:
    value = attributes.get("value", torch.zeros(1))
    return lambda shape: value.expand(shape.tolist())


def _expand(x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, tuple(shape.tolist())))


def _make_flatten(attributes: Attributes) -> Operator:
    axis = attributes.get("axis", 1)
    return lambda x: x.reshape(x.shape[:axis].numel(), -1)


def _make_gather(attributes: Attributes) -> Operator:
    axis = attributes.get("axis", 0)

    def run(x: Tensor, places: Tensor) -> Tensor:
        at = axis % x.ndim
        places = torch.where(places < 0, places + x.shape[at], places).long()
        shape = (*x.shape[:at], *places.shape, *x.shape[at + 1 :])
        return x.index_select(at, places.reshape(-1)).reshape(shape)

    return run


def _make_pad(attributes: Attributes) -> Operator:
    modes = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}
    mode = attributes.get("mode", "constant")
    if mode not in modes:
        raise UnknownOperatorError(mode)

    def run(
        x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None
    ) -> Tensor:
        sizes, which = pads.tolist(), range(x.ndim) if axes is None else axes.tolist()
        pairs = dict.fromkeys(range(x.ndim), (0, 0))
        for at, axis in enumerate(which):
            pairs[axis % x.ndim] = (sizes[at], sizes[at + len(sizes) // 2])
        ends = [each for axis in reversed(range(x.ndim)) for each in pairs[axis]]
        if mode == "constant":
            return functional.pad(x, ends, value=0 if value is None else value.item())
        # torch reflects the axes behind the channels alone
        behind = 2 * max(1, x.ndim - 2)
        if any(ends[behind:]):
            raise UnknownOperatorError("Pad (channels)")
        return functional.pad(x, ends[:behind], modes[mode])

    return run


def _make_reshape(attributes: Attributes) -> Operator:
    keeps_zeros = attributes.get("allowzero", 0)

    def run(x: Tensor, shape: Tensor) -> Tensor:
        sizes = shape.tolist()
        if not keeps_zeros:
            sizes = [size or x.shape[at] for at, size in enumerate(sizes)]
        return x.reshape(sizes)

    return run


def _make_shape(attributes: Attributes) -> Operator:
    start, end = attributes.get("start", 0), attributes.get("end")
    return lambda x: torch.tensor(x.shape[start:end], dtype=torch.int64)


def _slice(
    x: Tensor,
    starts: Tensor,
    ends: Tensor,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    which = range(len(starts)) if axes is None else axes.tolist()
    strides = [1] * len(starts) if steps is None else steps.tolist()
    for axis, start, end, step in zip(which, starts.tolist(), ends.tolist(), strides, strict=True):
        places = range(*slice(start, end, step).indices(x.shape[axis]))
        if step == 1:
            x = x.narrow(axis, places.start, len(places))
        else:
            x = x.index_select(axis, torch.tensor(places, dtype=torch.int64))
    return x


def _make_split(attributes: Attributes) -> Operator:
    axis, count = attributes.get("axis", 0), attributes.get("num_outputs", 1)

    def run(x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
        each = -(-x.shape[axis] // count) if sizes is None else sizes.tolist()
        return tuple(torch.split(x, each, axis))

    return run


def _squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(axes.tolist()))


def _unsqueeze(x: Tensor, axes: Tensor) -> Tensor:
    count = x.ndim + len(axes)
    for axis in sorted(each % count for each in axes.tolist()):
        x = x.unsqueeze(axis)
    return x


def _make_transpose(attributes: Attributes) -> Operator:
    return lambda x: x.permute(attributes.get("perm", tuple(reversed(range(x.ndim)))))


def _make_depth_to_space(attributes: Attributes) -> Operator:
    side, mode = attributes["blocksize"], attributes.get("mode", "DCR")

    def run(x: Tensor) -> Tensor:
        count, channels, height, width = x.shape
        if mode == "CRD":
            return functional.pixel_shuffle(x, side)
        parts = x.reshape(count, side, side, channels // side**2, height, width)
        return parts.permute(0, 3, 4, 1, 5, 2).reshape(count, -1, height * side, width * side)

    return run


def _make_space_to_depth(attributes: Attributes) -> Operator:
    side = attributes["blocksize"]

    def run(x: Tensor) -> Tensor:
        count, channels, height, width = x.shape
        parts = x.reshape(count, channels, height // side, side, width // side, side)
        return parts.permute(0, 3, 5, 1, 2, 4).reshape(count, -1, height // side, width // side)

    return run


def _make_triangle(attributes: Attributes) -> Operator:
    cut = torch.triu if attributes.get("upper", 1) else torch.tril
    return lambda x, diagonal=None: cut(x, 0 if diagonal is None else int(diagonal))


def _make_sums(attributes: Attributes) -> Operator:
    if attributes.get("exclusive", 0) or attributes.get("reverse", 0):
        raise UnknownOperatorError("exclusive or in reverse")
    return lambda x, axis: torch.cumsum(x, int(axis))


def _make_einsum(attributes: Attributes) -> Operator:
    return lambda *values: torch.einsum(attributes["equation"], *values)


SHAPES: Mapping[str, MakeOperator] = {
    "Concat": _make_concat,
    "ConstantOfShape": _make_filled,
    "CumSum": _make_sums,
    "DepthToSpace": _make_depth_to_space,
    "Einsum": _make_einsum,
    "Expand": _always(_expand),
    "Flatten": _make_flatten,
    "Gather": _make_gather,
    "GatherElements": lambda attributes: (
        lambda x, places: x.gather(attributes.get("axis", 0), places.long())
    ),
    "Pad": _make_pad,
    "Range": _always(lambda *limits: torch.arange(*(limit.item() for limit in limits))),
    "Reshape": _make_reshape,
    "Shape": _make_shape,
    "Size": _always(lambda x: torch.tensor(x.numel())),
    "Slice": _always(_slice),
    "SpaceToDepth": _make_space_to_depth,
    "Split": _make_split,
    "Squeeze": _always(_squeeze),
    "Tile": _always(lambda x, times: x.repeat(times.tolist())),
    "Transpose": _make_transpose,
    "Trilu": _make_triangle,
    "Unsqueeze": _always(_unsqueeze),
}

# ---- sums over axes


def _reduce(run: Operator) -> MakeOperator:
    """Make an operator that leaves out axes: those of its second input, or all."""

    def make(attributes: Attributes) -> Operator:
        keeps = bool(attributes.get("keepdims", 1))
        keeps_all = attributes.get("noop_with_empty_axes", 0)

        def operate(x: Tensor, axes: Tensor | None = None) -> Tensor:
            which = attributes.get("axes", []) if axes is None else axes.tolist()
            if not which and keeps_all:
                return x
            return run(x, tuple(which or range(x.ndim)), keepdim=keeps)

        return operate

    return make


REDUCTIONS: Mapping[str, MakeOperator] = {
    "ReduceL1": _reduce(lambda x, axes, keepdim: x.abs().sum(axes, keepdim=keepdim)),
    "ReduceL2": _reduce(lambda x, axes, keepdim: torch.linalg.vector_norm(x, 2, axes, keepdim)),
    "ReduceLogSumExp": _reduce(torch.logsumexp),
    "ReduceMax": _reduce(torch.amax),
    "ReduceMean": _reduce(torch.mean),
    "ReduceMin": _reduce(torch.amin),
    "ReduceSum": _reduce(torch.sum),
    "ReduceSumSquare": _reduce(lambda x, axes, keepdim: x.square().sum(axes, keepdim=keepdim)),
}

OPERATORS: Mapping[str, MakeOperator] = {**LAYERS, **REDUCTIONS, **SHAPES, **VALUES}
