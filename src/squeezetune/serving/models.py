"""A classifier made ready for many requests, and its successor when another one lies in its place."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from squeezetune.artifact import MANIFEST, MODEL, NETWORK
from squeezetune.data.decoding import open_image
from squeezetune.errors import ArtifactError, ImageError
from squeezetune.gauge import release_memory
from squeezetune.prediction import HELD_PIXELS, Classifier, Prediction, load
from squeezetune.serving.fitting import Fit

Outcome: TypeAlias = Prediction | ImageError
# What tells that a file was written again: its number on the disk, the time and the size.
Mark: TypeAlias = tuple[tuple[int, int, int] | None, ...]
# Images go through the network together while what its first layers give still fits a processor's cache.
RUN_PIXELS = 4 * 64 * 64


@dataclass(frozen=True)
class ServedModel:
    """A classifier in use; `version` is the SHA-256 of its `model.onnx`."""

    classifier: Classifier
    fit: Fit
    file_bytes: int

    @property
    def version(self) -> str:
        """The SHA-256 of the file that is run."""
        return self.classifier.manifest.files[MODEL]

    @cached_property
    def run_images(self) -> int:
        """How many images go through the network together."""
        manifest = self.classifier.manifest
        return max(1, RUN_PIXELS // (manifest.image_side**2 * manifest.views))

    def classify(self, images: Sequence[bytes], max_pixels: int) -> list[Outcome]:
        """Classify the bytes of some files; one that cannot be read leaves the others alone.

        Every photo is resized by itself, so that photos of all sizes can be run together, and a large one is held no
        longer than that takes.
        """
        outcomes: dict[int, Outcome] = {}
        fitted: dict[int, NDArray[np.uint8]] = {}
        for at, data in enumerate(images):
            try:
                fitted[at] = self._open_fitted(data, max_pixels)
            except ImageError as error:
                outcomes[at] = error
        places = list(fitted)
        for start in range(0, len(places), self.run_images):
            batch = places[start : start + self.run_images]
            rows = self.classifier.run([fitted[at] for at in batch])
            outcomes |= {at: self.classifier.describe(row) for at, row in zip(batch, rows, strict=True)}
        return [outcomes[at] for at in range(len(images))]

    def _open_fitted(self, data: bytes, max_pixels: int) -> NDArray[np.uint8]:
        """Decode an image and make it as large as the network wants it: (side, side, 3)."""
        pixels = np.asarray(open_image(data, self.classifier.manifest.image_side, max_pixels))
        fitted = self.fit.run(pixels)
        if pixels.size > 3 * HELD_PIXELS:
            del pixels
            release_memory()  # of a large image the C library would keep a part, of every thread
        return fitted

    def describe(self) -> dict[str, Any]:
        """Return what clients may know of it, as plain values for JSON."""
        manifest = self.classifier.manifest
        return {
            "model": self.version,
            "classes": list(manifest.class_names),
            "created": manifest.created,
            "squeezetune": manifest.version,
            "image_side": manifest.image_side,
            "resize": manifest.resize,
            "file_bytes": self.file_bytes,
            "settings": dict(manifest.settings),
            "weights": dict(manifest.weights),
        }


def open_model(place: Path) -> ServedModel:
    """Load a classifier, from its folder or its file, and run it once, so that the first request waits for nothing.

    Raises:
        ArtifactError: it is no model, is damaged, or was written by a newer SqueezeTune.

    """
    found = load(place)
    payload, manifest = found.read_model(), found.manifest
    model = ServedModel(replace(found, model=payload), Fit(payload, manifest.image_side), len(payload))
    blank = np.zeros((manifest.image_side, manifest.image_side, 3), np.uint8)
    try:
        for count in {1, model.run_images}:
            model.classifier.run([model.fit.run(blank)] * count)
    except ArtifactError:
        raise
    except Exception as error:  # ONNX Runtime's own errors share no other base
        raise ArtifactError(f"The model cannot be run: {error}", "Train the model again.") from error
    return model


def mark_model(place: Path) -> Mark:
    """Return what changes when a model takes another's place, or is written again; nothing is read."""
    files = [place] if place.is_file() else [place / name for name in (MANIFEST, MODEL, NETWORK)]
    return tuple(_mark_file(path) for path in files)


def _mark_file(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:  # one model is just giving way to another
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
