import pytest

from squeezetune.finetune.recipe import ClockPace, DeadlinePace, Ending, EpochPace

ENDING = Ending(deadline=480.0, after_s=100.0, pixel_s=1e-4, step_s=0.1)
STEP_S = 0.1 + 1e-4 * 96**2  # as forecast


@pytest.mark.parametrize(
    ("slowness", "after_s"),
    [
        (1.0, 100.0),
        (2.0, 200.0),
        (50.0, 300.0),
        (0.8, 90.0),
        (0.5, 75.0),
        (1 / 3, 70.0),
        (1e-9, 70.0),
    ],
)
def test_what_follows_training_takes_as_long_as_steps_do(slowness, after_s):
    assert ENDING.find_left(200.0, 96, slowness * STEP_S) == pytest.approx(280.0 - after_s)


@pytest.mark.parametrize("ending", [ENDING, Ending(480.0, 100.0, 0.0)])
def test_the_first_step_knows_nothing_yet(ending):
    assert ending.find_left(200.0, 96, 0.0) == 180.0


def run(ending, step_s, start=200.0):
    """Train until the end on a machine that takes so long for a step; return when that is."""
    now, progress = start, 0.0
    pace = DeadlinePace(EpochPace(1000, 1e6, 96), ending, lambda: now)
    while progress < 1 - 1e-9:
        now += step_s(now)
        progress += pace.measure_share(progress, 96, step_s(now))
    return now


def test_a_stage_ends_when_what_follows_has_to_begin():
    assert run(ENDING, lambda now: STEP_S) == pytest.approx(380.0, abs=2 * STEP_S)


def test_time_that_turns_up_is_trained_with():
    """Everything was timed in a slow moment: steps, and what follows, take a third of the
    forecast.
    """
    before = ClockPace(EpochPace(1000, 1e6, 96), lambda: 0.0)
    assert (
        before.measure_share(0.5, 96, STEP_S) == 0.5
    )  # the clock alone keeps all of the forecast free
    end = run(ENDING, lambda now: STEP_S / 3)
    assert end == pytest.approx(480 - 70, abs=2 * STEP_S)
    assert end + 100 / 3 <= 480


def test_a_machine_that_becomes_slow_leaves_room_for_what_follows():
    end = run(ENDING, lambda now: STEP_S * (2 if now > 230 else 1))
    assert end == pytest.approx(280.0, abs=4 * STEP_S)
