import numpy as np
import pytest
from example_weights import draw_weights
from PIL import Image
from safetensors.numpy import save_file
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from squeezetune.errors import ClassesError, DataError, ImageError, SettingsError, SourceError
from squeezetune.estimator import SqueezeTuneClassifier
from squeezetune.learn import features as features_module
from squeezetune.settings import Settings

FAST = {"effort": "quick", "image_side": 48, "engine": "onnxruntime", "precision": "float32", "threads": 2}


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
    np.testing.assert_array_equal(fitted.predict(X[1:9]), fitted.classes_[probabilities.argmax(axis=1)])


@pytest.mark.parametrize("names", [np.array(["zero", "one", "four", "seven"]), np.array([100, 9, 20, -3]),
                                   np.array([False, True, True, False])])  # fmt: skip
def test_labels_are_given_back_as_they_came(digits, names):
    X, y = digits
    labels = names[np.searchsorted([0, 1, 4, 7], y)]
    model = SqueezeTuneClassifier(**FAST).fit(X[::2], labels[::2])
    assert model.classes_.dtype == names.dtype
    assert model.classes_.tolist() == sorted(set(names.tolist()))
    assert model.score(X[1::2], labels[1::2]) > 0.85


def test_paths_lists_and_pillow_images_are_images_too(fitted, digits, tmp_path):
    X, y = digits
    pictures = [Image.fromarray(image) for image in X[::2]]
    paths = []
    for at, picture in enumerate(pictures):
        paths.append(tmp_path / f"{at}.png")
        picture.save(paths[-1])
    expected = fitted.predict_proba(X[1:5])
    for images in (pictures, paths, [str(path) for path in paths], np.array([str(path) for path in paths])):
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
    model = SqueezeTuneClassifier(**FAST, weights=path).fit(X[::2], y[::2])
    assert model.classifier_.manifest.weights["network"] == "SqueezeNet 1.0"
    assert model.classifier_.manifest.settings["weights"] == str(path)
    assert model.score(X[1::2], y[1::2]) > 0.8  # digits are told apart by random layers too


# ---- with scikit-learn's tools


def test_cross_validation_computes_every_image_once(digits, empty_cache, monkeypatch):
    X, y = digits
    decoded, load_pixels = [], features_module.load_pixels

    def load_noted(source, name, pixels):
        decoded.append(name)
        return load_pixels(source, name, pixels)

    monkeypatch.setattr(features_module, "load_pixels", load_noted)
    scores = cross_val_score(SqueezeTuneClassifier(**FAST), X, y, cv=StratifiedKFold(3))
    assert scores.mean() > 0.85
    assert len(decoded) == len(X)


def test_a_pipeline(digits):
    found = load_digits()
    rows = np.isin(found.target, (0, 1, 4, 7))
    X, y = found.images[rows][:120], found.target[rows][:120]
    pipeline = Pipeline([("enlarge", FunctionTransformer(enlarge)), ("classify", SqueezeTuneClassifier(**FAST))])
    assert pipeline.fit(X[:90], y[:90]).score(X[90:], y[90:]) > 0.85


def test_a_grid_search(digits):
    X, y = digits
    search = GridSearchCV(SqueezeTuneClassifier(**FAST), {"views": ["plain", "mirror"]}, cv=2, error_score="raise")
    assert search.fit(X, y).best_score_ > 0.85
    assert search.best_estimator_.predict(X[:1]).tolist() == [y[0]]


def test_a_search_may_draw_numbers_of_numpy(digits):
    X, y = digits
    space = {"seed": np.arange(5), "validation": np.array([0.1, 0.2])}
    search = RandomizedSearchCV(SqueezeTuneClassifier(**FAST), space, n_iter=2, cv=2, error_score="raise")
    assert search.fit(X, y).best_score_ > 0.8


# ---- what goes wrong


def test_a_bad_image_is_named(digits):
    X, y = digits
    images = [*X[:10], b"not an image", *X[11:]]
    with pytest.raises(ImageError, match=r"1 of 100 images cannot be used; image 10: not an image") as caught:
        SqueezeTuneClassifier(**FAST).fit(images, y)
    assert "Leave them out" in caught.value.hint


@pytest.mark.parametrize(("broken", "message"), [
    (1, "1 of 100 images cannot be used; image 0"), (25, "25 of 100 images cannot be used; image 0"),
    (100, "none of 100 images can be decoded"),
])  # fmt: skip
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


def test_before_fitting_there_is_nothing_to_predict(digits):
    with pytest.raises(NotFittedError):
        SqueezeTuneClassifier().predict(digits[0])
