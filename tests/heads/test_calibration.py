import numpy as np
import pytest
from scipy.special import log_softmax

from squeezetune.heads.linear import (
    HIGHEST,
    LIKELY_SHARE,
    LOWEST,
    fit_share,
    fit_temperature,
    measure_loss,
)


def make_calibrated(n=4000, classes=5, seed=0):
    """Make logits that are exactly as sure as they are right."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.standard_normal((n, classes))
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(
        axis=1
    )  # draws labels from softmax(logits)
    return logits.astype(np.float32), labels.astype(np.int64)


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_too_much_or_too_little_confidence(factor):
    logits, labels = make_calibrated()
    assert fit_temperature(logits * np.float32(factor), labels) == pytest.approx(factor, rel=0.07)


def test_the_temperature_has_the_least_loss():
    logits, labels = make_calibrated(200)
    found = measure_loss(logits, labels, fit_temperature(logits, labels))
    others = [
        measure_loss(logits, labels, temperature)
        for temperature in np.geomspace(LOWEST, HIGHEST, 300)
    ]
    assert found <= min(others) + 1e-6


def test_the_loss_is_the_mean_negative_log_likelihood():
    logits, labels = make_calibrated(50)
    logs = [
        log_softmax(row.astype(np.float64) / 1.7)[label]
        for row, label in zip(logits, labels, strict=True)
    ]
    assert measure_loss(logits, labels, 1.7) == pytest.approx(-np.mean(logs))


def test_without_mistakes_and_without_hope_the_temperature_stays_in_its_limits():
    logits = np.array([[1, 0], [0, 1]], np.float32)
    assert fit_temperature(logits, np.array([0, 1])) == pytest.approx(LOWEST, rel=0.01)
    assert fit_temperature(logits, np.array([1, 0])) == pytest.approx(HIGHEST, rel=0.01)


def test_without_images_the_temperature_is_one():
    assert fit_temperature(np.empty((0, 3), np.float32), np.empty(0, np.int64)) == 1


def test_extreme_logits_have_a_finite_loss():
    assert np.isfinite(measure_loss(np.array([[3e4, -3e4]], np.float32), np.array([1])))


# ---- two classifiers mixed


def test_the_share_is_that_of_the_mixture_that_drew_the_labels():
    rng = np.random.default_rng(0)
    first, second = 4 * rng.standard_normal((2, 4000, 5))
    labels = (0.3 * first + 0.7 * second + rng.gumbel(size=first.shape)).argmax(axis=1)
    assert fit_share(first.astype(np.float32), second.astype(np.float32), labels) == pytest.approx(
        0.7, abs=0.04
    )


def test_a_classifier_that_knows_nothing_or_the_opposite_has_no_share():
    logits, labels = make_calibrated(2000)
    noise = np.random.default_rng(1).standard_normal(logits.shape).astype(np.float32)
    assert fit_share(logits, noise, labels) < 0.05
    assert fit_share(logits, noise - logits, labels) < 0.05
    assert fit_share(noise, logits, labels) > 0.95


def test_a_few_images_hardly_move_the_share():
    rng = np.random.default_rng(0)
    logits, labels = make_calibrated(24)
    shares = []
    for _ in range(20):
        noisy = [(logits + rng.standard_normal(logits.shape)).astype(np.float32) for _ in range(2)]
        shares.append(fit_share(*noisy, labels))
    assert abs(np.mean(shares) - LIKELY_SHARE) < 0.1
    assert np.std(shares) < 0.08
