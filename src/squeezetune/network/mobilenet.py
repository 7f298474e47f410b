"""MobileNets of the second and the third version as descriptions, with torchvision's parameter
names.

Sources: Sandler et al. 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks"; Howard et
al. 2019, "Searching for MobileNetV3".
"""

from typing import NamedTuple

from squeezetune.network.architecture import Architecture, Block
from squeezetune.network.layers import Convolution, Dropout, GlobalMean, Layer, Linear, Product, Sum


class InvertedResidual(NamedTuple):
    """An inverted residual block: its kernel, the channels that it works with and gives, whether it
    has a squeeze-and-excite of them, its function and its stride.
    """

    kernel: int
    width: int
    outputs: int
    is_gated: bool
    activation: str
    stride: int


def _divide(channels: float) -> int:
    """Round a number of channels to a multiple of eight that is not much smaller."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


# ---- version 2: times, outputs, blocks and the first stride of each stage

STAGES2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
           (6, 160, 3, 2), (6, 320, 1, 1))  # fmt: skip


def _describe_mobilenet2() -> Architecture:
    found = [_describe_single("stem", "features.0", 32, 3, 2, "relu6")]
    read, place = ("stem", 32), 1
    for times, outputs, count, stride in STAGES2:
        for at in range(count):
            width, step = times * read[1], stride if at == 0 else 1
            shape = InvertedResidual(3, width, outputs, False, "relu6", step)
            found.append(_describe_block(place, shape, read, "conv"))
            read, place = (found[-1].layers[-1].output, outputs), place + 1
    found.append(_describe_single("head", f"features.{place}", 1280, 1, 1, "relu6"))
    return Architecture(
        "mobilenet_v2",
        "MobileNetV2",
        "mobilenet_v2",
        tuple(found),
        ("block7.depthwise", "block11.depthwise", "block14.depthwise", "head"),
        (
            GlobalMean("mean"),
            Dropout("dropout", "classifier.0", 0.2),
            Linear("logits", "classifier.1", 1000),
        ),
    )


# ---- version 3

R, H = "relu", "hard_swish"
LARGE = (
    (3, 16, 16, False, R, 1), (3, 64, 24, False, R, 2), (3, 72, 24, False, R, 1),
    (5, 72, 40, True, R, 2), (5, 120, 40, True, R, 1), (5, 120, 40, True, R, 1),
    (3, 240, 80, False, H, 2), (3, 200, 80, False, H, 1), (3, 184, 80, False, H, 1),
    (3, 184, 80, False, H, 1), (3, 480, 112, True, H, 1), (3, 672, 112, True, H, 1),
    (5, 672, 160, True, H, 2), (5, 960, 160, True, H, 1), (5, 960, 160, True, H, 1),
)  # fmt: skip
SMALL = (
    (3, 16, 16, True, R, 2), (3, 72, 24, False, R, 2), (3, 88, 24, False, R, 1),
    (5, 96, 40, True, H, 2), (5, 240, 40, True, H, 1), (5, 240, 40, True, H, 1),
    (5, 120, 48, True, H, 1), (5, 144, 48, True, H, 1), (5, 288, 96, True, H, 2),
    (5, 576, 96, True, H, 1), (5, 576, 96, True, H, 1),
)  # fmt: skip


def _describe_mobilenet3(
    size: str, shapes: tuple[InvertedResidual, ...], last: int
) -> Architecture:
    """Describe the large or the small one, whose classifier has so many values in its middle."""
    found, read = [_describe_single("stem", "features.0", 16, 3, 2, H)], ("stem", 16)
    for place, shape in enumerate(shapes, 1):
        found.append(_describe_block(place, shape, read, "block"))
        read = (found[-1].layers[-1].output, shape.outputs)
    head = _describe_single("head", f"features.{len(shapes) + 1}", 6 * read[1], 1, 1, H)
    steps = [place for place, shape in enumerate(shapes, 1) if shape.stride == 2]
    name = f"mobilenet_v3_{size}"
    return Architecture(
        name,
        f"MobileNetV3 {size}",
        name,
        (*found, head),
        (*(f"block{place}.depthwise" for place in steps[-2:]), "head"),
        (
            GlobalMean("mean", "avgpool"),
            Linear("classifier.a", "classifier.0", last, H),
            Dropout("dropout", "classifier.2", 0.2),
            Linear("logits", "classifier.3", 1000),
        ),
        norm_epsilon=1e-3,
    )


# ---- blocks


def _describe_single(
    name: str, path: str, channels: int, kernel: int, stride: int, activation: str
) -> Block:
    """Describe a convolution by itself."""
    layer = Convolution(name, f"{path}.0", channels, kernel, stride, kernel // 2,
                        activation=activation, norm=f"{path}.1")  # fmt: skip
    return Block(name, (layer,), path)


def _describe_block(
    place: int, shape: InvertedResidual, read: tuple[str, int], inner: str
) -> Block:
    """Describe an inverted residual block at its place in `features`, whose layers are in a
    Sequential of this name.
    """
    name, path, (source, inputs) = f"block{place}", f"features.{place}", read
    layers: list[Layer] = []

    if shape.width != inputs:
        at = f"{path}.{inner}.0"
        layers.append(Convolution(f"{name}.wide", f"{at}.0", shape.width,
                                  activation=shape.activation, norm=f"{at}.1"))  # fmt: skip
    at = f"{path}.{inner}.{len(layers)}"
    layers.append(Convolution(f"{name}.depthwise", f"{at}.0", 0, shape.kernel, shape.stride,
                              shape.kernel // 2, is_depthwise=True, activation=shape.activation,
                              norm=f"{at}.1"))  # fmt: skip
    last = len(layers)
    if shape.is_gated:
        layers += _describe_gates(name, f"{path}.{inner}.{last}", shape.width)
        last += 1
    # version 2 keeps the last convolution and its normalisation side by side
    at = f"{path}.{inner}.{last}"
    paths = (at, f"{path}.{inner}.{last + 1}") if inner == "conv" else (f"{at}.0", f"{at}.1")
    layers.append(Convolution(f"{name}.narrow", paths[0], shape.outputs, activation="",
                              norm=paths[1]))  # fmt: skip
    if shape.stride == 1 and inputs == shape.outputs:
        layers.append(Sum(name, (f"{name}.narrow", source)))
    return Block(name, tuple(layers), path)


def _describe_gates(name: str, path: str, width: int) -> list[Layer]:
    """Describe squeeze-and-excite (Hu et al. 2018) of what the depth-wise convolution gives."""
    return [
        GlobalMean(f"{name}.mean"),
        Convolution(f"{name}.squeezed", f"{path}.fc1", _divide(width // 4)),
        Convolution(f"{name}.gates", f"{path}.fc2", width, activation="hard_sigmoid"),
        Product(f"{name}.gated", (f"{name}.depthwise", f"{name}.gates")),
    ]


MOBILENET_V2 = _describe_mobilenet2()
MOBILENET_V3_LARGE = _describe_mobilenet3(
    "large", tuple(InvertedResidual(*row) for row in LARGE), 1280
)
MOBILENET_V3_SMALL = _describe_mobilenet3(
    "small", tuple(InvertedResidual(*row) for row in SMALL), 1024
)
