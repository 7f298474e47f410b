"""Budgets that are too short for all photos, on machines and sets of any size."""

from dataclasses import replace

import pytest
from click.testing import CliRunner
from fast_options import FAST

from squeezetune.cli.main import main
from squeezetune.errors import SettingsError
from squeezetune.events import PlanMade, Shortage
from squeezetune.planning.costs import RESERVE_SHARE, Speeds, Timing, Workload
from squeezetune.planning.plan import LEAST_JUDGING, Plan, add_forecasts
from squeezetune.planning.planner import (
    IMAGES_TO_REPLACE,
    announce_plan,
    fit_plan,
)
from squeezetune.planning.shortage import PATIENCE_S, find_needed
from squeezetune.planning.speeds import is_worth_timing
from squeezetune.settings import Settings

# seconds of two cores of a laptop, of a Raspberry Pi, and of a large machine, roughly
LAPTOP = Speeds(read_s=1e-3, view_s=2e-3, file_s=3e-3, linear_s=2e-5, hidden_s=6e-5, pixel_s=4e-7)
PI = Speeds(
    read_s=1e-2,
    view_s=8e-2,
    file_s=1e-1,
    linear_s=4e-4,
    hidden_s=1.2e-3,
    pixel_s=1e-5,
    pair_s=2e-8,
    overlay_s=4e-4,
    python_s=0.06,
)
LARGE = Speeds(read_s=1e-4, view_s=2e-4, file_s=3e-4, linear_s=4e-6, hidden_s=1.2e-5, pixel_s=4e-8)
MACHINES = {"laptop": (LAPTOP, 5.0), "pi": (PI, 40.0), "large": (LARGE, 3.0)}
BUDGETS_S = (1, 3, 10, 15, 20, 30, 60, 90, 120, 180, 300, 480, 900, 1800, 3600)


def count(images):
    """Count the work of a set of so many images, split 80/10/10."""
    tenth = images // 10
    return Workload(
        images - 2 * tenth,
        tenth,
        tenth,
        images - tenth,
        images - tenth,
        224,
        compared=images,
        unlooked=tenth,
    )


def plan(work, speeds, seconds, spent_s=5.0, is_deep=False, **choices):
    settings = Settings(budget=f"{seconds}s", **choices)
    left_s = (1 - RESERVE_SHARE) * seconds - spent_s
    return fit_plan(Timing(work, speeds), settings, left_s, spent_s, is_deep=is_deep)


def plan_free(work, speeds, spent_s=5.0):
    """Plan what is done without a budget."""
    return fit_plan(Timing(work, speeds), Settings(), float("inf"), spent_s, is_deep=False)


FLOWERS, MANY = count(318), count(60_000)


# ---- few photos: nothing is to be gained by leaving any out


@pytest.mark.parametrize("seconds", [1, 3, 10])
def test_a_budget_below_the_fixed_costs_of_a_few_photos_looks_at_all_of_them(seconds):
    found = plan(FLOWERS, LAPTOP, seconds)
    assert found.share == 1
    assert found.needed_s == 15
    assert found.total_s <= 15
    assert (found.views, found.head) == (
        2,
        "auto",
    )  # what is done without a budget takes hardly longer


@pytest.mark.parametrize("seconds", [15, 20, 60])
def test_a_budget_that_is_enough_says_nothing(seconds):
    assert plan(FLOWERS, LAPTOP, seconds).needed_s is None


def test_photos_are_never_left_out_where_that_saves_less_than_cannot_be_saved():
    for images in (50, 318, 1000, 3000):
        for seconds in BUDGETS_S:
            assert plan(count(images), LAPTOP, seconds).share == 1


# ---- many photos: fewer of them, or nothing


def test_as_few_photos_as_will_do_are_left_out_of_many():
    shares = [plan(MANY, LAPTOP, seconds).share for seconds in (75, 100, 130, 600)]
    assert shares == sorted(shares)
    assert shares[0] < 0.5
    assert shares[-1] == 1
    found = plan(MANY, LAPTOP, 100)
    assert found.total_s <= 100
    one_more = add_forecasts(replace(found, share=found.share + 0.05), Timing(MANY, LAPTOP))
    assert not one_more.fits((1 - RESERVE_SHARE) * 100 - 5)


def test_what_is_much_too_short_is_refused_with_what_is_needed():
    with pytest.raises(
        SettingsError,
        match=r"10s is too short here; about .* are needed for all photos, or .* for 5%",
    ):
        plan(MANY, LAPTOP, 10)
    with pytest.raises(
        SettingsError, match=r"1s is too short here; about .* are needed for all photos\n"
    ) as caught:
        plan(count(1000), PI, 1, spent_s=40.0)
    assert caught.value.hint == "Give more time with --budget, or leave it out."


def test_one_of_several_trainings_is_never_refused():
    settings = Settings(budget="10s")
    assert (
        fit_plan(Timing(MANY, LAPTOP), settings, 1.0, 5.0, float("inf"), is_deep=False).share == 1
    )


@pytest.mark.parametrize("seconds", [75, 100, 130, 300, 900])
@pytest.mark.parametrize("is_deep", [False, True])
def test_choices_are_made_on_enough_photos_whatever_is_left_out(seconds, is_deep):
    found = plan(replace(MANY, side=128), LAPTOP, seconds, is_deep=is_deep)
    assert LEAST_JUDGING <= found.narrow(MANY).validation <= MANY.validation


# ---- promises, for every size, machine and budget


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("images", [100, 318, 1000, 3000, 10_000, 60_000, 1_000_000])
@pytest.mark.parametrize("is_deep", [False, True])
def test_a_run_ends_in_time_or_says_that_it_cannot(machine, images, is_deep):
    (speeds, spent_s), work = MACHINES[machine], count(images)
    for seconds in BUDGETS_S:
        try:
            found = plan(work, speeds, seconds, spent_s, is_deep)
        except SettingsError:
            with pytest.raises(SettingsError, match="is too short here; about"):
                plan(work, speeds, seconds, spent_s, is_deep)
            continue
        is_late = found.total_s > (1 - RESERVE_SHARE) * seconds + 0.2
        assert not is_late or found.needed_s > seconds
        assert not is_late or found.share == 1
        assert found.total_s <= max(seconds, spent_s) + PATIENCE_S
        assert found.share == 1 or found.needed_s > seconds


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("images", [100, 318, 1000, 3000, 10_000, 60_000, 1_000_000])
@pytest.mark.parametrize("is_deep", [False, True])
def test_a_budget_makes_no_model_worse_than_none_that_takes_no_longer(machine, images, is_deep):
    """Where a run without a budget fits, its head is fitted, or layers are trained for long enough
    to replace it.
    """
    (speeds, spent_s), work = MACHINES[machine], count(images)
    free = plan_free(work, speeds, spent_s)
    for seconds in BUDGETS_S:
        if find_needed(replace(free, forecasts=free.forecasts[1:]), spent_s) <= seconds:
            found = plan(work, speeds, seconds, spent_s, is_deep)
            assert (found.share, found.needed_s) == (1, None)
            is_same_head = (found.views, found.head, found.head_share) == (free.views, free.head, 1)
            shown = sum(stage.epochs for stage in found.stages) * work.train
            assert is_same_head or shown >= max(work.train, IMAGES_TO_REPLACE)
            assert is_same_head or is_deep


@pytest.mark.parametrize("machine", MACHINES)
def test_all_photos_are_used_where_that_takes_hardly_longer(machine):
    speeds, spent_s = MACHINES[machine]
    for images in (318, 3000, 60_000):
        for seconds in BUDGETS_S:
            try:
                found = plan(count(images), speeds, seconds, spent_s)
            except SettingsError:
                continue
            assert found.share == 1 or found.needed_s >= 1.25 * found.total_s


# ---- what takes longer than a short run


@pytest.mark.parametrize(("seconds", "is_worth"), [(10, False), (15, False), (60, True)])
def test_torch_is_not_loaded_where_there_is_no_time_to_train_layers(seconds, is_worth):
    frozen = replace(LAPTOP, pixel_s=None)
    timing, settings = Timing(FLOWERS, frozen), Settings(budget=f"{seconds}s")
    assert is_worth_timing(timing, settings, seconds - 5.0, 15) is is_worth


def test_layers_of_many_photos_need_not_wait_for_a_head_on_all_of_them():
    """Two minutes for CIFAR-10: looking at all photos takes most of them, training layers is worth
    more.
    """
    frozen = replace(LAPTOP, pixel_s=None, read_s=2e-4, view_s=7e-4, file_s=1.2e-3)
    timing = Timing(replace(count(50_000), side=128), frozen)
    settings, left_s = Settings(budget="2m"), 110.0
    assert add_forecasts(Plan(1, "linear"), timing).total_s > 0.5 * left_s
    assert is_worth_timing(timing, settings, left_s, 128)
    known = replace(timing, speeds=replace(frozen, pixel_s=LAPTOP.pixel_s / 4))
    found = fit_plan(known, settings, left_s - 10, 18.0, is_deep=True)
    assert found.head_share < 1
    assert found.stages
    assert not is_worth_timing(timing, replace(settings, budget="1m"), 30.0, 128)


# ---- words


def test_a_plan_that_is_only_printed_says_so_too(shape_folder, monkeypatch):
    monkeypatch.setattr(
        "squeezetune.planning.planner.PATIENCE_S", 1e9
    )  # the machine of a test may be busy
    result = CliRunner().invoke(
        main, ["train", str(shape_folder), *FAST, "--layers", "head", "--budget", "1s", "--plan"]
    )
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("1s is too short here for all photos, which need about ")


def test_the_shortage_is_announced_in_words():
    said = []
    for seconds in (10, 100, 600):
        work = FLOWERS if seconds == 10 else MANY
        announce_plan(plan(work, LAPTOP, seconds), Settings(budget=f"{seconds}s"), said.append)
    plain, thinned, enough = (event.shortage for event in said if isinstance(event, PlanMade))
    assert enough is None
    assert plain.words == (
        "10s is too short here for all photos, which need about 15 s; they are used all the same, "
        "since with fewer "
        "the run would take nearly as long."
    )
    assert 10_000 < thinned.used < thinned.photos == 54_000
    assert Shortage("1m", 210.0, 4400, 54_000).words == (
        "1m is too short here for all photos, which need about 3 min 30 s: 4,400 of 54,000 to "
        "learn from and to "
        "choose by are used."
    )
