import numpy as np
import pytest

from squeezetune.data.index import index_photos
from squeezetune.data.sources.folder import hash_file
from squeezetune.errors import ArtifactError, ClassesError, SourceError
from squeezetune.evaluation.measurement import evaluate, run_classifier
from squeezetune.events import Notice, StageAdvanced, StageFinished, StageStarted, ignore_event
from squeezetune.model.classifier import Classifier, load
from squeezetune.model.split_record import read_parts
from squeezetune.system.store import RowStore


@pytest.fixture(scope="module")
def classifier(model_folder):
    return load(model_folder)


@pytest.fixture
def unseen(write_shapes, tmp_path):
    return write_shapes(tmp_path / "unseen", 5, first=500)


# ---- a folder


def test_a_folder_is_measured_as_by_hand(classifier, model_folder, unseen):
    found = evaluate(model_folder, unseen).evaluation
    names = classifier.class_names
    confusion = np.zeros((3, 3), int)
    for path in unseen.rglob("*.png"):
        confusion[names.index(path.parent.name), names.index(classifier.predict(path).label)] += 1
    np.testing.assert_array_equal(found.confusion, confusion)
    assert found.count == 15
    assert found.accuracy == np.trace(confusion) / 15
    assert evaluate(classifier, str(unseen)).evaluation == found


def test_some_of_the_classes_are_enough(classifier, write_shapes, tmp_path):
    found = evaluate(
        classifier, write_shapes(tmp_path / "two", {"spike": 4, "disc": 3}, first=500)
    ).evaluation
    assert [(figures.name, figures.test) for figures in found.per_class] == [
        ("box", 0),
        ("disc", 3),
        ("spike", 4),
    ]


def test_a_class_that_the_model_does_not_know_is_an_error(classifier, unseen):
    (unseen / "disc").rename(unseen / "torus")
    with pytest.raises(
        ClassesError, match="does not know the class torus; it knows box, disc, spike"
    ):
        evaluate(classifier, unseen)


def test_a_pattern_finds_the_class(classifier, unseen):
    for folder in list(unseen.iterdir()):
        folder.rename(folder.with_name(f"{folder.name}7"))
    assert evaluate(classifier, unseen, class_pattern="^([a-z]+)").evaluation.count == 15


def test_files_that_were_not_used_are_listed(classifier, unseen):
    (unseen / "box" / "notes.txt").write_text("no image")
    (unseen / "disc" / "500.png").write_bytes((unseen / "disc" / "500.png").read_bytes()[:-2000])
    found = evaluate(classifier, unseen)
    assert {item.name for item in found.skipped} == {"box/notes.txt", "disc/500.png"}
    assert found.evaluation.count == 14


def test_what_cannot_be_measured_is_an_error(classifier, unseen, tmp_path):
    with pytest.raises(ArtifactError):
        evaluate(tmp_path, unseen)
    with pytest.raises(SourceError):
        evaluate(classifier, tmp_path / "nowhere")


def test_a_folder_without_a_readable_image_is_an_error(classifier, unseen):
    for path in unseen.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(SourceError):
        evaluate(classifier, unseen)


def test_photos_that_the_model_was_trained_on_are_told_apart(
    classifier, model_folder, shape_folder, unseen
):
    assert evaluate(model_folder, unseen).seen is None
    report = classifier.report
    parts, figures = report["data"]["parts"], evaluate(model_folder, shape_folder)
    assert (figures.seen.train, figures.seen.validation) == (parts["train"], parts["validation"])
    assert figures.seen.others.count == parts["test"]
    assert figures.seen.others.accuracy == report["test"]["accuracy"]
    assert figures.evaluation.count == sum(parts.values())


def test_where_no_other_photo_is_left_that_is_known(model_folder, shape_folder, tmp_path):
    known = read_parts(model_folder)
    for path in shape_folder.rglob("*.png"):
        digest = np.frombuffer(hash_file(str(path)), np.uint8)
        if (known.digests["train"] == digest).all(axis=1).any():
            target = tmp_path / "renamed" / path.parent.name / f"x{path.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    seen = evaluate(model_folder, tmp_path / "renamed").seen
    assert (seen.train, seen.validation, seen.others) == (len(known.digests["train"]), 0, None)


def test_a_model_that_does_not_say_what_it_was_trained_on_is_measured_all_the_same(
    model_folder, shape_folder, tmp_path
):
    alone = load(model_folder / "model.onnx")
    assert evaluate(alone, shape_folder).seen is None


# ---- some images of an index


@pytest.fixture
def index(unseen, executor):
    return index_photos(unseen, executor=executor)


def test_chosen_images_are_run_in_order(classifier, index, executor):
    positions = np.array([14, 3, 8])
    measured = run_classifier(classifier, index, positions, executor, ignore_event)
    np.testing.assert_array_equal(measured.positions, positions)
    expected = classifier.predict_probabilities(
        [index.source.read(index.names[at]) for at in positions]
    )
    np.testing.assert_allclose(measured.probabilities, expected, atol=1e-5)


def test_what_is_known_is_not_run_again(classifier, index, executor, tmp_path, monkeypatch):
    store = RowStore(tmp_path / "rows", (3,), "<f4")
    first = run_classifier(classifier, index, np.arange(10), executor, ignore_event, store)
    runs = []
    answer = Classifier.answer
    monkeypatch.setattr(
        Classifier,
        "answer",
        lambda self, pixels: (runs.append(len(pixels)), answer(self, pixels))[1],
    )
    again = run_classifier(classifier, index, np.arange(10), executor, ignore_event, store)
    assert runs == []
    np.testing.assert_array_equal(again.probabilities, first.probabilities)
    run_classifier(classifier, index, np.arange(15), executor, ignore_event, store)
    assert sum(runs) == 5


def test_a_full_disk_costs_the_rows_and_not_the_run(classifier, index, executor, tmp_path):
    (tmp_path / "full").write_text("a file where the folder should be")
    said = []
    store = RowStore(tmp_path / "full" / "rows", (3,), "<f4")
    measured = run_classifier(classifier, index, np.arange(4), executor, said.append, store)
    assert len(measured.positions) == 4
    assert any(
        isinstance(event, Notice) and "predictions cannot be kept" in event.message
        for event in said
    )


def test_failures_are_left_out_and_named(classifier, index, unseen, executor):
    (unseen / index.names[2]).unlink()
    measured = run_classifier(classifier, index, np.arange(5), executor, ignore_event)
    assert measured.positions.tolist() == [0, 1, 3, 4]
    assert len(measured.probabilities) == 4
    assert measured.failures == {2: "the file is gone"}


def test_progress_is_told(classifier, index, executor):
    said = []
    run_classifier(classifier, index, np.arange(15), executor, said.append)
    assert said[0] == StageStarted("measuring", 15)
    assert isinstance(said[-1], StageFinished)
    assert all(isinstance(event, StageAdvanced) and 0 < event.done <= 15 for event in said[1:-1])
