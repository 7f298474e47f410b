import numpy as np
import pytest
from scipy.special import log_softmax

from squeezetune.learn.calibration import HIGHEST, LOWEST, fit_temperature, measure_loss


def make_calibrated(n=4000, classes=5, seed=0):
    """Make logits that are exactly as sure as they are right."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.standard_normal((n, classes))
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)  # draws labels from softmax(logits)
    return logits.astype(np.float32), labels.astype(np.int64)


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_too_much_or_too_little_confidence(factor):
    logits, labels = make_calibrated()
    assert fit_temperature(logits * np.float32(factor), labels) == pytest.approx(factor, rel=0.07)


def test_the_temperature_has_the_least_loss():
    logits, labels = make_calibrated(200)
    found = measure_loss(logits, labels, fit_temperature(logits, labels))
    others = [measure_loss(logits, labels, temperature) for temperature in np.geomspace(LOWEST, HIGHEST, 300)]
    assert found <= min(others) + 1e-6


def test_the_loss_is_the_mean_negative_log_likelihood():
    logits, labels = make_calibrated(50)
    logs = [log_softmax(row.astype(np.float64) / 1.7)[label] for row, label in zip(logits, labels, strict=True)]
    assert measure_loss(logits, labels, 1.7) == pytest.approx(-np.mean(logs))


def test_without_mistakes_and_without_hope_the_temperature_stays_in_its_limits():
    logits = np.array([[1, 0], [0, 1]], np.float32)
    assert fit_temperature(logits, np.array([0, 1])) == pytest.approx(LOWEST, rel=0.01)
    assert fit_temperature(logits, np.array([1, 0])) == pytest.approx(HIGHEST, rel=0.01)


def test_without_images_the_temperature_is_one():
    assert fit_temperature(np.empty((0, 3), np.float32), np.empty(0, np.int64)) == 1


def test_extreme_logits_have_a_finite_loss():
    assert np.isfinite(measure_loss(np.array([[3e4, -3e4]], np.float32), np.array([1])))
