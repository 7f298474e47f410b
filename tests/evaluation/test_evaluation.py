import json

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn import metrics

from squeezetune.evaluation.metrics import (
    count_confusion,
    evaluate_probabilities,
    find_confused_pairs,
    measure_reliability,
    wilson_interval,
)


def make_predictions(n, classes, seed=0, skill=1.5):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    scores = np.exp(rng.standard_normal((n, classes)) + skill * np.eye(classes)[labels])
    return (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32), labels.astype(np.int64)


def evaluate(n=300, classes=4, **options):
    probabilities, labels = make_predictions(n, classes, **options)
    names = [f"class {number}" for number in range(classes)]
    return evaluate_probabilities(probabilities, labels, names), probabilities, labels


# ---- figures, against scikit-learn's


@pytest.mark.parametrize(("n", "classes"), [(300, 4), (50, 2), (400, 25)])
def test_figures_equal_scikit_learns(n, classes):
    found, probabilities, labels = evaluate(n, classes)
    predicted, every = probabilities.argmax(axis=1), range(classes)
    assert found.count == n
    assert found.accuracy == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert found.correct == metrics.accuracy_score(labels, predicted, normalize=False)
    assert found.balanced_accuracy == pytest.approx(
        metrics.balanced_accuracy_score(labels, predicted)
    )
    assert found.macro_f1 == pytest.approx(metrics.f1_score(labels, predicted, average="macro"))
    np.testing.assert_array_equal(
        found.confusion, metrics.confusion_matrix(labels, predicted, labels=every)
    )
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        labels, predicted, labels=every, zero_division=np.nan
    )
    for at, figures in enumerate(found.per_class):
        assert figures.precision == pytest.approx(precision[at])
        assert figures.recall == pytest.approx(recall[at])
        assert figures.f1 == pytest.approx(f1[at])
        assert (figures.test, figures.correct) == (support[at], found.confusion[at][at])


@pytest.mark.parametrize(("classes", "k"), [(10, 3), (19, 3), (20, 5), (30, 5)])
def test_top_k_equals_scikit_learns(classes, k):
    found, probabilities, labels = evaluate(500, classes, skill=0.5)
    assert found.top_k.k == k
    expected = metrics.top_k_accuracy_score(labels, probabilities, k=k, labels=range(classes))
    assert found.top_k.accuracy == pytest.approx(expected)
    assert found.top_k.interval == wilson_interval(round(expected * 500), 500)


def test_few_classes_have_no_top_k():
    assert evaluate(100, 9)[0].top_k is None


def test_figures_that_the_test_part_cannot_give_are_none():
    probabilities = np.array([[0.9, 0.1, 0], [0.8, 0.2, 0]], np.float32)
    found = evaluate_probabilities(probabilities, np.array([0, 1]), ["a", "b", "c"])
    a, b, c = found.per_class
    assert (a.precision, a.recall, a.f1) == (0.5, 1, pytest.approx(2 / 3))
    assert (b.precision, b.recall, b.f1) == (None, 0, 0)
    assert (c.precision, c.recall, c.recall_interval, c.f1) == (None, None, None, None)
    assert found.balanced_accuracy == 0.5  # of the classes that are there


# ---- intervals


@pytest.mark.parametrize(
    ("successes", "count"), [(0, 1), (1, 1), (0, 40), (40, 40), (1, 3), (97, 100), (4321, 5000)]
)
def test_the_interval_is_wilsons(successes, count):
    expected = binomtest(successes, count).proportion_ci(0.95, method="wilson")
    assert wilson_interval(successes, count) == pytest.approx(
        (expected.low, expected.high), abs=1e-6
    )


def test_the_interval_stays_in_its_limits_and_without_images_says_nothing():
    assert wilson_interval(0, 0) == (0, 1)
    assert wilson_interval(0, 7)[0] == 0
    assert wilson_interval(7, 7)[1] == 1


def test_every_share_has_its_own_interval():
    found, _, _ = evaluate()
    assert found.interval == wilson_interval(found.correct, found.count)
    for figures in found.per_class:
        assert figures.recall_interval == wilson_interval(figures.correct, figures.test)


# ---- calibration


def test_the_calibration_error_by_hand():
    probabilities = np.array(
        [[0.95, 0.05], [0.91, 0.09], [0.75, 0.25], [0.3, 0.7], [0.4, 0.6]], np.float32
    )
    found = evaluate_probabilities(probabilities, np.array([0, 1, 0, 1, 0]), ["a", "b"])
    # 0.9-1: claimed 0.93, true 1/2.  0.7-0.8: claimed 0.725, true 1 (0.7 as float32 is just below).
    bins = {
        round(b.low, 1): (round(b.confidence, 4), b.accuracy, b.count) for b in found.reliability
    }
    assert bins == {0.9: (0.93, 0.5, 2), 0.7: (0.725, 1.0, 2), 0.6: (0.6, 0.0, 1)}
    assert found.calibration_error == pytest.approx((2 * 0.43 + 2 * 0.275 + 0.6) / 5)


def test_the_calibration_error_against_a_slow_one():
    found, probabilities, labels = evaluate(500, 5)
    confidence, is_correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    error = 0.0
    for low in np.arange(10) / 10:
        inside = (confidence >= low) & (confidence < low + 0.1)
        if inside.any():
            error += inside.mean() * abs(confidence[inside].mean() - is_correct[inside].mean())
    assert found.calibration_error == pytest.approx(error, abs=1e-6)
    assert sum(b.count for b in found.reliability) == 500


def test_full_confidence_is_in_the_last_bin():
    [only] = measure_reliability(np.array([1.0, 1.0], np.float32), np.array([True, False]))
    assert (only.low, only.high, only.confidence, only.accuracy, only.count) == (
        0.9,
        1.0,
        1.0,
        0.5,
        2,
    )


# ---- confusion


def test_the_confusion_counts_true_rows_and_predicted_columns():
    found = count_confusion(np.array([0, 0, 1, 2]), np.array([1, 1, 1, 0]), 3)
    assert found.tolist() == [[0, 2, 0], [0, 1, 0], [1, 0, 0]]


def test_confused_pairs_come_in_order_with_their_share():
    confusion = np.array([[8, 2, 0], [0, 5, 5], [1, 0, 9]])
    pairs = find_confused_pairs(confusion, ["a", "b", "c"])
    found = [(pair.true, pair.predicted, pair.count, pair.share) for pair in pairs]
    assert found == [("b", "c", 5, 0.5), ("a", "b", 2, 0.2), ("c", "a", 1, 0.1)]


def test_at_most_ten_pairs_are_listed_and_a_class_without_images_does_no_harm():
    confusion = np.arange(36).reshape(6, 6)
    confusion[3] = 0
    pairs = find_confused_pairs(confusion, list("abcdef"))
    assert len(pairs) == 10
    assert pairs[0].count == 34
    assert find_confused_pairs(np.eye(3, dtype=np.int64), list("abc")) == ()


# ---- warnings and JSON


def test_classes_with_few_test_images_are_named():
    names = list("abcdefgh")
    labels = np.repeat(np.arange(8), [10, 9, 1, 2, 3, 4, 5, 6])
    [warning] = evaluate_probabilities(np.eye(8, dtype=np.float32)[labels], labels, names).warnings
    assert "b (9), c (1), d (2), e (3), f (4) and 2 more" in warning
    assert (
        evaluate_probabilities(
            np.eye(8, dtype=np.float32)[labels[:10]], labels[:10], names[:1]
        ).warnings
        == ()
    )


def test_an_evaluation_becomes_json():
    found, _, _ = evaluate(300, 12)
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["accuracy"] == found.accuracy
    assert plain["confusion"] == [list(row) for row in found.confusion]
    assert plain["per_class"][0]["name"] == "class 0"
    assert plain["top_k"]["k"] == 3


# ---- unequal classes, repeats and groups


def predict_always(labels, classes, said=0):
    probabilities = np.full((len(labels), classes), 0.01, np.float32)
    probabilities[:, said] = 0.9
    return probabilities


def test_always_saying_the_largest_class_is_seen_through():
    labels = np.repeat([0, 1], [999, 30])
    found = evaluate_probabilities(predict_always(labels, 2), labels, ["usual", "rare"])
    assert found.accuracy == found.usual.share == pytest.approx(999 / 1029)
    assert (found.usual.name, found.usual.is_unequal) == ("usual", True)
    assert found.balanced_accuracy == 0.5
    baseline, unsaid = found.warnings
    assert "not surely above 97.1 %, which always saying “usual” would reach" in baseline
    assert "Never named, for no image at all: rare" in unsaid


def test_a_good_classifier_of_unequal_classes_gets_no_warning():
    labels = np.repeat([0, 1], [600, 40])
    found = evaluate_probabilities(np.eye(2, dtype=np.float32)[labels], labels, ["usual", "rare"])
    assert found.usual.is_unequal
    assert found.warnings == ()


def test_equal_classes_are_not_called_unequal():
    labels = np.repeat([0, 1, 2], [20, 17, 25])
    assert not evaluate_probabilities(
        np.eye(3, dtype=np.float32)[labels], labels, list("abc")
    ).usual.is_unequal


def test_repeats_count_every_image_once_in_intervals():
    probabilities, labels = make_predictions(200, 3, skill=0.5)
    names = list("abc")
    once = evaluate_probabilities(probabilities, labels, names)
    thrice = evaluate_probabilities(
        np.tile(probabilities, (3, 1)), np.tile(labels, 3), names, repeats=3
    )
    assert thrice.count == 3 * once.count
    assert thrice.interval == pytest.approx(once.interval)
    assert thrice.warnings == once.warnings
    for a, b in zip(thrice.per_class, once.per_class, strict=True):
        assert a.recall_interval == pytest.approx(b.recall_interval)


def test_images_of_few_groups_give_a_wider_interval():
    probabilities, labels = make_predictions(400, 4, skill=1.0)
    is_wrong = probabilities.argmax(axis=1) != labels
    units = np.where(is_wrong, 0, np.arange(400) % 9 + 1)  # all mistakes are of one group
    grouped = evaluate_probabilities(probabilities, labels, list("abcd"), units=units)
    alone = evaluate_probabilities(probabilities, labels, list("abcd"))
    assert (grouped.groups, alone.groups) == (10, None)
    assert grouped.interval[0] < alone.interval[0]
    assert grouped.interval[1] > alone.interval[1]
