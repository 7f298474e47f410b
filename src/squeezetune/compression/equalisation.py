"""Layers whose channels are brought to a like size, so that one scale for all of them, in int8,
costs less.

Behind a ReLU a channel may be divided by any positive factor, if what reads it multiplies by it
again. Source: Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias
Correction"; the balance between activations and kernels is that of Xiao et al. 2023, "SmoothQuant".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from squeezetune.network.graph import ACTIVATIONS
from squeezetune.network.int8_layers import Ranges
from squeezetune.network.weights import Architecture, Weights, detect_version, find_architecture

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
    """Equalise the channels, given the largest values (channels,) of every activation."""
    changed, layout = dict(weights), find_architecture(detect_version(weights))
    factors = {}
    for activation, reader in pairwise(ACTIVATIONS):
        readers = list_layers(reader, layout)
        factor = balance(maxima[activation], [changed[f"{layer}.weight"] for layer in readers])
        givers = list_layers(
            activation, layout
        )  # the halves of an expand layer are as wide as each other
        for layer, part in zip(givers, np.split(factor, len(givers)), strict=True):
            changed[f"{layer}.weight"] = changed[f"{layer}.weight"] / part[:, None, None, None]
            changed[f"{layer}.bias"] = changed[f"{layer}.bias"] / part
        for layer in readers:
            changed[f"{layer}.weight"] = changed[f"{layer}.weight"] * factor[:, None, None]
        factors[activation] = factor
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


def list_layers(activation: str, layout: Architecture) -> list[str]:
    """List the convolutions that give an activation, in the order of its channels."""
    if activation == ACTIVATIONS[0]:
        return ["features.0"]
    fire, part = activation.split(".")
    names = [part] if part == "squeeze" else [f"{part}1x1", f"{part}3x3"]
    return [f"features.{layout.fires[fire]}.{name}" for name in names]


def _take_logs(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Take logarithms of values of which none counts as much smaller than the largest."""
    exact = values.astype(np.float64)
    logs: NDArray[np.float64] = np.log(np.maximum(exact, max(LEAST_SHARE * exact.max(), 1e-12)))
    return logs
