from dataclasses import replace

import numpy as np
import pytest

from squeezetune.model.classifier import Classifier
from squeezetune.pipeline import fitting as acquaintance
from squeezetune.pipeline.fitting import make_manifest, thin
from squeezetune.system.executor import ThreadExecutor


@pytest.fixture
def learn(make_learn, fixed_settings, tmp_path):
    return make_learn(fixed_settings, tmp_path / "cache")


def score_file(learned, settings, positions):
    """Let the file itself say how familiar some photos look."""
    classifier, index = Classifier(learned.model, make_manifest(learned, settings)), learned.index
    names = [index.names[at] for at in positions]
    return np.array(
        [
            answer.familiarity
            for _, answer in classifier.stream(index.source, names, ThreadExecutor(1))
        ]
    )


def test_the_file_gives_the_scores_that_the_table_is_made_of(learn, fixed_settings):
    learned = learn()
    found = np.sort(score_file(learned, fixed_settings, learned.split.validation))
    thresholds = [
        value for value in dict.fromkeys(learned.familiarities["thresholds"]) if value is not None
    ]
    assert learned.familiarities["photos"] == 12
    np.testing.assert_allclose(found[: len(thresholds)], thresholds, atol=0.05)


def test_noise_is_less_familiar_than_photos(learn, fixed_settings):
    learned = learn()
    classifier = Classifier(learned.model, make_manifest(learned, fixed_settings))
    noise = np.random.default_rng(0).integers(0, 256, (10, 64, 64, 3), dtype=np.uint8)
    assert not any(
        prediction.is_known for prediction in classifier.predict(noise, none_of_these=0.1)
    )
    names = [learned.index.names[at] for at in learned.split.train]
    photos = [learned.index.source.read(name) for name in names]
    assert (
        np.mean(
            [prediction.is_known for prediction in classifier.predict(photos, none_of_these=0.1)]
        )
        > 0.8
    )


def test_too_few_photos_held_back_cannot_tell(learn, fixed_settings, monkeypatch):
    monkeypatch.setattr(acquaintance, "LEAST_JUDGING", 13)
    learned = learn()
    assert learned.familiarities == {}
    classifier = Classifier(learned.model, make_manifest(learned, fixed_settings))
    assert not classifier.find_threshold(0.1).is_familiarity


def test_layers_that_were_trained_are_run_once_more(make_learn, fixed_settings, tmp_path):
    pytest.importorskip("torch", reason="torch is not installed; it trains layers")
    from test_deepening import prefer_layers

    settings = replace(fixed_settings, layers="all", epochs=1.0)
    learned = prefer_layers(make_learn(settings, tmp_path / "cache")())
    assert learned.best
    found = np.sort(score_file(learned, settings, learned.split.validation))
    thresholds = [
        value for value in dict.fromkeys(learned.familiarities["thresholds"]) if value is not None
    ]
    np.testing.assert_allclose(found[: len(thresholds)], thresholds, atol=0.05)


def test_photos_are_thinned_evenly():
    assert thin(np.arange(10), 4).tolist() == [0, 3, 6, 9]
    assert thin(np.arange(4), 4).tolist() == [0, 1, 2, 3]
    assert thin(np.arange(0), 4).tolist() == []
