"""A classifier made ready for many requests, and its successor when another one lies in its place."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from squeezetune.artifact import MANIFEST, MODEL, NETWORK
from squeezetune.data.pixels import prepare_pixels
from squeezetune.errors import ArtifactError, ImageError
from squeezetune.prediction import Answer, Classifier, Prediction, load
from squeezetune.serving.fitting import Fit

Outcome: TypeAlias = Prediction | ImageError
# What tells that a file was written again: its number on the disk, the time and the size.
Mark: TypeAlias = tuple[tuple[int, int, int] | None, ...]
# A lone image of up to so many pixels is resized on its way through the network; what a larger one takes would be kept.
LONE_PIXELS = 512 * 512


@dataclass(frozen=True)
class ServedModel:
    """A classifier in use; `version` is the SHA-256 of its `model.onnx`.

    Runs of `classifier` go on side by side, a core each; a run of `lone` has all cores.
    """

    classifier: Classifier
    lone: Classifier
    fit: Fit
    file_bytes: int

    @property
    def version(self) -> str:
        """The SHA-256 of the file that is run."""
        return self.classifier.manifest.files[MODEL]

    def classify_lone(self, image: bytes, max_pixels: int) -> Outcome:
        """Classify the bytes of a file with all cores, or tell why they cannot be read."""
        try:
            return self.lone.describe(self.lone.run([self._open(image, max_pixels)])[0])
        except ImageError as error:
            return error

    def classify(self, images: Sequence[bytes], max_pixels: int) -> list[Outcome]:
        """Classify the bytes of some files; one that cannot be read leaves the others alone.

        Every photo is resized by itself, so that photos of all sizes can be run together, and a large one is held no
        longer than that takes.
        """
        outcomes: dict[int, Outcome] = {}
        fitted: dict[int, NDArray[np.uint8]] = {}
        for at, data in enumerate(images):
            try:
                fitted[at] = self._open(data, max_pixels, most_pixels=0)
            except ImageError as error:
                outcomes[at] = error
        places, size = list(fitted), self.classifier.batch_images
        for start in range(0, len(places), size):
            batch = places[start : start + size]
            answers = self.classifier.answer_each([fitted[at] for at in batch])
            outcomes |= {at: self._describe(answer) for at, answer in zip(batch, answers, strict=True)}
        return [outcomes[at] for at in range(len(images))]

    def _describe(self, answer: Answer | ImageError) -> Outcome:
        return answer if isinstance(answer, ImageError) else self.classifier.describe(answer.probabilities)

    def _open(self, data: bytes, max_pixels: int, most_pixels: int = LONE_PIXELS) -> NDArray[np.uint8]:
        """Decode an image; above `most_pixels` it is made as large as the network wants it: (side, side, 3)."""
        pixels = prepare_pixels(data, self.classifier.pixels, max_pixels)
        return pixels if pixels.size <= 3 * most_pixels else self.fit.run(pixels)

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


def open_model(place: Path, threads: int = 1) -> ServedModel:
    """Load a classifier, from its folder or its file, and run it once, so that the first request waits for nothing.

    `threads` run a lone image together.

    Raises:
        ArtifactError: it is no model, is damaged, or was written by a newer SqueezeTune.

    """
    found = load(place)
    payload, manifest = found.read_model(), found.manifest
    classifier = replace(found, model=payload)
    lone = replace(classifier, threads=threads) if threads > 1 else classifier
    model = ServedModel(classifier, lone, Fit(payload), len(payload))
    blank = np.zeros((manifest.image_side, manifest.image_side, 3), np.uint8)
    try:
        for each, count in ((classifier, 1), (classifier, classifier.batch_images), (lone, 1)):
            each.run([model.fit.run(blank)] * count)
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
