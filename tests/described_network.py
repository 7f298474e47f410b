"""A small network with every kind of layer, and narrow forms of known ones, for tests of what is
made of descriptions.
"""

from dataclasses import replace

import numpy as np

from squeezetune.network.architecture import Architecture, Block
from squeezetune.network.layers import (
    SAME,
    AveragePool,
    Convolution,
    Dropout,
    GlobalMean,
    Join,
    Linear,
    MaxPool,
    Product,
    Sum,
)

STEM = Block("stem", (Convolution("stem", "stem.0", 8, 3, 2, padding=1, norm="stem.1"),))
# an inverted residual block with squeeze-and-excite, as in MobileNetV3
INVERTED = Block(
    "inverted",
    (
        Convolution("wide", "inverted.expand", 16, activation="hard_swish", norm="inverted.norm1"),
        Convolution("deep", "inverted.depth", 0, 3, 1, SAME, is_depthwise=True,
                    activation="relu6", norm="inverted.norm2"),
        GlobalMean("squeezed"),
        Convolution("gate1", "inverted.gate1", 4),
        Convolution("gate2", "inverted.gate2", 16, activation="hard_sigmoid"),
        Product("gated", ("deep", "gate2")),
        Convolution("narrow", "inverted.project", 8, activation="", norm="inverted.norm3"),
        Sum("inverted", ("narrow", "stem")),
    ),
    "inverted",
)  # fmt: skip
# a residual block with a step, as in ResNet, and a depth-wise step, as in EfficientNet-Lite
RESIDUAL = Block(
    "residual",
    (
        Convolution("a", "residual.conv1", 12, 3, 2, 1, norm="residual.norm1"),
        Convolution("b", "residual.conv2", 12, 3, 1, 1, activation="", norm="residual.norm2"),
        Convolution("short", "residual.short", 12, 1, 2, activation="", reads=("inverted",)),
        Sum("residual", ("b", "short"), "relu"),
    ),
    "residual",
)
LITE = Block(
    "lite",
    (
        Convolution("lite.wide", "lite.expand", 24, activation="relu6"),
        Convolution("lite.deep", "lite.depth", 0, 3, 2, SAME, is_depthwise=True,
                    activation="relu6"),
        Convolution("lite", "lite.project", 12, activation=""),
    ),
    "lite",
)  # fmt: skip
# branches of unlike kinds that are joined, as in Inception
BRANCHES = Block(
    "branches",
    (
        Convolution("left", "branches.left", 4, reads=("lite",)),
        MaxPool("pooled", kernel=3, stride=1, padding=1, is_ceil=False, reads=("lite",)),
        Convolution("right", "branches.right", 6, 3, padding=1, reads=("pooled",)),
        AveragePool("averaged", reads=("lite",)),
        Convolution("flat", "branches.flat", 3, (1, 3), padding=(0, 1), reads=("averaged",)),
        Convolution("tall", "branches.tall", 3, (5, 1), padding=(2, 0), reads=("averaged",)),
        Join("crossed", ("flat", "tall")),
        Join("branches", ("left", "right", "crossed")),
    ),
    "branches",
)
CLASSIFIER = (
    GlobalMean("mean", "avgpool"),
    Dropout("dropped", "classifier.0", 0.2),
    Linear("logits", "classifier.1", 10),
)
EVERYTHING = Architecture(
    "everything",
    "Everything",
    "everything",
    (STEM, INVERTED, RESIDUAL, LITE, BRANCHES),
    ("deep", "residual", "branches"),
    CLASSIFIER,
    side=32,
    norm_epsilon=1e-3,
    mean=(0.5, 0.4, 0.45),
    std=(0.5, 0.3, 0.4),
)


def draw_parameters(architecture, seed=0):
    """Draw the parameters of a network, and running statistics, of a size that keeps its maps
    alive.
    """
    rng, found = np.random.default_rng(seed), {}
    for name, shape in architecture.list_shapes().items():
        if name.endswith("running_var"):
            value = rng.uniform(0.5, 2, shape)
        elif name.endswith("weight") and len(shape) == 1:
            value = rng.uniform(0.5, 1.5, shape)
        elif len(shape) > 1:
            value = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        else:
            value = 0.2 * rng.standard_normal(shape)
        found[name] = np.asarray(value, np.float32)
    return found


def draw_photos(count, side, seed=0):
    """Draw photos (count, side, side, 3) uint8 of patches of one colour each."""
    cells = -(-side // 8)
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, cells, cells, 3), dtype=np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :side, :side]


def find_least_side(architecture, least=32):
    """Find the smallest side, a multiple of 16, of images of which something is left everywhere."""
    return -(-max(least, architecture.least_side) // 16) * 16


def make_narrow(architecture, share=8):
    """Describe a network whose layers have this share of their channels."""

    def narrow(layer):
        width = getattr(layer, "channels", 0)
        return replace(layer, channels=max(width // share, 1)) if width else layer

    blocks = tuple(
        replace(block, layers=tuple(narrow(layer) for layer in block.layers))
        for block in architecture.blocks
    )
    classifier = tuple(narrow(layer) for layer in architecture.classifier)
    return replace(architecture, blocks=blocks, classifier=classifier)
