import shutil

import numpy as np
import onnx
import pytest

from squeezetune.errors import ArtifactError
from squeezetune.model.artifact import MODEL
from squeezetune.model.classifier import load


@pytest.fixture(scope="module")
def file(model_folder, tmp_path_factory):
    """A model's ONNX file, alone."""
    return shutil.copy(model_folder / MODEL, tmp_path_factory.mktemp("alone") / "shapes.onnx")


@pytest.fixture
def photos(draw_shape):
    return [draw_shape(name, at, 72, 64) for at, name in enumerate(("box", "disc", "spike"))]


def test_a_file_says_what_its_folder_does(file, model_folder, photos):
    alone, whole = load(file), load(model_folder)
    np.testing.assert_array_equal(
        alone.predict_probabilities(photos), whole.predict_probabilities(photos)
    )
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
    "harm",
    [
        {"class_names": None},
        {"class_names": "[]"},
        {"class_names": '["a", 3]'},
        {"class_names": "{"},
        {"image_side": "wide"},
        {"image_side": "0"},
        {"views": None},
        {"resize": None},
        {"class_names": "[" * 100_000},
        {"class_names": '["a", "b", "a"]'},
        {"class_names": '{"a": 1}'},
        {"image_side": "9" * 5000},
        {"image_side": "100000"},
        {"settings": "[1]"},
        {"settings": "[" * 100_000},
    ],
)
def test_a_model_that_does_not_explain_itself(file, tmp_path, harm):
    model = onnx.load(file)
    about = {item.key: item.value for item in model.metadata_props} | harm
    onnx.helper.set_model_props(
        model, {name: value for name, value in about.items() if value is not None}
    )
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ArtifactError, match="does not say what its classes are"):
        load(tmp_path / "other.onnx")


# Models of somebody else that name classes as ours do: what they take and give, how, and what is
# said of them.
MEANS = (
    "real = Cast<to=1>(image) axes = Constant<value = int64[2] {1, 2}>() means = "
    "ReduceMean<keepdims=0>(real, axes)"
)
FOREIGN = {
    "floats": (
        "float[n,3,8,8] image",
        "float[n,3,8,8] probabilities",
        "probabilities = Relu(image)",
        r"takes image: tensor\(float\) of 4 dimensions and gives",
    ),
    "another name": (
        "uint8[n,h,w,3] x",
        "uint8[n,h,w,3] probabilities",
        "probabilities = Identity(x)",
        r"takes x: tensor\(uint8\)",
    ),
    "two images": (
        "uint8[n,h,w,3] image, uint8[n,h,w,3] other",
        "uint8[n,h,w,3] probabilities",
        "probabilities = Concat<axis = 0>(image, other)",
        r"takes image: .*, other: ",
    ),
    "pictures": (
        "uint8[n,h,w,3] image",
        "float[n,h,w,3] probabilities",
        "probabilities = Cast<to=1>(image)",
        r"gives probabilities: tensor\(float\) of 4 dimensions; needed is one that takes image",
    ),
    "a sequence": (
        "uint8[n,h,w,3] image",
        "seq(uint8[n,h,w,3]) probabilities",
        "probabilities = SequenceConstruct(image)",
        r"gives probabilities: seq\(tensor\(uint8\)\); needed",
    ),
    "more classes": (
        "uint8[n,h,w,3] image",
        "float[n,6] probabilities",
        f"{MEANS} probabilities = Concat<axis=1>(means, means)",
        "gives 6 values .* of the 3 classes",
    ),
    "a second output": (
        "uint8[n,h,w,3] image",
        "float[n,3] probabilities, float[n,3] familiarity",
        f"{MEANS} probabilities = Relu(means) familiarity = Relu(means)",
        "familiarity: .* of 2 dim",
    ),
}


@pytest.fixture
def write_foreign(file, tmp_path):
    def write(take, give, nodes):
        text = f'<ir_version: 8, opset_import: ["": 18]> foreign ({take}) => ({give}) {{ {nodes} }}'
        model = onnx.parser.parse_model(text)
        onnx.helper.set_model_props(
            model, {item.key: item.value for item in onnx.load(file).metadata_props}
        )
        onnx.save(model, tmp_path / "foreign.onnx")
        return tmp_path / "foreign.onnx"

    return write


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_model_that_computes_something_else_is_refused(write_foreign, photos, kind):
    take, give, nodes, message = FOREIGN[kind]
    with pytest.raises(ArtifactError, match=message):
        load(write_foreign(take, give, nodes))


def test_a_model_whose_number_of_values_is_seen_late(write_foreign, photos):
    found = load(
        write_foreign(
            "uint8[n,h,w,c] image",
            "float[n,k] probabilities",
            f"{MEANS} probabilities = Concat<axis=1>(means, means)",
        )
    )
    with pytest.raises(
        ArtifactError,
        match=r"gives 6 values for each image; needed is one for each of the 3 classes",
    ):
        found.predict(photos)


def test_a_model_of_somebody_else_that_does_the_same(write_foreign, photos):
    nodes = f"{MEANS} probabilities = Relu(means)"
    found = load(write_foreign("uint8[n,h,w,3] image", "float[n,3] probabilities", nodes))
    means = np.asarray(photos[0]).mean(axis=(0, 1))
    np.testing.assert_allclose(found.predict_probabilities(photos[:1])[0], means, rtol=1e-5)
