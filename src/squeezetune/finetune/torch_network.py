"""Networks in torch, made of their descriptions: torchvision's parameters and values, computed in
an order that suits a CPU.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from squeezetune.errors import INSTALL_TORCH, MissingExtraError, SettingsError, WeightsError
from squeezetune.network.architecture import (
    SAME,
    Architecture,
    Block,
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
)
from squeezetune.network.weights import (
    Weights,
    find_architecture,
    identify_version,
    load_weights,
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
_MODULES: Mapping[str, Callable[[], Module]] = {
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


class LayerBlock(nn.Module):  # type: ignore[misc]  # torch is not seen by the type checker
    """Layers that are one module, as those of a Fire module are: one map in, one map out."""

    def __init__(self, layers: Sequence[Layer], path: str, channels: Mapping[str, int]) -> None:
        super().__init__()
        own = f"{path}."
        self._layers = [_shorten_paths(layer, own) for layer in layers]
        for layer in self._layers:
            for place, module in make_modules(layer, channels[layer.reads[0]]).items():
                if place:
                    register_module(self, place, module)
        # one ReLU on joined maps instead of several before it: the same values
        self._activations = delay_activations(self._layers, (Join,))

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, height, width) in, the same with other channels, and sides, out."""
        maps = {self._layers[0].reads[0]: x}
        for _, y in run_layers(self, self._layers, self._activations, maps):
            x = y
        return x


class DescribedNetwork(nn.Module):  # type: ignore[misc]  # torch is not seen by the type checker
    """A network made of its description, with torchvision's parameter names, shapes and outputs;
    its state dicts load unchanged.

    Where torchvision has numbered layers, so has this, in its places. Only a ReLU between a
    convolution and a max pool has changed places with the pool: maxima and ReLU commute, and there
    is a quarter of the values left to go over. So whoever walks numbered layers meets torchvision's
    values everywhere but between these two.

    Fresh parameters are drawn from torch's own generator (`torch.manual_seed`).

    Raises:
        SettingsError: there is less than one class.
    """

    def __init__(
        self, architecture: Architecture, num_classes: int = 1000, dropout: float | None = None
    ) -> None:
        super().__init__()
        check_class_count(num_classes)
        self.architecture, self.num_classes = architecture, num_classes
        layers = _adapt_classifier(architecture.classifier_layers, num_classes, dropout)
        parts = [part for block in architecture.blocks for part in self._make_block(block)]
        parts += [part for layer in layers for part in self._make_layer(layer)]
        # what is called one after another: modules by their paths, and functions that are none
        self._calls = [part.path or part.module for part in _put_pools_first(parts)]
        for part in _put_pools_first(parts):
            if part.path:
                register_module(self, part.path, part.module)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = architecture.norm_epsilon
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (n, 3, height, width) in, logits (n, num_classes) out."""
        for call in self._calls:
            x = self.get_submodule(call)(x) if isinstance(call, str) else call(x)
        return torch.flatten(x, 1)

    def list_blocks(self) -> dict[str, Module]:
        """Name the blocks that hold parameters, in the order of the data; the last is the
        classifier.
        """
        paths = {
            block.name: block.path or find_path(block.layers[0])
            for block in self.architecture.blocks
        }
        last = find_path(self.architecture.classifier[0]).split(".")[0]
        modules = {name: self.get_submodule(path) for name, path in paths.items()}
        return modules | {"classifier": self.get_submodule(last)}

    def _make_block(self, block: Block) -> "list[ModulePart]":
        """Make a block's layers: those below its path as one module, others by themselves."""
        layers = self.architecture.pass_blocks(block.name, block.name)
        own = [layer for layer in layers if block.path and is_below(find_path(layer), block.path)]
        parts = [part for layer in layers if layer not in own for part in self._make_layer(layer)]
        if not own:
            return parts
        return [
            ModulePart(block.path, LayerBlock(own, block.path, self.architecture.channels)),
            *parts,
        ]

    def _make_layer(self, layer: Layer) -> "list[ModulePart]":
        """Make the modules of a layer; its function is one where places have numbers."""
        inputs = self.architecture.count_inputs(layer)
        parts = [ModulePart(path, module) for path, module in make_modules(layer, inputs).items()]
        if isinstance(layer, Linear):
            parts.insert(0, ModulePart("", partial(torch.flatten, start_dim=1)))
        activation = getattr(layer, "activation", "")
        if activation:
            path, _, place = parts[-1].path.rpartition(".")
            following = f"{path}.{int(place) + 1}" if place.isdigit() else ""
            parts.append(
                ModulePart(following, _MODULES[activation](), is_monotone=activation in MONOTONE)
            )
        return parts


@dataclass(frozen=True)
class ModulePart:
    """A module with its path, or what is called without being one; a monotone function may as well
    be called behind a max pool.
    """

    path: str
    module: Any
    is_monotone: bool = False


def _put_pools_first(parts: Sequence[ModulePart]) -> list[ModulePart]:
    """Let functions and the max pools behind them change places."""
    found = list(parts)
    for at, (first, second) in enumerate(pairwise(parts)):
        if first.is_monotone and isinstance(second.module, nn.MaxPool2d):
            found[at] = replace(second, path=first.path or second.path)
            found[at + 1] = replace(first, path=second.path if first.path else "")
    return found


class SqueezeNet(DescribedNetwork):
    """SqueezeNet 1.1 or 1.0: `features` and `classifier` are Sequentials with torchvision's places.

    Example:
        >>> import torch
        >>> SqueezeNet("1.1", num_classes=5)(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 5])

    Raises:
        SettingsError: there is no such version, or less than one class.
    """

    def __init__(self, version: str = "1.1", num_classes: int = 1000, dropout: float = 0.5) -> None:
        super().__init__(find_architecture(version), num_classes, dropout)

    @property
    def version(self) -> str:
        """Which of the two it is."""
        return self.architecture.version


def build_network(
    weights: Weights | None = None, *, version: str = "1.1", num_classes: int = 1000
) -> SqueezeNet:
    """Build SqueezeNet with pretrained weights, ready to be trained further.

    Without `weights` it knows ImageNet from the weights in the package, which exist for version
    1.1. Where `num_classes` is not the number that the weights know, the last convolution starts
    afresh. Example:

        >>> network = build_network(num_classes=3)
        >>> network.classifier[1].out_channels
        3

    Raises:
        MissingExtraError: torch is not installed.
        SettingsError: there is no such version, or less than one class.
        WeightsError: the weights are not those of this version, or version 1.0 is wanted without
            weights.
    """
    network = SqueezeNet(version, num_classes)
    if weights is None and version != "1.1":
        raise WeightsError(
            f"The package holds the weights of SqueezeNet 1.1 alone, not of {version}.",
            "Fetch or read others and pass them: squeezetune.network.pretrained has fetch_weights "
            "and read_weights.",
        )
    weights = load_weights() if weights is None else weights
    found = identify_version(weights)
    if found != version:
        raise WeightsError(f"These are the weights of SqueezeNet {found}, asked for was {version}.",
                           f"Pass version={found!r}.")  # fmt: skip
    if len(weights["classifier.1.bias"]) != num_classes:
        fresh = export_weights(network)
        weights = {
            name: fresh[name] if name.startswith("classifier.") else value
            for name, value in weights.items()
        }
    network.load_state_dict(
        {name: torch.from_numpy(value.copy()) for name, value in weights.items()}
    )
    return network


def export_weights(network: Module) -> dict[str, NDArray[np.float32]]:
    """Copy a network's parameters and running statistics into float32 arrays, by the names of its
    state dict.
    """
    return {
        name: np.array(value.detach().to("cpu", torch.float32).numpy(), order="C")
        for name, value in network.state_dict().items()
    }


def check_class_count(num_classes: int) -> None:
    """Refuse a network without classes.

    Raises:
        SettingsError: there is less than one class.
    """
    if num_classes < 1:
        raise SettingsError(
            f"num_classes is {num_classes}, needed is 1 or more.",
            "Count the classes to tell apart.",
        )


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


_MAKERS: Mapping[type, Callable[[Any, int], dict[str, Module]]] = {
    Convolution: _make_convolution,
    MaxPool: _make_max_pool,
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
    [kernel, _], [stride, _], padding = layer.kernel_size, layer.stride, []
    for length in (x.shape[3], x.shape[2]):
        whole = max((-(-length // stride) - 1) * stride + kernel - length, 0)
        padding += [whole // 2, whole - whole // 2]
    return padding


def _shorten_paths(layer: Any, start: str) -> Layer:
    """Count a layer's paths from the module that they are in."""
    changes = {
        name: path.removeprefix(start)
        for name in ("path", "norm")
        if (path := getattr(layer, name, ""))
    }
    return replace(layer, **changes) if changes else layer  # type: ignore[no-any-return]


def _adapt_classifier(
    layers: Sequence[Layer], num_classes: int, dropout: float | None
) -> list[Layer]:
    """Give the classifier's last layer with parameters so many outputs, and all dropout this
    probability.
    """
    last = max(at for at, layer in enumerate(layers) if isinstance(layer, Convolution | Linear))
    found: list[Any] = list(layers)
    found[last] = replace(found[last], channels=num_classes)
    if dropout is None:
        return found
    return [
        replace(layer, probability=dropout) if isinstance(layer, Dropout) else layer
        for layer in found
    ]


def _initialise(network: DescribedNetwork) -> None:
    """Draw the parameters as the SqueezeNet authors do: the last convolution is drawn more
    narrowly.
    """
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    for module in convolutions:
        is_last = module is convolutions[-1] and not any(
            isinstance(other, nn.Linear) for other in network.modules()
        )
        if not is_last:
            nn.init.kaiming_uniform_(module.weight)
        else:
            nn.init.normal_(module.weight, std=0.01)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
