"""The frozen layers made ready for one set of photos: engine, precision, and the ranges and guard
of int8.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from squeezetune.data.index import ImageIndex
from squeezetune.data.pixels import PixelSettings
from squeezetune.errors import WeightsError
from squeezetune.events import Listener, Notice
from squeezetune.network.architecture import Architecture, NetworkLayout, NetworkSize
from squeezetune.network.graph import (
    FrozenLayers,
    build_backbone,
    build_features,
    build_range_probe,
)
from squeezetune.network.inference import (
    RunGraph,
    Runtime,
    batch_size,
    choose_runtime,
    describe_versions,
    list_runtimes,
    open_graph,
)
from squeezetune.network.int8_layers import Int8, Ranges
from squeezetune.network.weights import Weights, detect_architecture
from squeezetune.system.machine import hash_bytes, read_json, recall_choice, write_json


class PretrainedNetwork(Protocol):
    """A pretrained network as a training sees it, wherever it is from: which one it is, and its
    frozen layers.
    """

    @property
    def name(self) -> str:
        """Its short name, which the setting `backbone` has of a known one."""
        ...

    @property
    def network(self) -> str:
        """Its name, for people."""
        ...

    @property
    def sha256(self) -> str:
        """The SHA-256 of the file that it was read from."""
        ...

    @property
    def provenance(self) -> dict[str, str]:
        """Which weights these are, for reports and manifests."""
        ...

    @property
    def side(self) -> int:
        """The side in pixels of the images that it was made for."""
        ...

    @property
    def fixed_side(self) -> int:
        """The only side that it takes, 0 where it takes all."""
        ...

    @property
    def least_side(self) -> int:
        """The smallest side that it takes, 0 where that is not known."""
        ...

    @property
    def size(self) -> NetworkSize:
        """How large it is."""
        ...

    @property
    def is_described(self) -> bool:
        """Whether its layers are described: these alone are computed in int8, or by hand."""
        ...

    @property
    def weights(self) -> Weights:
        """The parameters by name; nothing where the layers are not described."""
        ...

    @property
    def key(self) -> str:
        """What its speed hangs on, apart from the photos and this machine."""
        ...

    @property
    def layout(self) -> NetworkLayout:
        """How it is divided into blocks, where its layers are trained."""
        ...

    def freeze(self) -> FrozenLayers:
        """Make its layers in float32 ready to be added to a graph that is run here."""
        ...


CALIBRATION_IMAGES = 64
GUARD_IMAGES = 32
BATCH_IMAGES = 2
# Relative distance of int8 and float features up to which no accuracy was lost
# (docs/decisions/0003-int8.md).
GUARD_LIMIT = 0.10
# The same for networks that nobody has described, whose features may differ little from image to
# image: in deviations of each feature, which heads see. EfficientNet-Lite0 in bfloat16 has 0.09.
AGREEMENT_LIMIT, LEAST_DEVIATION = 0.15, 1e-3
HALVES = "float16"

FLOAT_RUNTIME = Runtime("onnxruntime", "float32")


def measure_ranges(weights: Weights, pixels: NDArray[np.uint8]) -> Ranges:
    """Measure the largest value of every activation over the images (n, side, side, 3)."""
    return {
        name: max(float(maxima.max()), 1e-3)
        for name, maxima in measure_maxima(weights, pixels).items()
    }


def measure_maxima(weights: Weights, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """Measure the largest values (channels,) of every activation over the images (n, side, side,
    3).
    """
    probe = open_graph(build_range_probe(weights), FLOAT_RUNTIME, 1)
    maxima = run_batches(probe, pixels).max(axis=0)
    widths = detect_architecture(weights).list_scales()
    ends = np.cumsum(list(widths.values()))
    return dict(zip(widths, np.split(maxima, ends[:-1]), strict=True))


def run_batches(run: RunGraph, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Run a graph on a few images at a time: all at once would take hundreds of megabytes."""
    return np.concatenate(
        [run(pixels[at : at + BATCH_IMAGES]) for at in range(0, len(pixels), BATCH_IMAGES)]
    )


def measure_distance(features: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Measure the distance of features from their reference, relative to the norm of the
    reference.
    """
    return float(
        np.linalg.norm(features - reference) / max(float(np.linalg.norm(reference)), 1e-12)
    )


def measure_shift(features: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Measure how far features (n, ...) are from their reference, in deviations of each over the
    images; those that hardly differ are left out.
    """
    deviation = reference.std(axis=0)
    differing = deviation > LEAST_DEVIATION * deviation.max()
    if not differing.any():  # the images are all alike
        return measure_distance(features, reference)
    shifts = (features - reference)[:, differing] / deviation[differing]
    return float(np.sqrt(np.mean(shifts**2)))


# Draws training images for the calibration: their digests (n, 16) and pixels (n, side, side, 3).
DrawSample: TypeAlias = Callable[[], tuple[NDArray[np.uint8], NDArray[np.uint8]]]


@dataclass(frozen=True)
class Backbone:
    """The frozen layers as a graph, what runs it, and what it expects; `key` names all that its
    features depend on.

    `int8` is what the int8 form knows, None where the graph is in float.
    """

    model: bytes
    runtime: Runtime
    pixels: PixelSettings
    views: int
    feature_count: int
    int8: Int8 | None = None

    @property
    def batch_size(self) -> int:
        """How many images go through the graph at once."""
        return batch_size(self.pixels.side, self.views)

    @property
    def key(self) -> str:
        """Name everything that the features depend on, but the image itself."""
        versions = describe_versions([self.runtime])
        recipe = [str(self.runtime), versions, self.pixels.key, self.views, hash_bytes(self.model)]
        return hash_bytes(json.dumps(recipe).encode())

    def open(self, threads: int) -> RunGraph:
        """Open the graph for this many threads."""
        return open_graph(self.model, self.runtime, threads)


@dataclass(frozen=True)
class BackboneOptions:
    """What the settings say about the frozen layers; `cache` is None where nothing may be kept."""

    pixels: PixelSettings
    views: int
    engine: str
    precision: str
    threads: int
    cache: Path | None


def prepare_backbone(
    network: PretrainedNetwork,
    options: BackboneOptions,
    index: ImageIndex,
    draw: DrawSample,
    listen: Listener,
) -> Backbone:
    """Choose the fastest runtime that loses nothing; calibrate and guard its int8 form where that
    is the one.

    Raises:
        WeightsError: the network is not described, and no runtime that the settings allow computes
            it rightly.
    """
    runtimes = list_runtimes(options.engine, options.precision)
    if not network.is_described:
        runtimes = list_agreeing(runtimes, network, options, index, draw, listen)
    runtime = recall_runtime(runtimes, network, options)
    if runtime.precision == "int8":
        calibration = recall_calibration(network.weights, options, index, draw)
        distance = calibration["distance"]
        if distance <= GUARD_LIMIT or options.precision == "int8":
            int8 = make_int8(calibration["ranges"], runtime, options.pixels)
            model = build_backbone(network.weights, int8, views=options.views)
            features = network.size.features
            return Backbone(model, runtime, options.pixels, options.views, features, int8)
        listen(
            Notice(
                f"int8 changes the features by {distance:.0%} on these photos, so they are "
                f"computed in float"
            )
        )
        runtime = recall_runtime(
            [item for item in runtimes if item.precision != "int8"], network, options
        )
    model = build_features(network.freeze(), options.views)
    return Backbone(model, runtime, options.pixels, options.views, network.size.features)


def recall_runtime(
    runtimes: list[Runtime], network: PretrainedNetwork, options: BackboneOptions
) -> Runtime:
    """Take the runtime that an earlier run on this machine chose, or time them now and keep the
    choice.

    It hangs on the version of the network, whose layers differ in size, and not on the weights.
    """
    if len(runtimes) == 1:
        return runtimes[0]
    names = {str(runtime): runtime for runtime in runtimes}
    circumstances = [
        describe_versions(runtimes),
        list(names),
        options.pixels.side,
        options.views,
        options.threads,
        network.key,
    ]

    def choose() -> str:
        floats = build_features(network.freeze(), options.views)
        models = {
            runtime: _build_timing_backbone(network.weights, runtime, options)
            if runtime.precision == "int8"
            else floats
            for runtime in runtimes
        }
        return str(choose_runtime(models, options.pixels.side, options.threads))

    return names[recall_choice(options.cache, circumstances, list(names), choose)]


def list_agreeing(
    runtimes: list[Runtime],
    network: PretrainedNetwork,
    options: BackboneOptions,
    index: ImageIndex,
    draw: DrawSample,
    listen: Listener,
) -> list[Runtime]:
    """List the runtimes that compute a network that is not described as ONNX Runtime does in
    float32, on some of the photos: another may not know its operators, or lose too much.

    Where float16, in which features are kept, loses too much itself, that is told.

    Raises:
        WeightsError: there is none.
    """
    able = [runtime for runtime in runtimes if runtime.precision != "int8"]
    others = [runtime for runtime in able if runtime != FLOAT_RUNTIME]
    model = build_features(network.freeze(), options.views)
    recipe = [
        hash_bytes(model),
        options.pixels.key,
        describe_versions(others),
        list(map(str, able)),
    ]
    folder = options.cache and options.cache / "agreements" / hash_bytes(
        json.dumps(recipe).encode()
    )
    found = recall_measurement(
        folder, index, draw, lambda pixels: _measure_agreement(model, others, pixels)
    )
    distances = {str(FLOAT_RUNTIME): 0.0, **found["distances"]}
    if distances[HALVES] > AGREEMENT_LIMIT:
        listen(
            Notice(
                f"the features of {network.network} differ so little from photo to photo that "
                f"float16, in which they are kept, loses {distances[HALVES]:.0%} of that; look at "
                f"its mean and deviation, and whether it was trained"
            )
        )
    agreeing = [runtime for runtime in able if distances[str(runtime)] <= AGREEMENT_LIMIT]
    if not agreeing:
        raise WeightsError(
            f"{' and '.join(map(str, able))} does not compute {network.network} as ONNX Runtime "
            f"does.",
            "Leave engine and precision out, or take --engine onnxruntime.",
        )
    return agreeing


def _measure_agreement(
    model: bytes, runtimes: list[Runtime], pixels: NDArray[np.uint8]
) -> dict[str, Any]:
    """Measure how far each runtime's features are from ONNX Runtime's in float32, and these as
    float16; of a runtime that cannot run the graph, as far as can be.
    """
    sample = pixels[-GUARD_IMAGES:]
    exact = run_batches(open_graph(model, FLOAT_RUNTIME, 1), sample)
    halves = exact.astype(np.float16).astype(np.float32)
    distances = {HALVES: measure_shift(halves, exact)}
    for runtime in runtimes:
        distances[str(runtime)] = float(np.finfo(np.float32).max)
        with suppress(Exception):  # runtimes raise whatever they like
            features = run_batches(open_graph(model, runtime, 1), sample)
            if np.isfinite(features).all():
                distances[str(runtime)] = measure_shift(features, exact)
    return {"distances": distances}


def recall_calibration(
    weights: Weights, options: BackboneOptions, index: ImageIndex, draw: DrawSample
) -> Mapping[str, Any]:
    """Take the ranges that these weights gave earlier on photos that are still in the index, or
    measure them now.
    """

    def measure(pixels: NDArray[np.uint8]) -> dict[str, Any]:
        ranges = measure_ranges(weights, pixels)
        return {
            "ranges": ranges,
            "distance": _measure_int8_distance(weights, ranges, pixels[-GUARD_IMAGES:]),
        }

    circumstances = (
        f"{options.pixels.side}-{options.pixels.resize}-{hash_bytes(build_range_probe(weights))}"
    )
    folder = options.cache and options.cache / "calibrations" / circumstances
    return recall_measurement(folder, index, draw, measure)


def recall_measurement(
    folder: Path | None,
    index: ImageIndex,
    draw: DrawSample,
    measure: Callable[[NDArray[np.uint8]], Mapping[str, Any]],
) -> Mapping[str, Any]:
    """Take what was measured earlier on photos of which half are still in the index, or measure it
    on a sample now.

    Keeping it is what makes ten new photos cost ten: with other ranges it would be another network.
    """
    present = {digest.tobytes().hex() for digest in index.digests}
    for path in sorted(folder.glob("*.sealed")) if folder else ():
        known = read_json(path)
        if known.get("digests") and len(present.intersection(known["digests"])) >= 0.5 * len(
            known["digests"]
        ):
            return known
    digests, pixels = draw()
    names = sorted(digest.tobytes().hex() for digest in digests)
    measured = {"digests": names, **measure(pixels)}
    write_json(folder and folder / f"{hash_bytes(json.dumps(names).encode())}.sealed", measured)
    return measured


def make_int8(ranges: Ranges, runtime: Runtime, pixels: PixelSettings) -> Int8:
    """Say how int8 is laid out for a runtime: OpenVINO is slower with what is best for ONNX
    Runtime.
    """
    return Int8(ranges, pixels.side if runtime.engine == "onnxruntime" else 0)


def guess_int8(network: Architecture, runtime: Runtime, pixels: PixelSettings) -> Int8:
    """Lay int8 out for a timing alone, with ranges of the right order."""
    return make_int8(dict.fromkeys(network.list_scales(), 1000.0), runtime, pixels)


def _measure_int8_distance(weights: Weights, ranges: Ranges, pixels: NDArray[np.uint8]) -> float:
    """Measure how far int8 moves the features, in the same engine."""
    int8 = open_graph(
        build_backbone(weights, Int8(ranges)), Runtime(FLOAT_RUNTIME.engine, "int8"), 1
    )
    exact = open_graph(build_backbone(weights), FLOAT_RUNTIME, 1)
    return measure_distance(run_batches(int8, pixels), run_batches(exact, pixels))


def _build_timing_backbone(weights: Weights, runtime: Runtime, options: BackboneOptions) -> bytes:
    """Build an int8 trunk of the right cost; its values do not matter."""
    int8 = guess_int8(detect_architecture(weights), runtime, options.pixels)
    return build_backbone(weights, int8, views=options.views)
