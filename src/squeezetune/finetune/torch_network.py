"""Networks in torch, made of their descriptions: torchvision's parameters and values, computed in
an order that suits a CPU.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeezetune.errors import SettingsError, WeightsError
from squeezetune.finetune.torch_layers import (
    MODULES,
    MONOTONE,
    Module,
    Tensor,
    delay_activations,
    find_path,
    is_below,
    make_modules,
    register_module,
    run_layers,
)
from squeezetune.network.architecture import Architecture, Block
from squeezetune.network.layers import Dropout, Join, Layer, Linear, find_last_parameters
from squeezetune.network.published import PACKAGED
from squeezetune.network.weights import (
    Weights,
    detect_architecture,
    find_architecture,
    fold_norms,
    identify_architecture,
    load_weights,
)
from squeezetune.network.zoo import ARCHITECTURES, SQUEEZENET1_1

# isort: split
# after `torch_layers`, which says how to install torch where it is missing
import torch
from torch import nn


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
        classifier = find_classifier_path(self.architecture).split(".")[0]
        modules = {block.name: self._find_block(block) for block in self.architecture.blocks}
        return modules | {"classifier": self.get_submodule(classifier)}

    def _find_block(self, block: Block) -> Module:
        """Find a block's module: its own, or that of its convolution, in a list with the batch
        normalisation that may follow.
        """
        if block.path:
            return self.get_submodule(block.path)
        paths = [find_path(block.layers[0]), getattr(block.layers[0], "norm", "")]
        modules = [self.get_submodule(path) for path in paths if path]
        return modules[0] if len(modules) == 1 else nn.ModuleList(modules)

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
                ModulePart(following, MODULES[activation](), is_monotone=activation in MONOTONE)
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
    network: str | Weights | None = None,
    weights: Weights | None = None,
    *,
    version: str | None = None,
    num_classes: int = 1000,
) -> DescribedNetwork:
    """Build a network, ready to be trained further: SqueezeNet 1.1, or one by its name.

    `weights` are its parameters and running statistics by their published names; they may as well
    be given alone, with the `version` of SqueezeNet that they are of. Where batch normalisations
    are folded in them, the network has none. Where `num_classes` is not the number that they know,
    the last layer starts afresh. Without them a network knows ImageNet if its weights are in the
    package, as those of SqueezeNet 1.1 are; any other that is named starts from random numbers
    (`torch.manual_seed`). Example:

        >>> network = build_network(num_classes=3)
        >>> network.classifier[1].out_channels
        3
        >>> build_network("resnet18", num_classes=5).fc.out_features
        5

    Raises:
        MissingExtraError: torch is not installed.
        SettingsError: there is no such network or version, both are given, or there is less than
            one class.
        WeightsError: the weights are not those of the network, or version 1.0 is wanted without
            weights.
    """
    name = network if isinstance(network, str) else ""
    if name and version is not None:
        raise SettingsError(
            f"version is {version!r} beside a network's name, {name!r}.", "Give the name alone."
        )
    weights = network if isinstance(network, Mapping) else weights
    architecture = find_architecture(name or version or SQUEEZENET1_1.version)
    if weights is None:
        weights = _load_packaged(architecture)
    if weights is not None:
        architecture = _check_weights(weights, architecture)
    elif not name:
        raise WeightsError(
            f"The package holds no weights of {architecture.title}.",
            "Fetch or read others and pass them: squeezetune.network.pretrained has fetch_weights "
            "and read_weights.",
        )
    return _build_from(weights or {}, architecture, num_classes)


def _load_packaged(architecture: Architecture) -> Weights | None:
    """Load the weights of a network that are in the package, if there are."""
    found = PACKAGED.get(architecture.name)
    path = found.find() if found else None
    return load_weights(path, found.sha256) if found and path else None


def _check_weights(weights: Weights, wanted: Architecture) -> Architecture:
    """Check that weights are those of a network; return its description, as they have it, with
    batch normalisations or without.
    """
    found = identify_architecture(weights)
    if found.name != wanted.name:
        raise WeightsError(
            f"These are the weights of {found.title}, asked for was {wanted.title}.",
            f"Pass the network's name as well: build_network({found.name!r}, weights).",
        )
    return found


def _build_from(weights: Weights, architecture: Architecture, num_classes: int) -> DescribedNetwork:
    """Build a network from weights that were checked, and from random numbers where there are
    none.
    """
    network = (
        SqueezeNet(architecture.version, num_classes)
        if architecture.version in ARCHITECTURES
        else DescribedNetwork(architecture, num_classes)
    )
    last = find_classifier_path(architecture)
    is_new = len(weights.get(f"{last}.bias", ())) != num_classes
    with torch.no_grad():
        for name, target in network.state_dict().items():
            # one by one: all at once, a large network would be in memory another time
            if name in weights and not (is_new and is_below(name, last)):
                target.copy_(torch.from_numpy(np.require(weights[name], requirements="W")))
    return network


def build_layers(weights: Weights) -> DescribedNetwork:
    """Build the layers before the classifier, whatever network the weights are of, with batch
    normalisations folded into the convolutions: what `TappedNetwork` trains.

    The classifier has no numbers (torch's "meta" device): that of a VGG takes half a gigabyte.

    Raises:
        WeightsError: they are of no known network's shape.
    """
    architecture = detect_architecture(weights)
    folded = fold_norms(weights, architecture)
    with torch.device("meta"):
        network = DescribedNetwork(architecture.without_norms())
    tensors = {
        name: torch.from_numpy(np.array(value, np.float32))
        for name, value in folded.items()
        if architecture.owns(name)
    }
    network.load_state_dict(tensors, strict=False, assign=True)
    return network


def find_classifier_path(architecture: Architecture) -> str:
    """Find the path of the classifier's last layer with parameters, which has an output for each
    class.
    """
    layers = architecture.classifier_layers
    return find_path(layers[find_last_parameters(layers)])


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
    last = find_last_parameters(layers)
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
