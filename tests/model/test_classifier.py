import copy
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from squeezetune.data.sources.folder import FolderSource
from squeezetune.errors import ArtifactError, ImageError, SettingsError, SourceError
from squeezetune.model.artifact import MODEL
from squeezetune.model.classifier import Classifier, Prediction, load


@pytest.fixture(scope="module")
def classifier(model_folder):
    return load(model_folder)


@pytest.fixture(scope="module")
def photos(draw_shape):
    """Draw shapes of several sizes, more than one chunk of them."""
    sizes = [(80, 72), (72, 80), (64, 64), (150, 90)]
    names = ("box", "disc", "spike")
    return [draw_shape(names[at % 3], 1000 + at, *sizes[at % 4]) for at in range(40)]


def encode(image, kind="PNG"):
    buffer = BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def test_a_model_of_other_classes_than_its_manifest_says(classifier, photos):
    two = Classifier(
        classifier.model,
        replace(classifier.manifest, class_names=("box", "disc")),
        classifier.folder,
    )
    with pytest.raises(ArtifactError, match=r"gives 3 values .* each of the 2 classes"):
        two.predict(photos[0])


# ---- copies

PREDICT = """
import pickle, sys
classifier, image = pickle.load(sys.stdin.buffer)
print(classifier.predict(image).label, classifier.predict_probabilities([image]).tolist())
"""


def pickle_and_load(given):
    return pickle.loads(pickle.dumps(given))  # noqa: S301  # it was made here


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle_and_load])
def test_a_copy_after_a_prediction_predicts_alike(classifier, photos, duplicate):
    expected = classifier.predict_probabilities(photos[:4])  # a session is open now
    copied = duplicate(classifier)
    np.testing.assert_array_equal(copied.predict_probabilities(photos[:4]), expected)
    assert copied.manifest == classifier.manifest
    assert copied.report == classifier.report


def test_a_pickle_needs_no_folder_and_no_process_of_its_own(model_folder, photos, tmp_path):
    shutil.copytree(model_folder, tmp_path / "model")
    classifier = load(tmp_path / "model")
    expected = classifier.predict_probabilities(photos[:1])
    pickled = pickle.dumps((classifier, np.asarray(photos[0])))
    shutil.rmtree(tmp_path / "model")
    done = subprocess.run(
        [sys.executable, "-c", PREDICT], input=pickled, capture_output=True, check=True
    )
    assert done.stdout.decode().split(maxsplit=1) == ["box", f"{expected.tolist()}\n"]


# ---- one image, in any form


def test_a_prediction_names_the_likeliest_class(classifier, photos):
    found = classifier.predict(photos[0])
    assert isinstance(found, Prediction)
    assert found.label == "box"
    assert found.label == next(iter(found.probabilities))
    assert found.confidence == max(found.probabilities.values()) == found.probabilities[found.label]
    assert set(found.probabilities) == set(classifier.class_names) == {"box", "disc", "spike"}
    assert list(found.probabilities.values()) == sorted(found.probabilities.values(), reverse=True)
    assert sum(found.probabilities.values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("form", ["path", "str", "bytes", "pil", "array"])
def test_all_forms_of_an_image_are_predicted_alike(classifier, photos, tmp_path, form):
    path = tmp_path / "photo.png"
    path.write_bytes(encode(photos[1]))
    image = {"path": path, "str": str(path), "bytes": path.read_bytes(), "pil": photos[1],
             "array": np.asarray(photos[1])}[form]  # fmt: skip
    assert classifier.predict(image) == classifier.predict(photos[1])
    assert classifier.predict([image]) == [classifier.predict(photos[1])]


def test_grey_and_transparent_arrays(classifier, photos):
    grey = np.asarray(photos[2].convert("L"))
    opaque = np.dstack([np.asarray(photos[2]), np.full((64, 64), 255, np.uint8)])
    assert classifier.predict(grey) == classifier.predict(grey[:, :, None])
    assert classifier.predict(grey) == classifier.predict(np.dstack([grey] * 3))
    assert classifier.predict(opaque) == classifier.predict(photos[2])


# ---- several images


def test_several_images_are_a_list_or_an_array(classifier, photos):
    same_size = [photos[at] for at in range(0, 40, 4)]
    expected = [classifier.predict(photo) for photo in same_size]
    assert classifier.predict(same_size) == classifier.predict(tuple(same_size))
    stacked = np.stack([np.asarray(photo) for photo in same_size])
    for found in (classifier.predict(same_size), classifier.predict(stacked)):
        assert [item.label for item in found] == [item.label for item in expected]


def test_mixed_sizes_equal_one_by_one(classifier, photos):
    together = classifier.predict_probabilities(photos)
    one_by_one = np.concatenate([classifier.predict_probabilities([photo]) for photo in photos])
    assert together.shape == (40, 3)
    np.testing.assert_allclose(together, one_by_one, atol=1e-5)


@pytest.mark.parametrize(
    "wrap",
    [
        iter,
        tuple,
        lambda paths: np.array(paths),
        lambda paths: np.array(paths).reshape(-1, 1),
        lambda paths: [BytesIO(Path(path).read_bytes()) for path in paths],
        lambda paths: np.array(paths, object),
    ],
    ids=["generator", "tuple", "array", "column", "open", "objects"],
)
def test_several_images_come_in_any_number_of_ways(classifier, photos, tmp_path, wrap):
    paths = [str(tmp_path / f"{at}.png") for at in range(5)]
    for path, photo in zip(paths, photos, strict=False):
        photo.save(path)
    assert classifier.predict(wrap(paths)) == classifier.predict(paths)
    np.testing.assert_array_equal(
        classifier.predict_probabilities(wrap(paths)), classifier.predict_probabilities(paths)
    )


def test_a_rate_of_none_of_these_may_be_a_text(classifier, photos):
    assert classifier.predict(photos[:9], none_of_these="25%") == classifier.predict(
        photos[:9], none_of_these=0.25
    )
    for wrong in ("much", float("nan"), float("inf"), [0.25], "", b"5%", 10**400):
        with pytest.raises(SettingsError, match="none-of-these is"):
            classifier.predict(photos[0], none_of_these=wrong)


@pytest.mark.parametrize("images", [None, 3, {"a": 1}, {"a.png"}])
def test_what_are_no_images_at_all(classifier, images):
    with pytest.raises(SourceError, match="the images are a"):
        classifier.predict(images)


def test_a_picture_without_pixels(classifier, photos):
    with pytest.raises(ImageError, match="image 1: an image of 0 x 5 pixels"):
        classifier.predict([photos[0], Image.new("RGB", (0, 5))])


@pytest.mark.parametrize("model", [None, 5, b"model", ["model"]])
def test_a_model_is_given_by_its_path(model):
    with pytest.raises(ArtifactError, match=r"The model is a .*; needed is its path"):
        load(model)


def test_nothing_gives_nothing(classifier):
    assert classifier.predict([]) == []
    assert classifier.predict_probabilities([]).shape == (0, 3)
    assert classifier.predict(np.empty((0, 8, 8, 3), np.uint8)) == []


def test_images_are_not_changed(classifier, photos):
    array = np.asarray(photos[3]).copy()
    before = array.copy()
    classifier.predict(array)
    np.testing.assert_array_equal(array, before)


def test_threads_may_share_a_classifier(model_folder, photos):
    classifier = load(model_folder)  # not opened yet
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(classifier.predict, photos))
    assert found == [classifier.predict(photo) for photo in photos]


# ---- what cannot be read


def test_an_error_names_the_file(classifier, photos, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(encode(photos[0])[:300])
    for images in (bad, str(bad), [photos[0], bad]):
        with pytest.raises(ImageError) as caught:
            classifier.predict(images)
        assert str(bad) in caught.value.message


def test_an_error_names_the_position_of_what_has_no_name(classifier, photos):
    with pytest.raises(ImageError, match="image 7: not an image"):
        classifier.predict([*photos[:7], b"not an image at all", *photos[:20]])


def test_a_missing_file_is_an_error(classifier, tmp_path):
    with pytest.raises(ImageError, match=r"none\.jpg.*there is no such file"):
        classifier.predict(tmp_path / "none.jpg")


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.float32),
        np.zeros((8, 8, 2), np.uint8),
        np.zeros(8, np.uint8),
        np.zeros((0, 8), np.uint8),
    ],
)
def test_arrays_that_are_no_images_are_errors(classifier, image):
    with pytest.raises(ImageError, match="needed is"):
        classifier.predict(image)


@pytest.mark.parametrize("image", [None, 3, 2.5])
def test_things_that_are_no_images_are_errors(classifier, image):
    with pytest.raises(ImageError, match="image 0: a "):
        classifier.predict([image])


def test_a_stream_goes_on_after_a_bad_image(classifier, photos, tmp_path, executor):
    for at, photo in enumerate(photos):
        (tmp_path / f"{at:02d}.png").write_bytes(encode(photo) if at != 20 else b"broken")
    names = [f"{at:02d}.png" for at in range(40)]
    outcomes = list(classifier.stream(FolderSource(tmp_path), iter(names), executor))
    assert [name for name, _ in outcomes] == names
    assert [name for name, outcome in outcomes if isinstance(outcome, ImageError)] == ["20.png"]
    good = [at for at in range(40) if at != 20]
    expected = classifier.predict_probabilities([photos[at] for at in good])
    np.testing.assert_allclose([outcomes[at][1].probabilities for at in good], expected, atol=1e-5)


# ---- the model


def test_a_classifier_brings_its_report(classifier):
    assert classifier.report["class_names"] == list(classifier.class_names)
    assert Classifier(b"", classifier.manifest).report == {}


def test_a_model_that_was_moved_predicts_the_same(classifier, model_folder, photos, tmp_path):
    shutil.copytree(model_folder, tmp_path / "elsewhere")
    assert load(tmp_path / "elsewhere").predict(photos[0]) == classifier.predict(photos[0])


def test_a_model_may_be_in_the_current_folder(classifier, model_folder, photos, monkeypatch):
    monkeypatch.chdir(model_folder)
    for name in (".", "", "./", Path()):
        assert load(name).predict(photos[0]) == classifier.predict(photos[0])


def test_the_model_alone_is_enough(model_folder, tmp_path, photos):
    shutil.copytree(model_folder, tmp_path / "model")
    for name in ("report.json", "report.html"):
        (tmp_path / "model" / name).unlink()
    assert load(tmp_path / "model").predict(photos[0]).label == "box"


def test_a_model_that_cannot_be_opened_is_an_error(classifier, photos):
    with pytest.raises(ArtifactError, match="cannot be opened"):
        Classifier(b"no model", classifier.manifest).predict(photos[0])


def test_another_model_in_the_same_place_is_not_taken_for_this_one(model_folder, tmp_path, photos):
    shutil.copytree(model_folder, tmp_path / "model")
    classifier = load(tmp_path / "model")
    another = onnx.load(tmp_path / "model" / MODEL)
    another.producer_name = "another"
    onnx.save(another, tmp_path / "model" / MODEL)
    with pytest.raises(ArtifactError, match="checksum"):
        classifier.predict(photos[0])


def test_a_model_is_not_changed_by_its_use(model_folder, photos):
    before = {path: path.stat().st_mtime_ns for path in [model_folder, *model_folder.rglob("*")]}
    load(model_folder).predict(photos[:5])
    assert {
        path: path.stat().st_mtime_ns for path in [model_folder, *model_folder.rglob("*")]
    } == before


def test_large_photos_do_not_all_wait_in_memory(classifier, photos, monkeypatch):
    expected = classifier.predict_probabilities(photos)
    held = []
    run_held = Classifier._run_held
    monkeypatch.setattr("squeezetune.model.classifier.HELD_PIXELS", 2 * 80 * 72)
    monkeypatch.setattr(
        Classifier, "_run_held", lambda self, some: held.append(len(some)) or run_held(self, some)
    )
    np.testing.assert_allclose(classifier.predict_probabilities(photos), expected, atol=1e-5)
    assert sum(held) == len(photos)
    assert max(held) <= 3
