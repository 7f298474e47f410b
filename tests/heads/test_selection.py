from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import softmax

from squeezetune.events import (
    EpochFinished,
    StageAdvanced,
    StageFinished,
    StageStarted,
    ignore_event,
)
from squeezetune.heads import out_of_fold as crossing
from squeezetune.heads import selection as head_module
from squeezetune.heads.candidate import Candidate
from squeezetune.heads.linear import apply_layers
from squeezetune.heads.mlp import HiddenOptions
from squeezetune.heads.scaling import measure_scaling
from squeezetune.heads.selection import (
    LabelledFeatures,
    fit_head,
    weigh_classes,
)
from squeezetune.settings import Settings
from squeezetune.system.scratch import Scratch, Selection

WIDTH = 48
LINEAR = Settings(head="linear")


@pytest.fixture(autouse=True)
def small_hidden_layer(monkeypatch):
    """Make the hidden layer small, so that the tests are fast."""
    options = HiddenOptions(width=32, min_steps=120, batch=64)
    monkeypatch.setattr(
        head_module, "HIDDEN", {"balanced": options, "thorough": replace(options, min_steps=240)}
    )


def make_features(n, classes=3, views=2, seed=0, clarity=3.0, centres=None):
    """Make features as the trunk gives them, (n, views, WIDTH) float16: not negative, with channels
    that never fire.
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    if centres is None:
        centres = np.random.default_rng(99).random((classes, WIDTH))
    values = clarity * centres[labels][:, None] + rng.exponential(1, (n, views, WIDTH))
    values[:, :, :4] = 0
    return LabelledFeatures(values.astype(np.float16), labels.astype(np.int64))


def make_handed(n, seed=0):
    """Make two classes that are each other's mirror image: only the plain view tells them apart."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    values = rng.exponential(1, (n, 2, WIDTH))
    values[:, 0, 10] += 4 * labels
    values[:, 1, 10] += 4 * (1 - labels)
    return LabelledFeatures(values.astype(np.float16), labels.astype(np.int64))


def make_folded(n, seed=0):
    """Make two classes that a line cannot separate: both are high, or both low, in two channels."""
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 2, (2, n))
    values = rng.uniform(0, 0.3, (n, 1, WIDTH))
    values[:, 0, 8:16] += 4 * first[:, None]
    values[:, 0, 16:24] += 4 * second[:, None]
    return LabelledFeatures(values.astype(np.float16), (first ^ second).astype(np.int64))


def fit(train, validation, settings=LINEAR, classes=None, listen=ignore_event, **options):
    classes = classes or int(train.labels.max()) + 1
    return fit_head(train, validation, classes, settings, listen, **options)


def measure_accuracy(head, data):
    return (head.predict(data.features).argmax(axis=1) == data.labels).mean()


def take(data, rows):
    return LabelledFeatures(data.features[rows], data.labels[rows])


@pytest.mark.parametrize("settings", [LINEAR, Settings(head="hidden")])
def test_the_head_predicts_what_its_candidate_was_judged_by(settings):
    train, validation = make_features(300), make_features(90, seed=1, clarity=1.0)
    head = fit(train, validation, settings)
    rows = measure_scaling(train.features).apply(validation.features)[:, : head.views]
    logits = (
        apply_layers(head.chosen.layers, rows.reshape(-1, WIDTH))
        .reshape(90, head.views, -1)
        .mean(axis=1)
    )
    expected = softmax(logits / head.chosen.temperature, axis=1)
    np.testing.assert_allclose(head.predict(validation.features), expected, atol=1e-3)
    assert measure_accuracy(head, validation) == pytest.approx(head.chosen.validation_accuracy)


# ---- the choice


def test_a_settled_validation_part_ends_the_search():
    head = fit(make_features(300), make_features(90, seed=1), Settings())
    assert [candidate.name for candidate in head.candidates] == ["linear, image and mirror image"]
    assert head.chosen.validation_accuracy == 1
    assert head.chosen is head.candidates[0]


def test_a_hidden_layer_is_tried_and_mixed_in_where_mistakes_are_left():
    train, validation = make_features(300, clarity=0.6), make_features(300, seed=1, clarity=0.6)
    head = fit(train, validation, Settings())
    names = [candidate.name.split(",")[0] for candidate in head.candidates]
    assert names[:2] == ["linear", "hidden layer of 32"]
    assert {candidate.views for candidate in head.candidates} == {2}
    linear = head.candidates[0]
    assert head.chosen.validation_loss <= linear.validation_loss + 0.01


def add_noise(data, share, classes=3):
    """Give a share of the images another class."""
    labels = data.labels.copy()
    labels[: int(share * len(labels))] = (labels[: int(share * len(labels))] + 1) % classes
    return replace(data, labels=labels)


def test_the_penalty_rises_with_wrong_labels():
    train, validation = make_features(600, clarity=1.5), make_features(100, seed=1, clarity=1.5)
    clean, noisy = (
        fit(add_noise(train, share), add_noise(validation, share)) for share in (0.0, 0.4)
    )
    assert 20 <= clean.chosen.penalty < noisy.chosen.penalty <= 320


@pytest.mark.parametrize(
    ("losses", "penalty"),
    [
        ((500, 400, 500), 80),
        ((400, 400, 600), 40),
        ((600, 400, 400), 160),
        ((300, 400, 500), 20),
        ((500, 400, 300), 320),
        ((400, 500, 400), 80),
        ((400, 500, 300), 320),  # no valley: the lower end
        ((40, 40, 40), 80),
        ((39.5, 40, 40.5), 57),  # a few images say little
    ],
)
def test_the_penalty_is_where_a_parabola_is_lowest(losses, penalty):
    assert head_module.find_penalty(losses) == penalty


def test_the_penalty_hardly_moves_with_the_images_that_validate():
    images = make_features(420, clarity=0.5)
    order = [np.random.default_rng(seed).permutation(420) for seed in range(4)]
    found = [
        fit(take(images, np.sort(each[60:])), take(images, np.sort(each[:60]))).chosen.penalty
        for each in order
    ]
    assert max(found) < 1.5 * min(found)


def test_the_mirror_image_is_left_out_where_it_harms():
    train, validation = make_handed(300), make_handed(100, seed=1)
    head = fit(train, validation, Settings(head="linear"))
    assert head.views == 1
    assert measure_accuracy(head, make_handed(200, seed=2)) > 0.9


def test_the_mirror_image_is_kept_where_it_was_asked_for():
    head = fit(make_handed(300), make_handed(100, seed=1), Settings(head="linear", views="mirror"))
    assert head.views == 2
    assert {candidate.views for candidate in head.candidates} == {2}


def test_the_mirror_image_is_kept_in_doubt():
    train, validation = make_features(300, clarity=0.8), make_features(300, seed=1, clarity=0.8)
    same = [np.repeat(data.features[:, :1], 2, axis=1) for data in (train, validation)]
    head = fit(
        LabelledFeatures(same[0], train.labels), LabelledFeatures(same[1], validation.labels)
    )
    assert head.views == 2


@pytest.mark.parametrize(("wins", "views"), [(0, 4), (2, 4), (7, 2), (12, 2)])
def test_fewer_views_are_chosen_where_they_are_better_by_more_than_two_standard_errors(wins, views):
    """With two views `wins` images lose a nat less than with four, and one a nat more."""
    losses = {
        4: [2.0] * wins + [1.0] * 20,
        2: [1.0] * wins + [2.0] + [1.0] * 19,
        1: [3.0] * (wins + 20),
    }

    class FakePilot:
        halves = (SimpleNamespace(rows=np.zeros((1, 4, 1))),)
        units = None

        def measure(self, count, penalty):
            return np.array(losses[count])

    usual = np.array(losses[4])
    assert head_module.choose_form(FakePilot(), usual, Settings()) == (views, 80)
    assert head_module.choose_form(FakePilot(), usual, Settings(views="crops"))[0] == 4


def test_where_hardly_any_image_is_in_doubt_nothing_is_compared(monkeypatch):
    asked = []
    monkeypatch.setattr(head_module, "choose_form", lambda *_: asked.append(1) or (2, 20.0))
    for clarity, compared in ((5.0, 0), (0.8, 1)):
        fit(make_features(300, clarity=clarity), make_features(60, seed=1, clarity=clarity))
        assert len(asked) == compared


def test_images_of_a_group_are_one_observation_of_the_views():
    gains, units = np.repeat([1.0, -1.0], [16, 4]), np.repeat(np.arange(5), 4)
    assert head_module.is_clearly_less(-gains, np.zeros(20), None)
    assert not head_module.is_clearly_less(-gains, np.zeros(20), units)


def test_one_view_is_enough_for_plain_features():
    head = fit(make_features(300, views=1), make_features(90, views=1, seed=1, clarity=0.6))
    assert {candidate.views for candidate in head.candidates} == {1}


def test_a_hidden_layer_is_taken_where_it_pays():
    train, validation, unseen = (make_folded(n, seed) for n, seed in ((600, 0), (200, 1), (200, 2)))
    head = fit(train, validation, Settings())
    assert head.chosen.name == "linear and hidden layer of 32, image"
    assert head.chosen is head.candidates[2]
    assert len(head.layers) == 2
    assert measure_accuracy(head, unseen) > 0.9
    assert measure_accuracy(fit(train, validation), unseen) < 0.8


@pytest.mark.parametrize(
    ("settings", "layers", "kinds"),
    [
        (Settings(head="linear"), 1, {"linear"}),
        (Settings(head="hidden"), 2, {"linear", "hidden"}),
        (Settings(effort="quick"), 1, {"linear"}),
        (Settings(effort="quick", head="hidden"), 2, {"linear", "hidden"}),
        (Settings(effort="thorough"), 2, {"linear", "hidden", "linear and hidden"}),
    ],
)
def test_settings_say_which_heads_are_tried(settings, layers, kinds):
    head = fit(make_folded(600), make_folded(200, seed=1), settings)
    assert len(head.layers) == layers
    assert {
        candidate.name.split(",")[0].split(" layer")[0] for candidate in head.candidates
    } == kinds
    assert sum(candidate is head.chosen for candidate in head.candidates) == 1


def make_candidate(is_correct, name="linear", units=None):
    return Candidate(name, (), 2, 80.0, np.array(is_correct), 0.5, 1.0, 0.1, units=units)


@pytest.mark.parametrize(
    ("wins", "losses", "pays"),
    [(0, 0, False), (1, 0, False), (2, 0, True), (5, 2, True), (5, 3, False), (0, 9, False)],
)
def test_a_head_pays_by_more_than_a_standard_error(wins, losses, pays):
    simple = make_candidate([False] * wins + [True] * losses + [True, False] * 20)
    better = make_candidate([True] * wins + [False] * losses + [True, False] * 20)
    assert better.pays_over(simple) is pays


@pytest.mark.parametrize(
    ("gains", "pays"),
    [
        ((8, 0, 0, 0), False),
        ((8, 1, 0, 0), True),
        ((8, -1, 0, 0), False),
        ((3, 3, 0, 0), True),
        ((3, 3, -2, 0), False),
    ],
)
def test_images_of_a_group_count_as_one_observation(gains, pays):
    simple, better = (
        np.concatenate([np.arange(10) < 5 + max(0, sign * gain) for gain in gains])
        for sign in (-1, 1)
    )
    units = np.repeat([7, 3, 9, 4], 10)
    candidates = [make_candidate(is_correct, units=units) for is_correct in (simple, better)]
    assert candidates[1].pays_over(candidates[0]) is candidates[1].replaces(candidates[0]) is pays


def test_without_groups_the_better_network_replaces_the_other():
    assert (
        make_candidate([True, False, True]).replaces(make_candidate([True, False, False])) is True
    )
    assert make_candidate([True, False]).replaces(make_candidate([True, False])) is False


def test_the_groups_of_validation_images_come_to_the_candidates():
    validation = make_folded(200, seed=1)
    grouped = LabelledFeatures(validation.features, validation.labels, np.arange(200) // 10)
    head = fit(make_folded(600), grouped, Settings(effort="quick", head="hidden"))
    assert all((candidate.units == grouped.units).all() for candidate in head.candidates)


def test_many_images_are_chosen_on_a_pilot_and_fitted_on_all(monkeypatch):
    sizes = {"pilot": [], "all": []}
    fit_linear = head_module.fit_linear

    def note(kind):
        def fit_noted(task, *arguments, **options):
            sizes[kind].append(len(task.rows))
            return fit_linear(task, *arguments, **options)

        return fit_noted

    monkeypatch.setattr(crossing, "PILOT_IMAGES", 100)
    monkeypatch.setattr(crossing, "fit_linear", note("pilot"))
    monkeypatch.setattr(head_module, "fit_linear", note("all"))
    head = fit(make_features(301, clarity=0.6), make_features(90, seed=1, clarity=0.6))
    assert sum(sizes["pilot"]) == 3 * 2 * 100 + 100  # three penalties with two views, one with one
    assert max(sizes["pilot"]) <= 2 * 51
    assert sizes["all"] == [301 * head.views]
    assert head.candidates == (head.chosen,)


def test_a_hidden_layer_that_only_harms_leaves_the_linear_head(monkeypatch):
    def fit_random(task, seed, options, report, threads=1):
        layers = head_module.fit_linear(task, 80.0)
        return (
            (-9 * layers[0][0], layers[0][1]),
            (np.eye(3, dtype=np.float32), np.zeros(3, np.float32)),
        )

    monkeypatch.setattr(head_module, "fit_hidden", fit_random)
    head = fit(make_features(300, clarity=0.6), make_features(300, seed=1, clarity=0.6), Settings())
    assert head.chosen is head.candidates[0]
    assert [candidate.name.split(",")[0] for candidate in head.candidates] == [
        "linear",
        "hidden layer of 32",
    ]


def test_the_hidden_layer_is_judged_by_nobody_where_no_image_is_held_back():
    train = make_features(60, 2, clarity=0.1)
    head = fit(train, take(train, slice(0)), Settings())
    assert len(head.layers) == 1


# ---- classes of unequal size


@pytest.mark.parametrize(
    ("counts", "policy", "weighs"),
    [
        ((30, 30), "auto", False),
        ((30, 20), "auto", False),
        ((31, 20), "auto", True),
        ((30, 29), "balanced", True),
        ((300, 3), "none", False),
    ],
)
def test_classes_are_weighed_where_they_are_unequal(counts, policy, weighs):
    labels = np.repeat([0, 1], counts)
    weights = weigh_classes(labels, 2, policy)
    if not weighs:
        assert weights.tolist() == [1, 1]
        return
    np.testing.assert_allclose(weights * counts, sum(counts) / 2, rtol=1e-5)
    assert weights[labels].mean() == pytest.approx(1)


def test_a_rare_class_is_found_more_often_with_weights():
    rows = np.flatnonzero((np.arange(400) % 2 == 0) | (np.arange(400) % 40 == 1))
    train, unseen = (
        take(make_features(400, 2, clarity=0.5), rows),
        make_features(400, 2, seed=2, clarity=0.5),
    )
    found = {}
    for policy in ("none", "auto"):
        head = fit(
            train, make_features(100, 2, seed=1, clarity=0.5), replace(LINEAR, class_weight=policy)
        )
        found[policy] = (head.predict(unseen.features).argmax(axis=1) == 1).mean()
    assert found["auto"] > found["none"] + 0.05


# ---- little data, many classes


def test_without_validation_images_heads_of_other_training_images_judge():
    train, unseen = make_features(40, 2, clarity=0.3), make_features(400, 2, clarity=0.3, seed=1)
    head = fit(train, take(train, slice(0)), Settings())
    assert measure_accuracy(head, train) > measure_accuracy(head, unseen) + 0.2
    # what was learnt is named right, what was not is not: the judges have not seen the image
    assert len(head.chosen.is_correct) == 40
    assert abs(head.chosen.validation_accuracy - measure_accuracy(head, unseen)) < 0.2
    assert head.chosen.temperature != 1


def test_a_class_of_one_image_cannot_be_judged_by_others():
    train = take(make_features(6, 2), [0, 1, 2, 4])
    assert sorted(np.bincount(train.labels).tolist()) == [1, 3]
    head = fit(train, take(train, slice(0)), Settings())
    assert head.chosen.temperature == 1
    assert head.chosen.validation_accuracy == 1


def test_two_classes_of_three_images():
    train, validation = make_features(4, 2), make_features(2, 2, seed=1)
    head = fit(train, validation, Settings(), threads=2)
    assert np.isfinite(head.predict(validation.features)).all()
    assert measure_accuracy(head, train) == 1


@pytest.mark.parametrize("kind", ["linear", "hidden"])
def test_one_image_of_each_class(kind):
    train = make_features(2, 2)
    probabilities = fit(train, make_features(2, 2, seed=1), Settings(head=kind), threads=2).predict(
        train.features
    )
    assert np.isfinite(probabilities).all()
    assert probabilities.argmax(axis=1).tolist() == [0, 1]


def test_three_hundred_classes():
    train, validation = (
        make_features(1200, 300, clarity=8),
        make_features(300, 300, seed=1, clarity=8),
    )
    head = fit(train, validation)
    assert head.predict(validation.features).shape == (300, 300)
    assert measure_accuracy(head, validation) > 0.9


def test_validation_images_need_not_have_every_class():
    validation = make_features(30, 3, seed=1)
    head = fit(make_features(90, 3), take(validation, validation.labels != 1))
    assert measure_accuracy(head, validation) > 0.9


def test_probabilities_sum_to_one():
    head = fit(make_features(90), make_features(30, seed=1))
    np.testing.assert_allclose(
        head.predict(make_features(50, seed=2).features).sum(axis=1), 1, rtol=1e-5
    )


# ---- the same again, and what is said meanwhile


@pytest.mark.parametrize("settings", [LINEAR, Settings(head="hidden")])
def test_the_same_images_give_the_same_head(settings):
    train, validation = make_features(120, clarity=0.8), make_features(60, seed=1, clarity=0.8)
    first, second = (fit(train, validation, settings, threads=2) for _ in range(2))
    for (a, b), (c, d) in zip(first.layers, second.layers, strict=True):
        np.testing.assert_array_equal(a, c)
        np.testing.assert_array_equal(b, d)


def test_every_epoch_of_the_hidden_layer_is_told_and_kept():
    said = []
    head = fit(
        make_folded(200), make_folded(100, seed=1), Settings(head="hidden"), listen=said.append
    )
    epochs = [event for event in said if isinstance(event, EpochFinished)]
    assert head.chosen.history == tuple(epochs)
    assert {event.stage for event in epochs} == {"head"}
    assert epochs[-1].epoch == epochs[-1].of
    assert [event.seconds for event in epochs] == sorted(event.seconds for event in epochs)
    assert all(
        event.images_per_s == pytest.approx(200 * event.epoch / event.seconds) for event in epochs
    )
    assert epochs[-1].validation_accuracy == head.chosen.validation_accuracy
    assert 0 < epochs[-1].validation_loss < epochs[0].validation_loss


def test_progress_is_told_in_percent():
    said = []
    fit(make_folded(200), make_folded(100, seed=1), Settings(head="hidden"), listen=said.append)
    assert said[0] == StageStarted("head", 100, "%")
    assert isinstance(said[-1], StageFinished)
    done = [event.done for event in said[1:-1] if isinstance(event, StageAdvanced)]
    epochs = [event for event in said if isinstance(event, EpochFinished)]
    assert len(done) + len(epochs) == len(said) - 2
    assert done == sorted(done)
    assert 0 < done[0] <= done[-1] <= 100


def test_rows_on_disk_give_the_same_head_as_rows_in_memory(tmp_path):
    data, unseen = make_features(300, 2), make_features(100, 2, seed=2)
    chosen = np.arange(299, -1, -2)
    mapped = LabelledFeatures(Selection(data.features, chosen), data.labels[chosen])
    in_memory = fit(take(data, chosen), unseen)
    on_disk = fit(mapped, unseen, scratch=Scratch(tmp_path, held_bytes=0, is_strict=True))
    for (weight, bias), (other_weight, other_bias) in zip(
        in_memory.layers, on_disk.layers, strict=True
    ):
        assert weight.tobytes() == other_weight.tobytes()
        assert bias.tobytes() == other_bias.tobytes()


def test_predictions_are_the_same_block_by_block(monkeypatch):
    data = make_features(100, 2)
    head = fit(data, make_features(50, 2, seed=2))
    whole = head.predict(data.features)
    monkeypatch.setattr("squeezetune.system.scratch.BLOCK_IMAGES", 7)
    np.testing.assert_allclose(head.predict(data.features), whole, rtol=1e-5)
    assert head.predict(data.features[:0]).shape == (0, whole.shape[1])
