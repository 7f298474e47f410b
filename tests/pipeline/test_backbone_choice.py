"""`--backbone auto`: which network is taken, why, and that nothing else comes of it than by its
name.
"""

import time
from dataclasses import replace

import numpy as np
import pytest

from squeezetune.data.index import index_photos
from squeezetune.data.split import split_index
from squeezetune.events import Notice, ignore_event
from squeezetune.model.artifact import read_report
from squeezetune.pipeline import backbone_choice
from squeezetune.pipeline.backbone_choice import choose_backbone
from squeezetune.pipeline.context import open_context
from squeezetune.planning.planner import NO_LIMIT, TimeLimit
from squeezetune.training import train


def cut(index):
    return split_index(index, validation=0.2, test=0.2, seed=0)


def cut_in_one_group(index):
    split = cut(index)
    return replace(split, units=np.zeros(len(index), np.int64))


@pytest.fixture
def choose(shape_folder, fixed_settings, tmp_path, executor):
    """Choose on the shapes, and tell the network's name and what was said."""
    index = index_photos(shape_folder, executor=executor)

    def run(limit=NO_LIMIT, cut=cut):
        heard = []
        settings = replace(fixed_settings, backbone="auto")
        context = open_context(settings, tmp_path / "cache", heard.append, executor)
        found = choose_backbone(index, cut, context, limit).pretrained.architecture.name
        return found, " ".join(event.message for event in heard if isinstance(event, Notice))

    return run


@pytest.fixture
def judged(monkeypatch):
    """Say how many images each network is to name right."""

    def fix(small, large, count=40):
        rights = iter((small, large))

        def judge(prepared, split, backbone):
            used = np.union1d(split.train, split.validation)[:count]
            return backbone_choice._Judged(used, np.arange(count) < next(rights))

        monkeypatch.setattr(backbone_choice, "_judge", judge)

    return fix


def test_both_are_judged_on_all_photos_that_are_learnt_from(choose):
    name, said = choose()
    assert name in {"squeezenet1_1", "efficientnet_lite0"}
    assert "of 48 photos, each named by heads that have not seen it" in said


@pytest.mark.parametrize(
    ("small", "large", "taken"),
    [
        (30, 30, "squeezenet1_1"),
        (30, 31, "squeezenet1_1"),  # chance alone makes one
        (30, 36, "efficientnet_lite0"),
        (36, 30, "squeezenet1_1"),
    ],
)
def test_the_larger_one_has_to_be_surely_better(small, large, taken, choose, judged):
    judged(small, large)
    name, said = choose()
    assert name == taken
    assert f"{large / 40:.1%}" in said.replace("\N{NO-BREAK SPACE}", " ")
    assert ("which is not surely less" in said) is (taken == "squeezenet1_1")


def test_where_there_are_groups_it_has_to_be_better_on_several_of_them(choose, judged):
    judged(20, 30)
    assert choose()[0] == "efficientnet_lite0"
    judged(20, 30)
    assert choose(cut=cut_in_one_group)[0] == "squeezenet1_1"


def test_a_budget_without_room_for_both_takes_the_small_one(choose):
    name, said = choose(TimeLimit(time.perf_counter() + 0.01))
    assert name == "squeezenet1_1"
    assert said == "EfficientNet-Lite0 is not tried: the budget leaves no time for it"


def test_a_training_leaves_the_file_that_the_chosen_network_leaves(
    shape_folder, fixed_settings, tmp_path, judged
):
    judged(30, 36)
    chosen = tmp_path / "auto"
    train(shape_folder, chosen, replace(fixed_settings, backbone="auto"), listen=ignore_event)
    assert "--backbone efficientnet_lite0" in read_report(chosen)["command"]
    named = tmp_path / "named"
    train(
        shape_folder,
        named,
        replace(fixed_settings, backbone="efficientnet_lite0"),
        listen=ignore_event,
    )
    for name in ("model.onnx", "network.safetensors"):
        assert (chosen / name).read_bytes() == (named / name).read_bytes()
