"""The kinds of layers that networks are described with, and of each its parameters and the channels
and side of what it gives.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Any, TypeAlias

# What the first layer reads: normalised RGB images.
PIXELS = "pixels"
# Padding as TensorFlow has it: as many outputs as the stride leaves of the inputs, and where the
# sum of the borders is odd, one more behind than before.
SAME = "same"
# Functions that give nothing below 0, which codes of int8 may begin at.
RECTIFIERS = ("relu", "relu6", "sigmoid", "hard_sigmoid")
# Pixels in both directions, or down and across.
HeightWidth: TypeAlias = int | tuple[int, int]


@dataclass(frozen=True)
class Convolution:
    """A convolution, and the function that follows it ("" for none); of squares it gives squares.

    `output` names what it gives, `path` its parameters, as torchvision does; `norm` those of a
    batch normalisation between convolution and function, beside which there are other biases only
    where it `has_bias`. `reads` names what it reads: nothing for what the layer before it gives.
    `padding` is a number of pixels above and below, and left and right, or `SAME`. A depth-wise one
    has a kernel for each channel and as many channels as it reads, whatever `channels` says.

    Raises:
        ValueError: kernel and padding would give squares of another height than width.
    """

    output: str
    path: str
    channels: int
    kernel: HeightWidth = 1
    stride: int = 1
    padding: HeightWidth | str = 0
    is_depthwise: bool = False
    activation: str = "relu"
    norm: str = ""
    has_bias: bool = False
    reads: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        lost = {
            kernel - 2 * margin for kernel, margin in zip(self.sides, self.margins, strict=True)
        }
        if self.padding != SAME and len(lost) > 1:
            raise ValueError(f"{self.path} gives no squares: {self.kernel}, {self.padding}")

    @property
    def sides(self) -> tuple[int, int]:
        """The kernel's height and width."""
        return spell_size(self.kernel)

    @property
    def margins(self) -> tuple[int, int]:
        """How many pixels are added above and below, and left and right; 0 where padding hangs on
        the map.
        """
        return (0, 0) if isinstance(self.padding, str) else spell_size(self.padding)


@dataclass(frozen=True)
class MaxPool:
    """The largest value of every channel in a window; in ceil mode windows may hang over the
    border.
    """

    output: str
    path: str = ""
    kernel: int = 3
    stride: int = 2
    padding: int = 0
    is_ceil: bool = True
    reads: tuple[str, ...] = ()


@dataclass(frozen=True)
class AveragePool:
    """The mean of every channel in a window, of which zeros beyond the border are part."""

    output: str
    path: str = ""
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    reads: tuple[str, ...] = ()


@dataclass(frozen=True)
class GlobalMean:
    """The mean of every channel over all positions, (n, channels, 1, 1); with a `side` above 1 over
    each of so many parts to a side, of which images of the network's own side have one position.
    """

    output: str
    path: str = ""
    side: int = 1
    reads: tuple[str, ...] = ()


@dataclass(frozen=True)
class Join:
    """Maps of one size put behind each other along their channels."""

    output: str
    reads: tuple[str, ...]


@dataclass(frozen=True)
class Sum:
    """The sum of maps of one shape, as at the end of a residual block, and the function behind
    it.
    """

    output: str
    reads: tuple[str, ...]
    activation: str = ""


@dataclass(frozen=True)
class Product:
    """A map times the gate of each of its channels, (n, channels, 1, 1): the end of
    squeeze-and-excite.
    """

    output: str
    reads: tuple[str, str]


@dataclass(frozen=True)
class Linear:
    """A dense layer on (n, inputs), or on all values of maps, and the function behind it."""

    output: str
    path: str
    channels: int
    activation: str = ""
    reads: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dropout:
    """Zeros in random places while the network is trained."""

    output: str
    path: str
    probability: float = 0.5
    reads: tuple[str, ...] = ()


Layer: TypeAlias = (
    Convolution | MaxPool | AveragePool | GlobalMean | Join | Sum | Product | Linear | Dropout
)


def spell_size(size: HeightWidth) -> tuple[int, int]:
    """Say a size in both directions: down, across."""
    return (size, size) if isinstance(size, int) else size


def measure_side(layer: Layer, side: int) -> int:
    """Tell the side of the maps that a layer gives, by that of those that it reads."""
    if isinstance(layer, GlobalMean | Linear):
        return 1
    if isinstance(layer, MaxPool):
        steps = (side + 2 * layer.padding - layer.kernel) / layer.stride
        return (ceil(steps) if layer.is_ceil else floor(steps)) + 1
    if isinstance(layer, AveragePool):
        return (side + 2 * layer.padding - layer.kernel) // layer.stride + 1
    if not isinstance(layer, Convolution):
        return side
    if layer.padding == SAME:
        return ceil(side / layer.stride)
    return (side + 2 * layer.margins[0] - layer.sides[0]) // layer.stride + 1


def measure_same_padding(length: int, kernel: int, stride: int) -> tuple[int, int]:
    """Tell how many pixels TensorFlow's padding adds before and behind a line."""
    whole = max((-(-length // stride) - 1) * stride + kernel - length, 0)
    return whole // 2, whole - whole // 2


def find_last_parameters(layers: Sequence[Layer]) -> int:
    """Find the place of the last layer with parameters, which has an output for each class."""
    return max(at for at, layer in enumerate(layers) if isinstance(layer, Convolution | Linear))


def count_groups(layer: Convolution, inputs: int) -> int:
    """Count the groups of channels that a convolution keeps apart."""
    return inputs if layer.is_depthwise else 1


def count_channels(layer: Layer, inputs: Sequence[int]) -> int:
    """Count the channels that a layer gives, by those of what it reads."""
    if isinstance(layer, Linear) or (isinstance(layer, Convolution) and not layer.is_depthwise):
        return layer.channels
    return sum(inputs) if isinstance(layer, Join) else inputs[0]


def list_layer_shapes(layer: Any, inputs: int, classes: int) -> dict[str, tuple[int, ...]]:
    """List the shapes of a layer's parameters, with another number of outputs where `classes` says
    so.
    """
    if isinstance(layer, Linear):
        outputs = classes or layer.channels
        return {f"{layer.path}.weight": (outputs, inputs), f"{layer.path}.bias": (outputs,)}
    if not isinstance(layer, Convolution):
        return {}
    outputs = classes or (inputs if layer.is_depthwise else layer.channels)
    read = inputs // count_groups(layer, inputs)
    shapes: dict[str, tuple[int, ...]] = {f"{layer.path}.weight": (outputs, read, *layer.sides)}
    if layer.has_bias or not layer.norm:
        shapes[f"{layer.path}.bias"] = (outputs,)
    if not layer.norm:
        return shapes
    parts = ("weight", "bias", "running_mean", "running_var")
    return {**shapes, **{f"{layer.norm}.{part}": (outputs,) for part in parts},
            f"{layer.norm}.num_batches_tracked": ()}  # fmt: skip
