import time
from dataclasses import replace

import numpy as np
import pytest

from squeezetune.data.index import index_photos
from squeezetune.data.split import split_index
from squeezetune.errors import SourceError
from squeezetune.events import PREPARING, ignore_event
from squeezetune.finetune.recipe import FROM_IMAGES, Phase, Recipe, StagePlan
from squeezetune.pipeline import preparation
from squeezetune.pipeline.context import open_context
from squeezetune.pipeline.extraction import extract_features
from squeezetune.pipeline.preparation import plan_prepared, prepare_run, thin_out
from squeezetune.planning.costs import Forecast, Speeds, Timing
from squeezetune.planning.plan import Plan
from squeezetune.planning.planner import TimeLimit

STAGE = StagePlan("all layers", FROM_IMAGES, (Phase(64, 1.0),), 1.0, Recipe())
WHOLE, QUICK = Plan(1, "linear", (STAGE,)), Plan(1, "linear", (STAGE,), head_share=1 / 2)


def cut(index):
    return split_index(index, validation=0.2, test=0.2, seed=0)


@pytest.fixture
def survey(executor, fixed_settings, tmp_path):
    """Survey a folder of photos with a budget, as a plan says."""

    def run(folder, plan):
        index = index_photos(folder, executor=executor)
        context = open_context(
            replace(fixed_settings, budget="5m"), tmp_path / "cache", ignore_event, executor
        )
        scene = prepare_run(index, cut(index), context)
        return extract_features(scene, cut, plan, scene.prepare_backbone(1), scene.open_scratch())[
            0
        ]

    return run


def damage(path):
    """Cut off the second half of a photo: an index, which looks at the beginning, takes it for an
    image.
    """
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def find_known(found):
    return np.flatnonzero(found.features.sizes.min(axis=1) > 0)


def test_all_training_and_validation_images_are_looked_at(survey, shape_folder):
    found = survey(shape_folder, WHOLE)
    assert found.seen.tolist() == found.split.train.tolist()
    assert len(found.split.validation) == 12
    assert find_known(found).tolist() == sorted([*found.split.train, *found.split.validation])


def test_a_quick_beginning_looks_at_a_part_of_each(survey, shape_folder):
    found = survey(shape_folder, QUICK)
    assert found.seen.tolist() == found.split.train[::2].tolist()
    assert (len(found.split.train), len(found.split.validation)) == (
        36,
        12,
    )  # few photos to choose by are all kept
    assert find_known(found).tolist() == sorted([*found.seen, *found.split.validation])
    np.testing.assert_array_equal(found.features.values[found.split.train[1]], 0)


@pytest.mark.parametrize(
    ("plan", "is_whole"), [(QUICK, True), (replace(QUICK, head_share=1.0, share=0.5), False)]
)
def test_what_was_looked_at_is_used_whatever_part_near_duplicates_send_it_to(
    survey, shape_folder, monkeypatch, plan, is_whole
):
    """Half of all photos have a near-duplicate, and are dealt out anew by another key."""
    before = survey(shape_folder, plan)

    def pair_up(index, positions, *_):
        return replace(index, pictures=np.arange(len(index)) // 2)

    monkeypatch.setattr("squeezetune.pipeline.extraction.mark_near_duplicates", pair_up)
    after = survey(shape_folder, plan)
    assert len(after.seen) + len(after.split.validation) >= 0.8 * (
        len(before.seen) + len(before.split.validation)
    )
    assert np.isin(
        find_known(after), [*after.seen, *after.split.validation, *after.split.test]
    ).all()
    assert len(after.seen) >= 0.7 * len(before.seen)
    assert len(after.split.train) == (36 if is_whole else len(after.seen))


def test_looking_for_near_duplicates_is_not_taken_for_slow_frozen_layers(
    survey, shape_folder, monkeypatch
):
    noted = []
    monkeypatch.setattr(Plan, "note_features", lambda plan, seconds: noted.append(seconds) or plan)
    monkeypatch.setattr(
        "squeezetune.pipeline.extraction.mark_near_duplicates",
        lambda index, *_: time.sleep(1.0) or index,
    )
    started = time.perf_counter()
    survey(shape_folder, WHOLE)
    assert noted[0] <= time.perf_counter() - started - 1.0


@pytest.mark.parametrize(
    ("count", "share", "least", "kept"),
    [
        (5000, 1 / 13, 2000, 2000),
        (5000, 0.5, 2000, 2500),
        (1500, 1 / 13, 2000, 1500),
        (5000, 1 / 13, 0, 385),
        (10, 1.0, 0, 10),
        (0, 0.5, 2000, 0),
        (60_000, 0.95, 0, 57_000),
    ],
)
def test_photos_are_thinned_evenly_down_to_as_many_as_choices_need(count, share, least, kept):
    thinned = thin_out(np.arange(count), share, least)
    assert len(thinned) == pytest.approx(kept, abs=1)
    steps = np.diff(thinned)
    assert not len(steps) or steps.max() - steps.min() <= 1


@pytest.mark.parametrize("plan", [WHOLE, QUICK])
def test_images_that_cannot_be_decoded_are_found_whether_looked_at_or_not(
    survey, write_shapes, tmp_path, executor, plan
):
    folder = write_shapes(tmp_path / "photos", 12)
    index = index_photos(folder, executor=executor)
    split = cut(index)
    looked_at, left_out = (index.names[position] for position in split.train[:2])
    for name in (looked_at, left_out):
        damage(folder / name)
    found = survey(folder, plan)
    assert len(found.index) == len(index) - 2
    assert not {looked_at, left_out} & set(found.index.names)
    assert {looked_at, left_out} <= {skipped.name for skipped in found.index.skipped}
    assert found.features.knows(np.concatenate([found.seen, found.split.validation]))
    assert len(found.seen) >= len(found.split.train) // 2 - 2


def test_a_folder_of_damaged_photos_is_refused(survey, write_shapes, tmp_path):
    folder = write_shapes(tmp_path / "photos", 5)
    for path in folder.rglob("*.png"):
        damage(path)
    with pytest.raises(SourceError, match="can be decoded"):
        survey(folder, WHOLE)


# ---- planned with what is kept


SPEEDS = Speeds(1e-3, 1e-3, 1e-3, 1e-6, 1e-6)


def test_features_kept_of_other_views_are_none_for_a_plan_of_fewer(
    executor, fixed_settings, shape_folder, tmp_path, monkeypatch
):
    settings, counted = replace(fixed_settings, budget="5m"), []
    index = index_photos(shape_folder, executor=executor)
    context = open_context(settings, tmp_path / "cache", ignore_event, executor)
    prepared = prepare_run(index, cut(index), context)
    prepared.compute_features(prepared.prepare_probed(), tmp_path / "cache")

    def plan_run(site, work, settings, limit, *, is_deep):
        counted.append((work.unseen, limit.speeds))
        return Plan(1, "linear", forecasts=(Forecast(PREPARING, 1.0),), timing=Timing(work, SPEEDS))

    monkeypatch.setattr(preparation, "plan_run", plan_run)
    limit = TimeLimit(time.perf_counter() + 300, time.perf_counter())
    plan, backbone = plan_prepared(prepared, limit)
    used = len(prepared.split.train) + len(prepared.split.validation)
    assert (plan.views, backbone.views) == (1, 1)
    assert counted == [(0, None), (used, SPEEDS)]
