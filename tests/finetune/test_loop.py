import math
from dataclasses import replace
from itertools import count, pairwise

import numpy as np
import pytest

from squeezetune.events import EpochFinished, Notice, StageFinished, StageStarted, TrainingAdvanced
from squeezetune.finetune.recipe import Phase

torch = pytest.importorskip("torch", reason="torch is an extra")
from tiny_training import (  # noqa: E402
    RECIPE,
    SIDE,
    make_conditions,
    make_plan,
    make_tapped,
    make_task,
    run_training,
)

from squeezetune.finetune import loop as module  # noqa: E402
from squeezetune.finetune.optimiser import schedule_rate  # noqa: E402
from squeezetune.finetune.recipe import ClockPace, EpochPace  # noqa: E402
from squeezetune.finetune.state import Snapshot  # noqa: E402

EPOCHS, STEPS = 3, 4  # of 64 images in batches of 16
KERNEL = "features.12.expand3x3.weight"


def digest(tuned):
    return {name: value.tobytes() for name, value in tuned.parameters.items()}


def copy_kept(kept):
    return Snapshot(kept.state.copy(), kept.safe.copy())


def pick(events, kind):
    return [event for event in events if isinstance(event, kind)]


class Stopwatch:
    """Asks for a stop after so many steps."""

    def __init__(self, steps):
        self.left = steps

    def __call__(self):
        self.left -= 1
        return self.left < 0


@pytest.fixture(scope="module")
def run():
    """Train once: what was left, what was said, and what was kept after every step."""
    said, kept = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "KEPT_EVERY_S", -math.inf)
        patch.setattr(module, "TOLD_EVERY_S", -math.inf)
        tuned = run_training(
            plan=make_plan(EPOCHS),
            conditions=make_conditions(said.append),
            keep=lambda state: kept.append(copy_kept(state)),
        )
    return tuned, said, kept


# ---- learning


def test_stripes_are_learnt(run):
    tuned, said, _ = run
    epochs = pick(said, EpochFinished)
    assert epochs[-1].train_accuracy > 0.9
    assert epochs[-1].train_loss < epochs[0].train_loss < math.log(2)
    labels = make_task().labels[-16:]
    assert (tuned.logits.argmax(axis=1) == labels).mean() > 0.9
    assert tuned.is_finished


def test_all_layers_are_trained(run):
    tuned, _, _ = run
    before = {name: value.detach().numpy() for name, value in make_tapped().named_parameters()}
    assert tuned.parameters.keys() == before.keys()
    for name, value in tuned.parameters.items():
        assert (value.dtype, value.shape) == (np.float32, before[name].shape)
        assert not np.array_equal(value, before[name]), name


def test_the_logits_are_those_of_the_parameters_over_both_views(run):
    tuned, _, _ = run
    network, task = make_tapped(), make_task()
    network.load_state_dict(
        {name: torch.from_numpy(value) for name, value in tuned.parameters.items()}, strict=False
    )
    with torch.no_grad():
        views = [network(task.feed.show(task.validation, SIDE, view)[0]) for view in (0, 1)]
    np.testing.assert_allclose(tuned.logits, (sum(views) / 2).numpy(), rtol=1e-3, atol=1e-3)


def test_every_image_is_seen_once_an_epoch_in_another_order(monkeypatch):
    task, seen = make_task(64, 8), []
    draw = type(task.feed).draw

    def watch(feed, positions, side, generator, precision):
        seen.extend(positions.tolist())
        return draw(feed, positions, side, generator, precision)

    monkeypatch.setattr(type(task.feed), "draw", watch)
    run_training(task, make_plan(2.0), make_conditions(threads=1))
    first, second = seen[:64], seen[64:]
    assert sorted(first) == sorted(second) == list(range(64))
    assert first != second != sorted(second)


def test_another_seed_gives_another_network(run):
    other = run_training(plan=make_plan(1.0), conditions=make_conditions(seed=1))
    same = run_training(plan=make_plan(1.0), conditions=make_conditions(seed=0))
    again = run_training(plan=make_plan(1.0), conditions=make_conditions(seed=0))
    assert digest(other) != digest(same) == digest(again)
    assert same.logits.tobytes() == again.logits.tobytes()


def test_fewer_images_than_a_batch():
    said = []
    tuned = run_training(
        make_task(train=5, validation=3), make_plan(3.0), make_conditions(said.append)
    )
    assert [(epoch.epoch, epoch.of) for epoch in pick(said, EpochFinished)] == [
        (1, 3),
        (2, 3),
        (3, 3),
    ]
    assert tuned.is_finished


def test_one_view_of_each_image():
    task = make_task(32, 8, views=1)
    tuned = run_training(task, make_plan(1.0))
    assert tuned.logits.shape == (8, 2)


# ---- what is said


def test_epochs_are_counted_and_judged(run):
    tuned, said, _ = run
    assert said[0] == StageStarted("all layers", 100, "%")
    assert said[-1] == StageFinished("all layers", tuned.seconds)
    epochs = pick(said, EpochFinished)
    assert tuple(epochs) == tuned.history
    assert [(epoch.epoch, epoch.of) for epoch in epochs] == [
        (at, EPOCHS) for at in range(1, EPOCHS + 1)
    ]
    assert all(0 < before.seconds < after.seconds for before, after in pairwise(epochs))
    assert epochs[-1].seconds == tuned.seconds
    for epoch in epochs:
        assert 0 <= epoch.validation_accuracy <= 1
        assert epoch.images_per_s == pytest.approx(64 * epoch.epoch / epoch.seconds)


def test_progress_is_told_in_order(run):
    _, said, _ = run
    told = pick(said, TrainingAdvanced)
    assert [event.progress for event in told] == pytest.approx(
        [at / (EPOCHS * STEPS) for at in range(1, 13)]
    )
    assert told[-1].seconds_left == pytest.approx(0, abs=1e-6)
    for event in told:
        assert event.images_per_s > 0
        steps_left = EPOCHS * STEPS * (1 - event.progress)
        assert event.seconds_left == pytest.approx(
            steps_left * 16 / event.images_per_s, rel=0.01, abs=1e-6
        )
        assert 0 <= event.accuracy <= 1
    assert told[0].loss == pytest.approx(math.log(2), rel=1e-3)  # the classifier knows nothing yet


def test_a_part_of_an_epoch_is_an_epoch_too():
    said = []
    run_training(make_task(32, 8), make_plan(1.5), make_conditions(said.append))
    assert [(epoch.epoch, epoch.of) for epoch in pick(said, EpochFinished)] == [(1, 2), (2, 2)]


# ---- stopped and resumed


@pytest.mark.parametrize("steps", [0, 2, 3, 5, 10])
def test_a_run_that_goes_on_ends_as_if_it_had_never_stopped(run, steps):
    tuned, _, kept = run
    said, started = [], copy_kept(kept[steps])
    resumed = run_training(
        plan=make_plan(EPOCHS), conditions=make_conditions(said.append), kept=started
    )
    assert digest(resumed) == digest(tuned)
    assert resumed.logits.tobytes() == tuned.logits.tobytes()
    figures = [
        (epoch.epoch, epoch.of, epoch.train_loss, epoch.validation_accuracy)
        for epoch in resumed.history
    ]
    assert figures == [
        (epoch.epoch, epoch.of, epoch.train_loss, epoch.validation_accuracy)
        for epoch in tuned.history
    ]
    assert len(pick(said, EpochFinished)) == EPOCHS - (steps + 1) // STEPS


def test_a_run_is_kept_after_every_step_and_at_the_end_of_every_epoch(run):
    _, _, kept = run
    assert [each.state.step for each in kept] == list(range(1, 13))
    assert [each.safe.step for each in kept] == [0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12]
    steps = []
    run_training(plan=make_plan(2.0), keep=lambda each: steps.append(each.state.step))
    assert steps == [4, 8]


@pytest.mark.parametrize("steps", [0, 2, 6])
def test_a_stop_ends_early_with_what_was_learnt_and_can_be_resumed(run, steps):
    tuned, kept = run[0], []
    conditions = make_conditions(is_stopping=Stopwatch(steps))
    stopped = run_training(
        plan=make_plan(EPOCHS),
        conditions=conditions,
        keep=lambda each: kept.append(copy_kept(each)),
    )
    assert not stopped.is_finished
    assert len(stopped.history) == steps // STEPS
    assert all(np.isfinite(value).all() for value in stopped.parameters.values())
    assert kept[-1].state.step == steps
    resumed = run_training(plan=make_plan(EPOCHS), kept=kept[-1])
    assert resumed.is_finished
    assert digest(resumed) == digest(tuned)


def test_a_resumed_run_that_was_over_only_judges(run):
    tuned, _, kept = run
    resumed = run_training(plan=make_plan(EPOCHS), kept=copy_kept(kept[-1]))
    assert digest(resumed) == digest(tuned)
    assert resumed.seconds == kept[-1].state.seconds


def test_a_state_is_plain_values_and_back(run):
    _, _, kept = run
    tensors, about = kept[5].state.to_plain()
    again = type(kept[5].state).from_plain(
        {name: value.copy() for name, value in tensors.items()}, about
    )
    assert again.to_plain()[1] == about
    assert all(
        torch.equal(value, kept[5].state.tensors[name]) for name, value in again.tensors.items()
    )


# ---- going wrong


class Failing:
    """A feed that gives a batch without numbers in it when it is asked for the time that is in
    `fails`, once each.
    """

    def __init__(self, feed, *fails):
        self.feed, self.fails, self.draws = feed, fails, count(1)

    def draw(self, positions, side, generator, precision):
        images, taps = self.feed.draw(positions, side, generator, precision)
        return (images * math.nan if next(self.draws) in self.fails else images), taps

    def show(self, positions, side, view):
        return self.feed.show(positions, side, view)


# there are two steps in an epoch, and each of the two threads asks once in each
@pytest.mark.parametrize(("fails", "shares"), [((1,), (0.5, 0.5, 0.5)), ((7,), (1.0, 0.5, 0.5)),
                                               ((5, 11), (1.0, 0.5, 0.25))])  # fmt: skip
def test_a_loss_that_is_lost_is_found_again_at_half_the_rate(fails, shares):
    said, kept, task = [], [], make_task(32, 8)
    task = replace(task, feed=Failing(task.feed, *fails))
    tuned = run_training(
        task,
        make_plan(3.0),
        make_conditions(said.append),
        keep=lambda each: kept.append(each.state.rate_share),
    )
    notices = pick(said, Notice)
    assert len(notices) == len(fails)
    assert notices[0].message.startswith("all layers: the loss")
    assert "goes on from the last epoch's end at 0.5 of the rate" in notices[0].message
    assert tuple(kept) == shares
    assert tuned.is_finished
    assert all(np.isfinite(value).all() for value in tuned.parameters.values())
    assert [epoch.epoch for epoch in tuned.history] == [1, 2, 3]


def test_a_resumed_run_goes_back_as_far_as_the_one_that_stopped(run):
    """The loss is lost in the seventh step, the third of the second epoch, in both."""
    _, _, kept = run
    plan, task = make_plan(EPOCHS), make_task()
    whole = run_training(replace(task, feed=Failing(task.feed, 13)), plan)
    resumed = run_training(replace(task, feed=Failing(task.feed, 1)), plan, kept=copy_kept(kept[5]))
    assert digest(resumed) == digest(whole) != digest(run[0])


@pytest.mark.parametrize("share", [1.0, 0.5, 0.125])
def test_a_lower_rate_is_a_smaller_step(run, share):
    _, _, kept = run
    before, state, after = kept[3].state, kept[3].state.copy(), []
    state.rate_share = share
    stop, plan = make_conditions(is_stopping=Stopwatch(1)), make_plan(EPOCHS)
    run_training(
        plan=plan,
        conditions=stop,
        kept=Snapshot(state, before),
        keep=lambda each: after.append(each.state.copy()),
    )
    change = float(
        (after[-1].tensors[KERNEL] - before.tensors[KERNEL]).norm() / before.tensors[KERNEL].norm()
    )
    rate = RECIPE.rate * RECIPE.layer_decay * schedule_rate(before.progress, RECIPE)
    assert change == pytest.approx(share * rate, rel=0.01)


def test_a_hopeless_rate_ends_with_what_it_had():
    said = []
    recipe = replace(RECIPE, rate=1e6, head_rate=1e6)
    tuned = run_training(plan=make_plan(2.0, recipe), conditions=make_conditions(said.append))
    notices = pick(said, Notice)
    assert len(notices) == 5
    assert "ends with what it had" in notices[-1].message
    before = {name: value.detach().numpy() for name, value in make_tapped().named_parameters()}
    for name, value in tuned.parameters.items():
        np.testing.assert_array_equal(value, before[name])
    assert np.isfinite(tuned.logits).all()
    assert tuned.is_finished  # nobody stopped it, and going on would not help


def test_what_diverged_in_the_first_steps_is_nothing_to_go_back_to():
    """The first twenty steps are not watched: an epoch of them may end in nonsense without being
    noticed.
    """
    kept = []
    plan = make_plan(8.0, replace(RECIPE, rate=0.8, head_rate=0.8, layer_decay=1.0))
    conditions = make_conditions(is_stopping=Stopwatch(6))
    run_training(plan=plan, conditions=conditions, keep=lambda each: kept.append(copy_kept(each)))
    assert kept[-1].state.epoch == 1
    assert kept[-1].state.history[0].train_loss > 10
    assert kept[-1].safe.step == 0


def test_a_last_step_that_diverges_is_not_what_is_left():
    recipe = replace(RECIPE, rate=1e6, head_rate=1e6, batch=64)
    tuned = run_training(plan=make_plan(1.0, recipe))
    assert all(np.isfinite(value).all() for value in tuned.parameters.values())
    assert np.isfinite(tuned.logits).all()


# ---- averages


def test_the_better_of_last_and_averaged_weights_is_taken(run):
    tuned, _, kept = run
    tensors = kept[-1].state.tensors
    suffix = ".average" if tuned.is_averaged else ""
    for name, value in tuned.parameters.items():
        np.testing.assert_array_equal(value, tensors[f"{name}{suffix}"].numpy())
    harmed = copy_kept(kept[-1])
    for name in tuned.parameters:
        harmed.state.tensors[f"{name}{suffix}"].mul_(-1)
    other = run_training(plan=make_plan(EPOCHS), kept=harmed)
    assert other.is_averaged is not tuned.is_averaged


def test_averages_follow_the_weights(run):
    _, _, kept = run
    name = "classifier.weight"
    first, average = kept[0].state.tensors[name], kept[0].state.tensors[f"{name}.average"]
    assert torch.equal(average, first)  # what the run began with has no part in it
    later, average = kept[-1].state.tensors[name], kept[-1].state.tensors[f"{name}.average"]
    assert 0 < (average - later).norm() < 0.5 * (later - first).norm()


# ---- sizes


def test_sizes_follow_the_phases_and_the_epochs_are_counted_at_the_last(monkeypatch):
    phases, sides = (Phase(32, 0.5), Phase(64, 0.5)), []
    said, task = [], make_task(64, 16, side=64)
    draw = type(task.feed).draw

    def watch(feed, positions, side, generator, precision):
        sides.append(side)
        return draw(feed, positions, side, generator, precision)

    monkeypatch.setattr(type(task.feed), "draw", watch)
    run_training(task, make_plan(2.0, phases=phases), make_conditions(said.append, threads=1))
    # half of the work of 8 steps at 64 pixels: 16 steps at 32 and 4 at 64
    assert sides == [32] * 16 + [64] * 4
    assert [(epoch.epoch, epoch.of) for epoch in pick(said, EpochFinished)] == [
        (at, 5) for at in range(1, 6)
    ]


@pytest.mark.parametrize(("steps", "epochs", "side"), [(4, 3.0, 32), (16, 8.5, 224), (1, 1.0, 64)])
def test_an_epoch_pace_ends_after_the_planned_steps(steps, epochs, side):
    pace, progress, count = EpochPace(steps, epochs, side), 0.0, 0
    while progress < module.FINISHED:
        progress += pace.measure_share(progress, side, 0.1)
        count += 1
    assert count == math.ceil(steps * epochs)
    assert pace.measure_share(0.0, side // 2, 0.1) == pytest.approx(
        pace.measure_share(0.0, side, 0.1) / 4
    )


@pytest.mark.parametrize(("seconds", "steps"), [(5.0, 50), (100.0, 80), (0.0, 1)])
def test_a_clock_pace_ends_in_time_or_with_its_epochs(seconds, steps):
    left, progress, count = [seconds], 0.0, 0
    pace = ClockPace(EpochPace(8, 10.0, 64), lambda: left[0])
    while progress < module.FINISHED:
        progress += pace.measure_share(progress, 64, 0.1)
        left[0] -= 0.1
        count += 1
    assert count == pytest.approx(steps, abs=1)
