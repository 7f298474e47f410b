"""The networks that are known, by name; and SqueezeNet 1.0 and 1.1, as descriptions.

Source: Iandola et al. 2016, "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters"; the
parameters have torchvision's names.
"""

from squeezetune.network.architecture import Architecture, Block
from squeezetune.network.efficientnet_lite import LITES
from squeezetune.network.inception import INCEPTION_V3
from squeezetune.network.layers import Convolution, Dropout, GlobalMean, Join, MaxPool
from squeezetune.network.mobilenet import MOBILENET_V2, MOBILENET_V3_LARGE, MOBILENET_V3_SMALL
from squeezetune.network.resnet import RESNET18, RESNET34, RESNET50
from squeezetune.network.vgg import VGGS

SQUEEZENET_CLASSIFIER = (
    Dropout("classifier.dropout", "classifier.0"),
    Convolution("classifier.positions", "classifier.1", 1000),
    GlobalMean("logits", "classifier.3"),
)
SQUEEZENET_TAPS = tuple(f"fire{number}.expand" for number in range(5, 10))


def _fire(name: str, place: int, squeeze: int, expand: int, pool: int = 0) -> Block:
    """Describe a Fire module at its place in `features`, and the max pool that may follow at
    another.
    """
    path, halves = f"features.{place}", (f"{name}.expand1x1", f"{name}.expand3x3")
    squeezed = (f"{name}.squeeze",)
    layers = (
        Convolution(*squeezed, f"{path}.squeeze", squeeze),
        Convolution(halves[0], f"{path}.expand1x1", expand, reads=squeezed),
        Convolution(halves[1], f"{path}.expand3x3", expand, kernel=3, padding=1, reads=squeezed),
        Join(f"{name}.expand", halves),
    )
    return Block(name, layers + _pool(name, pool), path)


def _pool(name: str, place: int) -> tuple[MaxPool, ...]:
    return (MaxPool(f"{name}.pool", f"features.{place}"),) if place else ()


def _conv1(channels: int, kernel: int) -> Block:
    first = Convolution("conv1", "features.0", channels, kernel, stride=2)
    return Block("conv1", (first, *_pool("conv1", 2)))


SQUEEZENET1_1 = Architecture(
    "squeezenet1_1",
    "SqueezeNet 1.1",
    "1.1",
    (
        _conv1(64, kernel=3),
        _fire("fire2", 3, 16, 64),
        _fire("fire3", 4, 16, 64, pool=5),
        _fire("fire4", 6, 32, 128),
        _fire("fire5", 7, 32, 128, pool=8),
        _fire("fire6", 9, 48, 192),
        _fire("fire7", 10, 48, 192),
        _fire("fire8", 11, 64, 256),
        _fire("fire9", 12, 64, 256),
    ),
    SQUEEZENET_TAPS,
    SQUEEZENET_CLASSIFIER,
)
SQUEEZENET1_0 = Architecture(
    "squeezenet1_0",
    "SqueezeNet 1.0",
    "1.0",
    (
        _conv1(96, kernel=7),
        _fire("fire2", 3, 16, 64),
        _fire("fire3", 4, 16, 64),
        _fire("fire4", 5, 32, 128, pool=6),
        _fire("fire5", 7, 32, 128),
        _fire("fire6", 8, 48, 192),
        _fire("fire7", 9, 48, 192),
        _fire("fire8", 10, 64, 256, pool=11),
        _fire("fire9", 12, 64, 256),
    ),
    SQUEEZENET_TAPS,
    SQUEEZENET_CLASSIFIER,
)
# SqueezeNets by the version that models, reports and weights are marked with.
ARCHITECTURES = {network.version: network for network in (SQUEEZENET1_0, SQUEEZENET1_1)}
MOBILENETS = (MOBILENET_V2, MOBILENET_V3_SMALL, MOBILENET_V3_LARGE)
RESNETS = (RESNET18, RESNET34, RESNET50)
# All networks by name.
NETWORKS = {
    network.name: network
    for network in (*ARCHITECTURES.values(), *LITES, *RESNETS, *VGGS, *MOBILENETS, INCEPTION_V3)
}
