import math
import signal
from dataclasses import replace

import numpy as np
import pytest

from squeezetune.events import (
    EpochFinished,
    Notice,
    PlanChanged,
    PlanMade,
    StageStarted,
    ignore_event,
)
from squeezetune.pipeline import stages as course
from squeezetune.pipeline.stages import is_same
from squeezetune.pipeline.trained_stage import TrainedStage, compare_stages, find_best
from squeezetune.planning import planner, stage_plans
from squeezetune.system.checkpoint import CheckpointFolder
from squeezetune.system.interrupts import STOPPING
from squeezetune.training import train

torch = pytest.importorskip("torch", reason="torch is an extra")
from squeezetune.finetune import loop as finetune  # noqa: E402
from squeezetune.pipeline import stage as deepening  # noqa: E402

pytestmark = pytest.mark.usefixtures("no_plots", "usual_interrupts", "float32")

LAST, WHOLE = "last 2 blocks", "all layers"


@pytest.fixture(scope="module")
def settings(fixed_settings):
    return replace(fixed_settings, layers="all", epochs=2.0)


@pytest.fixture(scope="module", autouse=True)
def two_stages():
    """Plan the last blocks, then all layers, whatever the time; what is done is not planned
    again.
    """

    def list_both(work, settings, timing, left_s, done=()):
        if timing and not timing.speeds.trains_layers:
            return
        last = stage_plans.plan_last(
            work, replace(settings, layers="last", last_blocks=2, budget=""), None, math.inf
        )
        whole = stage_plans.plan_stage(work, replace(settings, budget=""), None, math.inf)
        yield tuple(stage for stage in (last, whole) if stage.start not in done)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planner, "list_stages", list_both)
        yield


@pytest.fixture(scope="module")
def learn(make_learn, settings, tmp_path_factory):
    return make_learn(settings, tmp_path_factory.mktemp("course-cache"))


@pytest.fixture(scope="module")
def whole(learn):
    """Learn without a stop: what came out, and what was said."""
    said = []
    return learn(said.append), said


def digest(learned):
    """Return all that every stage learnt, as bytes."""
    arrays = []
    for stage in learned.trained:
        arrays += [stage.weights[name] for name in sorted(stage.weights)]
        arrays += [*stage.layers[0], stage.probabilities]
    return b"".join(array.tobytes() for array in arrays)


def stop_at(stage, epoch):
    """Press Ctrl-C, as it were, when an epoch is over."""

    def listen(event):
        if isinstance(event, EpochFinished) and (event.stage, event.epoch) == (stage, epoch):
            signal.raise_signal(signal.SIGINT)

    return listen


# ---- one after another


def test_stages_come_one_after_another(whole):
    learned, said = whole
    begun = [event.stage for event in said if isinstance(event, StageStarted)]
    at = begun.index("activations")
    assert begun[at : at + 4] == ["activations", LAST, "pixels", WHOLE]
    assert begun[at + 4 :] in ([], ["familiarity"])  # where trained layers are taken
    assert [stage.plan.name for stage in learned.trained] == [LAST, WHOLE]
    assert [stage.name for stage in learned.stages] == ["frozen layers", LAST, WHOLE]
    assert sum(stage.is_chosen for stage in learned.stages) == 1
    assert [epoch.stage for epoch in learned.history if epoch.stage != "head"] == [LAST] * 2 + [
        WHOLE
    ] * 2


@pytest.mark.parametrize("helps", [True, False])
def test_a_stage_begins_from_the_best_so_far(learn, monkeypatch, weights, helps):
    """The last blocks are the start of all layers only where they helped on the validation
    images.
    """
    begun, judge, tune = [], deepening.judge, finetune.tune

    def watch(network, *others):
        begun.append(network.features[12].squeeze.weight.detach().clone().numpy())
        return tune(network, *others)

    def judge_so(ground, plan, *others):
        deepened = judge(ground, plan, *others)
        is_right = np.full_like(deepened.candidate.is_correct, helps)
        return replace(
            deepened,
            candidate=replace(deepened.candidate, is_correct=is_right, validation_loss=0.0),
        )

    monkeypatch.setattr(finetune, "tune", watch)
    monkeypatch.setattr(deepening, "judge", judge_so)
    monkeypatch.setattr("squeezetune.heads.selection.SETTLED_ERROR", 0.0)
    learned = learn(epochs=1.0)
    pretrained = weights["features.12.squeeze.weight"]
    np.testing.assert_array_equal(begun[0], pretrained)
    last = learned.trained[0].weights["features.12.squeeze.weight"]
    np.testing.assert_array_equal(begun[1], last if helps else pretrained)
    assert bool(np.abs(last - pretrained).max()) is True
    assert (learned.best is not None) is helps
    assert ("no better on the validation images" in learned.stages[1].note) is not helps


def test_trained_layers_that_are_better_on_one_group_alone_are_not_taken(whole):
    learned, _ = whole
    right, wrong = (np.full_like(learned.head.chosen.is_correct, value) for value in (True, False))

    def judge_all(units):
        head = replace(
            learned.head, chosen=replace(learned.head.chosen, is_correct=wrong, units=units)
        )
        trained = tuple(
            replace(stage, candidate=replace(stage.candidate, is_correct=right, units=units))
            for stage in learned.trained
        )
        return find_best(trained, head.chosen), compare_stages(head, trained, None)

    units = np.arange(len(right))
    assert judge_all(None)[0]
    assert judge_all(units)[0]
    best, stages = judge_all(np.zeros_like(units))
    assert best is None
    assert (
        "better on the validation images, but not surely on other groups than these 1"
        in stages[1].note
    )


def test_the_groups_of_a_stage_survive_its_checkpoint(whole):
    stage = whole[0].trained[0]
    for units in (None, np.arange(len(stage.candidate.is_correct))):
        grouped = replace(stage, candidate=replace(stage.candidate, units=units))
        np.testing.assert_array_equal(
            TrainedStage.from_plain(*grouped.to_plain()).candidate.units, units
        )


def test_the_best_of_all_stages_is_the_model(whole):
    learned, _ = whole
    right, wrong = (np.full_like(learned.head.chosen.is_correct, value) for value in (True, False))
    head = replace(learned.head, chosen=replace(learned.head.chosen, is_correct=wrong))
    for best in (0, 1):
        trained = tuple(
            replace(
                stage, candidate=replace(stage.candidate, is_correct=right if at == best else wrong)
            )
            for at, stage in enumerate(learned.trained)
        )
        changed = replace(learned, head=head, trained=trained)
        assert changed.best is trained[best]
        assert changed.chosen is trained[best].candidate
        assert changed.network_name == f"SqueezeNet 1.1, {(LAST, WHOLE)[best]} trained"
        assert [stage.is_chosen for stage in compare_stages(head, trained, None)] == [
            False,
            best == 0,
            best == 1,
        ]
        np.testing.assert_array_equal(
            changed.recall(changed.split.validation), trained[best].probabilities
        )


def test_the_report_compares_all_stages(shape_folder, settings, tmp_path):
    report = train(shape_folder, tmp_path / "model", replace(settings, epochs=1.0)).report
    assert [stage["name"] for stage in report["stages"]] == ["frozen layers", LAST, WHOLE]
    assert all(
        stage["validation"]["images"] == 12 and stage["seconds"] > 0 for stage in report["stages"]
    )
    assert report["model"]["agreement"]["top1"] >= 0.99
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


# ---- stopped and resumed


def test_the_same_run_gives_the_same_bytes(learn, whole):
    assert digest(learn()) == digest(whole[0])


@pytest.mark.parametrize(("work", "count"), [("activations", 0), ("pixels", 1)])
def test_who_stops_before_a_stage_has_begun_gets_the_best_so_far(
    learn, whole, tmp_path, work, count
):
    said, unfinished = [], CheckpointFolder(tmp_path / ".model.unfinished")

    def listen(event):
        said.append(event)
        if isinstance(event, StageStarted) and event.stage == work:
            signal.raise_signal(signal.SIGINT)

    stopped = learn(listen, unfinished, cache=tmp_path / "cache")
    assert Notice(STOPPING) in said
    assert not stopped.is_finished
    assert stopped.model
    assert len(stopped.trained) == count
    if count:
        assert digest(learn(ignore_event, unfinished, resume=True)) == digest(whole[0])


@pytest.mark.parametrize("stage", [LAST, WHOLE])
def test_a_run_is_resumed_in_the_stage_that_it_was_at(learn, whole, tmp_path, stage):
    unfinished = CheckpointFolder(tmp_path / ".model.unfinished")
    stopped = learn(stop_at(stage, 1), unfinished)
    assert not stopped.is_finished
    assert stopped.model
    assert len(stopped.trained) == (1 if stage == LAST else 2)
    said = []
    resumed = learn(said.append, unfinished, resume=True)
    assert resumed.is_finished
    assert digest(resumed) == digest(whole[0])
    started = [event.stage for event in said if isinstance(event, StageStarted)]
    assert (LAST in started) is (stage == LAST)
    for own, other in zip(resumed.trained, whole[0].trained, strict=True):
        assert own.plan == other.plan
        assert own.candidate.rank == other.candidate.rank
        assert [epoch.validation_accuracy for epoch in own.candidate.history] == [
            epoch.validation_accuracy for epoch in other.candidate.history
        ]


# ---- the rest of the plan, made again


def test_a_budget_that_is_used_up_before_training_leaves_the_head(learn, monkeypatch):
    def train_late(ground, plan, context, limit, unfinished):
        late = replace(limit, deadline=limit.deadline - 1e6)
        return course.train_stages(ground, plan, context, late, unfinished)

    monkeypatch.setattr("squeezetune.pipeline.fitting.train_stages", train_late)
    said = []
    learned = learn(said.append, budget="20m")
    assert learned.trained == ()
    assert learned.model
    [changed] = [event for event in said if isinstance(event, PlanChanged)]
    assert [part for part, _ in changed.forecasts] == ["measuring", "report"]
    assert changed.left_s < 0


def test_a_budget_plans_the_rest_after_every_stage(learn, monkeypatch):
    lefts, plan_rest = [], course.plan_rest

    def watch(plan, settings, left_s, done):
        lefts.append((left_s, list(done)))
        return plan_rest(plan, settings, left_s, done)

    monkeypatch.setattr(course, "plan_rest", watch)
    said = []
    learned = learn(said.append, budget="20m", epochs=1.0)
    assert [stage.plan.name for stage in learned.trained] == [LAST, WHOLE]
    assert [done for _, done in lefts] == [[], ["fire8"], ["fire8", ""]]
    assert 1200 > lefts[0][0] > lefts[1][0] > lefts[2][0] > 0
    assert not [event for event in said if isinstance(event, PlanChanged)]


def test_a_plan_is_another_one_by_its_stages_sizes_and_length(whole):
    first, second = (stage.plan for stage in whole[0].trained)
    assert is_same([first, second], [first, replace(second, epochs=0.8 * second.epochs)])
    for other in ([second], [first], [first, replace(second, epochs=0.5 * second.epochs)],
                  [replace(first, extra_views=1), second], []):  # fmt: skip
        assert not is_same([first, second], other)


def test_layers_are_trained_in_time_that_turns_up(learn, monkeypatch):
    """Nobody has timed the training of layers, for want of time; after the head there is enough."""
    measure = planner.measure_machine
    monkeypatch.setattr(
        planner,
        "measure_machine",
        lambda *about, **more: measure(*about, **more | {"is_deep": False}),
    )
    said = []
    learned = learn(said.append, budget="20m", epochs=1.0)
    [made] = [event for event in said if isinstance(event, PlanMade)]
    assert [part for part, _ in made.forecasts if part.startswith(("last", "all"))] == []
    assert [stage.plan.name for stage in learned.trained] == [LAST, WHOLE]
    changes = [event for event in said if isinstance(event, PlanChanged)]
    assert [part.split(" at ")[0] for part, _ in changes[0].forecasts][:2] == [LAST, WHOLE]


def test_layers_that_there_was_no_time_to_time_are_not_trained(learn, monkeypatch):
    monkeypatch.setattr("squeezetune.planning.speeds.is_worth_timing", lambda *_: False)
    said = []
    assert learn(said.append, budget="20m", epochs=1.0).trained == ()
    assert not [event for event in said if isinstance(event, PlanChanged)]
