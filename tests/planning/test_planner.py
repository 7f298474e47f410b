import math
import time
from dataclasses import replace

import pytest
from click.testing import CliRunner
from fast_options import FAST

from squeezetune.cli.main import main
from squeezetune.errors import MissingExtraError
from squeezetune.events import Notice, PlanMade, ignore_event
from squeezetune.finetune.recipe import Phase
from squeezetune.network.weights import find_architecture
from squeezetune.planning import planner as module
from squeezetune.planning import speeds as probing
from squeezetune.planning import stage_plans
from squeezetune.planning.costs import (
    FORWARD_SHARE,
    RESERVE_S,
    Speeds,
    Timing,
    Workload,
)
from squeezetune.planning.plan import add_forecasts
from squeezetune.planning.planner import (
    NO_LIMIT,
    TimeLimit,
    announce_plan,
    check_torch,
    choose_plan,
    fit_plan,
    is_deep_wanted,
    limit_time,
    plan_rest,
    renew_head,
)
from squeezetune.planning.stage_plans import find_small_side, plan_phases
from squeezetune.settings import Settings
from squeezetune.training import train

WORK = Workload(train=4000, validation=500, test=500, unseen=4500, unkept=4500, side=224)
# seconds of two cores of a laptop, roughly
SPEEDS = Speeds(
    read_s=1e-3,
    view_s=2e-3,
    file_s=3e-3,
    linear_s=2e-5,
    hidden_s=3e-4,
    pixel_s=4e-7,
    last_s=4e-3,
    draw_s=1e-3,
)
TIMING = Timing(WORK, SPEEDS)
DEEP, LAST = Settings(layers="all"), Settings(layers="last")
VIEW_BYTES = 4500 * (
    13 * 13 * 256 + 2 * 256
)  # what fire6 reads of each image, and the means after fire5


def plan(settings, work=WORK, speeds=None, left_s=math.inf, is_deep=True):
    if speeds is None:
        return choose_plan(work, settings, is_deep=is_deep)
    return fit_plan(Timing(work, speeds), settings, left_s, is_deep=is_deep)


def budget(seconds, settings=DEEP, work=WORK, speeds=SPEEDS, is_deep=True):
    return plan(replace(settings, budget=f"{seconds}s"), work, speeds, float(seconds), is_deep)


@pytest.fixture
def no_torch(monkeypatch):
    """Hide torch from those who look whether it is there."""
    find_spec = module.find_spec
    monkeypatch.setattr(
        module, "find_spec", lambda name: None if name == "torch" else find_spec(name)
    )


@pytest.fixture
def with_torch(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: object())


# ---- whether layers are trained


@pytest.mark.parametrize(
    ("settings", "is_wanted"),
    [
        (Settings(), False),
        (Settings(effort="quick"), False),
        (Settings(effort="thorough"), True),
        (Settings(effort="thorough", layers="head"), False),
        (Settings(layers="all"), True),
        (Settings(effort="quick", layers="all"), True),
        (Settings(budget="10m"), True),
        (Settings(layers="last"), True),
        (Settings(budget="10m", layers="head"), False),
    ],
)
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


@pytest.mark.parametrize("layers", ["last", "all"])
def test_without_torch_layers_that_are_asked_for_are_an_error(no_torch, layers):
    with pytest.raises(MissingExtraError, match="is not installed") as caught:
        check_torch(Settings(layers=layers), ignore_event)
    assert "pip install torch --index-url https://download.pytorch.org/whl/cpu" in caught.value.hint


def test_a_thorough_run_without_torch_trains_the_head(
    no_torch, shape_folder, fixed_settings, tmp_path
):
    said = []
    report = train(
        shape_folder, tmp_path / "model", fixed_settings, effort="thorough", listen=said.append
    ).report
    assert len([event for event in said if isinstance(event, Notice)]) == 1
    assert report["model"]["network"] == "SqueezeNet 1.1, frozen"
    assert report["stages"] == []


@pytest.mark.parametrize("layers", ["last", "all"])
def test_the_command_line_says_how_to_install_torch(no_torch, shape_folder, tmp_path, layers):
    words = [
        "train",
        str(shape_folder),
        "--output",
        str(tmp_path / "model"),
        *FAST,
        "--layers",
        layers,
    ]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == MissingExtraError.exit_status == 1
    assert "torch, which trains the layers themselves, is not installed" in " ".join(
        result.stderr.split()
    )
    assert "pip install 'squeezetune[deep]'" in " ".join(result.stderr.split())
    assert list(tmp_path.iterdir()) == []


# ---- sizes


@pytest.mark.parametrize(
    ("side", "sides"),
    [
        (224, (160, 224)),
        (128, (96, 128)),
        (96, (64, 96)),
        (80, (64, 80)),
        (64, (64,)),
        (48, (48,)),
        (512, (368, 512)),
    ],
)
def test_smaller_images_come_first(side, sides):
    phases = plan_phases(side)
    assert tuple(phase.side for phase in phases) == sides
    assert sum(phase.share for phase in phases) == 1
    assert find_small_side(side) == sides[0]


# ---- without a budget


@pytest.mark.parametrize(
    ("images", "epochs"), [(100, 60), (5000, 60), (10_000, 30), (30_000, 10), (1_000_000, 8)]
)
def test_epochs_go_by_the_number_of_images(images, epochs):
    assert plan(DEEP, replace(WORK, train=images)).stage.epochs == epochs
    assert plan(replace(DEEP, epochs=2.5), replace(WORK, train=images)).stage.epochs == 2.5


@pytest.mark.parametrize(
    ("settings", "is_deep", "views", "head"),
    [
        (Settings(), False, 2, "auto"),
        (Settings(effort="quick"), False, 1, "linear"),
        (Settings(effort="quick", head="hidden"), False, 1, "hidden"),
        (Settings(effort="thorough"), False, 4, "auto"),
        (Settings(effort="thorough"), True, 2, "auto"),
        (Settings(views="plain"), False, 1, "auto"),
        (Settings(views="crops", effort="quick"), False, 4, "linear"),
    ],
)
def test_without_a_budget_the_settings_decide(settings, is_deep, views, head):
    found = plan(settings, is_deep=is_deep)
    assert (found.views, found.head, found.share) == (views, head, 1.0)
    assert bool(found.stage) is is_deep
    assert found.forecasts == ()


def test_a_stage_trains_all_layers_at_the_size_of_the_run():
    stage = plan(DEEP).stage
    assert (stage.name, stage.start, stage.side) == ("all layers", "", 224)
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
    totals, sizes = (
        [found.total_s for found in plans],
        [found.stage.epochs if found.stage else 0 for found in plans],
    )
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
    assert budget(10_000_000).stage.epochs == stage_plans.MOST_EPOCHS
    assert budget(10_000_000, replace(DEEP, epochs=2.0)).stage.epochs == 2.0


def test_without_torch_a_budget_buys_a_better_head():
    found = budget(3600, Settings(), speeds=replace(SPEEDS, pixel_s=None), is_deep=False)
    assert (found.stage, found.views, found.head) == (None, 2, "auto")


def test_a_faster_machine_trains_longer():
    slow, fast = (
        budget(300, speeds=replace(SPEEDS, pixel_s=SPEEDS.pixel_s * factor))
        for factor in (1.0, 0.25)
    )
    assert fast.stage.epochs * fast.stage.side**2 > 2 * slow.stage.epochs * slow.stage.side**2


def test_a_stage_takes_longer_with_every_epoch():
    stage = plan(DEEP).stage
    once, twice = (TIMING.forecast_stage(replace(stage, epochs=epochs)) for epochs in (1.0, 2.0))
    looks = FORWARD_SHARE * WORK.validation
    assert twice - once == pytest.approx((WORK.train + looks) * 224**2 * SPEEDS.pixel_s)


def test_what_a_step_takes_besides_its_images_counts_for_every_step():
    stage, slow = plan(DEEP).stage, replace(TIMING, speeds=replace(SPEEDS, step_s=0.03))
    one_size = replace(stage, phases=stage.phases[-1:])
    for planned, seen in (
        (one_size, 1.0),
        (stage, (1 + (224 / 160) ** 2) / 2),
    ):  # more images fit in at 160 pixels
        before, after = (timing.measure_epoch(planned) for timing in (TIMING, slow))
        assert after - before == pytest.approx(0.03 * seen * WORK.train / planned.recipe.batch)
    few = replace(WORK, train=320)
    assert plan(DEEP, few).stage.recipe.batch == 20
    assert slow.forecast_judgement(stage) == TIMING.forecast_judgement(stage)


def test_a_step_and_its_images_are_told_apart_by_two_batches(monkeypatch):
    monkeypatch.setattr(probing, "time_step", lambda site, start, side, batch: 0.03 + 0.002 * batch)
    assert probing.time_whole(None, 96, 20) == pytest.approx((0.002, 0.03))
    assert probing.time_whole(None, 96, 128) == pytest.approx((0.002 + 0.03 / 128, 0.0))
    monkeypatch.setattr(probing, "time_step", lambda site, start, side, batch: 0.1)  # noise
    assert probing.time_whole(None, 96, 20) == pytest.approx((0.0, 0.1))


def test_the_file_is_held_against_the_network_on_some_validation_images():
    found = {
        count: TIMING.count_anew(validation=count).forecast_end(224, 2, is_deep=True)[2].seconds
        for count in (0, 300, 9000)
    }
    image_s = SPEEDS.read_s + 2 * SPEEDS.file_s
    assert found == pytest.approx(
        {0: RESERVE_S, 300: RESERVE_S + 300 * image_s, 9000: RESERVE_S + 500 * image_s}
    )


def test_there_is_time_to_measure_the_frozen_layers_if_they_turn_out_to_be_better():
    stage = replace(plan(DEEP).stage, phases=(Phase(160, 1.0),))
    small, timing = replace(plan(DEEP), stages=(stage,)), TIMING.count_anew(test=5000)
    likely, larger = (
        sum(part.seconds for part in timing.forecast_end(side, small.views, is_deep=side == 160))
        for side in (160, 224)
    )
    tight, spare, ample = (add_forecasts(small, timing, seconds) for seconds in (0.0, 1.0, 1e3))
    assert tight.after_training_s - ample.after_training_s == pytest.approx(larger - likely)
    assert tight.after_training_s - spare.after_training_s == pytest.approx(1.0)
    assert tight.forecasts == ample.forecasts


def test_a_plan_is_announced_with_its_budget():
    found, said = budget(300), []
    announce_plan(found, Settings(budget="5m"), said.append)
    [event] = said
    assert isinstance(event, PlanMade)
    assert event.budget_s == 300
    assert (
        event.total_s
        == pytest.approx(sum(seconds for _, seconds in event.forecasts))
        == found.total_s
    )
    parts = [part for part, _ in event.forecasts]
    assert parts[1:3] == ["features", "head"]
    assert parts[-2:] == ["measuring", "report"]


def test_the_plan_says_how_much_memory_the_run_will_hold(shape_folder):
    result = CliRunner().invoke(
        main, ["train", str(shape_folder), *FAST, "--plan", "--max-ram", "1GB"]
    )
    assert result.exit_code == 0, result.output
    [line] = [line for line in result.output.splitlines() if line.startswith("memory at most")]
    assert 100 < int(line.split()[-2]) < 1000


def test_a_plan_is_announced_with_the_names_that_its_stages_have():
    said = []
    announce_plan(budget(7200, AUTO), Settings(budget="2h"), said.append)
    [event] = said
    assert event.stages == (
        "preparing",
        "features",
        "head",
        "last 4 blocks",
        "all layers",
        "familiarity",
        "measuring",
        "report",
    )


def test_a_plan_for_scripts_has_its_counts_and_speeds_if_they_are_known():
    timed, plain = budget(300).to_dict(), plan(DEEP).to_dict()
    assert list(timed) == list(plain)
    assert timed["work"]["train"] == WORK.train
    assert timed["speeds"]["read_s"] == SPEEDS.read_s
    assert timed["total_s"] == pytest.approx(budget(300).total_s)
    assert (plain["work"], plain["speeds"], plain["total_s"]) == (None, None, 0)


# ---- the time there is


def test_a_budget_ends_before_its_reserve_and_without_one_nothing_does():
    limit = limit_time(Settings(budget="100s"), started=5.0)
    assert (limit.is_set, limit.deadline, limit.started) == (True, pytest.approx(102.0), 5.0)
    free = limit_time(Settings())
    assert (free.is_set, free.left_s(), free.spent_s()) == (False, math.inf, 0.0)
    assert free == NO_LIMIT == NO_LIMIT.share(3)


def test_trainings_share_the_time_that_is_left():
    now = time.perf_counter()
    own = TimeLimit(now + 90.0, started=now, speeds=SPEEDS).share(3)
    assert own.left_s() == pytest.approx(30.0, abs=1.0)
    assert (own.started, own.speeds) == (now, SPEEDS)


# ---- a quick beginning


MANY = replace(
    WORK, train=30_000, validation=10_000, test=10_000, unseen=40_000, unkept=40_000, side=128
)


def test_where_the_head_would_take_much_of_the_time_it_is_fitted_on_the_images_of_the_probe():
    short, long = budget(400, work=MANY), budget(3600, work=MANY)
    assert (short.head_share, long.head_share) == (1 / 3, 1)
    whole = next(item.seconds for item in long.forecasts if item.part == "features")
    assert [item.seconds for item in short.forecasts if item.part == "features"] == [
        pytest.approx(whole / 3, rel=1e-3)
    ]
    assert 350 < short.total_s <= 400.2


def test_validation_images_that_nobody_looks_at_take_no_time():
    found = budget(400, work=MANY)
    [part] = [item.seconds for item in found.forecasts if item.part.startswith("all layers")]
    timing = Timing(MANY, SPEEDS)
    assert part == pytest.approx(timing.count_anew(validation=3334).forecast_stage(found.stage))
    assert part < timing.forecast_stage(found.stage)


def test_a_few_images_are_all_looked_at():
    assert budget(120).head_share == 1
    assert budget(120).stage


def test_all_images_are_looked_at_where_nothing_is_kept():
    found = budget(600, work=replace(MANY, is_kept=False))
    assert found.head_share == 1
    assert found.stage


def test_a_head_alone_is_fitted_on_all_images():
    assert budget(400, replace(DEEP, layers="head"), MANY, is_deep=False).head_share == 1


def test_the_speed_of_a_quick_beginning_is_that_of_the_images_looked_at():
    found = budget(400, work=MANY)
    features = next(item.seconds for item in found.forecasts if item.part == "features")
    assert found.note_features(features).timing == found.timing
    slower = found.note_features(2 * features).timing
    assert slower.speeds.view_s == pytest.approx(2 * SPEEDS.view_s)


def test_pixels_that_are_kept_take_no_more_time():
    found = budget(400, work=MANY).note_pixels()
    assert found.timing.work.unkept == 0
    assert (
        plan_rest(found, replace(DEEP, budget="400s"), 300, []).stage.epochs
        > plan_rest(budget(400, work=MANY), replace(DEEP, budget="400s"), 300, []).stage.epochs
    )
    assert plan(DEEP).note_pixels() == plan(DEEP)


# ---- the last blocks


@pytest.mark.parametrize(("count", "start", "name"), [
    (0, "fire6", "last 4 blocks"), (4, "fire6", "last 4 blocks"), (1, "fire9", "last block"),
    (2, "fire8", "last 2 blocks"), (8, "fire2", "last 8 blocks"),
])  # fmt: skip
def test_the_last_blocks_are_trained_at_the_size_of_the_run(count, start, name):
    stage = plan(replace(LAST, last_blocks=count), replace(WORK, side=224)).stage
    assert (stage.start, stage.name, stage.phases) == (start, name, (Phase(224, 1.0),))
    assert stage.epochs == 60


@pytest.mark.parametrize(("views", "extra"), [(1, 0), (2, 0), (3, 1), (5.9, 3), (6, 4), (100, 4)])
def test_there_are_as_many_views_as_the_disk_has_room_for(views, extra):
    assert plan(LAST, replace(WORK, room_bytes=int(views * VIEW_BYTES))).stage.extra_views == extra


@pytest.mark.parametrize("seconds", [82, 90, 180, 600])
def test_a_plan_of_the_last_blocks_fits_into_its_budget(seconds):
    found = budget(seconds, LAST)
    assert found.stage.start == "fire6"
    assert found.total_s <= seconds + 0.2
    assert found.stage.epochs >= found.stage.extra_views + 2 or not found.stage.extra_views
    [part] = [item for item in found.forecasts if item.part == "last 4 blocks at 224 px"]
    assert part.seconds == pytest.approx(TIMING.forecast_stage(found.stage))


def test_more_time_makes_more_views_of_an_image():
    views = [budget(seconds, LAST).stage.extra_views for seconds in (90, 150, 180, 600)]
    assert views == sorted(views)
    assert (views[0], views[-1]) == (0, 4)


def test_each_view_takes_its_part_of_the_pass():
    stage = plan(LAST).stage
    fewer, more = (TIMING.forecast_stage(replace(stage, extra_views=views)) for views in (1, 3))
    assert more - fewer == pytest.approx(2 * WORK.unkept * (SPEEDS.view_s + SPEEDS.draw_s))
    once, twice = (TIMING.forecast_stage(replace(stage, epochs=epochs)) for epochs in (1.0, 2.0))
    assert twice - once == pytest.approx(
        (WORK.train + FORWARD_SHARE * WORK.validation) * SPEEDS.last_s
    )


def test_too_little_time_for_the_last_blocks_trains_the_head():
    assert budget(15, LAST).stage is None


@pytest.mark.parametrize(
    ("settings", "side", "left_s", "starts"),
    [
        (LAST, 224, math.inf, ["fire6"]),
        (DEEP, 224, 600.0, [""]),
        (Settings(budget="10m"), 224, 600.0, ["", "fire6"]),
        (Settings(budget="10m"), 128, 600.0, [""]),
        (Settings(budget="1m"), 224, 60.0, [""]),
        (Settings(effort="thorough"), 224, math.inf, [""]),
    ],
)
def test_only_what_may_be_planned_is_timed(settings, side, left_s, starts):
    assert stage_plans.list_starts(settings, replace(WORK, side=side), left_s) == starts


# ---- several stages


AUTO = Settings()
FAST_VIEWS = replace(
    SPEEDS, read_s=1e-4, view_s=2e-4, last_s=1e-3
)  # where the frozen layers cost nearly nothing


@pytest.mark.parametrize("seconds", [120, 300, 600, 3600])
def test_the_last_blocks_take_no_time_from_all_layers(seconds):
    """Where all layers can use the time, the plan is the one that there was without the last
    blocks.
    """
    without = budget(seconds, AUTO, speeds=replace(SPEEDS, last_s=None))
    assert budget(seconds, AUTO).stages == without.stages
    assert [stage.name for stage in without.stages] == ["all layers"]


def test_time_that_all_layers_leave_over_goes_to_the_last_blocks_first():
    found, work = budget(7200, AUTO), WORK
    assert [(stage.name, stage.epochs) for stage in found.stages] == [
        ("last 4 blocks", 60),
        ("all layers", 60),
    ]
    assert found.stages[1] == budget(7200, DEEP, work).stage
    parts = [item.part for item in found.forecasts]
    assert parts == [
        "preparing",
        "features",
        "head",
        "last 4 blocks at 224 px",
        "all layers at 160, 224 px",
        "familiarity",
        "measuring",
        "report",
    ]


def test_the_last_blocks_stand_in_for_all_layers_where_those_hardly_begin():
    found = budget(56, AUTO, speeds=FAST_VIEWS)
    assert budget(56, DEEP, speeds=FAST_VIEWS).stage.epochs < WORK.network.epochs_for_all
    [stage] = found.stages
    assert stage.name == "last 4 blocks"
    assert stage.epochs >= stage_plans.EPOCHS_FOR_LAST
    assert found.total_s <= 56.2


def test_the_last_blocks_of_a_larger_network_stand_in_for_more_epochs_of_all_layers():
    network = find_architecture("efficientnet_lite0")
    lite = replace(WORK, network=network)
    whole = budget(100, DEEP, lite, FAST_VIEWS).stage
    assert WORK.network.epochs_for_all < whole.epochs < network.epochs_for_all
    assert [stage.name for stage in budget(100, AUTO, speeds=FAST_VIEWS).stages] == ["all layers"]
    [stage] = budget(100, AUTO, lite, FAST_VIEWS).stages
    assert stage.name == f"last {network.last_blocks} blocks"
    assert stage.start == "block5.0"


# ---- the rest of a plan, made again


def test_a_plan_that_goes_as_forecast_stays_as_it_is():
    found = budget(7200, AUTO)
    left_s = 7200 - sum(item.seconds for item in found.forecasts[:3])
    rest = plan_rest(found, replace(AUTO, budget="2h"), left_s, [])
    assert rest.stages == found.stages
    assert rest.forecasts == found.forecasts[3:]
    assert rest.after_training_s == found.after_training_s


@pytest.mark.parametrize(
    ("left_s", "names", "side"),
    [
        (7000, ["last 4 blocks", "all layers"], 224),
        (4000, ["all layers"], 224),
        (150, ["all layers"], 160),
        (9, [], None),
    ],
)
def test_less_time_makes_the_rest_another_one(left_s, names, side):
    rest = plan_rest(budget(7200, AUTO), replace(AUTO, budget="2h"), left_s, [])
    assert [stage.name for stage in rest.stages] == names
    assert rest.stage is None or rest.stage.side == side
    assert rest.total_s <= left_s + 0.1 or not names


def test_the_head_is_chosen_anew_by_the_time_that_is_really_left():
    settings = Settings(budget="1m")
    slow = replace(SPEEDS, pixel_s=None, last_s=None)
    found = budget(40, Settings(), speeds=slow, is_deep=False)
    assert (found.views, found.head, found.needed_s) == (2, "linear", None)
    assert [renew_head(found, settings, left_s).head for left_s in (60.0, 13.0)] == [
        "auto",
        "linear",
    ]
    better = renew_head(found, settings, 60.0)
    assert renew_head(better, settings, 5.0).head == "linear"
    assert renew_head(found, replace(settings, effort="quick"), 60.0).head == "linear"
    deep = budget(300)
    assert renew_head(deep, settings, 60.0) == deep
    assert renew_head(plan(DEEP), settings, 60.0) == plan(DEEP)


def test_what_is_done_is_not_planned_again():
    found, settings = budget(7200, AUTO), replace(AUTO, budget="2h")
    assert [stage.name for stage in plan_rest(found, settings, 7000, ["fire6"]).stages] == [
        "all layers"
    ]
    assert plan_rest(found, settings, 7000, [""]).stages == ()
    assert plan_rest(budget(600, LAST), replace(LAST, budget="10m"), 600, ["fire6"]).stages == ()


def test_slow_frozen_layers_make_the_rest_slower_as_far_as_it_is_like_them():
    found = budget(7200, AUTO)
    seen = found.note_features(3 * found.forecasts[1].seconds).timing
    for name in ("read_s", "view_s", "file_s", "draw_s"):
        assert getattr(seen.speeds, name) == pytest.approx(3 * getattr(SPEEDS, name))
    assert (seen.speeds.pixel_s, seen.speeds.last_s) == (SPEEDS.pixel_s, SPEEDS.last_s)
    longest = found.note_features(1e6).timing
    assert longest.speeds.read_s == pytest.approx(5 * SPEEDS.read_s)
    cached = budget(7200, AUTO, replace(WORK, unseen=0))
    assert cached.note_features(1.0) == cached


def test_slow_training_makes_the_training_to_come_slower():
    found = budget(7200, AUTO)
    seen = found.note_training(found.stages[0], 1 / (2 * SPEEDS.last_s))
    speeds = seen.timing.speeds
    assert (speeds.last_s, speeds.pixel_s) == pytest.approx((2 * SPEEDS.last_s, 2 * SPEEDS.pixel_s))
    assert found.note_training(found.stages[0], None) == found
    rest = plan_rest(seen, replace(AUTO, budget="2h"), 3000, ["fire6"])
    assert (
        rest.stage.epochs
        < plan_rest(found, replace(AUTO, budget="2h"), 3000, ["fire6"]).stage.epochs
    )


def test_without_a_budget_there_is_nothing_to_plan_again():
    found = plan(DEEP)
    assert (
        plan_rest(found, DEEP, 5.0, [])
        == found.note_features(5.0)
        == found.note_training(found.stage, 3.0)
        == found
    )
