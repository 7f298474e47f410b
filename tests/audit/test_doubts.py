import numpy as np
import pytest

from squeezetune.audit.label_errors import (
    LEAST_CONFIDENCE,
    count_for,
    estimate_joint,
    estimate_mistakes,
    find_label_errors,
    find_thresholds,
    fit_noise,
)
from squeezetune.heads.out_of_fold import OutOfFoldPredictions

# Nine images of three classes; what the paper's definitions make of them is worked out by hand
# below.
LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2])
PROBABILITIES = np.array(
    [
        [0.90, 0.05, 0.05],
        [0.80, 0.15, 0.05],
        [0.10, 0.85, 0.05],
        [0.35, 0.33, 0.32],
        [0.10, 0.80, 0.10],
        [0.05, 0.90, 0.05],
        [0.70, 0.20, 0.10],
        [0.10, 0.10, 0.80],
        [0.20, 0.75, 0.05],
    ],
    np.float32,
)


def draw_case(seed, n=500, classes=6):
    """Draw labels, a tenth of them wrong, and probabilities that mostly know the true class."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, classes, n)
    logits = rng.normal(0, 1, (n, classes))
    logits[np.arange(n), true] += 2.5
    labels = np.where(rng.random(n) < 0.1, rng.integers(0, classes, n), true)
    exponents = np.exp(logits)
    return (exponents / exponents.sum(axis=1, keepdims=True)).astype(np.float32), labels


def test_thresholds_and_counts_are_those_of_the_paper():
    np.testing.assert_allclose(
        find_thresholds(PROBABILITIES, LABELS), [0.5375, 19 / 30, 0.425], atol=1e-6
    )
    assert count_for(PROBABILITIES, LABELS).tolist() == [0, 0, 1, -1, 1, 1, 0, 2, 1]
    joint = estimate_joint(PROBABILITIES, LABELS)
    np.testing.assert_allclose(joint, [[2 / 3, 1 / 3, 0], [1 / 3, 2 / 3, 0], [0, 1 / 2, 1 / 2]])


def test_the_joint_is_that_of_cleanlab():
    count = pytest.importorskip(
        "cleanlab.count", reason="cleanlab is not installed; it is compared with where it is"
    )
    for seed in range(5):
        probabilities, labels = draw_case(seed)
        theirs = count.estimate_joint(labels, probabilities)
        shares = np.bincount(labels)[:, None] / len(labels)
        # theirs are whole numbers of images
        np.testing.assert_allclose(
            estimate_joint(probabilities, labels) * shares, theirs, atol=1.5 / len(labels)
        )
        np.testing.assert_allclose(
            find_thresholds(probabilities, labels),
            count.get_confident_thresholds(labels, probabilities),
            atol=1e-6,
        )


def test_mistakes_are_counted_by_label_and_class():
    probabilities, labels = draw_case(0)
    mistakes = estimate_mistakes(
        OutOfFoldPredictions(probabilities, np.ones(len(labels), bool)), labels
    )
    np.testing.assert_allclose(mistakes.sum(axis=1), np.bincount(labels))
    assert 0.05 < 1 - np.trace(mistakes) / len(labels) < 0.2


def test_a_label_without_images_has_no_mistakes():
    mistakes = estimate_mistakes(
        OutOfFoldPredictions(PROBABILITIES[:7], np.ones(7, bool)), LABELS[:7]
    )
    assert mistakes[2].tolist() == [0, 0, 0]


def test_doubts_name_the_likeliest_class_and_the_surest_come_first():
    probabilities, labels = draw_case(0)
    doubts = find_label_errors(OutOfFoldPredictions(probabilities, np.ones(500, bool)), labels)
    suggested, confidence, is_wrong = fit_noise(probabilities, labels).weigh(probabilities, labels)
    assert sorted(doubts.positions) == np.flatnonzero(confidence >= LEAST_CONFIDENCE).tolist()
    assert (np.diff(doubts.confidence) <= 0).all()
    assert (doubts.suggested == suggested[doubts.positions]).all()
    assert doubts.mistakes == pytest.approx(is_wrong.sum())
    assert 20 < doubts.mistakes < 80  # a tenth


def test_an_image_that_is_not_judged_is_not_doubted():
    probabilities, labels = draw_case(0)
    is_judged = np.ones(500, bool)
    first, *_ = find_label_errors(OutOfFoldPredictions(probabilities, is_judged), labels).positions
    is_judged[first] = False
    found = find_label_errors(OutOfFoldPredictions(probabilities, is_judged), labels)
    assert len(found)
    assert first not in found.positions
    is_judged[:] = False
    assert len(find_label_errors(OutOfFoldPredictions(probabilities, is_judged), labels)) == 0
