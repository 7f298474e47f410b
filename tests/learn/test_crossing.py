import numpy as np

from squeezetune.learn.crossing import FOLDS, cross_fit, deal_folds
from squeezetune.learn.dense import Task, apply_layers, fit_linear


def test_every_fold_has_its_share_of_every_class():
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [50, 10, 7]))
    folds = deal_folds(labels, None)
    counts = np.array([[np.sum((labels == c) & (folds == f)) for f in range(FOLDS)] for c in range(3)])
    assert (counts.max(axis=1) - counts.min(axis=1) <= 1).all()


def test_images_of_one_unit_go_together_whatever_units_are_called():
    labels, units = np.repeat([0, 1], 12), np.repeat(np.arange(8), 3)
    folds = deal_folds(labels, units)
    assert all(len(np.unique(folds[units == unit])) == 1 for unit in range(8))
    assert len(np.unique(folds)) == 4
    np.testing.assert_array_equal(folds, deal_folds(labels, 100 - units))


def test_logits_are_those_of_a_head_without_the_fold():
    rng = np.random.default_rng(0)
    labels = np.arange(20) % 2
    rows = rng.standard_normal((20, 2, 6)).astype(np.float32)  # two views of each image
    task = Task(rows.reshape(40, 6), np.repeat(labels, 2), np.ones(2, np.float32))
    folds = deal_folds(labels, None)
    logits = cross_fit(task, 1.0, folds)
    others = folds != 2
    layers = fit_linear(Task(rows[others].reshape(-1, 6), np.repeat(labels[others], 2), task.class_weights), 1.0)
    expected = apply_layers(layers, rows[~others].reshape(-1, 6)).reshape(-1, 2, 2).mean(axis=1)
    np.testing.assert_allclose(logits[~others], expected, atol=1e-5)
