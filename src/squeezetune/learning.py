"""An index and its split -> a trained network and the file that predicts with it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save
from threadpoolctl import threadpool_limits

from squeezetune.artifact import Manifest
from squeezetune.data.decoding import open_image
from squeezetune.data.index import ImageIndex
from squeezetune.data.pixels import PixelSettings, load_pixels
from squeezetune.data.split import Split
from squeezetune.engine import Engine, count_cores
from squeezetune.errors import ClassesError, ImageError
from squeezetune.events import Listener
from squeezetune.learn.features import Features, compute_features
from squeezetune.learn.graph import FEATURE_COUNT, build_classifier
from squeezetune.learn.head import Head, LabelledFeatures, fit_head
from squeezetune.learn.quantization import CALIBRATION_IMAGES
from squeezetune.learn.trunk import Trunk, TrunkOptions, prepare_trunk
from squeezetune.learn.weights import PROVENANCE, Weights, load_weights
from squeezetune.machine import list_libraries, name_version
from squeezetune.settings import Settings
from squeezetune.store import RowStore

SIDE_PX = 224
SMALL_SIDE_PX = 128
SMALL_IMAGE_PX = 100
SAMPLE_FOR_SIDE = 32


@dataclass(frozen=True)
class Learned:
    """A trained network: its parts, the features it was trained on, and the bytes of its two files."""

    split: Split
    features: Features
    trunk: Trunk
    head: Head
    model: bytes
    network: bytes


def learn_classifier(
    index: ImageIndex, split: Split, settings: Settings, cache: Path | None, engine: Engine, listen: Listener
) -> Learned:
    """Run the frozen layers once over every image and fit the head: what `train` and the estimator share."""
    weights = load_weights()
    threads = settings.threads or count_cores()
    side = settings.image_side or choose_side(index, split.train)
    views = 1 if settings.views == "plain" or (settings.effort == "quick" and settings.views == "auto") else 2
    options = TrunkOptions(
        PixelSettings(side, settings.resize), views, settings.engine, settings.precision, threads, cache
    )
    trunk = prepare_trunk(weights, options, index, lambda: draw_sample(index, split.train, options.pixels), listen)
    store = RowStore(cache / "features" / trunk.key, (views, FEATURE_COUNT)) if cache else None
    features = compute_features(index, trunk, store, engine, threads, listen)
    split = drop_failures(index, split, features.failures)
    train, validation = (
        LabelledFeatures(features.values[part], index.labels[part]) for part in (split.train, split.validation)
    )
    with threadpool_limits(threads):  # the same threads give the same sums
        head = fit_head(train, validation, len(index.class_names), settings, listen)
    model = build_classifier(
        weights,
        head.layers,
        views=head.views,
        side=side,
        resize=settings.resize,
        metadata=describe_model(index, head, side, settings.resize),
    )
    return Learned(split, features, trunk, head, model, pack_network(weights, head, trunk))


def choose_side(index: ImageIndex, positions: NDArray[np.int64]) -> int:
    """Choose 224 pixels, or 128 where most images are so small that more would be made up."""
    sides = []
    for position in positions[:: max(1, len(positions) // SAMPLE_FOR_SIDE)]:
        try:
            sides.append(max(open_image(index.source.read(index.names[position]), SIDE_PX).size))
        except ImageError:
            continue
    return SMALL_SIDE_PX if sides and np.median(sides) < SMALL_IMAGE_PX else SIDE_PX


def draw_sample(
    index: ImageIndex, positions: NDArray[np.int64], pixels: PixelSettings
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read an even sample of training images: their digests (n, 16) and pixels (n, side, side, 3)."""
    digests, images = [], []
    for position in positions[:: max(1, len(positions) // CALIBRATION_IMAGES)][:CALIBRATION_IMAGES]:
        try:
            images.append(load_pixels(index.source, index.names[position], pixels)[0])
        except ImageError:
            continue
        digests.append(index.digests[position])
    return np.array(digests, np.uint8), np.array(images, np.uint8).reshape(-1, pixels.side, pixels.side, 3)


def drop_failures(index: ImageIndex, split: Split, failures: Mapping[int, str]) -> Split:
    """Take images that could not be decoded out of the split.

    Raises:
        ClassesError: a class has no image left in a part where it had one.

    """
    if not failures:
        return split
    kept: dict[str, Any] = {}
    for part in ("train", "validation", "test"):
        before: NDArray[np.int64] = getattr(split, part)
        kept[part] = before[~np.isin(before, list(failures))]
        lost = sorted(set(index.labels[before].tolist()) - set(index.labels[kept[part]].tolist()))
        if lost:
            names = ", ".join(index.class_names[label] for label in lost[:5])
            example = index.names[min(failures)]
            raise ClassesError(
                f"no readable image is left for {part} in the class {names}; "
                f"{len(failures)} files cannot be decoded, e.g. {example}: {failures[min(failures)]}",
                "Replace the damaged files or add photos to these classes.",
            )
    return replace(split, **kept)


def describe_model(index: ImageIndex, head: Head, side: int, resize: str) -> dict[str, str]:
    """Make the metadata of `model.onnx`, so that the file explains itself."""
    return {
        "class_names": json.dumps(index.class_names),
        "data_fingerprint": index.fingerprint,
        "image_side": str(side),
        "resize": resize,
        "views": str(head.views),
        "weights": PROVENANCE,
        "license": "weights BSD-2-Clause; the photos' owner decides on the rest",
    }


def pack_network(weights: Weights, head: Head, trunk: Trunk) -> bytes:
    """Pack the parameters as safetensors, under torchvision's names; the same always give the same bytes.

    The frozen layers are float16, as they come; the head is float32 and acts on the square roots of the features.
    """
    frozen = {name: value for name, value in weights.items() if name.startswith("features.")}
    tensors: dict[str, NDArray[Any]] = {name: value.astype(np.float16) for name, value in frozen.items()}
    for number, (weight, bias) in enumerate(head.layers):
        tensors[f"head.{number}.weight"], tensors[f"head.{number}.bias"] = weight, bias
    # one key: several would be written in no certain order
    about = {"views": head.views, "image_side": trunk.pixels.side, "resize": trunk.pixels.resize}
    return save(tensors, metadata={"squeezetune": json.dumps(about)})


def make_manifest(index: ImageIndex, learned: Learned, settings: Settings) -> Manifest:
    """Say what the model is and what it was made from."""
    split = learned.split
    return Manifest(
        class_names=index.class_names,
        image_side=learned.trunk.pixels.side,
        resize=learned.trunk.pixels.resize,
        views=learned.head.views,
        settings=settings.to_dict(),
        data={
            "fingerprint": index.fingerprint,
            "train": len(split.train),
            "validation": len(split.validation),
            "test": len(split.test),
        },
        libraries=list_libraries(),
        version=name_version(),
        created=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
