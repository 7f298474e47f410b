"""What a format's writer is given: a trained network, and its photos, found again by their
content.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from squeezetune.data.index import ImageIndex
from squeezetune.data.inputs import Photos, parse_input
from squeezetune.data.pixels import PixelSettings, load_indexed
from squeezetune.errors import ImageError, SettingsError, SourceError
from squeezetune.evaluation.measurement import open_measurements, place_classes, run_classifier
from squeezetune.events import Listener, Notice, ignore_event
from squeezetune.exporting.scoring import TestSet
from squeezetune.model.classifier import Classifier
from squeezetune.model.split_record import SplitRecord, read_parts
from squeezetune.network.trained import TrainedNetwork
from squeezetune.system.disk import open_cache
from squeezetune.system.executor import ThreadExecutor


@dataclass(frozen=True)
class TrainingPhotos:
    """Photos that the network was trained on, or chosen by, at these positions of an index."""

    index: ImageIndex
    positions: NDArray[np.int64]

    def draw(self, count: int, settings: PixelSettings) -> NDArray[np.uint8]:
        """Draw at most so many, evenly, as the network sees them: (n, side, side, 3)."""
        step = max(1, -(-len(self.positions) // count))

        def load(position: int) -> NDArray[np.uint8] | None:
            try:
                return load_indexed(self.index, position, settings)[0]
            except ImageError:
                return None

        pixels = [
            found
            for found in ThreadExecutor().map(load, self.positions[::step].tolist())
            if found is not None
        ]
        if not pixels:
            raise SettingsError(
                "none of the training photos can be read",
                "Give the photos that the model was trained on with --photos.",
            )
        return np.stack(pixels)


@dataclass(frozen=True)
class StudentLimits:
    """What the training of a student may take, as the settings of trainings have it: "" for no
    limit, and 0 for as many epochs as suit the photos.
    """

    budget: str = ""
    epochs: float = 0.0
    max_ram: str = ""


@dataclass(frozen=True)
class ExportInputs:
    """A network to be written in some format.

    `model` are the bytes of `model.onnx`, which the report's figures were measured on; `metadata`
    is what a file says of itself: class names as JSON, settings, fingerprint of the data, licence.
    `photos` are those of the training part, where they are at hand, and `judges` those of the
    validation part. `title` is what a page is headed; `runtime` is where the build of ONNX Runtime
    for browsers lies, if not in the cache; `limits` are those of a student's training.
    """

    network: TrainedNetwork
    model: bytes
    metadata: Mapping[str, str]
    photos: TrainingPhotos | None = None
    judges: TrainingPhotos | None = None
    title: str = "Classifier"
    runtime: Path | None = None
    listen: Listener = ignore_event
    limits: StudentLimits = StudentLimits()

    def draw(self, count: int) -> NDArray[np.uint8]:
        """Draw training photos as the network sees them; half of them mirrored if it looks at
        mirror images too.

        Raises:
            SettingsError: there are none.

        """
        if self.photos is None:
            raise SettingsError(
                "this format looks at training photos, and there are none",
                "Give the photos that the model was trained on with --photos.",
            )
        pixels = self.photos.draw(count, PixelSettings(self.network.side, self.network.resize))
        if self.network.views > 1:
            pixels[1::2] = pixels[1::2, :, ::-1]
        return pixels


# Where a model has learnt from all of its photos, so many show whether an export says the same.
COMPARED_IMAGES = 512


@dataclass(frozen=True)
class PhotoLocation:
    """Where the photos are said to be now; nothing: where they were."""

    photos: Photos | None = None
    class_pattern: str = ""
    columns: str = ""


@dataclass(frozen=True)
class ModelPhotos:
    """A model's photos as they lie now, and which were in which part; `place` is their path, if
    they have one.
    """

    index: ImageIndex
    parts: SplitRecord
    place: Path | None = None

    @property
    def training(self) -> TrainingPhotos:
        """The photos that the model learnt from."""
        return TrainingPhotos(self.index, self.parts.find(self.index, "train"))

    @property
    def validation(self) -> TrainingPhotos:
        """The photos that choices were made on; there may be none."""
        return TrainingPhotos(self.index, self.parts.find(self.index, "validation"))


def open_material(folder: Path, request: PhotoLocation, listen: Listener) -> ModelPhotos:
    """Find a model's photos again, by their content.

    Raises:
        ArtifactError: the model does not say which photos it was tested on.
        SettingsError: it is not known where they are.
        DataError: they cannot be used.
        SourceError: they are other photos.
    """
    parts = read_parts(folder)
    where = request.photos if request.photos is not None else parts.origin["source"]
    if where == "":
        raise SettingsError(
            "the model was trained on images in memory",
            "Give them again with `photos`, or the folder with --photos.",
        )
    pattern, columns = (
        getattr(request, name) or parts.origin[name] for name in ("class_pattern", "columns")
    )
    try:
        index = parse_input(where, pattern, columns).scan(
            ThreadExecutor(), listen, open_cache(listen)
        )
    except SourceError as error:
        hint = "Say with --photos where the photos are that the model was trained on."
        raise SourceError(error.message, error.hint if request.photos else hint) from error
    material = ModelPhotos(
        index, parts, Path(where) if isinstance(where, (str, os.PathLike)) else None
    )
    _check_parts(material, listen)
    return material


def _check_parts(material: ModelPhotos, listen: Listener) -> None:
    """Say how many photos are gone; those that are left must do, if there are any."""
    for part in ("train", "test"):
        missing = material.parts.count_missing(material.index, part)
        if missing and not len(material.parts.find(material.index, part)):
            raise SourceError(
                f"none of the {missing:,} photos of the {part} part is in "
                f"{material.index.source.describe()}",
                "Give the photos that the model was trained on with --photos, or train it again "
                "on these.",
            )
        if missing:
            listen(
                Notice(
                    f"{missing:,} photos of the {part} part are not there any more; the others "
                    f"must do"
                )
            )


def make_exam(classifier: Classifier, material: ModelPhotos, listen: Listener) -> TestSet:
    """Let the trained network answer the test photos; where there are none, some that it learnt
    from.

    Raises:
        ClassesError: the photos' classes are not the model's.
        SourceError: none of the photos can be read.
    """
    index = material.index
    positions = material.parts.find(index, "test")
    is_honest = len(positions) > 0
    if not is_honest:
        learnt = material.parts.find(index, "train")
        positions = learnt[:: -(-len(learnt) // COMPARED_IMAGES)]
        listen(
            Notice(
                "the model has learnt from all of its photos, so only differences are measured on "
                "some of them"
            )
        )
    places = place_classes(
        index,
        classifier.class_names,
        "Give the photos that the model was trained on with --photos.",
    )
    cache, folder = open_cache(ignore_event), classifier.folder
    store = None
    if cache and folder:
        store = open_measurements(
            cache, classifier.manifest.files["model.onnx"], classifier.manifest
        )
    measured = run_classifier(classifier, index, positions, ThreadExecutor(), listen, store)
    labels = places[index.labels[measured.positions]]
    return TestSet(
        index, measured.positions, labels, measured.probabilities, classifier.pixels, is_honest
    )
