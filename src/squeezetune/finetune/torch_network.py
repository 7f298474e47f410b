"""SqueezeNet in torch: torchvision's parameters and values, computed in an order that suits a CPU.

Architecture: Iandola et al. 2016, "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters",
versions 1.0 and 1.1.
"""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from squeezetune.errors import INSTALL_TORCH, MissingExtraError, SettingsError, WeightsError
from squeezetune.network.weights import (
    FIRE_WIDTHS,
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


class Fire(nn.Module):  # type: ignore[misc]  # torch is not seen by the type checker
    """A Fire module: a narrow 1x1 convolution, then 1x1 and 3x3 convolutions side by side."""

    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Squeeze, expand and join: (n, inputs, h, w) -> (n, 2 expand, h, w)."""
        x = functional.relu_(self.squeeze(x))
        # one ReLU on the joined tensor instead of two before it: the same values
        return functional.relu_(torch.cat([self.expand1x1(x), self.expand3x3(x)], 1))


class SqueezeNet(nn.Module):  # type: ignore[misc]  # torch is not seen by the type checker
    """SqueezeNet 1.1 or 1.0, with torchvision's parameter names, shapes and outputs; its state
    dicts load unchanged.

    `features` and `classifier` are Sequentials with torchvision's places. Only conv1's ReLU has
    changed places with the max pool behind it (1 and 2): maxima and ReLU commute, and there is a
    quarter of the values left to go over. So whoever walks `features` meets torchvision's values
    everywhere but between these two.

    Fresh parameters are drawn from torch's own generator (`torch.manual_seed`). Example:

        >>> import torch
        >>> SqueezeNet("1.1", num_classes=5)(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 5])

    Raises:
        SettingsError: there is no such version, or less than one class.
    """

    def __init__(self, version: str = "1.1", num_classes: int = 1000, dropout: float = 0.5) -> None:
        super().__init__()
        layout = find_architecture(version)
        check_class_count(num_classes)
        self.version = version
        self.num_classes = num_classes
        self.features = nn.Sequential(*_make_features(version))
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Conv2d(2 * FIRE_WIDTHS["fire9"][1], num_classes, 1),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1),
        )
        self._places = {"conv1": 0, **layout.fires}
        _initialise(self.features, self.classifier[1])

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (n, 3, height, width) in, logits (n, num_classes) out."""
        return torch.flatten(self.classifier(self.features(x)), 1)

    def list_blocks(self) -> dict[str, Module]:
        """Name the blocks that hold parameters, in the order of the data: conv1, fire2 ... fire9,
        classifier.
        """
        return {name: self.features[place] for name, place in self._places.items()} | {
            "classifier": self.classifier
        }


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


def _make_features(version: str) -> list[Module]:
    """Make the layers of `features` in their places."""
    layout = find_architecture(version)
    width, side = layout.conv1
    layers = {place: nn.MaxPool2d(3, 2, ceil_mode=True) for place in layout.pools}
    # the pool comes first, the ReLU second: see the class
    layers |= {0: nn.Conv2d(3, width, side, stride=2), 1: layers[2], 2: nn.ReLU(inplace=True)}
    for fire, place in layout.fires.items():
        squeeze, expand = FIRE_WIDTHS[fire]
        layers[place] = Fire(width, squeeze, expand)
        width = 2 * expand
    return [layers[place] for place in sorted(layers)]


def _initialise(features: Module, last: Module) -> None:
    """Draw the parameters as the SqueezeNet authors do: the last convolution is drawn more
    narrowly.
    """
    for module in features.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    nn.init.normal_(last.weight, std=0.01)
    nn.init.zeros_(last.bias)
