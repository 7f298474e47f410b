"""VGGs as descriptions, with and without batch normalisation, with torchvision's parameter names.

Source: Simonyan and Zisserman 2015, "Very Deep Convolutional Networks for Large-Scale Image
Recognition".
"""

from squeezetune.network.architecture import Architecture, Block
from squeezetune.network.layers import Convolution, Dropout, GlobalMean, Layer, Linear, MaxPool

WIDTHS = (64, 128, 256, 512, 512)
# How many positions of the last maps the classifier reads, to a side.
POSITIONS = 7
CLASSIFIER = (
    GlobalMean("positions", "avgpool", POSITIONS),
    Linear("classifier.a", "classifier.0", 4096, "relu"),
    Dropout("classifier.a.dropout", "classifier.2"),
    Linear("classifier.b", "classifier.3", 4096, "relu"),
    Dropout("classifier.b.dropout", "classifier.5"),
    Linear("logits", "classifier.6", 1000),
)


def describe_vgg(number: int, counts: tuple[int, ...], *, has_norms: bool = False) -> Architecture:
    """Describe the VGG of a number, with so many convolutions before each of its five pools.

    Every convolution is a block; the last before a pool has it, too. The taps are behind the last
    three of those.
    """
    blocks, place, taps = [], 0, []
    for stage, (width, count) in enumerate(zip(WIDTHS, counts, strict=True), 1):
        for at in range(1, count + 1):
            name, norm = f"conv{stage}_{at}", f"features.{place + 1}" if has_norms else ""
            layers: list[Layer] = [
                Convolution(
                    name, f"features.{place}", width, 3, padding=1, norm=norm, has_bias=True
                )
            ]
            place += 3 if has_norms else 2
            if at == count:
                taps.append(name)
                layers.append(MaxPool(f"pool{stage}", f"features.{place}", 2, is_ceil=False))
                place += 1
            blocks.append(Block(name, tuple(layers)))
    name = f"vgg{number}_bn" if has_norms else f"vgg{number}"
    title = f"VGG-{number} with batch normalisation" if has_norms else f"VGG-{number}"
    return Architecture(name, title, name, tuple(blocks), tuple(taps[-3:]), CLASSIFIER)


COUNTS = {11: (1, 1, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
VGGS = tuple(
    describe_vgg(number, counts, has_norms=has_norms)
    for number, counts in COUNTS.items()
    for has_norms in (False, True)
)
