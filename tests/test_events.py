from dataclasses import FrozenInstanceError

import pytest

from squeezetune.events import (
    EpochFinished,
    ModelMeasured,
    Notice,
    StageAdvanced,
    StageFinished,
    StageStarted,
    TrainingAdvanced,
    ignore_event,
    name_last,
    name_stage,
    tell_stage,
)

EVENTS = [
    StageStarted("features", 10),
    StageAdvanced("features", 3),
    TrainingAdvanced("all layers", 0.25, 0.4, 0.87, 437.0),
    EpochFinished("all layers", 1, 4, 0.4, 0.87, None, 0.86, 437.0, 69.0),
    StageFinished("features", 0.5),
    ModelMeasured(0.9, 0.87, 0.93, 400),
    Notice("careful"),
]


@pytest.mark.parametrize("event", EVENTS)
def test_events_are_values(event):
    assert event == type(event)(**vars(event))
    with pytest.raises(FrozenInstanceError):
        event.stage = "other"


@pytest.mark.parametrize("event", EVENTS)
def test_nobody_need_listen(event):
    assert ignore_event(event) is None


def test_a_stage_tells_when_it_begins_how_far_it_is_and_when_it_ends():
    said = []
    with tell_stage("pixels", said.append, 200, "photos") as advance:
        assert said == [StageStarted("pixels", 200, "photos")]
        advance(64)
    assert said[1] == StageAdvanced("pixels", 64)
    assert isinstance(said[2], StageFinished)
    assert (said[2].stage, len(said)) == ("pixels", 3)
    assert 0 <= said[2].seconds < 60


def test_a_stage_that_fails_is_not_told_to_be_finished():
    said = []
    with pytest.raises(ValueError, match="broken"), tell_stage("pixels", said.append):
        raise ValueError("broken")
    assert said == [StageStarted("pixels")]


@pytest.mark.parametrize("blocks", range(1, 9))
def test_every_number_of_last_blocks_has_its_words(blocks):
    assert name_stage(name_last(blocks)) == f"Training {name_last(blocks)}"
