"""The kinds of layers in torch: as modules under torchvision's names, and as functions of maps."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

from squeezetune.errors import INSTALL_TORCH, MissingExtraError
from squeezetune.network.layers import (
    SAME,
    AveragePool,
    Convolution,
    Dropout,
    GlobalMean,
    Join,
    Layer,
    Linear,
    MaxPool,
    Product,
    Sum,
    count_groups,
    measure_same_padding,
)

try:
    import torch
    from torch import nn
    from torch.nn import functional
except ImportError as error:
    raise MissingExtraError("torch is not installed; the network's own layers are trained with it.",
                            INSTALL_TORCH) from error  # fmt: skip

# torch is not seen by the type checker
Module: TypeAlias = Any
Tensor: TypeAlias = Any

# The functions behind layers. A ReLU changes its input in place: no layer before it looks at that
# again.
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "": lambda x: x,
    "relu": functional.relu_,
    "relu6": functional.relu6,
    "sigmoid": torch.sigmoid,
    "hard_sigmoid": functional.hardsigmoid,
    "hard_swish": functional.hardswish,
}
# Those that may as well be applied behind a max pool.
MONOTONE = ("relu", "relu6")
MODULES: Mapping[str, Callable[[], Module]] = {
    "relu": partial(nn.ReLU, inplace=True),
    "relu6": partial(nn.ReLU6, inplace=True),
    "sigmoid": nn.Sigmoid,
    "hard_sigmoid": nn.Hardsigmoid,
    "hard_swish": nn.Hardswish,
}


class SamePaddedConv2d(nn.Conv2d):  # type: ignore[misc]  # torch is not seen by the type checker
    """A convolution with TensorFlow's padding: where its sum is odd, one more behind than
    before.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Pad and convolve."""
        return super().forward(functional.pad(x, list_same_padding(x, self)))


# ---- layers as modules


def make_modules(layer: Layer, inputs: int) -> dict[str, Module]:
    """Make the modules of a layer that reads so many channels, by their paths."""
    make = _MAKERS.get(type(layer))
    return make(layer, inputs) if make else {}


def _make_convolution(layer: Convolution, inputs: int) -> dict[str, Module]:
    kind, padding = (SamePaddedConv2d, 0) if layer.padding == SAME else (nn.Conv2d, layer.padding)
    outputs, groups = (
        inputs if layer.is_depthwise else layer.channels,
        count_groups(layer, inputs),
    )
    options = {"padding": padding, "groups": groups, "bias": layer.has_bias or not layer.norm}
    made = {layer.path: kind(inputs, outputs, layer.kernel, layer.stride, **options)}
    return made | ({layer.norm: nn.BatchNorm2d(outputs)} if layer.norm else {})


def _make_max_pool(layer: MaxPool, inputs: int) -> dict[str, Module]:
    sizes = (layer.kernel, layer.stride, layer.padding)
    return {layer.path: nn.MaxPool2d(*sizes, ceil_mode=layer.is_ceil)}


def _make_average_pool(layer: AveragePool, inputs: int) -> dict[str, Module]:
    return {layer.path: nn.AvgPool2d(layer.kernel, layer.stride, layer.padding)}


_MAKERS: Mapping[type, Callable[[Any, int], dict[str, Module]]] = {
    Convolution: _make_convolution,
    MaxPool: _make_max_pool,
    AveragePool: _make_average_pool,
    GlobalMean: lambda layer, inputs: {layer.path: nn.AdaptiveAvgPool2d(layer.side)},
    Linear: lambda layer, inputs: {layer.path: nn.Linear(inputs, layer.channels)},
    Dropout: lambda layer, inputs: {layer.path: nn.Dropout(layer.probability)},
}


def register_module(root: Module, path: str, module: Module) -> None:
    """Put a module at its path, into Sequentials where there is nothing yet."""
    *parents, name = path.split(".")
    for parent in parents:
        if parent not in root._modules:
            root.add_module(parent, nn.Sequential())
        root = root._modules[parent]
    root.add_module(name, module)


def find_path(layer: Layer) -> str:
    """Return the path of a layer's parameters; "" where it has no place of its own."""
    return getattr(layer, "path", "")


def is_below(path: str, place: str) -> bool:
    """Say whether a path is below a place; what has no path stays with what it joins."""
    return not path or path.startswith(f"{place}.")


# ---- layers as functions of maps


def run_layers(
    root: Module, layers: Sequence[Layer], activations: Mapping[str, str], maps: dict[str, Tensor]
) -> Iterator[tuple[Layer, Tensor]]:
    """Run layers one after another; `maps` has what they read by name, and gets what they give.

    `activations` says which function follows which layer (`delay_activations`).
    """
    for layer in layers:
        inputs = (maps[name] for name in layer.reads)
        maps[layer.output] = ACTIVATIONS[activations[layer.output]](
            _RUNNERS[type(layer)](root, layer, *inputs)
        )
        yield layer, maps[layer.output]


def _run_convolution(root: Module, layer: Convolution, x: Tensor) -> Tensor:
    y = root.get_submodule(layer.path)(x)
    return root.get_submodule(layer.norm)(y) if layer.norm else y


def _run_max_pool(root: Module, layer: MaxPool, x: Tensor) -> Tensor:
    sizes = (layer.kernel, layer.stride, layer.padding)
    return functional.max_pool2d(x, *sizes, ceil_mode=layer.is_ceil)


def _run_linear(root: Module, layer: Linear, x: Tensor) -> Tensor:
    return root.get_submodule(layer.path)(torch.flatten(x, 1))


_RUNNERS: Mapping[type, Callable[..., Tensor]] = {
    Convolution: _run_convolution,
    MaxPool: _run_max_pool,
    AveragePool: lambda root, layer, x: functional.avg_pool2d(
        x, layer.kernel, layer.stride, layer.padding
    ),
    GlobalMean: lambda root, layer, x: x.mean((2, 3), keepdim=True),
    Join: lambda root, layer, *inputs: torch.cat(inputs, 1),
    Sum: lambda root, layer, *inputs: sum(inputs),
    Product: lambda root, layer, x, gates: x * gates,
    Linear: _run_linear,
    Dropout: lambda root, layer, x: x,
}


def delay_activations(
    layers: Sequence[Layer], kinds: tuple[type, ...], kept: Sequence[str] = ()
) -> dict[str, str]:
    """Say which function follows which layer, where monotone ones wait for a pool or a join of the
    `kinds`.

    The values behind that are the same, and there are fewer of them, or one pass instead of
    several. Maps that are `kept`, or read by others too, get their functions at once; and those of
    a join, which has just applied its own.
    """
    found = {layer.output: getattr(layer, "activation", "") for layer in layers}
    readers = [name for layer in layers for name in layer.reads]
    waiting = {layer.output for layer in layers
               if isinstance(layer, Convolution) and readers.count(layer.output) == 1
               and layer.activation in MONOTONE and layer.output not in kept}  # fmt: skip
    for layer in layers:
        own = {found.get(name, "") for name in layer.reads}
        if isinstance(layer, kinds) and waiting.issuperset(layer.reads) and len(own) == 1:
            found |= {layer.output: own.pop(), **dict.fromkeys(layer.reads, "")}
    return found


def list_same_padding(x: Tensor, layer: Module) -> list[int]:
    """List what TensorFlow's padding adds to maps (n, channels, height, width): left, right, top,
    bottom.
    """
    sizes = layer.kernel_size[0], layer.stride[0]
    across, down = (measure_same_padding(length, *sizes) for length in (x.shape[3], x.shape[2]))
    return [*across, *down]
