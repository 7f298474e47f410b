import math
import re

import pytest

from squeezetune.errors import SettingsError
from squeezetune.serving.limits import Limits


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(SettingsError, match=r"pixels is 0; .*time_s is -1; "):
        Limits(pixels=0, time_s=-1)


def test_limits_that_contradict_each_other():
    with pytest.raises(SettingsError, match="4 images may wait, but 8 may come in one request"):
        Limits(images=8, waiting=4)
    with pytest.raises(SettingsError, match="needed is 2 x 100"):
        Limits(body_bytes=100, held_bytes=150)


@pytest.mark.parametrize("value", [math.inf, math.nan, 1e13])
@pytest.mark.parametrize("name", ["time_s", "held_bytes", "idle_s"])
def test_limits_are_finite(name, value):
    with pytest.raises(SettingsError, match=re.escape(f"{name} is {value}; needed is")):
        Limits(**{name: value})
