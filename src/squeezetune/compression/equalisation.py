"""Layers whose channels are brought to a like size, so that one scale for all of them, in int8,
costs less.

Behind a ReLU a channel may be divided by any positive factor, if what reads it multiplies by it
again. Source: Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias
Correction"; the balance between activations and kernels is that of Xiao et al. 2023, "SmoothQuant".
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from squeezetune.network.architecture import Architecture
from squeezetune.network.int8_layers import Ranges
from squeezetune.network.layers import Convolution, Layer
from squeezetune.network.weights import Weights, detect_architecture

# How much of the inequality of channels is taken from the activations; the kernels that read them
# get what is left.
BALANCE = 0.75
# No channel counts as smaller than this share of the largest one: other images may well show more
# in it.
LEAST_SHARE = 1 / 32
# How much larger than on the images that were looked at activations may become.
HEADROOM = 1.25


@dataclass(frozen=True)
class Equalised:
    """Layers that give the same, with smaller differences between channels on the way.

    `ranges` is what int8 needs of the activations as they are now; times `factors` (channels,), by
    name, they are what they were. The last activation is left as it is.
    """

    weights: Weights
    ranges: Ranges
    factors: Mapping[str, NDArray[np.float32]]


def equalise(weights: Weights, maxima: Mapping[str, NDArray[np.float32]]) -> Equalised:
    """Equalise the channels, given the largest values (channels,) of every scale
    (`Architecture.list_scales`).
    """
    changed, network = dict(weights), detect_architecture(weights)
    factors = {}
    for scale in network.list_scales():
        givers, readers = find_givers(network, scale), find_readers(network, scale)
        if not givers or not readers:
            continue
        factor = balance(maxima[scale], [changed[f"{layer.path}.weight"] for layer in readers])
        ends = np.cumsum([network.channels[layer.output] for layer in givers])
        for layer, part in zip(givers, np.split(factor, ends[:-1]), strict=True):
            changed[f"{layer.path}.weight"] = (
                changed[f"{layer.path}.weight"] / part[:, None, None, None]
            )
            changed[f"{layer.path}.bias"] = changed[f"{layer.path}.bias"] / part
        for layer in readers:
            changed[f"{layer.path}.weight"] = (
                changed[f"{layer.path}.weight"] * factor[:, None, None]
            )
        factors[scale] = factor
    ranges = {
        name: HEADROOM * max(float((tops / factors.get(name, 1)).max()), 1e-3)
        for name, tops in maxima.items()
    }
    return Equalised(changed, ranges, factors)


def balance(maxima: NDArray[np.float32], kernels: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Choose the factors (channels,) for channels that kernels (outputs, channels, height, width)
    read.

    Their geometric mean is 1.
    """
    tops = np.max([np.abs(kernel).max(axis=(0, 2, 3)) for kernel in kernels], axis=0)
    logs = BALANCE * _take_logs(maxima) - (1 - BALANCE) * _take_logs(tops)
    factors: NDArray[np.float32] = np.exp(logs - logs.mean()).astype(np.float32)
    return factors


def find_givers(network: Architecture, scale: str) -> list[Convolution]:
    """Find the convolutions that give the values of a scale, in the order of its channels; none
    where others do, or where a function behind one minds being scaled.
    """
    sources = [
        layer
        for layer in network.layers
        if network.activations[layer.output] == scale and not _is_copy(network, layer)
    ]
    givers = [layer for layer in sources if isinstance(layer, Convolution)]
    may_scale = all(layer.activation in {"", "relu"} for layer in givers)
    return givers if len(givers) == len(sources) and may_scale else []


def find_readers(network: Architecture, scale: str) -> list[Convolution]:
    """Find the convolutions that read the values of a scale; none where others do, or where one
    keeps channels apart.
    """
    names = {name for name, own in network.activations.items() if own == scale}
    found = [
        layer
        for name in names
        for layer in network.readers.get(name, ())
        if layer.output not in names
    ]
    readers = [
        layer
        for layer in network.layers
        if layer in found and isinstance(layer, Convolution) and not layer.is_depthwise
    ]
    return readers if len(readers) == len(found) else []


def _is_copy(network: Architecture, layer: Layer) -> bool:
    """Say whether a layer only passes on values of the scale that it has."""
    own = network.activations[layer.output]
    return not isinstance(layer, Convolution) and all(
        network.activations[name] == own for name in layer.reads
    )


def _take_logs(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Take logarithms of values of which none counts as much smaller than the largest."""
    exact = values.astype(np.float64)
    logs: NDArray[np.float64] = np.log(np.maximum(exact, max(LEAST_SHARE * exact.max(), 1e-12)))
    return logs
