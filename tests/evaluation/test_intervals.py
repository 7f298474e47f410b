import numpy as np
import pytest
from scipy.stats import binomtest

from squeezetune.evaluation.metrics import grouped_interval, wilson_interval


def draw_groups(rng, groups, size, share, alike):
    """Draw groups of about `size` images, right with a chance of their own: `alike` is the
    correlation within one.
    """
    rates = rng.beta(share * (1 - alike) / alike, (1 - share) * (1 - alike) / alike, groups)
    units = np.repeat(np.arange(groups), rng.integers(size // 2, 3 * size // 2, groups))
    return rng.random(len(units)) < rates[units], units


@pytest.mark.parametrize(
    ("groups", "size", "share", "alike"),
    [(80, 20, 0.9, 0.1), (40, 10, 0.95, 0.3), (20, 6, 0.7, 0.2), (8, 20, 0.8, 0.3)],
)
def test_the_interval_of_correlated_groups_holds_the_truth(groups, size, share, alike):
    rng = np.random.default_rng(0)
    held = held_alone = 0
    for _ in range(400):
        is_correct, units = draw_groups(rng, groups, size, share, alike)
        low, high = grouped_interval(is_correct, units)
        held += low <= share <= high
        low, high = wilson_interval(int(is_correct.sum()), len(units))
        held_alone += low <= share <= high
    assert held >= 0.92 * 400
    assert held_alone < 0.87 * 400  # as if they were independent


def test_independent_images_lose_next_to_nothing():
    rng = np.random.default_rng(0)
    is_correct = rng.random(5000) < 0.9
    low, high = grouped_interval(is_correct, rng.integers(0, 500, 5000))
    exact = binomtest(int(is_correct.sum()), 5000).proportion_ci()
    assert high - low == pytest.approx(exact.high - exact.low, rel=0.15)


def test_groups_of_one_image_are_clopper_and_pearsons_exact_interval():
    is_correct = np.arange(3000) % 10 > 0
    exact = binomtest(2700, 3000).proportion_ci()
    assert grouped_interval(is_correct, np.arange(3000)) == pytest.approx(
        (exact.low, exact.high), abs=1e-4
    )


@pytest.mark.parametrize("is_right", [True, False])
def test_where_all_are_right_or_none_groups_count_and_not_images(is_right):
    low, high = grouped_interval(np.full(1000, is_right), np.arange(1000) % 10)
    assert (high == 1) if is_right else (low == 0)
    assert 0.25 < high - low < 0.5  # with ten images: 0.31


def test_one_group_says_nothing():
    assert grouped_interval(np.ones(50, bool), np.zeros(50, np.int64)) == (0, 1)


def test_names_of_groups_do_not_matter():
    rng = np.random.default_rng(3)
    is_correct, units = draw_groups(rng, 12, 8, 0.8, 0.2)
    assert grouped_interval(is_correct, 1000 - 7 * units) == pytest.approx(
        grouped_interval(is_correct, units)
    )
