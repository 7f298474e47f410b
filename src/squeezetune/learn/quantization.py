"""The int8 form of the frozen layers: its ranges, and the guard that measures what it costs."""

import numpy as np
from numpy.typing import NDArray

from squeezetune.learn.graph import build_range_probe, list_widths
from squeezetune.learn.inference import RunGraph, Runtime, open_graph
from squeezetune.learn.int8 import Ranges
from squeezetune.learn.weights import Weights, detect_version, find_layout

CALIBRATION_IMAGES = 64
GUARD_IMAGES = 32
BATCH_IMAGES = 2
# Relative distance of int8 and float features up to which no accuracy was lost (docs/decisions/0003-int8.md).
GUARD_LIMIT = 0.10

FLOAT_RUNTIME = Runtime("onnxruntime", "float32")


def measure_ranges(weights: Weights, pixels: NDArray[np.uint8]) -> Ranges:
    """Measure the largest value of every activation over the images (n, side, side, 3)."""
    return {name: max(float(maxima.max()), 1e-3) for name, maxima in measure_maxima(weights, pixels).items()}


def measure_maxima(weights: Weights, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """Measure the largest values (channels,) of every activation over the images (n, side, side, 3)."""
    probe = open_graph(build_range_probe(weights), FLOAT_RUNTIME, 1)
    maxima, widths = run_batches(probe, pixels).max(axis=0), list_widths(find_layout(detect_version(weights)))
    ends = np.cumsum(list(widths.values()))
    return dict(zip(widths, np.split(maxima, ends[:-1]), strict=True))


def run_batches(run: RunGraph, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Run a graph on a few images at a time: all at once would take hundreds of megabytes."""
    return np.concatenate([run(pixels[at : at + BATCH_IMAGES]) for at in range(0, len(pixels), BATCH_IMAGES)])


def measure_distance(features: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Measure the distance of features from their reference, relative to the norm of the reference."""
    return float(np.linalg.norm(features - reference) / max(float(np.linalg.norm(reference)), 1e-12))
