import numpy as np
import pytest

from squeezetune.heads import out_of_fold
from squeezetune.heads.out_of_fold import NEEDED_IMAGES, deal_folds, predict_out_of_fold

WIDTH = 40


def make_features(n, classes, seed=0, views=2):
    """Make features of classes that are easy to tell apart, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    centres = rng.uniform(0, 4, (classes, WIDTH))
    noise = rng.normal(0, 0.3, (n, views, WIDTH))
    return ((centres[labels][:, None] + noise).clip(0) ** 2).astype(np.float16), labels


def deal_singly(labels, folds=5, seed=0):
    keys = np.random.default_rng(seed).integers(0, 2**63, len(labels)).astype(np.uint64)
    return deal_folds(labels, np.arange(len(labels)), folds, keys)


def test_folds_have_their_share_of_every_class():
    labels = np.repeat([0, 1, 2], [50, 20, 7])
    folds = deal_singly(labels)
    for label, count in enumerate((50, 20, 7)):
        sizes = np.bincount(folds[labels == label], minlength=5)
        assert sizes.sum() == count
        assert sizes.max() - sizes.min() <= 1


def test_units_stay_together_and_large_ones_are_spread():
    labels = np.repeat([0, 1], 60)
    units = np.concatenate(
        [np.repeat(np.arange(10), 3), np.arange(10, 40), 40 + np.arange(60) // 6]
    )
    keys = np.random.default_rng(0).integers(0, 2**63, 50).astype(np.uint64)
    folds = deal_folds(labels, units, keys=keys)
    for unit in range(50):
        assert len(set(folds[units == unit].tolist())) == 1
    assert np.bincount(folds[labels == 0]).tolist() == [12] * 5
    assert np.bincount(folds[labels == 1]).tolist() == [12] * 5


def test_no_head_has_seen_the_images_that_it_judges():
    """An image's label must not matter to what is thought of it."""
    features, labels = make_features(120, 3)
    folds = deal_singly(labels)
    before = predict_out_of_fold(features, labels, folds, 3).probabilities
    held_out = folds == 2
    other = labels.copy()
    other[held_out] = (labels[held_out] + 1) % 3
    after = predict_out_of_fold(features, other, folds, 3).probabilities
    # the temperature is common to all; the order of the classes is not touched by it
    np.testing.assert_array_equal(before[held_out].argsort(axis=1), after[held_out].argsort(axis=1))
    np.testing.assert_array_equal(before[held_out].argmax(axis=1), labels[held_out])


def test_classes_are_recognised_in_spite_of_wrong_labels():
    features, labels = make_features(400, 4)
    wrong = labels.copy()
    wrong[::10] = (labels[::10] + 1) % 4
    opinions = predict_out_of_fold(features, wrong, deal_singly(wrong), 4, threads=2)
    assert (opinions.probabilities.argmax(axis=1) == labels).mean() > 0.98
    np.testing.assert_allclose(opinions.probabilities.sum(axis=1), 1, atol=1e-5)


def test_heads_fitted_one_by_one_think_the_same(monkeypatch):
    features, labels = make_features(200, 3)
    features = features + np.random.default_rng(1).uniform(0, 9, features.shape).astype(np.float16)
    folds = deal_singly(labels)
    monkeypatch.setattr(out_of_fold, "ITERATIONS", 500)
    together = predict_out_of_fold(features, labels, folds, 3).probabilities
    monkeypatch.setattr(out_of_fold, "MOST_OUTPUTS", 1)
    singly = predict_out_of_fold(features, labels, folds, 3).probabilities
    np.testing.assert_allclose(together, singly, atol=5e-3)


def test_threads_do_not_change_what_is_thought():
    features, labels = make_features(150, 3)
    folds = deal_singly(labels)
    alone, shared = (
        predict_out_of_fold(features, labels, folds, 3, threads=threads) for threads in (1, 3)
    )
    np.testing.assert_allclose(alone.probabilities, shared.probabilities, atol=1e-3)


@pytest.mark.parametrize("few", [1, NEEDED_IMAGES, NEEDED_IMAGES + 1])
def test_labels_of_tiny_classes_are_not_judged(few):
    features, labels = make_features(90, 3)
    keep = np.flatnonzero((labels < 2) | (np.cumsum(labels == 2) <= few))
    labels = labels[keep]
    opinions = predict_out_of_fold(features[keep], labels, deal_singly(labels), 3)
    assert opinions.is_judged[labels < 2].all()
    assert opinions.is_judged[labels == 2].all() == (few > NEEDED_IMAGES)
