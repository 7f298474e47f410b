"""Whole runs that are measured by folds: what they report, and what is kept of one that was
stopped.
"""

import json
import signal
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from squeezetune.data.index import index_photos
from squeezetune.errors import CheckpointError, SettingsError
from squeezetune.events import EpochFinished, ModelMeasured, Notice, StageAdvanced, ignore_event
from squeezetune.model.classifier import load
from squeezetune.pipeline.context import open_context
from squeezetune.pipeline.cross_validation import FoldTraining, cross_validate
from squeezetune.pipeline.fitting import fit_classifier
from squeezetune.pipeline.scheme import choose_scheme
from squeezetune.planning.costs import Timing
from squeezetune.settings import Settings
from squeezetune.system.disk import find_cache_folder
from squeezetune.training import forecast, train

needs_torch = pytest.mark.skipif(not find_spec("torch"), reason="torch is an extra")
pytestmark = pytest.mark.usefixtures("usual_interrupts", "no_plots")


def stop_training(stage, epoch, folds=None):
    """Press Ctrl-C, as it were, when an epoch of the model's own training is over, or so many folds
    are.
    """

    def listen(event):
        is_epoch = isinstance(event, EpochFinished) and (event.stage, event.epoch) == (stage, epoch)
        is_fold = isinstance(event, StageAdvanced) and (event.stage, event.done) == ("folds", folds)
        if is_epoch or is_fold:
            signal.raise_signal(signal.SIGINT)

    return listen


@pytest.fixture(scope="session")
def folded_settings(fixed_settings):
    return replace(fixed_settings, folds="3", validation=0.1, head="linear")


@pytest.fixture(scope="session")
def few_shapes(write_shapes, tmp_path_factory):
    """Write six images of each of three shapes; only to be read."""
    return write_shapes(tmp_path_factory.mktemp("few") / "photos", 6)


@pytest.fixture(scope="module")
def folded(few_shapes, folded_settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("folded") / "model"
    train(few_shapes, folder, folded_settings)
    return folder


def read_models(folder):
    return [(folder / name).read_bytes() for name in ("network.safetensors", "model.onnx")]


class KilledError(Exception):
    pass


def kill_after(folds):
    """Make a listener that fails after so many folds, as a kill would."""

    def listen(event):
        if isinstance(event, StageAdvanced) and event.stage == "folds" and event.done == folds:
            raise KilledError

    return listen


# ---- what is reported


def test_every_photo_is_measured_once_and_none_is_given_up(folded):
    report = load(folded).report
    test, crossed = report["test"], report["test"]["cross_validation"]
    assert report["data"]["parts"] == {"train": 18, "validation": 0, "test": 0}
    assert test["count"] == crossed["images"] == 18
    assert (
        [row["test"] for row in test["per_class"]]
        == [row["train"] for row in test["per_class"]]
        == [6, 6, 6]
    )
    assert [fold["images"] for fold in crossed["folds"]] == [6, 6, 6]
    assert sum(fold["correct"] for fold in crossed["folds"]) == test["correct"]
    assert crossed["mean"] == pytest.approx(test["accuracy"])
    assert crossed["deviation"] == pytest.approx(
        np.std([fold["accuracy"] for fold in crossed["folds"]], ddof=1)
    )
    assert (crossed["name"], crossed["planned"], crossed["repeats"]) == (
        "3-fold cross-validation",
        3,
        None,
    )
    assert crossed["is_automatic"] is False
    assert "--folds 3" in report["command"]


def test_the_pooled_predictions_are_those_of_models_that_never_saw_the_photo(
    few_shapes, folded_settings, executor
):
    context = open_context(folded_settings, find_cache_folder(), ignore_event, executor)
    index = index_photos(few_shapes, executor=executor)
    scheme = choose_scheme(index, folded_settings, ignore_event)
    learned = fit_classifier(index, scheme.keep_all, context)
    crossed = cross_validate(learned, scheme, context)
    for result, turn in zip(crossed.results, scheme.list_rounds(index), strict=True):
        alone = fit_classifier(
            index, lambda photos, turn=turn: scheme.split_round(photos, turn), context
        )
        assert not set(alone.split.train) & set(result.positions)
        np.testing.assert_array_equal(result.probabilities, alone.recall(result.positions))
    assert sorted(crossed.pool().positions) == list(range(18))


def test_the_model_is_the_same_however_it_was_measured(
    folded, few_shapes, folded_settings, tmp_path
):
    train(few_shapes, tmp_path / "model", replace(folded_settings, folds="2"))
    assert read_models(tmp_path / "model") == read_models(folded)


@pytest.mark.slow
def test_runs_are_repeatable_also_without_a_cache(
    folded, few_shapes, folded_settings, tmp_path, empty_cache
):
    train(few_shapes, tmp_path / "model", folded_settings, use_cache=False)
    assert read_models(tmp_path / "model") == read_models(folded)
    reports = [load(folder).report["test"] for folder in (folded, tmp_path / "model")]
    assert reports[0] == reports[1]
    assert not empty_cache.exists()


def test_the_file_agrees_with_the_training_it_came_from(folded):
    assert load(folded).report["model"]["agreement"]["top1"] == 1


@pytest.mark.slow
def test_repeats_predict_every_photo_again_and_are_told_apart(
    few_shapes, folded_settings, tmp_path
):
    settings = replace(folded_settings, repeats=2)
    report = train(few_shapes, tmp_path / "model", settings).report
    crossed = report["test"]["cross_validation"]
    assert (report["test"]["count"], crossed["images"], len(crossed["folds"])) == (36, 18, 6)
    assert len(crossed["repeats"]["accuracies"]) == 2
    for gallery in ("mistakes", "unsure"):
        names = [item["image"] for item in report[gallery]]
        assert len(names) == len(set(names))


def test_groups_are_left_out_one_by_one(draw_shape, tmp_path, folded_settings):
    for shape in ("box", "disc"):
        for number in range(6):
            path = tmp_path / "photos" / shape / f"day{number // 2}-{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            draw_shape(shape, number).save(path)
    settings = replace(folded_settings, folds="groups", group_by="[a-z]+/day[0-9]")
    test = train(tmp_path / "photos", tmp_path / "model", settings).report["test"]
    assert [fold["images"] for fold in test["cross_validation"]["folds"]] == [2] * 6
    assert test["groups"] == 6
    assert "leaving each group out once" in (tmp_path / "model" / "report.html").read_text()


@pytest.mark.slow
def test_few_photos_are_measured_by_folds_unasked(few_shapes, folded_settings, tmp_path):
    said = []
    train(
        few_shapes, tmp_path / "model", replace(folded_settings, folds="auto"), listen=said.append
    )
    report = load(tmp_path / "model").report
    assert report["test"]["cross_validation"]["is_automatic"]
    assert any(
        "measured by 5-fold cross-validation" in event.message
        for event in said
        if isinstance(event, Notice)
    )
    [measured] = [event for event in said if isinstance(event, ModelMeasured)]
    assert measured.images == 18


def test_a_photo_that_cannot_be_decoded_is_left_out_of_all_folds(
    write_shapes, folded_settings, tmp_path
):
    photos = write_shapes(tmp_path / "photos", {"box": 6, "disc": 6})
    torn = photos / "box" / "000.png"
    torn.write_bytes(torn.read_bytes()[:-3000])
    report = train(photos, tmp_path / "model", folded_settings).report
    assert [item["name"] for item in report["data"]["skipped"]] == ["box/000.png"]
    assert report["test"]["count"] == 11


@pytest.mark.slow
def test_near_duplicates_in_two_folds_are_told(write_shapes, folded_settings, tmp_path):
    photos = write_shapes(tmp_path / "photos", {"box": 6, "disc": 6})
    for path in sorted(photos.rglob("*.png")):
        with Image.open(path) as image:
            image.save(path.with_suffix(".webp"), lossless=True)
    together = train(photos, tmp_path / "model", folded_settings).report["data"]["leaks"]
    assert together == {"validation": 0, "test": 0, "test_without": None}
    reported = replace(folded_settings, near_duplicates="reported")
    report = train(photos, tmp_path / "model", reported).report
    assert report["data"]["leaks"]["test"] > 0
    others = report["data"]["leaks"]["test_without"]["images"]
    assert others == 24 - report["data"]["leaks"]["test"]
    assert (
        f"{report['data']['leaks']['test']} of 24 test photos have a copy"
        in (tmp_path / "model" / "report.html").read_text()
    )


def test_photos_with_a_split_of_their_own_are_refused(write_shapes, folded_settings, tmp_path):
    for part in ("train", "test"):
        write_shapes(tmp_path / "photos" / part, {"box": 4, "disc": 4}, first=10 * (part == "test"))
    with pytest.raises(SettingsError, match="already split"):
        train(tmp_path / "photos", tmp_path / "model", folded_settings)
    assert (
        train(
            tmp_path / "photos", tmp_path / "model", replace(folded_settings, folds="auto")
        ).report["test"]["cross_validation"]
        is None
    )


@pytest.mark.slow
def test_a_budget_is_shared_by_all_trainings(few_shapes, folded_settings, tmp_path):
    settings = replace(folded_settings, budget="2m", layers="head")
    report = train(few_shapes, tmp_path / "model", settings).report
    assert len(report["test"]["cross_validation"]["folds"]) == 3
    assert report["total_seconds"] < 120


def test_a_budget_that_looking_at_the_photos_would_use_up_is_refused(
    few_shapes, folded_settings, tmp_path, monkeypatch
):
    monkeypatch.setattr(Timing, "forecast_features", lambda *_: 1000.0)
    with pytest.raises(
        SettingsError, match="looking at the photos takes about 1000 s, and 4 trainings follow"
    ):
        train(few_shapes, tmp_path / "model", replace(folded_settings, budget="2m", layers="head"))


def test_a_forecast_counts_the_folds(few_shapes, folded_settings):
    plan = forecast(few_shapes, replace(folded_settings, layers="head"))
    parts = {item.part: item.seconds for item in plan.forecasts}
    assert parts["folds"] == pytest.approx(3 * (parts["head"] + parts["measuring"]))
    assert "folds" not in {
        item.part
        for item in forecast(
            few_shapes, replace(folded_settings, folds="none", validation=0.2)
        ).forecasts
    }


# ---- stopped and gone on with


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_folds_it_had_finished(
    folded, few_shapes, folded_settings, tmp_path, monkeypatch
):
    output, trained = tmp_path / "model", []
    with pytest.raises(KilledError):
        train(few_shapes, output, folded_settings, listen=kill_after(2))
    run = FoldTraining.run
    monkeypatch.setattr(
        FoldTraining, "run", lambda fold, limit: trained.append(fold.number) or run(fold, limit)
    )
    train(few_shapes, output, folded_settings, resume=True)
    assert trained == [3]
    assert read_models(output) == read_models(folded)
    assert load(output).report["test"] == load(folded).report["test"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.slow
def test_an_unfinished_run_of_other_settings_is_not_gone_on_with(
    few_shapes, folded_settings, tmp_path
):
    with pytest.raises(KilledError):
        train(few_shapes, tmp_path / "model", folded_settings, listen=kill_after(1))
    with pytest.raises(CheckpointError, match=r"settings\.seed is 1, the unfinished run had 0"):
        train(few_shapes, tmp_path / "model", replace(folded_settings, seed=1), resume=True)


@pytest.mark.slow
def test_without_resume_the_folds_of_an_unfinished_run_are_dropped(
    few_shapes, folded_settings, tmp_path
):
    with pytest.raises(KilledError):
        train(few_shapes, tmp_path / "model", folded_settings, listen=kill_after(1))
    assert [path.name for path in (tmp_path / ".model.unfinished").iterdir()] == ["fold-001-result"]
    said = []
    train(few_shapes, tmp_path / "model", folded_settings, listen=said.append)
    assert any("is dropped" in event.message for event in said if isinstance(event, Notice))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_ctrl_c_between_folds_reports_on_those_that_were_finished(
    few_shapes, folded_settings, tmp_path
):
    report = train(
        few_shapes, tmp_path / "model", folded_settings, listen=stop_training("", 0, folds=1)
    ).report
    crossed = report["test"]["cross_validation"]
    assert (
        len(crossed["folds"]),
        crossed["planned"],
        crossed["images"],
        report["test"]["count"],
    ) == (1, 3, 6, 6)
    assert (
        "Stopped early: 1 of 3 trainings were made"
        in (tmp_path / "model" / "report.html").read_text()
    )
    assert json.loads((tmp_path / "model" / "model.json").read_bytes())["data"]["train"] == 18


# ---- trained layers


@pytest.fixture(scope="module")
def deep_settings(folded_settings):
    return replace(folded_settings, folds="2", layers="all", epochs=2.0, validation=0.2)


@pytest.fixture(scope="module")
def deep(few_shapes, deep_settings, float32, tmp_path_factory):
    folder = tmp_path_factory.mktemp("deep") / "model"
    train(few_shapes, folder, deep_settings)
    return folder


@needs_torch
@pytest.mark.usefixtures("float32")
def test_layers_that_were_trained_for_a_fold_are_not_trained_again(
    deep, few_shapes, deep_settings, tmp_path
):
    output = tmp_path / "model"
    with pytest.raises(KilledError):
        train(few_shapes, output, deep_settings, listen=kill_after(1))
    assert {path.name for path in (tmp_path / ".model.unfinished").iterdir()} >= {"fold-001-result"}
    train(few_shapes, output, deep_settings, resume=True)
    assert read_models(output) == read_models(deep)
    reports = [load(folder).report for folder in (deep, output)]
    assert reports[0]["test"] == reports[1]["test"]
    assert reports[0]["test"]["count"] == 18
    assert [stage["test"] for stage in reports[0]["stages"]] == [None, None]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@needs_torch
@pytest.mark.usefixtures("float32")
def test_ctrl_c_before_anything_is_measured_leaves_no_model_but_all_that_was_done(
    deep, few_shapes, deep_settings, tmp_path
):
    output, said = tmp_path / "model", []

    def listen(event):
        said.append(event)
        stop_training("all layers", 1)(event)

    with pytest.raises(KeyboardInterrupt):
        train(few_shapes, output, deep_settings, listen=listen)
    assert any(
        "before a fold was measured" in event.message for event in said if isinstance(event, Notice)
    )
    assert not output.exists()
    train(few_shapes, output, deep_settings, resume=True)
    assert read_models(output) == read_models(deep)


@needs_torch
def test_the_original_recipe_is_measured_by_folds_too(few_shapes, tmp_path):
    settings = Settings(recipe="original", image_side=64, epochs=1.0, folds="2", threads=2)
    test = train(few_shapes, tmp_path / "model", settings).report["test"]
    assert [fold["images"] for fold in test["cross_validation"]["folds"]] == [9, 9]
    assert test["count"] == 18
