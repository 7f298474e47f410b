"""EfficientNet-Lite 0, 1 and 2 as descriptions: EfficientNets without squeeze-and-excite, and with
ReLU6, for int8 on processors.

Sources: Tan and Le 2019, "EfficientNet: Rethinking Model Scaling for Convolutional Neural
Networks"; google's "EfficientNet-Lite" (github.com/tensorflow/tpu, models/official/efficientnet/
lite), 2020. Parameters have the names of timm's tf_efficientnet_lite0 to 2.
"""

import re
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from squeezetune.network.architecture import Architecture, Block
from squeezetune.network.layers import SAME, Convolution, Dropout, GlobalMean, Layer, Linear, Sum

# Of each stage: how many times as many channels its blocks work with as they read, their kernels,
# and the stride of the first.
STAGES = ((1, 3, 1), (6, 3, 2), (6, 5, 2), (6, 3, 2), (6, 5, 1), (6, 5, 2), (6, 3, 1))
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280
# Google's pixels are (RGB - 127) / 128.
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
NORM_EPSILON = 1e-3


def describe_lite(
    number: int, side: int, channels: tuple[int, ...], blocks: tuple[int, ...]
) -> Architecture:
    """Describe EfficientNet-Lite of a number, with so many channels and blocks in its stages.

    The taps are behind the first depth-wise convolutions of the last three stages but one, and
    behind the last convolution.
    """
    stem = Convolution(
        "stem", "conv_stem", STEM_CHANNELS, 3, 2, SAME, activation="relu6", norm="bn1"
    )
    found, inputs = [Block("stem", (stem,))], STEM_CHANNELS
    for stage, ((times, kernel, stride), outputs, count) in enumerate(
        zip(STAGES, channels, blocks, strict=True)
    ):
        for at in range(count):
            step = stride if at == 0 else 1
            read = (found[-1].layers[-1].output, inputs)
            found.append(_describe_block(f"{stage}.{at}", times, kernel, step, read, outputs))
            inputs = outputs
    head = Convolution("head", "conv_head", HEAD_CHANNELS, activation="relu6", norm="bn2")
    found.append(Block("head", (head,)))
    starts = [f"block{stage}.0.depthwise" for stage in (3, 4, 5)]
    return Architecture(
        f"efficientnet_lite{number}",
        f"EfficientNet-Lite{number}",
        f"efficientnet_lite{number}",
        tuple(found),
        (*starts, "head"),
        (
            GlobalMean("mean", "global_pool"),
            Dropout("dropout", "dropout", 0.2),
            Linear("logits", "classifier", 1000),
        ),
        side,
        NORM_EPSILON,
        MEAN,
        STD,
        # the stem and the stages at half, a quarter and an eighth of the side
        frozen_blocks=1 + sum(blocks[:3]),
        last_blocks=blocks[5] + blocks[6] + 1,
        epochs_for_all=6.0,
    )


def _describe_block(
    place: str, times: int, kernel: int, stride: int, read: tuple[str, int], outputs: int
) -> Block:
    """Describe an inverted residual block (Sandler et al. 2018, "MobileNetV2"), which has nothing
    to widen where it works with as many channels as it reads: a map of this name, with so many.
    """
    source, inputs = read
    name, path = f"block{place}", f"blocks.{place}"
    parts = iter(range(1, 4))
    layers: list[Layer] = []
    if times > 1:
        layers.append(
            Convolution(f"{name}.wide", f"{path}.conv_pw", times * inputs, activation="relu6",
                        norm=f"{path}.bn{next(parts)}")
        )  # fmt: skip
    layers.append(
        Convolution(f"{name}.depthwise", f"{path}.conv_dw", 0, kernel, stride, SAME,
                    is_depthwise=True, activation="relu6", norm=f"{path}.bn{next(parts)}")
    )  # fmt: skip
    last = "conv_pwl" if times > 1 else "conv_pw"
    layers.append(
        Convolution(f"{name}.narrow", f"{path}.{last}", outputs, activation="",
                    norm=f"{path}.bn{next(parts)}")
    )  # fmt: skip
    if stride == 1 and inputs == outputs:
        layers.append(Sum(name, (f"{name}.narrow", source)))
    return Block(name, tuple(layers), path)


EFFICIENTNET_LITE0 = describe_lite(0, 224, (16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1))
EFFICIENTNET_LITE1 = describe_lite(1, 240, (16, 24, 40, 80, 112, 192, 320), (1, 3, 3, 4, 4, 5, 1))
EFFICIENTNET_LITE2 = describe_lite(2, 260, (16, 24, 48, 88, 120, 208, 352), (1, 3, 3, 4, 4, 5, 1))
LITES = (EFFICIENTNET_LITE0, EFFICIENTNET_LITE1, EFFICIENTNET_LITE2)

# ---- the names of EfficientNet-PyTorch (Melas-Kyriazi 2019), by which they were published in torch

OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2",
         "_fc": "classifier"}  # fmt: skip
INNER = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
         "_project_conv": "conv_pwl", "_bn2": "bn3"}  # fmt: skip
# The first block has nothing to widen.
FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
IN_BLOCK = re.compile(r"_blocks\.([0-9]{1,3})\.(\w+)\.(.+)")


def use_timm_names(tensors: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
    """Give the parameters of an EfficientNet-Lite timm's names, where they have those of
    EfficientNet-PyTorch; all others stay as they are.
    """
    numbers = [int(found[1]) for name in tensors if (found := IN_BLOCK.fullmatch(name))]
    listed = [[block.path for block in network.blocks[1:-1]] for network in LITES]
    paths = {len(paths): paths for paths in listed}.get(max(numbers, default=-1) + 1)
    if not paths:
        return tensors
    return {_use_timm_name(name, paths): value for name, value in tensors.items()}


def _use_timm_name(name: str, paths: list[str]) -> str:
    if found := IN_BLOCK.fullmatch(name):
        number, inner, rest = int(found[1]), found[2], found[3]
        return f"{paths[number]}.{(INNER if number else FIRST).get(inner, inner)}.{rest}"
    outer, _, rest = name.partition(".")
    return f"{OUTER.get(outer, outer)}.{rest}"
