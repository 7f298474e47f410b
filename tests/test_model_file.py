import shutil

import numpy as np
import onnx
import pytest

from squeezetune.artifact import MODEL
from squeezetune.errors import ArtifactError
from squeezetune.prediction import load


@pytest.fixture(scope="module")
def file(model_folder, tmp_path_factory):
    """A model's ONNX file, alone."""
    return shutil.copy(model_folder / MODEL, tmp_path_factory.mktemp("alone") / "shapes.onnx")


@pytest.fixture
def photos(draw_shape):
    return [draw_shape(name, at, 72, 64) for at, name in enumerate(("box", "disc", "spike"))]


def test_a_file_says_what_its_folder_does(file, model_folder, photos):
    alone, whole = load(file), load(model_folder)
    np.testing.assert_array_equal(alone.predict_probabilities(photos), whole.predict_probabilities(photos))
    assert alone.class_names == whole.class_names
    for name in ("image_side", "resize", "views"):
        assert getattr(alone.manifest, name) == getattr(whole.manifest, name)
    assert alone.manifest.files[MODEL] == whole.manifest.files[MODEL]
    assert alone.manifest.data["fingerprint"] == whole.manifest.data["fingerprint"]
    assert alone.manifest.weights.items() <= whole.manifest.weights.items()
    assert alone.report == {}


def test_a_file_does_not_know_how_sure_it_is(file, photos):
    with pytest.raises(ArtifactError, match="does not know what it makes"):
        load(file).predict(photos, none_of_these=0.1)


def test_a_file_of_another_kind(file, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff not a model")
    with pytest.raises(ArtifactError, match=r"photo\.jpg is a photo; needed is a model") as error:
        load(tmp_path / "photo.jpg")
    assert "squeezetune export" in error.value.hint


@pytest.mark.parametrize(
    "harm", [{"class_names": None}, {"class_names": "[]"}, {"class_names": '["a", 3]'}, {"class_names": "{"},
             {"image_side": "wide"}, {"image_side": "0"}, {"views": None}, {"resize": None}]
)  # fmt: skip
def test_a_model_that_does_not_explain_itself(file, tmp_path, harm):
    model = onnx.load(file)
    about = {item.key: item.value for item in model.metadata_props} | harm
    onnx.helper.set_model_props(model, {name: value for name, value in about.items() if value is not None})
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ArtifactError, match="does not say what its classes are"):
        load(tmp_path / "other.onnx")
