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
