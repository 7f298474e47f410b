"""A small network that learns from a trained model: SqueezeNet 1.1 in half a megabyte, whatever
network its teacher is.

It is trained as any model is, on the model's training photos, but instead of their labels it learns
what the model says of them: of every crop, mirror image and change of light that it is shown. The
validation photos choose between that and a head on frozen layers; the test photos take no part.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from squeezetune.data.index import ImageIndex
from squeezetune.data.pixels import PixelSettings
from squeezetune.data.split import Split
from squeezetune.errors import SettingsError
from squeezetune.evaluation.measurement import place_classes
from squeezetune.events import Notice
from squeezetune.exporting.export_inputs import ExportInputs
from squeezetune.exporting.onnx_formats import build_tiny
from squeezetune.network.backbone import BackboneOptions, prepare_backbone
from squeezetune.network.frozen_classifier import FrozenClassifier, Teaching
from squeezetune.network.pretrained import Pretrained
from squeezetune.network.trained import read_network
from squeezetune.network.weights import detect_architecture, find_architecture
from squeezetune.pipeline.context import RunContext, open_context
from squeezetune.pipeline.fitting import describe_model, fit_classifier
from squeezetune.pipeline.preparation import draw_sample
from squeezetune.pipeline.result import TransferResult
from squeezetune.settings import Settings, parse_settings
from squeezetune.system.disk import open_cache, write_file
from squeezetune.system.machine import hash_bytes

STUDENT = "squeezenet1_1"
# What both networks' logits are divided by, so that also unlikely classes have something to say.
TEMPERATURE = 2.0
# Where nothing limits it, a student is shown so many images, and each photo at least and at most so
# many times.
SHOWN_IMAGES, FEWEST_EPOCHS, MOST_EPOCHS = 100_000, 8.0, 20.0
# The settings of the model's own training that hold for the student's too.
KEPT = ("seed", "resize", "class_weight", "threads", "engine", "precision", "max_ram")
PHOTOS_HINT = "Give the photos that the model was trained on with --photos."
# One training photo in so many judges where there is no validation part.
EVERY = 8


def write_student(order: ExportInputs, path: Path) -> None:
    """Write a student of the model, with parameters of four bits."""
    write_file(path, build_student(order))


def build_student(order: ExportInputs) -> bytes:
    """Teach a student, and build it with parameters of four bits."""
    return build_tiny(teach_student(order))


def teach_student(order: ExportInputs) -> ExportInputs:
    """Train a student on what the model says of its training photos: a network to be written in
    turn.

    Raises:
        SettingsError: the model cannot teach, the photos are not known, or a limit is too tight.
        DataError: the photos cannot be used.
        MissingExtraError: torch is not installed.
    """
    check_teacher(order)
    lesson, settings = draw_lesson(order), make_settings(order)
    context = open_context(settings, open_cache(order.listen), order.listen)
    teaching = Teaching(
        open_teacher(order, lesson, context),
        detect_architecture(order.network.weights),
        TEMPERATURE,
    )
    context = replace(context, teaching=teaching)
    learned = fit_classifier(lesson.index, lesson.find_parts, context, is_forecast=True)
    order.listen(Notice(describe_result(learned)))
    return replace(
        order,
        network=read_network(learned.network),
        model=learned.model,
        metadata=dict(order.metadata) | describe_student(learned, order, settings),
    )


def check_teacher(order: ExportInputs) -> None:
    """Make sure that a smaller network can learn from the model, within limits that make sense.

    Raises:
        SettingsError: it is no larger, its photos are not at hand, or a limit is no time or size.
    """
    network = detect_architecture(order.network.weights)
    student = find_architecture(STUDENT)
    if network.parameter_count <= student.parameter_count or order.network.is_convolved:
        raise SettingsError(
            f"the model is {network.title}, and only a network larger than {student.title} can "
            "teach that",
            "Train a larger one on the same photos, such as with `squeezetune train --backbone "
            "efficientnet_lite0`, and export it with --teacher; or leave --teacher out.",
        )
    if order.photos is None:
        raise SettingsError(
            "a student learns from training photos, and there are none",
            PHOTOS_HINT,
        )
    make_settings(order)


@dataclass(frozen=True)
class Lesson:
    """The photos that a student learns from and is judged by, with the classes in the model's
    order; `judges` are the digests (n, 16) of the latter.
    """

    index: ImageIndex
    judges: NDArray[np.uint8]

    def find_parts(self, index: ImageIndex) -> Split:
        """Find the parts in the index, or what is left of it: by class, and then by content."""
        order = np.lexsort((*index.digests.T[::-1], index.labels))
        known = {digest.tobytes() for digest in self.judges}
        is_judge = np.array([index.digests[at].tobytes() in known for at in order], np.bool_)
        return Split(order[~is_judge], order[is_judge], np.empty(0, np.int64))


def draw_lesson(order: ExportInputs) -> Lesson:
    """Take the model's training and validation photos, and no other, from its photos.

    Raises:
        ClassesError: the model does not know a class of theirs.
    """
    assert order.photos is not None  # `check_teacher` has seen to that
    index, train = order.photos.index, order.photos.positions
    judges = order.judges.positions if order.judges else np.empty(0, np.int64)
    class_names = tuple(json.loads(order.metadata["class_names"]))
    places = place_classes(index, class_names, PHOTOS_HINT)
    held_back = index.digests[judges]
    if not len(judges):
        by_content = train[np.lexsort(index.digests[train].T[::-1])]
        held_back = index.digests[by_content[::EVERY]]
    others = np.setdiff1d(np.arange(len(index)), np.union1d(train, judges))
    index = replace(index, labels=places[index.labels], class_names=class_names)
    return Lesson(index.without(dict.fromkeys(others.tolist(), "not learnt from")), held_back)


def make_settings(order: ExportInputs) -> Settings:
    """Set up the student's training: as the model's was, as far as the settings concern both."""
    own = json.loads(order.metadata["settings"])
    limits = {name: value for name, value in vars(order.limits).items() if value}
    if not {"budget", "epochs"} & set(limits) and order.photos:
        shown = SHOWN_IMAGES / max(1, len(order.photos.positions))
        limits["epochs"] = round(min(MOST_EPOCHS, max(FEWEST_EPOCHS, shown)), 1)
    return parse_settings(
        {name: own[name] for name in KEPT if name in own}
        | {
            "backbone": STUDENT,
            "layers": "all",
            "image_side": order.network.side,
            "near_duplicates": "ignored",  # the parts are those that there were
            **limits,
        }
    )


def open_teacher(order: ExportInputs, lesson: Lesson, context: RunContext) -> FrozenClassifier:
    """Make the model ready to answer fast: of the images as they are shown, so in one view."""
    network, settings = order.network, context.settings
    pixels = PixelSettings(network.side, network.resize)
    options = BackboneOptions(
        pixels, 1, settings.engine, settings.precision, context.threads, context.cache
    )
    train = lesson.find_parts(lesson.index).train
    backbone = prepare_backbone(
        Pretrained(network.weights, hash_bytes(order.model), "the model", ""),
        options,
        lesson.index,
        lambda: draw_sample(lesson.index, train, pixels),
        order.listen,
    )
    return FrozenClassifier(backbone, network.head, network.use_roots)


def describe_result(learned: TransferResult) -> str:
    """Say what the validation photos have chosen."""
    count, right = len(learned.chosen.is_correct), int(learned.chosen.is_correct.sum())
    what = "keeps its frozen layers: what it learnt from the model was no better"
    if learned.best:
        what = "has learnt from the model"
    return f"{learned.pretrained.network} {what}; {right:,} of {count:,} validation photos right"


def describe_student(
    learned: TransferResult, order: ExportInputs, settings: Settings
) -> dict[str, str]:
    """Say in the file what it is and who taught it; its photos are those of the model."""
    teacher = detect_architecture(order.network.weights)
    return describe_model(learned) | {
        "data_fingerprint": order.metadata.get("data_fingerprint", ""),
        "settings": json.dumps(settings.to_dict()),
        "teacher": teacher.title if learned.best else "",
        "teacher_sha256": hash_bytes(order.model),
    }
