"""A classifier made ready for many requests: its resize apart, and a newer one in its place."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from numpy.typing import NDArray

from squeezetune.data.pixels import prepare_pixels
from squeezetune.errors import ArtifactError, ImageError, SqueezeTuneError
from squeezetune.model.artifact import MANIFEST, MODEL, NETWORK
from squeezetune.model.classifier import Answer, Classifier, load
from squeezetune.model.output import Outcome
from squeezetune.network.inference import FITTED, IMAGE
from squeezetune.system.telemetry import import_onnxruntime

# What is read or changed of ONNX's messages, by its field numbers (onnx.proto3); protobuf keeps the
# rest as it is. The package onnx would know it all, for eight times the time and a fifth of the
# memory that the server begins with.
SCHEMA: dict[str, dict[str, tuple[int, str]]] = {
    "Model": {"graph": (7, "Graph")},
    "Graph": {
        "node": (1, "Node*"),
        "initializer": (5, "Tensor*"),
        "input": (11, "Value*"),
        "output": (12, "Value*"),
    },
    "Node": {"input": (1, "string*"), "output": (2, "string*")},
    "Tensor": {"name": (8, "string")},
    "Value": {"name": (1, "string"), "type": (2, "Type")},
    "Type": {"tensor_type": (1, "TensorType")},
    "TensorType": {"elem_type": (1, "int32")},
}
UINT8 = 2  # TensorProto.DataType


class ResizeModel:
    """The first operators of a model, those that resize.

    Run on what they give they change nothing, so that the whole model gives for a fitted image what
    it gives for the image itself; images of different sizes can then be run together.

    Raises:
        ArtifactError: the file is no model that begins so.

    """

    def __init__(self, payload: bytes) -> None:
        onnxruntime = import_onnxruntime()  # slow
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # each thread runs images of its own
        options.enable_cpu_mem_arena = (
            False  # which would keep for ever what the largest photo took
        )
        options.log_severity_level = 3
        try:
            graph = extract_resize(payload)
            self._session: Any = onnxruntime.InferenceSession(
                graph, options, providers=["CPUExecutionProvider"]
            )
        except ArtifactError:
            raise
        except Exception as error:  # those of protobuf and ONNX Runtime share no other base
            raise ArtifactError(
                f"The model cannot be opened: {error}", "Train the model again."
            ) from error

    def run(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Make one image (height, width, 3) as large as the network wants it: (side, side, 3).

        Raises:
            ImageError: the runtime fails over it.

        """
        try:
            fitted: NDArray[np.uint8] = self._session.run(None, {IMAGE: pixels[None]})[0][0]
        except Exception as error:  # ONNX Runtime's own errors share no other base
            raise ImageError(
                f"it cannot be made as large as the model wants it: {error}"
            ) from error
        return fitted


def extract_resize(payload: bytes) -> bytes:
    """Cut the operators that resize from the beginning of a model."""
    model = _declare_model().FromString(payload)
    graph, read = model.graph, {FITTED}
    for at in reversed(range(len(graph.node))):
        if read.isdisjoint(graph.node[at].output):
            del graph.node[at]
        else:
            read.update(graph.node[at].input)
    if not graph.node:
        raise ArtifactError(
            "The model does not begin by resizing its images", "Train the model again."
        )
    _keep_named(graph.initializer, read)
    _keep_named(graph.input, {IMAGE})
    del graph.output[:]
    graph.output.add(name=FITTED).type.tensor_type.elem_type = UINT8
    cut: bytes = model.SerializeToString()
    return cut


def _keep_named(items: Any, names: set[str]) -> None:
    """Remove all items of a repeated field that are called otherwise."""
    for at in reversed(range(len(items))):
        if items[at].name not in names:
            del items[at]


def _declare_model() -> Any:
    """Declare the messages of the schema, and return the class of a model."""
    file = FileDescriptorProto(name="onnx_cut.proto", package="onnx_cut", syntax="proto3")
    for name, fields in SCHEMA.items():
        message = DescriptorProto(name=name)
        for field, (number, kind) in fields.items():
            message.field.append(_declare_field(field, number, kind))
        file.message_type.append(message)
    pool = DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return GetMessageClass(pool.FindMessageTypeByName("onnx_cut.Model"))


def _declare_field(name: str, number: int, kind: str) -> FieldDescriptorProto:
    one, many = FieldDescriptorProto.LABEL_OPTIONAL, FieldDescriptorProto.LABEL_REPEATED
    field = FieldDescriptorProto(
        name=name, number=number, label=many if kind.endswith("*") else one
    )
    plain = {"string": FieldDescriptorProto.TYPE_STRING, "int32": FieldDescriptorProto.TYPE_INT32}
    kind = kind.removesuffix("*")
    field.type = plain.get(kind, FieldDescriptorProto.TYPE_MESSAGE)
    if kind not in plain:
        field.type_name = f".onnx_cut.{kind}"
    return field


# What tells that a file was written again: its number on the disk, the time and the size.
Mark: TypeAlias = tuple[tuple[int, int, int] | None, ...]
# A lone image of up to so many pixels is resized on its way through the network; what a larger one
# takes would be kept.
LONE_PIXELS = 512 * 512


@dataclass(frozen=True)
class ServedModel:
    """A classifier in use; `version` is the SHA-256 of its `model.onnx`.

    Runs of `classifier` go on side by side, a core each; a run of `lone` has all cores.
    """

    classifier: Classifier
    lone: Classifier
    fit: ResizeModel
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

        Every photo is resized by itself, so that photos of all sizes can be run together, and a
        large one is held no longer than that takes.
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
            outcomes |= {
                at: self._describe(answer) for at, answer in zip(batch, answers, strict=True)
            }
        return [outcomes[at] for at in range(len(images))]

    def _describe(self, answer: Answer | ImageError) -> Outcome:
        return (
            answer
            if isinstance(answer, ImageError)
            else self.classifier.describe(answer.probabilities)
        )

    def _open(
        self, data: bytes, max_pixels: int, most_pixels: int = LONE_PIXELS
    ) -> NDArray[np.uint8]:
        """Decode an image; above `most_pixels` it is made as large as the network wants it: (side,
        side, 3).
        """
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
    """Load a classifier, from its folder or its file, and run it once, so that the first request
    waits for nothing.

    `threads` run a lone image together.

    Raises:
        ArtifactError: it is no model, is damaged, or was written by a newer SqueezeTune.

    """
    found = load(place)
    payload, manifest = found.read_model(), found.manifest
    classifier = replace(found, model=payload)
    lone = replace(classifier, threads=threads) if threads > 1 else classifier
    model = ServedModel(classifier, lone, ResizeModel(payload), len(payload))
    blank = np.zeros((manifest.image_side, manifest.image_side, 3), np.uint8)
    try:
        for each, count in ((classifier, 1), (classifier, classifier.batch_images), (lone, 1)):
            each.run([model.fit.run(blank)] * count)
    except ArtifactError:
        raise
    except Exception as error:  # ONNX Runtime's own errors share no other base
        raise ArtifactError(
            f"The model cannot be run: {error}", "Train the model again."
        ) from error
    return model


def mark_model(place: Path) -> Mark:
    """Return what changes when a model takes another's place, or is written again; nothing is
    read.
    """
    files = [place] if place.is_file() else [place / name for name in (MANIFEST, MODEL, NETWORK)]
    return tuple(_mark_file(path) for path in files)


def _mark_file(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:  # one model is just giving way to another
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


LOOK_EVERY_S = 1.0
# What became of another model in its place: it is in use, or was refused and why.
TellChange = Callable[[ServedModel, SqueezeTuneError | None], None]


class ModelReloader:
    """Holds the model in use; a request keeps the one that it began with.

    Within a `with` block its folder or file is looked at again and again. A new model is loaded and
    run beside the old one, and takes its place in one step; one that is damaged is told of once and
    changes nothing.

    Raises:
        ArtifactError: there is no model to begin with.

    """

    def __init__(
        self, place: Path, tell: TellChange, every_s: float = LOOK_EVERY_S, threads: int = 1
    ) -> None:
        self._where, self._tell, self._every_s, self._threads = place, tell, every_s, threads
        self._seen = mark_model(place)
        self.model = open_model(place, threads)
        self._is_done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch-model", daemon=True)

    def __enter__(self) -> "ModelReloader":
        self._thread.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self._is_done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._is_done.wait(self._every_s):
            self.look()

    def look(self) -> None:
        """Take the model that lies there if it is another one than when it was looked at last."""
        mark = mark_model(self._where)
        if mark == self._seen or None in mark:
            return
        outcome = _try_open(self._where, self._threads)
        if mark_model(self._where) != mark:
            return  # it has changed meanwhile, and is looked at again
        self._seen = mark
        if isinstance(outcome, SqueezeTuneError):
            self._tell(self.model, outcome)
        elif (
            outcome.classifier.manifest != self.model.classifier.manifest
        ):  # else the same files, copied once more
            self.model = outcome
            self._tell(outcome, None)


def _try_open(place: Path, threads: int) -> ServedModel | SqueezeTuneError:
    try:
        return open_model(place, threads)
    except SqueezeTuneError as error:
        return error
    except Exception as error:  # the old model must stay in use, whatever lies there
        return SqueezeTuneError(f"the model cannot be loaded: {error!r}")
