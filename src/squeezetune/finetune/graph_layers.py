"""ONNX's operators with parameters, pools and normalisations as functions of torch, with gradients.

Each is made of a node's attributes; what it computes is said by ONNX's own reference
(https://onnx.ai/onnx/operators/). An absent input is None.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from squeezetune.finetune.torch_layers import Tensor
from squeezetune.network.layers import measure_same_padding

# isort: split
# after `torch_layers`, which says how to install torch where it is missing
import torch
from torch.nn import functional

Attributes: TypeAlias = Mapping[str, Any]
Operator: TypeAlias = Callable[..., Any]
# Makes a function of tensors of a node's attributes. Raises UnknownOperatorError, with what was
# found in words, where it knows the operator, but not this form of it.
MakeOperator: TypeAlias = Callable[[Attributes], Operator]


class UnknownOperatorError(Exception):
    """There is no function for an operator, or for this form of one; the message says of what."""


CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d,
              3: functional.conv_transpose3d}  # fmt: skip
MAX_POOLS = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
AVERAGE_POOLS = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


# ---- products


def _make_conv(attributes: Attributes) -> Operator:
    def run(x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
        sizes = kernel.shape[2:]
        stride, dilation = _read_steps(attributes, len(sizes))
        x, padding = _pad(x, _list_padding(attributes, x.shape[2:], sizes, stride, dilation))
        groups = attributes.get("group", 1)
        convolve = CONVOLUTIONS[len(sizes)]
        return convolve(x, kernel, bias, stride, padding, dilation, groups)

    return run


def _make_conv_transpose(attributes: Attributes) -> Operator:
    if attributes.get("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in attributes:
        raise UnknownOperatorError("padding that goes by its output")

    def run(x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
        axes = kernel.ndim - 2
        stride, dilation = _read_steps(attributes, axes)
        pads = attributes.get("pads", [0] * 2 * axes)
        more = attributes.get("output_padding", [0] * axes)
        convolve, groups = TRANSPOSED[axes], attributes.get("group", 1)
        y = convolve(x, kernel, bias, stride, 0, more, groups, dilation)
        for axis in range(axes):
            length = y.shape[axis + 2] - pads[axis] - pads[axis + axes]
            y = y.narrow(axis + 2, pads[axis], length)
        return y

    return run


def _make_gemm(attributes: Attributes) -> Operator:
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    turns = attributes.get("transA", 0), attributes.get("transB", 0)

    def run(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        a, b = (value.T if turn else value for value, turn in zip((a, b), turns, strict=True))
        if c is None:
            return alpha * (a @ b)
        return torch.addmm(c, a, b, beta=beta, alpha=alpha)

    return run


# ---- pools


def _make_max_pool(attributes: Attributes) -> Operator:
    if attributes.get("storage_order", 0):
        raise UnknownOperatorError("columns first")

    def run(x: Tensor) -> Tensor:
        sizes = attributes["kernel_shape"]
        stride, dilation = _read_steps(attributes, len(sizes))
        pads = _list_padding(attributes, x.shape[2:], sizes, stride, dilation)
        x, padding = _pad(x, pads, -torch.inf)
        is_ceil = bool(attributes.get("ceil_mode", 0))
        pool = MAX_POOLS[len(sizes)]
        return pool(x, sizes, stride, padding, dilation, ceil_mode=is_ceil)

    return run


def _make_average_pool(attributes: Attributes) -> Operator:
    if any(step != 1 for step in attributes.get("dilations", ())):
        raise UnknownOperatorError("dilations")
    counts = bool(attributes.get("count_include_pad", 0))

    def run(x: Tensor) -> Tensor:
        sizes = attributes["kernel_shape"]
        stride, dilation = _read_steps(attributes, len(sizes))
        pads = _list_padding(attributes, x.shape[2:], sizes, stride, dilation)
        padded, padding = _pad(x, pads)
        pool, is_ceil = AVERAGE_POOLS[len(sizes)], bool(attributes.get("ceil_mode", 0))
        if counts or padded is x:
            return pool(padded, sizes, stride, padding, is_ceil, counts)
        # padded by unlike numbers, which do not count: the mean over what is there
        there, _ = _pad(torch.ones_like(x[:1, :1]), pads)
        return pool(padded, sizes, stride, 0, is_ceil) / pool(there, sizes, stride, 0, is_ceil)

    return run


def _average_all(x: Tensor) -> Tensor:
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


def _read_steps(attributes: Attributes, axes: int) -> tuple[list[int], list[int]]:
    """Read strides and dilations, one for each axis."""
    ones = [1] * axes
    return list(attributes.get("strides", ones)), list(attributes.get("dilations", ones))


def _list_padding(
    attributes: Attributes,
    lengths: Sequence[int],
    sizes: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:
    """List what is added before each axis, and then behind each."""
    way = attributes.get("auto_pad", "NOTSET")
    if way == "NOTSET":
        return list(attributes.get("pads", [0] * 2 * len(sizes)))
    if way == "VALID":
        return [0] * 2 * len(sizes)
    axes = zip(lengths, sizes, stride, dilation, strict=True)
    pairs = [
        measure_same_padding(length, (size - 1) * wide + 1, step)
        for length, size, step, wide in axes
    ]
    less, more = ([pair[at] for pair in pairs] for at in (0, 1))
    return [*less, *more] if way == "SAME_UPPER" else [*more, *less]


def _pad(x: Tensor, pads: Sequence[int], value: float = 0.0) -> tuple[Tensor, list[int]]:
    """Pad maps where the two sides of an axis are unlike; else say what torch pads itself."""
    axes = len(pads) // 2
    before, behind = list(pads[:axes]), list(pads[axes:])
    if before == behind:
        return x, before
    pairs = [each for pair in zip(before[::-1], behind[::-1], strict=True) for each in pair]
    return functional.pad(x, pairs, value=value), [0] * axes


# ---- normalisations


def _make_batch_norm(attributes: Attributes) -> Operator:
    if attributes.get("training_mode", 0):
        raise UnknownOperatorError("training mode")
    epsilon = attributes.get("epsilon", 1e-5)

    def run(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return functional.batch_norm(x, mean, variance, scale, bias, eps=epsilon)

    return run


def _make_layer_norm(attributes: Attributes) -> Operator:
    axis, epsilon = attributes.get("axis", -1), attributes.get("epsilon", 1e-5)

    def run(x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
        shape = x.shape[axis:]
        if scale.shape == shape and (bias is None or bias.shape == shape):
            return functional.layer_norm(x, shape, scale, bias, epsilon)
        y = functional.layer_norm(x, shape, eps=epsilon) * scale
        return y if bias is None else y + bias

    return run


def _make_rms_norm(attributes: Attributes) -> Operator:
    axis, epsilon = attributes.get("axis", -1), attributes.get("epsilon", 1e-5)

    def run(x: Tensor, scale: Tensor) -> Tensor:
        return functional.rms_norm(x, x.shape[axis:], eps=epsilon) * scale

    return run


def _make_group_norm(attributes: Attributes) -> Operator:
    groups, epsilon = attributes["num_groups"], attributes.get("epsilon", 1e-5)

    def run(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        # before version 21 there was one value a group
        times = x.shape[1] // len(scale)
        scale, bias = (value.repeat_interleave(times) for value in (scale, bias))
        return functional.group_norm(x, groups, scale, bias, epsilon)

    return run


def _make_instance_norm(attributes: Attributes) -> Operator:
    epsilon = attributes.get("epsilon", 1e-5)
    return lambda x, scale, bias: functional.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


def _make_local_norm(attributes: Attributes) -> Operator:
    size, alpha = attributes["size"], attributes.get("alpha", 1e-4)
    beta, bias = attributes.get("beta", 0.75), attributes.get("bias", 1.0)
    return lambda x: functional.local_response_norm(x, size, alpha, beta, bias)


def _make_length_norm(attributes: Attributes) -> Operator:
    degree, axis = attributes.get("p", 2), attributes.get("axis", -1)
    return lambda x: x / torch.linalg.vector_norm(x, degree, axis, keepdim=True)


# ---- other sizes


def _make_resize(attributes: Attributes) -> Operator:
    """ONNX's Resize has many forms; torch has those that torch exports."""
    mode = attributes.get("mode", "nearest")
    place = attributes.get("coordinate_transformation_mode", "half_pixel")
    rounding = attributes.get("nearest_mode", "round_prefer_floor")
    forms: dict[tuple[str, ...], dict[str, Any]] = {
        ("nearest", "asymmetric", "floor"): {"mode": "nearest"},
        ("nearest", "half_pixel", "round_prefer_floor"): {"mode": "nearest-exact"},
        ("linear", "half_pixel"): {"mode": "bilinear", "align_corners": False},
        ("linear", "pytorch_half_pixel"): {"mode": "bilinear", "align_corners": False},
        ("linear", "align_corners"): {"mode": "bilinear", "align_corners": True},
        ("cubic", "half_pixel"): {"mode": "bicubic", "align_corners": False},
        ("cubic", "pytorch_half_pixel"): {"mode": "bicubic", "align_corners": False},
        ("cubic", "align_corners"): {"mode": "bicubic", "align_corners": True},
    }
    form = (mode, place, rounding) if mode == "nearest" else (mode, place)
    others = [name for name in ("antialias", "exclude_outside", "axes") if attributes.get(name)]
    if form not in forms or others:
        raise UnknownOperatorError(" ".join([*form, *others]))

    def run(
        x: Tensor,
        region: Tensor | None = None,
        scales: Tensor | None = None,
        sizes: Tensor | None = None,
    ) -> Tensor:
        if sizes is not None and sizes.numel():
            return functional.interpolate(x, size=sizes.tolist()[2:], **forms[form])
        assert scales is not None  # one of them is always there
        return functional.interpolate(x, scale_factor=scales.tolist()[2:], **forms[form])

    return run


LAYERS: Mapping[str, MakeOperator] = {
    "AveragePool": _make_average_pool,
    "BatchNormalization": _make_batch_norm,
    "Conv": _make_conv,
    "ConvTranspose": _make_conv_transpose,
    "Gemm": _make_gemm,
    "GlobalAveragePool": lambda attributes: _average_all,
    "GlobalMaxPool": lambda attributes: lambda x: x.amax(tuple(range(2, x.ndim)), keepdim=True),
    "GroupNormalization": _make_group_norm,
    "InstanceNormalization": _make_instance_norm,
    "LRN": _make_local_norm,
    "LayerNormalization": _make_layer_norm,
    "LpNormalization": _make_length_norm,
    "MatMul": lambda attributes: torch.matmul,
    "MaxPool": _make_max_pool,
    "RMSNormalization": _make_rms_norm,
    "Resize": _make_resize,
}
