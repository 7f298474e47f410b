"""The int8 form of the frozen layers: its ranges, and the guard that measures what it costs."""

import numpy as np
from numpy.typing import NDArray

from squeezetune.learn.graph import ACTIVATIONS, build_range_probe
from squeezetune.learn.inference import Runtime, open_graph
from squeezetune.learn.layers import Ranges
from squeezetune.learn.weights import Weights

CALIBRATION_IMAGES = 64
GUARD_IMAGES = 32
# Relative distance of int8 and float features up to which no accuracy was lost (docs/decisions/0003-int8.md).
GUARD_LIMIT = 0.10

FLOAT_RUNTIME = Runtime("onnxruntime", "float32")


def measure_ranges(weights: Weights, pixels: NDArray[np.uint8]) -> Ranges:
    """Measure the largest value of every activation over the images (n, side, side, 3)."""
    probe = open_graph(build_range_probe(weights), FLOAT_RUNTIME, 1)
    maxima = np.concatenate([probe(pixels[at : at + 8]) for at in range(0, len(pixels), 8)]).max(axis=0)
    return {name: max(float(top), 1e-3) for name, top in zip(ACTIVATIONS, maxima, strict=True)}


def measure_distance(features: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Measure the distance of features from their reference, relative to the norm of the reference."""
    return float(np.linalg.norm(features - reference) / max(float(np.linalg.norm(reference)), 1e-12))
