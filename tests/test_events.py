from dataclasses import FrozenInstanceError

import pytest

from squeezetune.events import Notice, StageAdvanced, StageFinished, StageStarted, ignore_event

EVENTS = [StageStarted("features", 10), StageAdvanced("features", 3), StageFinished("features", 0.5), Notice("careful")]


@pytest.mark.parametrize("event", EVENTS)
def test_events_are_values(event):
    assert event == type(event)(**vars(event))
    with pytest.raises(FrozenInstanceError):
        event.stage = "other"


@pytest.mark.parametrize("event", EVENTS)
def test_nobody_need_listen(event):
    assert ignore_event(event) is None
