import numpy as np
import pytest
from scipy.special import softmax

from squeezetune.audit import label_errors as noise_module
from squeezetune.audit.label_errors import LabelNoise, fit_noise, sharpen

CLASSES = 6


def draw_case(rate, clarity, n=4000, blur=1.0, seed=0):
    """Draw true classes from opinions that mean what they say, make some labels wrong, and blur the
    opinions.
    """
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1, (n, CLASSES))
    logits[np.arange(n), rng.integers(0, CLASSES, n)] += clarity
    true = (softmax(logits, axis=1).cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    is_wrong = rng.random(n) < rate
    labels = np.where(is_wrong, (true + rng.integers(1, CLASSES, n)) % CLASSES, true)
    return softmax(logits / blur, axis=1).astype(np.float32), labels, true, is_wrong


@pytest.mark.parametrize(
    "clarity", [3, 8]
)  # of hard images heads take a quarter for another class than it is
@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
def test_the_share_of_wrong_labels_is_told_from_that_of_hard_images(rate, clarity):
    probabilities, labels, _, is_wrong = draw_case(rate, clarity, n=20_000, blur=2.0)
    found = fit_noise(probabilities, labels)
    assert found.rate == pytest.approx(is_wrong.mean(), abs=0.015)
    assert found.sharpness == pytest.approx(2.0, rel=0.2)


def test_where_all_labels_are_right_hardly_any_is_doubted():
    probabilities, labels, _, _ = draw_case(0.0, 3)
    found = fit_noise(probabilities, labels)
    assert found.rate < 0.005
    assert (found.weigh(probabilities, labels)[1] > 0.5).mean() < 0.001
    assert (probabilities.argmax(axis=1) != labels).mean() > 0.1  # which heads alone would doubt


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_confidence_means_what_it_says(rate):
    probabilities, labels, true, _ = draw_case(rate, 4, n=20_000, blur=1.5)
    suggested, confidence, is_wrong = fit_noise(probabilities, labels).weigh(probabilities, labels)
    for low, high in ((0.1, 0.4), (0.4, 0.8), (0.8, 1.0)):
        chosen = (confidence >= low) & (confidence < high)
        assert chosen.sum() > 50
        assert (suggested == true)[chosen].mean() == pytest.approx(
            confidence[chosen].mean(), abs=0.08
        )
    assert is_wrong.sum() == pytest.approx((labels != true).sum(), rel=0.1)
    assert (confidence <= is_wrong + 1e-12).all()
    assert (suggested != labels).all()


def test_a_few_images_do_not_say_how_often_labels_are_wrong():
    probabilities, labels, _, _ = draw_case(0.0, 8, n=10)
    assert 0.001 < fit_noise(probabilities, labels).rate < 0.02
    assert fit_noise(probabilities[:0], labels[:0]) == LabelNoise(0.01, 1.0)
    assert fit_noise(np.ones((5, 1), np.float32), np.zeros(5, np.int64)) == LabelNoise(0.01, 1.0)


def test_a_sample_of_many_images_is_enough(monkeypatch):
    probabilities, labels, _, is_wrong = draw_case(0.1, 5, n=20_000)
    monkeypatch.setattr(noise_module, "MOST_VALUES", 5000 * CLASSES)
    assert fit_noise(probabilities, labels).rate == pytest.approx(is_wrong.mean(), abs=0.015)


def test_probabilities_of_zero_and_one_are_taken():
    probabilities = np.eye(CLASSES, dtype=np.float32)[np.arange(600) % CLASSES]
    labels = np.where(
        np.arange(600) % 20 == 0, (np.arange(600) + 1) % CLASSES, np.arange(600) % CLASSES
    )
    suggested, confidence, _ = fit_noise(probabilities, labels).weigh(probabilities, labels)
    assert (suggested[::20] == np.arange(0, 600, 20) % CLASSES).all()
    assert (confidence[::20] > 0.99).all()
    assert (np.delete(confidence, np.arange(0, 600, 20)) < 0.01).all()
    np.testing.assert_allclose(sharpen(probabilities, 3.0), probabilities, atol=1e-6)
