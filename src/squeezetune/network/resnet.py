"""ResNets as descriptions, with torchvision's parameter names.

Source: He et al. 2016, "Deep Residual Learning for Image Recognition"; with bottlenecks the step is
in the middle convolution, as torchvision has it.
"""

from squeezetune.network.architecture import Architecture, Block
from squeezetune.network.layers import Convolution, GlobalMean, Layer, Linear, MaxPool, Sum

WIDTHS = (64, 128, 256, 512)


def describe_resnet(number: int, blocks: tuple[int, ...], *, times: int = 1) -> Architecture:
    """Describe the ResNet of a number, with so many blocks in its stages; with `times` above 1
    these are bottlenecks, which give so many times the channels that they work with.

    The taps are behind every stage.
    """
    stem = Convolution("conv1", "conv1", 64, 7, 2, 3, norm="bn1")
    pool = MaxPool("conv1.pool", "maxpool", padding=1, is_ceil=False)
    found, read = [Block("conv1", (stem, pool))], ("conv1.pool", 64)
    for stage, (width, count) in enumerate(zip(WIDTHS, blocks, strict=True), 1):
        for at in range(count):
            stride = 2 if stage > 1 and at == 0 else 1
            path, outputs = f"layer{stage}.{at}", times * width
            inner = (_bottleneck if times > 1 else _basic)(path, width, outputs, stride)
            found.append(_describe_block(path, inner, read, outputs))
            read = (path, outputs)
    return Architecture(
        f"resnet{number}",
        f"ResNet-{number}",
        f"resnet{number}",
        tuple(found),
        tuple(f"layer{stage}.{count - 1}" for stage, count in enumerate(blocks, 1)),
        (GlobalMean("mean", "avgpool"), Linear("logits", "fc", 1000)),
    )


def _basic(path: str, width: int, outputs: int, stride: int) -> list[Convolution]:
    """Describe two convolutions of 3 x 3."""
    return [
        Convolution(f"{path}.a", f"{path}.conv1", width, 3, stride, 1, norm=f"{path}.bn1"),
        _last(f"{path}.b", f"{path}.conv2", outputs, f"{path}.bn2", kernel=3, padding=1),
    ]


def _bottleneck(path: str, width: int, outputs: int, stride: int) -> list[Convolution]:
    """Describe a convolution of 3 x 3 between two of single pixels."""
    return [
        Convolution(f"{path}.a", f"{path}.conv1", width, norm=f"{path}.bn1"),
        Convolution(f"{path}.b", f"{path}.conv2", width, 3, stride, 1, norm=f"{path}.bn2"),
        _last(f"{path}.c", f"{path}.conv3", outputs, f"{path}.bn3"),
    ]


def _last(
    output: str, path: str, channels: int, norm: str, *, kernel: int = 1, padding: int = 0
) -> Convolution:
    return Convolution(output, path, channels, kernel, padding=padding, activation="", norm=norm)


def _describe_block(
    path: str, inner: list[Convolution], read: tuple[str, int], outputs: int
) -> Block:
    """Describe layers and what leads past them: nothing, or a convolution where shapes differ."""
    source, inputs = read
    stride = max(layer.stride for layer in inner)
    layers: list[Layer] = list(inner)
    if stride > 1 or inputs != outputs:
        at = f"{path}.downsample"
        layers.append(Convolution(f"{path}.short", f"{at}.0", outputs, 1, stride, activation="",
                                  norm=f"{at}.1", reads=(source,)))  # fmt: skip
        source = f"{path}.short"
    layers.append(Sum(path, (inner[-1].output, source), "relu"))
    return Block(path, tuple(layers), path)


RESNET18 = describe_resnet(18, (2, 2, 2, 2))
RESNET34 = describe_resnet(34, (3, 4, 6, 3))
RESNET50 = describe_resnet(50, (3, 4, 6, 3), times=4)
