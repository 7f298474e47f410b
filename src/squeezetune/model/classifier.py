"""Image in, label out: only ONNX Runtime, numpy and Pillow are needed."""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from squeezetune.data.decoding import LARGE_PIXELS
from squeezetune.data.pixels import PixelSettings, load_prepared
from squeezetune.data.sources.registry import ImageLike, MemorySource, hold_images, is_one_image
from squeezetune.data.sources.source import ImageSource
from squeezetune.errors import ArtifactError, ImageError
from squeezetune.model.artifact import (
    FLOATS,
    MODEL,
    WHOLES,
    Manifest,
    read_manifest,
    read_payload,
    read_report,
)
from squeezetune.model.onnx_file import check_count, check_signature, read_model_file
from squeezetune.model.rejection import Threshold, choose_threshold
from squeezetune.network.inference import IMAGE
from squeezetune.system.executor import Executor, ThreadExecutor
from squeezetune.system.monitor import release_memory
from squeezetune.system.telemetry import import_onnxruntime

# Images of one size go through the model together, up to this many pixels at the network's size: on
# one thread more at once are slower, since what the layers give no longer stays in the cache
# (docs/decisions/0014-prediction.md).
BATCH_PIXELS = {FLOATS: 2 * 128 * 128, WHOLES: 8 * 128 * 128}
CHUNK = 16
# A thread holds at most so many pixels of decoded photos, or a single photo.
HELD_PIXELS = LARGE_PIXELS


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of one image.

    `label` is the likeliest class and `confidence` its probability; `probabilities` maps every
    class to its own, likeliest first. `is_known` is False where "none of these" was asked for and
    the image seems to be of no class: the label is then merely the nearest one.

    >>> prediction = Prediction("rose", 0.75, {"rose": 0.75, "tulip": 0.25})
    >>> prediction.list_best(1), prediction.is_known
    ([('rose', 0.75)], True)
    """

    label: str
    confidence: float
    probabilities: dict[str, float]
    is_known: bool = True

    def list_best(self, count: int) -> list[tuple[str, float]]:
        """Return the likeliest classes with their probabilities, at most `count` of them."""
        return list(self.probabilities.items())[:count]


@dataclass(frozen=True)
class Answer:
    """What a model gives for an image: probabilities (classes,) and how familiar it looks, where
    the model knows.
    """

    probabilities: NDArray[np.float32]
    familiarity: float = math.nan


@dataclass(frozen=True)
class Classifier:
    """A trained classifier.

    >>> classifier = load("flowers-model")                  # doctest: +SKIP
    >>> classifier.predict("rose.jpg").label                # doctest: +SKIP
    'rose'
    """

    model: bytes | Path
    manifest: Manifest
    folder: Path | None = None
    threads: int = 1  # of one run of the model; 1 where runs go on side by side

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in the order of the columns of `predict_probabilities`."""
        return self.manifest.class_names

    @property
    def pixels(self) -> PixelSettings:
        """How the model sees an image."""
        return PixelSettings(self.manifest.image_side, self.manifest.resize)

    @property
    def batch_images(self) -> int:
        """How many images of one size go through the model together."""
        return max(1, BATCH_PIXELS.get(self.manifest.arithmetic, 0) // self.manifest.image_side**2)

    @cached_property
    def report(self) -> dict[str, Any]:
        """The measurements of the training run, as in `report.json`."""
        return read_report(self.folder) if self.folder else {}

    @overload
    def predict(  # type: ignore[overload-overlap]  # a str is a sequence too
        self, images: ImageLike, *, none_of_these: float | str | None = None
    ) -> Prediction: ...

    @overload
    def predict(
        self, images: Iterable[ImageLike], *, none_of_these: float | str | None = None
    ) -> list[Prediction]: ...

    def predict(
        self, images: ImageLike | Iterable[ImageLike], *, none_of_these: float | str | None = None
    ) -> Prediction | list[Prediction]:
        """Classify one image or several.

        An image is a path, the bytes of a file, a file that is open, a Pillow image, or an array of
        uint8, (height, width) or (height, width, 3 or 4). Several are any number of those, or an
        array (n, height, width, 3).

        With `none_of_these`, say 0.05 or "5%", an image that is hardly like any class is told as
        such (`is_known`); of images that are of a class about this share is taken for such, too.

        Raises:
            SourceError: these are no images.
            ImageError: an image cannot be read.
            SettingsError: the share is out of its limits.
            ArtifactError: the model does not know what it makes of images that it has not learnt.

        """
        threshold = self.find_threshold(none_of_these)
        if is_one_image(images):
            return self.judge(self._answer([images])[0], threshold)  # type: ignore[list-item]
        return [self.judge(answer, threshold) for answer in self._answer(images)]  # type: ignore[arg-type]

    def find_threshold(self, rate: float | str | None) -> Threshold:
        """Find what an image has to reach to be of one of the classes: about this share of known
        ones does not.

        None gives what everything reaches.

        Raises:
            SettingsError: the share is out of its limits.
            ArtifactError: the model does not know what it makes of images that it has not learnt.

        """
        if rate is None:
            return Threshold()
        return choose_threshold(self.manifest.familiarities, self.manifest.confidences, rate)

    def predict_probabilities(self, images: Iterable[ImageLike]) -> NDArray[np.float32]:
        """Return the probabilities (n, classes) of any number of images.

        Raises:
            ImageError: an image cannot be read.

        """
        rows = [answer.probabilities for answer in self._answer(images)]
        return np.array(rows, np.float32).reshape(-1, len(self.class_names))

    def _answer(self, images: Iterable[ImageLike]) -> list[Answer]:
        """Run the model on any number of images; ImageError where one cannot be read."""
        images, answers = hold_images(images), []
        source = MemorySource(images)
        for name, outcome in self.stream(source, source.names, ThreadExecutor()):
            if isinstance(outcome, ImageError):
                image = images[int(name)]
                found = (
                    os.fspath(image)
                    if isinstance(image, (str, os.PathLike))
                    else f"image {int(name)}"
                )
                raise ImageError(f"{found!s}: {outcome.message}", outcome.hint) from outcome
            answers.append(outcome)
        return answers

    def stream(
        self, source: ImageSource, names: Iterable[str], executor: Executor
    ) -> Iterator[tuple[str, Answer | ImageError]]:
        """Yield each name with the model's answer, or the error of an image that cannot be read, in
        order.
        """
        _ = self._session  # opened here, so that the threads do not each open one
        for outcomes in executor.map(
            lambda chunk: self._run_chunk(source, chunk), _cut(names, CHUNK)
        ):
            yield from outcomes

    def _run_chunk(
        self, source: ImageSource, names: Sequence[str]
    ) -> list[tuple[str, Answer | ImageError]]:
        """Read some images, and run those of the same size together."""
        outcomes: dict[str, Answer | ImageError] = {}
        held: list[tuple[str, NDArray[np.uint8]]] = []
        for name in names:
            try:
                held.append((name, load_prepared(source, name, self.pixels)))
            except ImageError as error:
                outcomes[name] = error
            if sum(pixels.size for _, pixels in held) > 3 * HELD_PIXELS:
                outcomes |= self._run_held(held)
                held = []
        outcomes |= self._run_held(held)
        return [(name, outcomes[name]) for name in names]

    def _run_held(
        self, held: Sequence[tuple[str, NDArray[np.uint8]]]
    ) -> dict[str, Answer | ImageError]:
        """Run the model on decoded images, those of the same size together."""
        outcomes: dict[str, Answer | ImageError] = {}
        by_size: dict[tuple[int, ...], list[tuple[str, NDArray[np.uint8]]]] = {}
        for name, pixels in held:
            by_size.setdefault(pixels.shape, []).append((name, pixels))
        for images in by_size.values():
            for batch in _cut(images, self.batch_images):
                answers = self.answer_each([pixels for _, pixels in batch])
                outcomes |= {name: answer for (name, _), answer in zip(batch, answers, strict=True)}
        return outcomes

    def answer_each(self, pixels: Sequence[NDArray[np.uint8]]) -> list[Answer | ImageError]:
        """Run the model on images of one size; one that the runtime fails over leaves the others
        alone.
        """
        try:
            return list(self.answer(pixels))
        except ImageError as error:
            return [error] if len(pixels) == 1 else [self.answer_each([each])[0] for each in pixels]

    def answer(self, pixels: Sequence[NDArray[np.uint8]]) -> list[Answer]:
        """Run the model on images (height, width, 3) of one size, for all that it says of them.

        Raises:
            ImageError: the runtime fails over them.
            ArtifactError: the model gives something else than its manifest says.

        """
        rows, *more = self._run(pixels)
        familiarities = more[0].tolist() if more else [math.nan] * len(rows)
        return [Answer(row, value) for row, value in zip(rows, familiarities, strict=True)]

    def run(self, pixels: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Run the model on images (height, width, 3) of one size: probabilities (n, classes)."""
        return self._run(pixels)[0]

    def _run(self, pixels: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """Run the model for all its outputs: probabilities (n, classes) and, of most models,
        familiarity (n,).
        """
        session = self._session
        try:
            outputs: list[NDArray[np.float32]] = session.run(None, {IMAGE: np.stack(pixels)})
        except Exception as error:  # ONNX Runtime's own errors share no other base
            height, width, _ = pixels[0].shape
            raise ImageError(
                f"the model cannot be run on {width:,} x {height:,} pixels: {error}"
            ) from error
        check_count(outputs[0].shape[1], self.class_names)
        return outputs

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a pickle holds: the model itself in place of its path, and no open
        session.

        It works where the folder is not, or no longer; a session is opened there when it is needed.
        """
        kept = {name: value for name, value in vars(self).items() if name != "_session"}
        return kept | {"model": self.read_model()}

    @cached_property
    def _session(self) -> Any:
        onnxruntime = import_onnxruntime()  # slow, and a manifest can be looked at without it
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.enable_mem_pattern = (
            False  # batches differ in size: patterns would take a third more memory, for no speed
        )
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(
                self.read_model(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's own errors share no other base
            raise ArtifactError(
                f"The model cannot be opened: {error}", "Train the model again."
            ) from error
        check_signature(session, self.class_names)
        release_memory()  # what opening took and freed, 7 MB; it takes a millisecond
        return session

    def read_model(self) -> bytes:
        """Read the bytes of the ONNX file.

        Raises:
            ArtifactError: another model has taken its place since the manifest was read.

        """
        if isinstance(self.model, bytes):
            return self.model
        if self.folder is None:  # being written: there are no checksums yet
            return self.model.read_bytes()
        return read_payload(self.model, self.manifest.files[MODEL])

    def judge(self, answer: Answer, threshold: Threshold) -> Prediction:
        """Turn the model's answer into a prediction; below the threshold, the image is none of the
        classes.
        """
        confidence = float(answer.probabilities.max())
        return self.describe(answer.probabilities, threshold.admits(confidence, answer.familiarity))

    def describe(self, row: NDArray[np.float32], is_known: bool = True) -> Prediction:
        """Turn probabilities (classes,) into a prediction."""
        order = np.argsort(-row, kind="stable")
        probabilities = {self.class_names[at]: float(row[at]) for at in order}
        best = self.class_names[order[0]]
        return Prediction(best, probabilities[best], probabilities, is_known)


def load(model: str | os.PathLike[str]) -> Classifier:
    """Load a trained classifier from its folder, or from a single ONNX file that was exported.

    Raises:
        ArtifactError: it is no model, is damaged, or was written by a newer SqueezeTune.

    """
    if not isinstance(model, (str, os.PathLike)):
        raise ArtifactError(
            f"The model is a {type(model).__name__}; needed is its path", "Give a model's folder."
        )
    path = Path(model)
    if path.is_file():
        return Classifier(*read_model_file(path))
    return Classifier(path / MODEL, read_manifest(path), path)


def _cut(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Cut items into lists of at most `size`."""
    chunk: list[Any] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
