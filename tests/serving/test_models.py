from io import BytesIO

import numpy as np
import onnx
import pytest
from PIL import Image

from squeezetune.errors import ArtifactError, ImageError
from squeezetune.serving.models import ResizeModel, mark_model, open_model


@pytest.fixture(scope="module")
def model(model_folder):
    return open_model(model_folder, threads=2)


def test_a_fitted_image_is_not_changed_again(model, files):
    for data in files[:4]:
        fitted = model.fit.run(np.asarray(Image.open(BytesIO(data)).convert("RGB")))
        assert fitted.shape == (64, 64, 3)
        np.testing.assert_array_equal(model.fit.run(fitted), fitted)


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (900, 2), (64, 64)])
def test_any_size_gives_what_the_whole_model_gives(model, size):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    np.testing.assert_allclose(
        model.classifier.run([model.fit.run(pixels)]), model.classifier.run([pixels]), atol=1e-6
    )


def test_together_as_one_by_one(model, files, classifier):
    together = model.classify([*files, b"none"], 10_000_000)
    assert isinstance(together.pop(), ImageError)
    for found, data in zip(together, files, strict=True):
        assert found.probabilities == pytest.approx(
            classifier.predict(data).probabilities, abs=1e-5
        )


@pytest.mark.parametrize("size", [(1, 1), (900, 2), (64, 64), (700, 600)])
def test_a_lone_image_gets_what_others_get(model, size):
    data = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)).save(
        data, "PNG"
    )
    [among_others] = model.classify([data.getvalue()], 10_000_000)
    alone = model.classify_lone(data.getvalue(), 10_000_000)
    assert alone.probabilities == pytest.approx(among_others.probabilities, abs=1e-5)
    assert isinstance(model.classify_lone(b"none", 10_000_000), ImageError)


def test_a_file_that_does_not_begin_by_resizing(model):
    with pytest.raises(ArtifactError, match="cannot be opened"):
        ResizeModel(b"no model")
    other = onnx.load_model_from_string(model.classifier.model)
    del other.graph.node[0]
    with pytest.raises(ArtifactError, match="does not begin by resizing"):
        ResizeModel(other.SerializeToString())


def test_a_mark_changes_with_the_files(model_folder, tmp_path):
    assert mark_model(model_folder) == mark_model(model_folder)
    assert None not in mark_model(model_folder)
    assert None in mark_model(tmp_path)


def test_a_single_file_is_a_model_too(model_folder, model, files, tmp_path):
    alone = tmp_path / "model.onnx"
    alone.write_bytes((model_folder / "model.onnx").read_bytes())
    found = open_model(alone)
    assert found.version == model.version
    for ours, theirs in zip(
        found.classify(files, 10_000_000), model.classify(files, 10_000_000), strict=True
    ):
        assert ours.probabilities == pytest.approx(theirs.probabilities, abs=1e-6)
    before = mark_model(alone)
    alone.write_bytes(b"another one")
    assert mark_model(alone) != before
