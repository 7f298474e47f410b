import math
from dataclasses import replace

import pytest
from click.testing import CliRunner
from fast_options import FAST

from squeezetune import planner as module
from squeezetune.cli import main
from squeezetune.errors import MissingExtraError
from squeezetune.events import Notice, PlanMade, ignore_event
from squeezetune.learn.recipe import Phase
from squeezetune.planner import (
    Speeds,
    Workload,
    announce_plan,
    check_torch,
    find_small_side,
    forecast_stage,
    is_deep_wanted,
    make_plan,
    plan_phases,
)
from squeezetune.settings import Settings
from squeezetune.training import train

WORK = Workload(train=4000, validation=500, test=500, unseen=4500, unkept=4500, side=224)
# seconds of two cores of a laptop, roughly
SPEEDS = Speeds(read_s=1e-3, view_s=2e-3, file_s=3e-3, linear_s=2e-5, hidden_s=3e-4, pixel_s=4e-7)
DEEP = Settings(layers="all")


def plan(settings, work=WORK, speeds=None, left_s=math.inf, is_deep=True):
    return make_plan(work, settings, speeds, left_s, is_deep)


def budget(seconds, settings=DEEP, work=WORK, speeds=SPEEDS, is_deep=True):
    return plan(replace(settings, budget=f"{seconds}s"), work, speeds, float(seconds), is_deep)


@pytest.fixture
def no_torch(monkeypatch):
    """Hide torch from those who look whether it is there."""
    find_spec = module.find_spec
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "torch" else find_spec(name))


@pytest.fixture
def with_torch(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: object())


# ---- whether layers are trained


@pytest.mark.parametrize(("settings", "is_wanted"), [
    (Settings(), False), (Settings(effort="quick"), False), (Settings(effort="thorough"), True),
    (Settings(effort="thorough", layers="head"), False), (Settings(layers="all"), True),
    (Settings(effort="quick", layers="all"), True), (Settings(budget="10m"), True),
    (Settings(budget="10m", layers="head"), False),
])  # fmt: skip
def test_settings_say_whether_layers_are_trained(settings, is_wanted, with_torch):
    assert is_deep_wanted(settings) is is_wanted
    assert check_torch(settings, pytest.fail) is is_wanted


def test_without_torch_a_thorough_run_is_told_how_to_install_it(no_torch):
    said = []
    assert check_torch(Settings(effort="thorough"), said.append) is False
    [notice] = said
    assert isinstance(notice, Notice)
    assert "torch, which trains the layers themselves, is not installed" in notice.message
    assert "pip install torch --index-url https://download.pytorch.org/whl/cpu" in notice.message
    assert "pip install 'squeezetune[deep]'" in notice.message


def test_without_torch_nothing_is_said_where_nobody_asked_for_it(no_torch):
    assert check_torch(Settings(), pytest.fail) is False


def test_without_torch_all_layers_are_an_error(no_torch):
    with pytest.raises(MissingExtraError, match="is not installed") as caught:
        check_torch(DEEP, ignore_event)
    assert "pip install torch --index-url https://download.pytorch.org/whl/cpu" in caught.value.hint


def test_a_thorough_run_without_torch_trains_the_head(no_torch, shape_folder, fixed_settings, tmp_path):
    said = []
    report = train(shape_folder, tmp_path / "model", fixed_settings, effort="thorough", listen=said.append).report
    assert len([event for event in said if isinstance(event, Notice)]) == 1
    assert report["model"]["network"] == "SqueezeNet 1.1, frozen"
    assert report["stages"] == []


def test_the_command_line_says_how_to_install_torch(no_torch, shape_folder, tmp_path):
    words = ["train", str(shape_folder), "--output", str(tmp_path / "model"), *FAST, "--layers", "all"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == MissingExtraError.exit_status == 1
    assert "torch, which trains the layers themselves, is not installed" in " ".join(result.stderr.split())
    assert "pip install 'squeezetune[deep]'" in " ".join(result.stderr.split())
    assert list(tmp_path.iterdir()) == []


# ---- sizes


@pytest.mark.parametrize(("side", "sides"), [(224, (160, 224)), (128, (96, 128)), (96, (64, 96)), (80, (64, 80)),
                                             (64, (64,)), (48, (48,)), (512, (368, 512))])  # fmt: skip
def test_smaller_images_come_first(side, sides):
    phases = plan_phases(side)
    assert tuple(phase.side for phase in phases) == sides
    assert sum(phase.share for phase in phases) == 1
    assert find_small_side(side) == sides[0]


# ---- without a budget


@pytest.mark.parametrize(("images", "epochs"), [(100, 60), (5000, 60), (10_000, 30), (30_000, 10), (1_000_000, 8)])
def test_epochs_go_by_the_number_of_images(images, epochs):
    assert plan(DEEP, replace(WORK, train=images)).stage.epochs == epochs
    assert plan(replace(DEEP, epochs=2.5), replace(WORK, train=images)).stage.epochs == 2.5


@pytest.mark.parametrize(("settings", "is_deep", "views", "head"), [
    (Settings(), False, 2, "auto"), (Settings(effort="quick"), False, 1, "linear"),
    (Settings(effort="quick", head="hidden"), False, 1, "hidden"),
    (Settings(effort="thorough"), False, 4, "auto"), (Settings(effort="thorough"), True, 2, "auto"),
    (Settings(views="plain"), False, 1, "auto"), (Settings(views="crops", effort="quick"), False, 4, "linear"),
])  # fmt: skip
def test_without_a_budget_the_settings_decide(settings, is_deep, views, head):
    found = plan(settings, is_deep=is_deep)
    assert (found.views, found.head, found.share) == (views, head, 1.0)
    assert bool(found.stage) is is_deep
    assert found.forecasts == ()


def test_a_stage_trains_all_layers_at_the_size_of_the_run():
    stage = plan(DEEP).stage
    assert (stage.name, stage.start, stage.side) == ("all layers", "conv1", 224)
    assert stage.phases == (Phase(160, 0.5), Phase(224, 0.5))
    assert stage.recipe.batch == 128
    assert plan(DEEP, replace(WORK, train=320)).stage.recipe.batch == 20


# ---- with a budget


@pytest.mark.parametrize("seconds", [30, 60, 120, 300, 900, 3600, 36_000])
def test_a_plan_fits_into_its_budget(seconds):
    found = budget(seconds)
    assert found.total_s <= seconds + 0.2
    assert all(item.seconds >= 0 for item in found.forecasts)
    assert 0 <= found.after_training_s < found.total_s


def test_more_time_is_used_for_more():
    plans = [budget(seconds) for seconds in (15, 30, 120, 300, 900, 3600)]
    totals, sizes = [found.total_s for found in plans], [found.stage.epochs if found.stage else 0 for found in plans]
    assert totals == sorted(totals)
    assert plans[0].stage is None
    assert plans[-1].stage.side == 224
    assert sizes[-1] > 3
    assert [bool(found.stage) for found in plans] == sorted(bool(found.stage) for found in plans)


def test_little_time_is_spent_at_the_smaller_size():
    [found] = [budget(120)]
    assert found.stage.phases == (Phase(160, 1.0),)
    assert found.stage.epochs >= 0.4


def test_time_that_is_left_over_is_not_filled():
    assert budget(10_000_000).stage.epochs == module.MOST_EPOCHS
    assert budget(10_000_000, replace(DEEP, epochs=2.0)).stage.epochs == 2.0


def test_too_little_time_for_all_photos_looks_at_a_part_of_them():
    found = budget(8)
    assert found.stage is None
    assert (found.views, found.head) == (1, "linear")
    assert found.share < 1


def test_no_time_at_all_still_makes_the_shortest_plan():
    found = budget(1)
    assert found.share == module.SHARES[-1]
    assert found.total_s > 1


def test_without_torch_a_budget_buys_a_better_head():
    found = budget(3600, Settings(), speeds=replace(SPEEDS, pixel_s=None), is_deep=False)
    assert (found.stage, found.views, found.head) == (None, 2, "auto")


def test_a_faster_machine_trains_longer():
    slow, fast = (budget(300, speeds=replace(SPEEDS, pixel_s=SPEEDS.pixel_s * factor)) for factor in (1.0, 0.25))
    assert fast.stage.epochs * fast.stage.side**2 > 2 * slow.stage.epochs * slow.stage.side**2


def test_a_stage_takes_longer_with_every_epoch():
    stage = plan(DEEP).stage
    once, twice = (forecast_stage(replace(stage, epochs=epochs), WORK, SPEEDS) for epochs in (1.0, 2.0))
    assert twice - once == pytest.approx(WORK.train * 224**2 * SPEEDS.pixel_s)


def test_a_plan_is_announced_with_its_budget():
    found, said = budget(300), []
    announce_plan(found, Settings(budget="5m"), said.append)
    [event] = said
    assert isinstance(event, PlanMade)
    assert event.budget_s == 300
    assert event.total_s == pytest.approx(sum(seconds for _, seconds in event.forecasts)) == found.total_s
    parts = [part for part, _ in event.forecasts]
    assert parts[1:3] == ["features", "head"]
    assert parts[-2:] == ["measuring", "report"]
