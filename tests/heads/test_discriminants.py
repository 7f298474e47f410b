import numpy as np
import pytest

from squeezetune.heads import familiarity as discriminants
from squeezetune.heads.familiarity import fit_discriminants


def draw_classes(seed, count, width=12, classes=4):
    """Draw images of classes that are normal distributions with one covariance."""
    rng = np.random.default_rng(seed)
    shape, centres = rng.normal(size=(width, width)), 3 * rng.normal(size=(classes, width))
    labels = np.arange(count) % classes
    return (centres[labels] + rng.normal(size=(count, width)) @ shape).astype(np.float32), labels


def compare_slowly(rows, labels, asked):
    """Compute the same from the covariances themselves, in all directions."""
    mean, deviation = rows.mean(axis=0), rows.std(axis=0)
    rows, asked = (rows - mean) / deviation, (asked - mean) / deviation
    centres = np.stack([rows[labels == at].mean(axis=0) for at in range(labels.max() + 1)])
    differences = rows - centres[labels]
    within = differences.T @ differences / len(rows)
    ground = np.eye(len(within)) * np.trace(within) / len(within)
    within = (1 - discriminants.SHRINKAGE) * within + discriminants.SHRINKAGE * ground
    total = within + centres.T @ (centres * np.bincount(labels)[:, None] / len(rows))
    to_classes = [
        np.einsum("nf,fg,ng->n", asked - centre, np.linalg.inv(within), asked - centre)
        for centre in centres
    ]
    return np.einsum("nf,fg,ng->n", asked, np.linalg.inv(total), asked) - np.min(to_classes, axis=0)


@pytest.mark.parametrize("count", [8, 40, 400])  # fewer images than features, more, many more
def test_few_directions_say_what_all_say(count):
    rows, labels = draw_classes(0, count)
    asked = np.random.default_rng(1).normal(size=(50, 12), scale=5).astype(np.float32)
    found = fit_discriminants(rows, labels)
    assert found.directions.shape == (12, 3)
    compared = found.compare(found.standardise(asked))
    np.testing.assert_allclose(compared, compare_slowly(rows, labels, asked), rtol=1e-3, atol=1e-2)


def test_classes_without_images_and_features_that_never_fire():
    rows, labels = draw_classes(2, 60, classes=2)
    rows[:, 3] = 0
    found = fit_discriminants(rows, 5 * labels)
    assert found.directions.shape == (12, 1)
    assert np.isfinite(found.compare(found.standardise(rows))).all()


def test_many_classes_differ_in_so_many_directions(monkeypatch):
    monkeypatch.setattr(discriminants, "MOST_DIRECTIONS", 2)
    rows, labels = draw_classes(3, 200)
    assert fit_discriminants(rows, labels).centres.shape == (4, 2)
