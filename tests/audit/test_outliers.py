import numpy as np
import pytest

from squeezetune.audit import outliers
from squeezetune.audit.outliers import NEEDED_IMAGES, NEIGHBOURS, find_outliers, measure_factors


def draw_features(n, foreign=0, seed=0):
    """Draw features of images in a few crowds, and of some that are far from all crowds and each
    other.
    """
    rng = np.random.default_rng(seed)
    centres = rng.uniform(1, 4, (4, 2048))
    roots = centres[rng.integers(0, 4, n)] + rng.normal(0, 0.4, (n, 2048))
    roots[n - foreign :] = rng.uniform(0, 6, (foreign, 2048))
    return (roots.clip(0) ** 2).astype(np.float16)[:, None]


def test_images_unlike_all_others_are_found_and_no_other(executor):
    found = find_outliers(draw_features(300, foreign=3), executor)
    assert sorted(found.positions.tolist()) == [297, 298, 299]
    assert (np.diff(found.deviations) <= 0).all()


def test_where_all_are_alike_there_are_none(executor):
    assert len(find_outliers(draw_features(300), executor)) == 0


def test_a_burst_of_photos_makes_no_outlier_of_the_others(executor):
    features = draw_features(300)
    features[100:112] = features[100]
    assert len(find_outliers(features, executor)) == 0


def test_of_few_images_nothing_is_said(executor):
    assert len(find_outliers(draw_features(NEEDED_IMAGES - 1, foreign=1), executor)) == 0


def test_factors_are_those_of_a_plain_loop(executor):
    rows = np.random.default_rng(1).normal(size=(60, 8)).astype(np.float32)
    distances = np.linalg.norm(rows[:, None] - rows, axis=2)
    np.fill_diagonal(distances, np.inf)
    nearest = distances.argsort(axis=1)[:, :NEIGHBOURS]
    reach = np.take_along_axis(distances, nearest, axis=1).mean(axis=1)
    factors, found = measure_factors(rows, executor)
    np.testing.assert_allclose(found, reach, rtol=1e-3)
    np.testing.assert_allclose(factors, reach / reach[nearest].mean(axis=1), rtol=1e-3)


@pytest.mark.parametrize("most", [50, 299, 300])
def test_neighbours_are_taken_from_a_part_where_there_are_many(executor, monkeypatch, most):
    monkeypatch.setattr(outliers, "MOST_REFERENCES", most)
    found = find_outliers(draw_features(300, foreign=3), executor)
    assert sorted(found.positions.tolist()) == [297, 298, 299]
