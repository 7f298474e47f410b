"""A model on a network that somebody else wrote is served as any other."""

import pytest
from foreign_models import write_cnn

from squeezetune.model.artifact import MODEL
from squeezetune.model.classifier import load
from squeezetune.training import train


@pytest.fixture(scope="module")
def folder(shape_folder, tmp_path_factory):
    """Train a model on a small network's file, which is removed then."""
    place = tmp_path_factory.mktemp("foreign-served")
    file = place / "theirs.onnx"
    file.write_bytes(write_cnn(metadata={"mean": "0.5", "std": "0.25", "name": "Little net"}))
    train(
        shape_folder,
        place / "model",
        backbone=file,
        validation=0.2,
        test=0.2,
        folds="none",
        threads=2,
        engine="onnxruntime",
        precision="float32",
    )
    file.unlink()
    return place / "model"


@pytest.mark.usefixtures("no_plots")
def test_it_answers_as_in_python_and_says_what_it_is(folder, start_server, files, write_form):
    classifier = load(folder)
    with start_server(folder) as running:
        _, _, alone = running.predict(files[0])
        status, _, answer = running.predict(*write_form(files[1:5]))
        described = running.ask("GET", "/model")[2]
    assert status == 200
    for found, expected in zip(
        alone["images"] + answer["images"], classifier.predict(files[:5]), strict=True
    ):
        assert found["probabilities"] == pytest.approx(expected.probabilities, abs=1e-6)
    assert described["classes"] == list(classifier.class_names)
    assert answer["model"] == classifier.manifest.files[MODEL]
