import copy
import pickle
from io import BytesIO, StringIO

import joblib
import numpy as np
import pytest
from example_weights import draw_weights
from PIL import Image
from safetensors.numpy import save_file
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import (
    GridSearchCV,
    RandomizedSearchCV,
    StratifiedKFold,
    cross_val_score,
    cross_validate,
)
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from squeezetune.data import image_cache
from squeezetune.errors import ClassesError, DataError, ImageError, SettingsError, SourceError
from squeezetune.integrations.estimator import SqueezeTuneClassifier
from squeezetune.settings import Settings

FAST = {
    "effort": "quick",
    "image_side": 48,
    "backbone": "squeezenet1_1",
    "engine": "onnxruntime",
    "precision": "float32",
    "threads": 2,
}


def enlarge(images):
    """Turn digits (n, 8, 8) of 0 to 16 into grey images (n, 32, 32, 3)."""
    grey = (np.asarray(images) * 15).astype(np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    return np.repeat(grey[..., None], 3, axis=3)


@pytest.fixture(scope="module")
def digits():
    """Take twenty-five images each of four digits."""
    found = load_digits()
    rows = np.concatenate([np.flatnonzero(found.target == digit)[:25] for digit in (0, 1, 4, 7)])
    return enlarge(found.images[rows]), found.target[rows]


@pytest.fixture(scope="module")
def fitted(digits, own_cache):
    X, y = digits
    return SqueezeTuneClassifier(**FAST).fit(X[::2], y[::2])


# ---- copies


@pytest.mark.parametrize("duplicate", ["deepcopy", "pickle", "joblib"])
def test_a_fitted_estimator_can_be_copied_after_a_prediction(fitted, digits, tmp_path, duplicate):
    X, y = digits
    expected = fitted.predict_proba(X[1:9])  # a session is open now
    if duplicate == "joblib":
        joblib.dump(fitted, tmp_path / "estimator.joblib")
        copied = joblib.load(tmp_path / "estimator.joblib")
    elif duplicate == "pickle":
        copied = pickle.loads(pickle.dumps(fitted))  # noqa: S301  # it was made here
    else:
        copied = copy.deepcopy(fitted)
    np.testing.assert_array_equal(copied.predict_proba(X[1:9]), expected)
    assert copied.score(X[1::2], y[1::2]) == fitted.score(X[1::2], y[1::2])


@pytest.mark.slow
def test_estimators_come_back_from_other_processes(digits, own_cache):
    X, y = digits
    found = cross_validate(
        SqueezeTuneClassifier(**FAST), X, y, cv=2, n_jobs=2, return_estimator=True
    )
    assert found["test_score"].min() > 0.8
    for estimator in found["estimator"]:
        assert estimator.score(X, y) > 0.8


# ---- fit and predict


def test_digits_are_learnt(fitted, digits):
    X, y = digits
    assert fitted.score(X[1::2], y[1::2]) > 0.9
    assert fitted.classes_.tolist() == [0, 1, 4, 7]


def test_probabilities_are_in_the_order_of_the_classes(fitted, digits):
    X, _ = digits
    probabilities = fitted.predict_proba(X[1:9])
    assert probabilities.shape == (8, 4)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(
        fitted.predict(X[1:9]), fitted.classes_[probabilities.argmax(axis=1)]
    )


# The same four classes, said in as many ways as people do: what is given for the digits 0, 1, 4 and
# 7.
LABELLINGS = {
    "numbers": np.array([0, 1, 4, 7]),
    "negative": np.array([100, 9, 20, -3]),
    "small": np.array([200, 9, 20, 100], np.uint8),
    "whole floats": np.array([10.0, 9.0, 2.0, -1.0]),
    "text": np.array(["zero", "one", "four", "seven"]),
    "numbers as text": np.array(["2", "10", "9", "100"]),
    "zeros before": np.array(["1", "01", "10", "001"]),
    "natural": np.array(["s2", "s10", "s1", "S10"]),
    "unicode": np.array(["кот", "猫", "Äpfel", "apple"]),
    "odd": np.array(["a\nb", "=1+1", "x" * 300, "b\x1b[31m"]),
    "objects": np.array(["b", "a", "10", "9"], object),
    "objects of numbers": np.array([10, 9, 100, -1], object),
    "mixed": ["a", 10, 9, "b"],
    "mixed numbers": [True, 10, 2.0, -1],
    "list": [7, 10, 9, 100],
}


@pytest.mark.parametrize("names", LABELLINGS.values(), ids=LABELLINGS)
def test_labels_of_any_kind_score_alike(fitted, digits, names):
    X, y = digits
    labels = [names[at] for at in np.searchsorted([0, 1, 4, 7], y)]
    labels = labels if isinstance(names, list) else np.array(labels, names.dtype)
    model = SqueezeTuneClassifier(**FAST).fit(X[::2], labels[::2])
    np.testing.assert_array_equal(model.classes_, np.unique(labels))
    assert model.score(X[::2], labels[::2]) == 1
    assert model.score(X[1::2], labels[1::2]) > 0.85
    found = model.predict_proba(X[1::2])
    columns = [model.classes_.tolist().index(name) for name in np.unique(np.array(names)).tolist()]
    assert columns == [0, 1, 2, 3]
    assert (model.classes_[found.argmax(axis=1)] == model.predict(X[1::2])).all()
    assert type(model.predict(X[:1]).tolist()[0]) is type(np.array(labels).tolist()[0])


def test_a_label_of_two_values(digits):
    X, y = digits
    model = SqueezeTuneClassifier(**FAST).fit(X[::2], y[::2] > 2)
    assert model.classes_.tolist() == [False, True]
    assert model.score(X[1::2], y[1::2] > 2) > 0.85


@pytest.mark.parametrize("kind", ["Series", "Categorical", "Int64", "string"])
def test_labels_of_pandas(digits, kind):
    pandas = pytest.importorskip("pandas")
    X, y = digits
    text = [f"s{3 * digit}" for digit in y[::2]]
    labels = {
        "Series": pandas.Series(text, index=range(len(text), 0, -1)),
        "Categorical": pandas.Categorical(text),
        "Int64": pandas.Series(y[::2], dtype="Int64"),
        "string": pandas.Series(text, dtype="string"),
    }[kind]
    model = SqueezeTuneClassifier(**FAST).fit(X[::2], labels)
    assert model.score(X[::2], labels) == 1


def test_paths_lists_and_pillow_images_are_images_too(fitted, digits, tmp_path):
    X, y = digits
    pictures = [Image.fromarray(image) for image in X[::2]]
    paths = []
    for at, picture in enumerate(pictures):
        paths.append(tmp_path / f"{at}.png")
        picture.save(paths[-1])
    expected = fitted.predict_proba(X[1:5])
    for images in (
        pictures,
        paths,
        [str(path) for path in paths],
        np.array([str(path) for path in paths]),
    ):
        model = SqueezeTuneClassifier(**FAST).fit(images, list(y[::2]))
        np.testing.assert_allclose(model.predict_proba(X[1:5]), expected, atol=0.02)


def test_fitting_again_forgets(digits):
    X, y = digits
    model = SqueezeTuneClassifier(**FAST).fit(X, y)
    few = np.isin(y, (0, 7))
    assert model.fit(X[few], y[few]).classes_.tolist() == [0, 7]


def test_one_image_of_each_class_is_learnt_by_heart(digits):
    X, y = digits
    rows = np.array([np.flatnonzero(y == digit)[0] for digit in (0, 7)])
    model = SqueezeTuneClassifier(**FAST).fit(X[rows], y[rows])
    assert model.predict(X[rows]).tolist() == [0, 7]


@pytest.mark.parametrize("count", [2, 3])
def test_very_few_images_of_each_class(digits, count):
    X, y = digits
    rows = np.concatenate([np.flatnonzero(y == digit)[:count] for digit in (0, 7)])
    model = SqueezeTuneClassifier(**FAST).fit(X[rows], y[rows])
    assert np.isfinite(model.predict_proba(X)).all()
    assert model.score(X[np.isin(y, (0, 7))], y[np.isin(y, (0, 7))]) > 0.6


# ---- parameters


def test_parameters_are_the_settings():
    parameters = SqueezeTuneClassifier().get_params()
    settings = Settings().to_dict()
    assert set(settings) - set(parameters) == {"test", "folds", "repeats", "group_by"}
    assert set(parameters) - set(settings) == {"use_cache"}
    assert {name: parameters[name] for name in set(settings) & set(parameters)} == {
        name: value for name, value in settings.items() if name in parameters
    }


def test_a_clone_has_the_parameters_and_nothing_else(fitted):
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params()
    with pytest.raises(NotFittedError):
        copy.predict([])


def test_a_wrong_parameter_is_told_when_fitting(digits):
    model = SqueezeTuneClassifier(effort="enormous")
    with pytest.raises(SettingsError, match="effort"):
        model.fit(*digits)


def test_other_pretrained_weights_are_a_parameter(digits, tmp_path):
    X, y = digits
    path = tmp_path / "mine.safetensors"
    save_file(draw_weights("1.0"), path)
    model = SqueezeTuneClassifier(**FAST | {"backbone": "auto", "weights": path}).fit(
        X[::2], y[::2]
    )
    assert model.classifier_.manifest.weights["network"] == "SqueezeNet 1.0"
    assert model.classifier_.manifest.settings["weights"] == str(path)
    assert model.score(X[1::2], y[1::2]) > 0.8  # digits are told apart by random layers too


# ---- with scikit-learn's tools


def test_cross_validation_computes_every_image_once(digits, empty_cache, monkeypatch):
    X, y = digits
    decoded, load_indexed = [], image_cache.load_indexed

    def load_noted(index, position, pixels):
        decoded.append(position)
        return load_indexed(index, position, pixels)

    monkeypatch.setattr(image_cache, "load_indexed", load_noted)
    scores = cross_val_score(SqueezeTuneClassifier(**FAST), X, y, cv=StratifiedKFold(3))
    assert scores.mean() > 0.85
    assert len(decoded) == len(X)


def test_a_pipeline(digits):
    found = load_digits()
    rows = np.isin(found.target, (0, 1, 4, 7))
    X, y = found.images[rows][:120], found.target[rows][:120]
    pipeline = Pipeline(
        [("enlarge", FunctionTransformer(enlarge)), ("classify", SqueezeTuneClassifier(**FAST))]
    )
    assert pipeline.fit(X[:90], y[:90]).score(X[90:], y[90:]) > 0.85


@pytest.mark.slow
def test_a_grid_search(digits):
    X, y = digits
    search = GridSearchCV(
        SqueezeTuneClassifier(**FAST), {"views": ["plain", "mirror"]}, cv=2, error_score="raise"
    )
    assert search.fit(X, y).best_score_ > 0.85
    assert search.best_estimator_.predict(X[:1]).tolist() == [y[0]]


def test_a_search_may_draw_numbers_of_numpy(digits):
    X, y = digits
    space = {"seed": np.arange(5), "validation": np.array([0.1, 0.2])}
    search = RandomizedSearchCV(
        SqueezeTuneClassifier(**FAST), space, n_iter=2, cv=2, error_score="raise"
    )
    assert search.fit(X, y).best_score_ > 0.8


# ---- what goes wrong


def test_a_bad_image_is_named(digits):
    X, y = digits
    images = [*X[:10], b"not an image", *X[11:]]
    with pytest.raises(
        ImageError, match=r"1 of 100 images cannot be used; image 10: not an image"
    ) as caught:
        SqueezeTuneClassifier(**FAST).fit(images, y)
    assert "Leave them out" in caught.value.hint


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (1, "1 of 100 images cannot be used; image 0"),
        (25, "25 of 100 images cannot be used; image 0"),
        (100, "none of 100 images can be decoded"),
    ],
)
def test_images_that_cannot_be_decoded_are_named(digits, tmp_path, broken, message):
    X, y = digits
    paths = []
    for at, image in enumerate(X):
        paths.append(tmp_path / f"{at:03d}.png")
        Image.fromarray(image).save(paths[-1])
        if at < broken:
            paths[-1].write_bytes(paths[-1].read_bytes()[:60] + bytes([at]))
    with pytest.raises(DataError, match=message):
        SqueezeTuneClassifier(**FAST).fit(paths, y)


def test_one_class_is_too_few(digits):
    X, y = digits
    with pytest.raises(ClassesError):
        SqueezeTuneClassifier(**FAST).fit(X[:20], y[:20])


def test_images_and_labels_must_be_as_many(digits):
    X, y = digits
    with pytest.raises(SourceError, match="100 images and 99 labels"):
        SqueezeTuneClassifier(**FAST).fit(X, y[:-1])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda y: None, "requires y to be passed, but the target y is None"),
        (lambda y: "abc", "the target y is a str"),
        (lambda y: set(y), "the target y is a set"),
        (lambda y: 5, "the target y is a int"),
        (lambda y: np.array(5), "requires y|1d array|0-d"),
        (lambda y: [[a, a] for a in y], r"1d array, got an array of shape \(100, 2\)"),
        (lambda y: np.eye(8)[y], r"1d array, got an array of shape \(100, 8\)"),
        (lambda y: [[a] * a for a in y], "inhomogeneous"),
        (lambda y: [*map(str, y[:-1]), None], "1 of 100 labels cannot be used: image 99 has None"),
        (lambda y: [*map(str, y[:-1]), float("nan")], "image 99 has a missing value, float"),
        (
            lambda y: np.where(y == 1, np.nan, y),
            "25 of 100 labels .* image 25 has a missing value.* 22 more",
        ),
        (lambda y: np.array([None, *y[1:]], object), "image 0 has None"),
        (
            lambda y: np.array(["a", *y[1:]], object),
            "labels are mixed: image 0 has 'a', and image 1 has 0",
        ),
        (lambda y: np.ma.masked_equal(y, 4), "25 of 100 labels .* image 50 has a masked value"),
        (lambda y: [1, *map(str, y[1:])], "different labels have the same name: '1'"),
        (lambda y: y + 0.5, "continuous"),
        (lambda y: y + 0j, "omplex"),
        (lambda y: [str(a).encode() for a in y], "bytes"),
        (lambda y: [{"label": a} for a in y], "image 0 has a dict"),
        (lambda y: [10**5000, *y[1:]], "image 0 has a number of thousands of digits"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_labels_are_checked_before_anything_is_computed(digits, monkeypatch, spoil, message):
    X, y = digits
    monkeypatch.setattr(
        "squeezetune.integrations.estimator.index_images",
        lambda *_, **__: pytest.fail("images were read"),
    )
    with pytest.raises(ClassesError, match=message) as caught:
        SqueezeTuneClassifier(**FAST).fit(X, spoil(y))
    assert isinstance(caught.value, ValueError)  # as scikit-learn's tools expect
    assert caught.value.hint


@pytest.mark.parametrize("digits_long", [4301, 5000])
def test_names_longer_than_any_number(digits, digits_long):
    X, y = digits
    labels = np.array([str(digit) * digits_long for digit in (1, 2, 3, 4)])[
        np.searchsorted([0, 1, 4, 7], y)
    ]
    assert SqueezeTuneClassifier(**FAST).fit(X[::2], labels[::2]).score(X[::2], labels[::2]) == 1


def test_images_of_other_kinds_of_sequence(fitted, digits, tmp_path):
    X, y = digits
    expected = fitted.predict_proba(X[1:3])
    files = []
    for at, image in enumerate(X[1:3]):
        files.append(tmp_path / f"{at}.png")
        Image.fromarray(image).save(files[-1])
    raw = [path.read_bytes() for path in files]
    opened = [path.open("rb") for path in files]
    ways = [
        (image for image in X[1:3]),
        tuple(X[1:3]),
        opened,
        map(BytesIO, raw),
        map(bytearray, raw),
        files,
        np.array(list(map(str, files))).reshape(-1, 1),
    ]
    for images in ways:
        np.testing.assert_allclose(fitted.predict_proba(images), expected, atol=0.02)
    for file in opened:
        file.close()
    model = SqueezeTuneClassifier(**FAST).fit(
        (image for image in X[::2]), (label for label in y[::2])
    )
    assert model.score(X[::2], y[::2]) == 1


def test_a_column_of_pandas_is_images_too(fitted, digits, tmp_path):
    pandas = pytest.importorskip("pandas")
    Image.fromarray(digits[0][1]).save(tmp_path / "1.png")
    frame = pandas.DataFrame({"path": [str(tmp_path / "1.png")] * 2})
    assert fitted.predict(frame).shape == fitted.predict(frame["path"]).shape == (2,)


@pytest.mark.parametrize("images", [None, "photos", b"bytes", 5, {"a": 1}, {"a", "b"}])
def test_what_are_no_images_is_told_at_once(fitted, images):
    for work in (fitted.predict, lambda X: SqueezeTuneClassifier(**FAST).fit(X, [0, 1])):
        with pytest.raises(SourceError, match=r"the images are a .*; needed is a sequence"):
            work(images)


@pytest.mark.parametrize(
    "spoilt", [None, 5, StringIO("text"), ["a"], np.zeros((4, 4)), {"a": 1}, "\0", ""]
)
def test_what_is_no_image_is_told_with_its_place(fitted, digits, spoilt):
    X, y = digits
    with pytest.raises(ImageError, match=r"1 of 100 images cannot be used; image 1: "):
        SqueezeTuneClassifier(**FAST).fit([X[0], spoilt, *X[2:]], y)
    with pytest.raises(ImageError):
        fitted.predict([X[0], spoilt])


def test_before_fitting_there_is_nothing_to_predict(digits):
    with pytest.raises(NotFittedError):
        SqueezeTuneClassifier().predict(digits[0])
