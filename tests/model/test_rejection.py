import doctest

import numpy as np
import pytest

from squeezetune.errors import ArtifactError, SettingsError
from squeezetune.model import rejection
from squeezetune.model.rejection import (
    Threshold,
    choose_threshold,
    find_threshold,
    parse_rate,
    tabulate_confidences,
    tabulate_scores,
)


def make_probabilities(confidences):
    confidences = np.asarray(confidences, np.float32)
    return np.stack([confidences, 1 - confidences], axis=1)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("count", [99, 150, 1000])
def test_of_new_photos_no_more_than_the_rate_is_refused_on_average(rate, count):
    rng, shares = np.random.default_rng(0), []
    for _ in range(300):
        table = tabulate_confidences(make_probabilities(0.5 + rng.random(count) / 2), "validation")
        shares.append(
            2 * find_threshold(table, rate) - 1
        )  # the part of new ones, evenly spread, that is below
    assert rate - 1 / count - 0.003 < np.mean(shares) < rate + 0.003


def test_ties_are_not_refused():
    table = tabulate_confidences(make_probabilities([0.9] * 50 + [1.0] * 50), "validation")
    assert find_threshold(table, 0.05) <= np.float32(0.9)
    sure = tabulate_confidences(make_probabilities(np.full(100, 1 - 2**-24)), "validation")
    assert find_threshold(sure, 0.5) <= 1 - 2**-24


def test_a_higher_rate_never_has_a_lower_threshold():
    table = tabulate_confidences(
        make_probabilities(np.random.default_rng(0).random(400) / 2 + 0.5), "folds"
    )
    known = [threshold for threshold in table["thresholds"] if threshold is not None]
    assert table["thresholds"] == [None, None, *known]
    assert known == sorted(known)
    assert (table["measured_on"], table["photos"]) == ("folds", 400)


def test_few_photos_cannot_tell_a_low_rate():
    table = tabulate_confidences(make_probabilities([0.6, 0.7, 0.8, 0.9]), "validation")
    with pytest.raises(SettingsError, match=r"only 4 photos .* needed is 20\.0% or more"):
        find_threshold(table, 0.05)
    assert find_threshold(table, 0.2) == pytest.approx(0.6)


@pytest.mark.parametrize("rate", [0, -1, 0.51, 5, float("nan")])
def test_a_rate_out_of_its_limits(rate):
    with pytest.raises(SettingsError, match="needed is a share from"):
        find_threshold(tabulate_confidences(make_probabilities([0.9]), "validation"), rate)


def test_an_old_model_has_no_table():
    with pytest.raises(ArtifactError, match="does not know what it makes of photos"):
        find_threshold({}, 0.05)


def test_familiarity_comes_before_confidence():
    familiarities = tabulate_scores(np.arange(-50, 50, dtype=np.float32), "validation")
    confidences = tabulate_confidences(make_probabilities([0.5, 0.9] * 50), "validation")
    threshold = choose_threshold(familiarities, confidences, 0.1)
    assert threshold == Threshold(-41, is_familiarity=True)
    assert threshold.admits(confidence=0.1, familiarity=-41)
    assert not threshold.admits(confidence=1.0, familiarity=-41.5)
    earlier = choose_threshold({}, confidences, 0.1)
    assert earlier.admits(confidence=0.5, familiarity=float("nan"))
    assert not earlier.admits(confidence=0.49, familiarity=0)


def test_a_table_of_an_earlier_model_has_zeros():
    with pytest.raises(SettingsError, match="only 4 photos"):
        find_threshold({"photos": 4, "thresholds": [0.0] * 500}, 0.05)


@pytest.mark.parametrize(
    "table",
    [
        {"thresholds": []},
        {"thresholds": 3, "photos": 4},
        {"thresholds": ["x"] * 500},
        {"photos": 4},
        {"thresholds": [0.5] * 500, "photos": None},
    ],
)
def test_a_damaged_table(table):
    with pytest.raises(ArtifactError, match="damaged"):
        find_threshold(table, 0.05)


@pytest.mark.parametrize(
    ("text", "rate"), [("5%", 0.05), ("0.05", 0.05), (" 0.5 % ", 0.005), (".1", 0.1), (0.2, 0.2)]
)
def test_rates_are_read(text, rate):
    assert parse_rate(text) == pytest.approx(rate)


@pytest.mark.parametrize("text", ["five", "%", "5 per cent", "5% of all", "5%%", None, [0.05]])
def test_what_is_no_rate(text):
    with pytest.raises(SettingsError, match="needed is a share such as 5%"):
        parse_rate(text)


def test_the_examples_run():
    found = doctest.testmod(rejection)
    assert found.attempted
    assert not found.failed
