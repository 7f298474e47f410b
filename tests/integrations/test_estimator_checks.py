"""scikit-learn's own checks of estimators, on rows of numbers that are painted as images."""

import numpy as np
import pytest

pytest.importorskip("sklearn", minversion="1.6")
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_is_fitted, validate_data

from squeezetune.integrations.estimator import SqueezeTuneClassifier

FAST = {
    "effort": "quick",
    "image_side": 32,
    "near_duplicates": "ignored",
    "backbone": "squeezenet1_1",
    "engine": "onnxruntime",
    "precision": "float32",
    "threads": 1,
}
SIDE_PX = 32


class RowClassifier(SqueezeTuneClassifier):
    """The estimator behind rows of numbers: all that is checked of X is of this painter, all else
    of the product.
    """

    def fit(self, X, y):
        return super().fit(paint_rows(validate_data(self, X)), y)

    def predict_proba(self, X):
        check_is_fitted(self)
        return super().predict_proba(paint_rows(validate_data(self, X, reset=False)))


def paint_rows(rows):
    """Paint rows (n, k) of numbers as grey images (n, side, side, 3), a square for each number."""
    grey = np.clip(127.5 + 40 * np.asarray(rows, float), 0, 255).astype(np.uint8)
    across = int(np.ceil(np.sqrt(grey.shape[1])))
    squares = np.zeros((len(grey), across**2), np.uint8)
    squares[:, : grey.shape[1]] = grey
    edge = -(-SIDE_PX // across)
    images = squares.reshape(-1, across, across).repeat(edge, axis=1).repeat(edge, axis=2)
    return images[..., None].repeat(3, axis=3)


def name_exceptions(estimator):
    """Give the checks that cannot pass, with the reason."""
    return {
        "check_class_weight_classifiers": "class_weight says how the classes are evened out; it "
        "is no mapping"
    }


@pytest.mark.slow
@parametrize_with_checks([RowClassifier(**FAST)], expected_failed_checks=name_exceptions)
def test_scikit_learn_finds_nothing_wrong(estimator, check):
    check(estimator)
