"""Which network is taken where that is open, why, and that nothing else comes of it than by its
name.
"""

import time
from dataclasses import replace

import numpy as np
import pytest

from squeezetune.audit.inspection import inspect_photos
from squeezetune.data.index import index_photos
from squeezetune.data.split import split_index
from squeezetune.events import Notice, StageFinished, StageStarted, ignore_event
from squeezetune.model.artifact import read_report
from squeezetune.network.pretrained import load_pretrained
from squeezetune.pipeline import network_trial
from squeezetune.pipeline.backbone_choice import LARGE, SMALL, choose_backbone, forecast_choice
from squeezetune.pipeline.context import open_context
from squeezetune.pipeline.network_trial import Judgement, Trial, draw_sample
from squeezetune.planning.planner import NO_LIMIT, TimeLimit
from squeezetune.system.checkpoint import CheckpointFolder, UnfinishedRun
from squeezetune.training import train

DOUBTED = 1.0  # nats


def cut(index):
    return split_index(index, validation=0.2, test=0.2, seed=0)


def cut_in_one_group(index):
    split = cut(index)
    return replace(split, units=np.zeros(len(index), np.int64))


@pytest.fixture
def open_settings(fixed_settings):
    return replace(fixed_settings, backbone="auto")


@pytest.fixture
def index(shape_folder, executor):
    return index_photos(shape_folder, executor=executor)


@pytest.fixture
def choose(index, open_settings, tmp_path, executor):
    """Choose on the shapes, and tell the network's name and what was said."""

    def run(limit=NO_LIMIT, cut=cut, unfinished=None, **changes):
        heard = []
        settings = replace(open_settings, **changes)
        context = open_context(settings, tmp_path / "cache", heard.append, executor)
        chosen = choose_backbone(index, cut, context, limit, unfinished or UnfinishedRun())
        name = chosen.context.pretrained.architecture.name
        assert chosen.context.settings.backbone == name
        return name, " ".join(event.message for event in heard if isinstance(event, Notice))

    return run


@pytest.fixture
def judged(monkeypatch):
    """Say how many of forty images each network is to name right, and how sure it is to be of all
    others than the first ten: all doubt these.
    """

    def fix(small, large, sure=0.0):
        rights, losses = {SMALL: small, LARGE: large}, {SMALL: DOUBTED, LARGE: DOUBTED - sure}

        def judge(trial, listen):
            used = np.union1d(trial.prepared.split.train, trial.prepared.split.validation)[:40]
            each = np.full(40, losses[trial.name])
            each[:10] = DOUBTED
            return Judgement(used, each, np.arange(40) < rights[trial.name])

        monkeypatch.setattr(Trial, "judge", judge)

    return fix


@pytest.fixture
def never_sure(monkeypatch):
    """Let the small network leave doubts."""
    monkeypatch.setattr("squeezetune.pipeline.backbone_choice.hardly_doubts", lambda losses: False)


def list_features(heard):
    """List how many images each pass of the frozen layers looked at."""
    return [event.total for event in heard if isinstance(event, StageStarted)
            and event.stage == "features"]  # fmt: skip


# ---- the choice


def test_both_are_judged_on_photos_that_are_learnt_from(choose, never_sure):
    name, said = choose()
    assert name in {SMALL, LARGE}
    assert "of 48 photos, each named by heads that have not seen it" in said


@pytest.mark.parametrize(
    ("small", "large", "sure", "taken"),
    [
        (30, 30, 0.0, SMALL),
        (30, 36, 0.0, SMALL),  # as unsure
        (30, 36, 0.5, LARGE),
        (30, 30, 0.5, LARGE),
        (30, 29, 0.5, SMALL),
    ],
)
def test_the_larger_one_has_to_be_surer_and_not_more_often_wrong(
    small, large, sure, taken, choose, judged
):
    judged(small, large, sure)
    name, said = choose()
    assert name == taken
    assert f"{large / 40:.1%}" in said
    assert ("which is not surely less" in said) is (taken == SMALL)


def test_where_there_are_groups_it_has_to_be_better_on_several_of_them(choose, judged):
    judged(20, 30, 0.5)
    assert choose()[0] == LARGE
    assert choose(cut=cut_in_one_group)[0] == SMALL


def test_where_hardly_a_photo_is_in_doubt_the_larger_one_is_not_tried(choose, monkeypatch):
    def judge(trial, listen):
        assert trial.name == SMALL
        return Judgement(np.arange(40), np.zeros(40), np.ones(40, np.bool_))

    monkeypatch.setattr(Trial, "judge", judge)
    assert choose() == (SMALL, "SqueezeNet 1.1 is taken: it hardly doubts any of 40 photos")


@pytest.mark.parametrize("size", ["0.5MB", "1.5MB"])
def test_a_small_file_that_is_asked_for_means_the_small_one(size, choose):
    said = f"SqueezeNet 1.1 is taken: no file of EfficientNet-Lite0 is within {size}"
    assert choose(max_model_size=size) == (SMALL, said)


def test_where_both_have_a_file_that_is_small_enough_the_photos_choose(choose, judged):
    judged(30, 36, 0.5)
    assert choose(max_model_size="2.7MB")[0] == LARGE


def test_a_quick_run_takes_the_small_one(choose):
    assert choose(effort="quick") == (SMALL, "SqueezeNet 1.1 is taken: the effort is quick")


def test_a_budget_without_room_for_both_takes_the_small_one(choose):
    name, said = choose(TimeLimit(time.perf_counter() + 0.01), budget="1s")
    assert name == SMALL
    assert said.endswith("the budget leaves no time to try EfficientNet-Lite0")


def test_a_budget_with_room_tries_both(choose, judged):
    judged(30, 36, 0.5)
    assert choose(TimeLimit(time.perf_counter() + 1000), budget="1000s")[0] == LARGE


def test_memory_without_room_for_the_larger_one_takes_the_small_one(choose):
    name, said = choose(max_ram="360MB")
    assert name == SMALL
    assert said.endswith("360MB of memory leave no room for EfficientNet-Lite0")


def test_a_run_that_is_gone_on_with_keeps_its_network(choose, judged, tmp_path):
    judged(30, 30)
    folder = CheckpointFolder(tmp_path / ".model.unfinished")
    sha256 = load_pretrained(backbone=LARGE).sha256
    folder.save({}, {"identity": {"settings": {"weights": sha256}}})
    assert choose(unfinished=UnfinishedRun(folder, True)) == (LARGE, "")
    assert choose(unfinished=UnfinishedRun(folder, False))[0] == SMALL


# ---- the sample


def test_a_sample_has_some_of_every_class_and_hangs_on_content_alone(index, monkeypatch):
    monkeypatch.setattr(network_trial, "JUDGED_IMAGES", 18)
    monkeypatch.setattr(network_trial, "LEAST_OF_CLASS", 4)
    split = cut(index)
    sample = draw_sample(index, split)
    assert np.bincount(index.labels[sample]).tolist() == [6, 6, 6]
    assert not set(sample) & set(split.test)
    turned = replace(
        index, names=index.names[::-1], labels=index.labels[::-1], digests=index.digests[::-1]
    )
    again = draw_sample(turned, cut(turned))
    assert {index.names[at] for at in sample} == {turned.names[at] for at in again}
    monkeypatch.setattr(network_trial, "JUDGED_IMAGES", 6)
    assert np.bincount(index.labels[draw_sample(index, split)]).tolist() == [4, 4, 4]
    monkeypatch.setattr(network_trial, "LEAST_OF_CLASS", 100)
    assert len(draw_sample(index, split)) == 48


# ---- whole runs


@pytest.mark.slow
@pytest.mark.parametrize("use_cache", [True, False])
def test_a_training_leaves_the_file_that_the_chosen_network_leaves(
    use_cache, shape_folder, open_settings, tmp_path, monkeypatch, never_sure, empty_cache
):
    monkeypatch.setattr(network_trial, "JUDGED_IMAGES", 12)
    monkeypatch.setattr(network_trial, "LEAST_OF_CLASS", 4)
    monkeypatch.setattr("squeezetune.pipeline.backbone_choice.hardly_doubts", lambda losses: False)
    monkeypatch.setattr("squeezetune.pipeline.backbone_choice.is_clearly_less", lambda *_: True)
    chosen, named, heard = tmp_path / "auto", tmp_path / "named", []
    train(shape_folder, chosen, open_settings, use_cache=use_cache, listen=heard.append)
    taken = read_report(chosen)["model"]["weights"]["network"]
    assert taken == "EfficientNet-Lite0"
    assert "--backbone efficientnet_lite0" in read_report(chosen)["command"]
    # those of the sample are not looked at again
    assert list_features(heard) == [48]
    assert "choice of the network" in [e.stage for e in heard if isinstance(e, StageFinished)]
    train(shape_folder, named, replace(open_settings, backbone=LARGE))
    for name in ("model.onnx", "network.safetensors"):
        assert (chosen / name).read_bytes() == (named / name).read_bytes()


@pytest.mark.usefixtures("no_plots")
def test_a_training_for_a_small_file_leaves_a_command_that_repeats_it(
    shape_folder, open_settings, tmp_path
):
    folder = tmp_path / "model"
    train(shape_folder, folder, replace(open_settings, max_model_size="0.5MB"))
    report = read_report(folder)
    assert report["model"]["weights"]["network"] == "SqueezeNet 1.1"
    assert report["settings"]["max_model_size"] == "0.5MB"
    assert "--backbone squeezenet1_1" in report["command"]
    assert "max-model-size" not in report["command"]


@pytest.mark.slow
def test_folds_choose_by_their_own_photos_and_speak_only_where_they_differ(
    write_shapes, open_settings, tmp_path, monkeypatch
):
    learnt = []

    def judge(trial, listen):
        split = trial.prepared.split
        learnt.append((trial.name, set(split.train) | set(split.validation), set(split.test)))
        sample = np.sort(np.concatenate([split.train, split.validation]))
        losses = np.full(len(sample), DOUBTED - (trial.name == LARGE and len(sample) == 18))
        return Judgement(sample, losses, np.ones(len(sample), np.bool_))

    monkeypatch.setattr(Trial, "judge", judge)
    photos, heard = write_shapes(tmp_path / "photos", 6), []
    settings = replace(open_settings, folds="3", head="linear")
    classifier = train(photos, tmp_path / "model", settings, listen=heard.append)
    assert classifier.report["model"]["weights"]["network"] == "EfficientNet-Lite0"
    assert [len(used) for _, used, _ in learnt] == [18, 18] + [12] * 6
    assert all(not used & tested for _, used, tested in learnt)
    said = [event.message for event in heard if isinstance(event, Notice)]
    assert [note for note in said if "EfficientNet-Lite0 is taken" in note] == said[:1]
    assert said[1:4] == [
        f"SqueezeNet 1.1 is taken for fold {fold}, by its own photos" for fold in (1, 2, 3)
    ]


def test_a_forecast_has_both_networks(index, open_settings, tmp_path, executor):
    context = open_context(open_settings, tmp_path / "cache", ignore_event, executor)
    plan, _ = forecast_choice(index, cut(index), context, NO_LIMIT)
    small, large = plan.networks
    assert (small.network, large.network) == ("SqueezeNet 1.1", "EfficientNet-Lite0")
    assert plan.total_s == pytest.approx(max(small.total_s, large.total_s))
    parts = [item.part for item in plan.forecasts]
    assert parts.index("choice of the network") == parts.index("features") - 1
    assert min(small.features_s, small.training_s) >= 0
    assert [each["network"] for each in plan.to_dict()["networks"]] == [
        "SqueezeNet 1.1",
        "EfficientNet-Lite0",
    ]


def test_a_forecast_of_a_quick_run_has_the_small_one_alone(
    index, open_settings, tmp_path, executor
):
    heard = []
    settings = replace(open_settings, effort="quick")
    context = open_context(settings, tmp_path / "cache", heard.append, executor)
    plan, prepared = forecast_choice(index, cut(index), context, NO_LIMIT)
    assert plan.networks == ()
    assert prepared.context.pretrained.network == "SqueezeNet 1.1"
    assert "SqueezeNet 1.1 is taken: the effort is quick" in [
        event.message for event in heard if isinstance(event, Notice)
    ]


def test_a_check_chooses_as_a_training_does(index, open_settings, tmp_path, executor, judged):
    judged(30, 36, 0.5)
    heard = []
    context = open_context(open_settings, tmp_path / "cache", heard.append, executor)
    inspect_photos(index, context)
    assert any(
        "EfficientNet-Lite0 is taken" in event.message
        for event in heard
        if isinstance(event, Notice)
    )
