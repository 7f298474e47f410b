import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from squeezetune.cli.main import main
from squeezetune.errors import ClassesError, MissingExtraError, SettingsError, SourceError
from squeezetune.events import ignore_event
from squeezetune.exporting import formats
from squeezetune.exporting.export_inputs import PhotoLocation, TrainingPhotos, open_material
from squeezetune.exporting.exports import export, make_order, read_parameters
from squeezetune.exporting.formats import STUDENT_FORMAT, list_formats
from squeezetune.exporting.student import check_teacher, draw_lesson, make_settings
from squeezetune.model.classifier import load
from squeezetune.training import train

EPOCHS = 2.0


@pytest.fixture(scope="module")
def teacher_folder(shape_folder, fixed_settings, tmp_path_factory):
    """Train a model of the three shapes on a larger network; only to be read."""
    folder = tmp_path_factory.mktemp("teachers") / "shapes-model"
    train(shape_folder, folder, replace(fixed_settings, backbone="efficientnet_lite0"))
    return folder


@pytest.fixture
def with_torch():
    """Leave out what cannot be done without torch."""
    pytest.importorskip("torch", reason="torch is an extra")


needs_torch = pytest.mark.usefixtures("with_torch")


@pytest.fixture
def order(teacher_folder):
    material = open_material(teacher_folder, PhotoLocation(), ignore_event)
    classifier = load(teacher_folder)
    return make_order(classifier, read_parameters(classifier), material)


def name_digests(index, positions):
    return {index.digests[at].tobytes() for at in positions}


# ---- what is learnt from


def test_only_training_photos_are_learnt_from_and_validation_photos_judge(order):
    lesson = draw_lesson(order)
    parts = lesson.find_parts(lesson.index)
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (36, 12, 0)
    for found, photos in ((parts.train, order.photos), (parts.validation, order.judges)):
        wanted = name_digests(photos.index, photos.positions)
        assert name_digests(lesson.index, found) == wanted
    assert len(lesson.index) == 48  # test photos are not even looked at


def test_without_a_validation_part_some_training_photos_judge(order):
    nobody = TrainingPhotos(order.photos.index, np.empty(0, np.int64))
    lesson = draw_lesson(replace(order, judges=nobody))
    parts = lesson.find_parts(lesson.index)
    assert (len(parts.train), len(parts.validation)) == (31, 5)


def test_the_order_of_photos_does_not_hang_on_their_names(order):
    lesson = draw_lesson(order)
    parts = lesson.find_parts(lesson.index)
    turned = np.arange(len(lesson.index))[::-1]
    index = replace(
        lesson.index,
        names=tuple(lesson.index.names[at] for at in turned),
        labels=lesson.index.labels[turned],
        digests=lesson.index.digests[turned],
    )
    again = lesson.find_parts(index)
    assert (index.digests[again.train] == lesson.index.digests[parts.train]).all()


def test_classes_stand_in_the_models_order(order):
    names = json.loads(order.metadata["class_names"])
    turned = replace(order, metadata={"class_names": json.dumps(names[::-1])})
    before, after = draw_lesson(order).index, draw_lesson(turned).index
    assert after.class_names == before.class_names[::-1]
    assert (after.labels == 2 - before.labels).all()


def test_a_class_that_the_model_does_not_know_is_told(order):
    fewer = replace(order, metadata={"class_names": json.dumps(["box", "disc"])})
    with pytest.raises(ClassesError, match="spike"):
        draw_lesson(fewer)


def test_the_student_is_trained_as_the_model_was(order):
    settings = make_settings(order)
    assert (settings.backbone, settings.layers) == ("squeezenet1_1", "all")
    assert (settings.image_side, settings.engine, settings.threads) == (64, "onnxruntime", 2)
    assert settings.epochs == 20
    limited = make_settings(
        replace(order, limits=replace(order.limits, budget="90s", max_ram="2GB"))
    )
    assert (limited.budget, limited.max_ram, limited.epochs) == ("90s", "2GB", 0)


def test_the_more_photos_there_are_the_fewer_times_each_is_shown(order):
    photos = replace(order.photos, positions=np.zeros(10_000, np.int64))
    assert make_settings(replace(order, photos=photos)).epochs == 10


# ---- what cannot be


@needs_torch
def test_a_model_that_is_no_larger_cannot_teach(model_folder, tmp_path):
    with pytest.raises(SettingsError, match=r"SqueezeNet 1\.1") as caught:
        export(model_folder, ["onnx-tiny"], tmp_path / "out", teacher=True)
    assert "efficientnet_lite0" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_there_have_to_be_photos(order):
    with pytest.raises(SettingsError, match="training photos"):
        check_teacher(replace(order, photos=None))


@needs_torch
def test_photos_that_are_gone_are_told(order, teacher_folder, write_shapes, tmp_path):
    others = write_shapes(tmp_path / "others", 3, first=900)
    with pytest.raises(SourceError, match="none of the 36 photos of the train part"):
        export(teacher_folder, [STUDENT_FORMAT], tmp_path / "out", photos=others)


@needs_torch
@pytest.mark.parametrize(
    ("words", "said"), [(["--budget", "soon"], "soon"), (["--max-ram", "much"], "much")]
)
def test_limits_have_units(teacher_folder, tmp_path, words, said):
    given = [
        "export",
        str(teacher_folder),
        "--teacher",
        "-f",
        "onnx",
        "-o",
        str(tmp_path / "out"),
        *words,
    ]
    done = CliRunner().invoke(main, given)
    assert done.exit_code == 2
    assert said in done.output
    assert not (tmp_path / "out").exists()


def test_without_torch_it_is_told_what_to_install(teacher_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="torch"):
        export(teacher_folder, [STUDENT_FORMAT], tmp_path / "out")


def test_it_is_written_where_it_is_asked_for_alone():
    assert STUDENT_FORMAT not in list_formats()


# ---- the file


@needs_torch
def test_a_student_is_small_and_scored_like_every_format(teacher_folder, tmp_path):
    found = export(teacher_folder, ["onnx"], tmp_path / "out", teacher=True, epochs=EPOCHS)
    item = found[STUDENT_FORMAT]
    assert item.byte_count < 0.5e6
    assert item.score.is_honest
    assert item.score.images == 12
    about = onnx.load(found.find_path(STUDENT_FORMAT)).metadata_props
    told = {each.key: each.value for each in about}
    assert told["network"] == "SqueezeNet 1.1"
    assert json.loads(told["settings"])["backbone"] == "squeezenet1_1"
    assert json.loads(told["class_names"]) == ["box", "disc", "spike"]
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "SqueezeNet 1.1 that has learnt from the model" in card


@pytest.mark.slow
@needs_torch
def test_the_same_model_teaches_the_same_bytes(teacher_folder, tmp_path):
    paths = [
        export(
            teacher_folder, [STUDENT_FORMAT], tmp_path / name, epochs=EPOCHS, measure=False
        ).find_path(STUDENT_FORMAT)
        for name in ("first", "second")
    ]
    assert paths[0].read_bytes() == paths[1].read_bytes()
