import json
from dataclasses import replace

import numpy as np
import pytest

from squeezetune.data.index import index_photos
from squeezetune.data.split import split_index
from squeezetune.evaluation.measurement import Measured, run_classifier
from squeezetune.evaluation.metrics import evaluate_probabilities, wilson_interval
from squeezetune.events import (
    EpochFinished,
    PlanChanged,
    PlanMade,
    Shortage,
    StageFinished,
    ignore_event,
)
from squeezetune.finetune.recipe import FROM_IMAGES, Phase, Recipe, StagePlan
from squeezetune.heads.candidate import StageResult
from squeezetune.heads.scaling import Scaling
from squeezetune.model.classifier import Classifier
from squeezetune.pipeline.context import open_context
from squeezetune.pipeline.fitting import fit_classifier, make_manifest
from squeezetune.pipeline.trained_stage import TrainedStage
from squeezetune.report.record import (
    GALLERY,
    Run,
    make_record,
    measure_agreement,
    order_mistakes,
    order_unsure,
    record_stages,
)
from squeezetune.system.executor import ThreadExecutor


def cut(index):
    return split_index(index, validation=0.2, test=0.2, seed=0)


@pytest.fixture(scope="module")
def run(shape_folder, fixed_settings):
    executor = ThreadExecutor(2)
    index = index_photos(shape_folder, executor=executor)
    learned = fit_classifier(index, cut, open_context(fixed_settings, None, ignore_event, executor))
    classifier = Classifier(learned.model, make_manifest(learned, fixed_settings))
    measured = run_classifier(classifier, index, learned.split.test, executor, ignore_event)
    evaluation = evaluate_probabilities(
        measured.probabilities, index.labels[measured.positions], index.class_names
    )
    return Run(
        fixed_settings,
        learned,
        measured,
        evaluation,
        "squeezetune train photos",
        "2026-01-01T00:00:00Z",
        [(StageFinished("reading", 0.12345), 0.23456), (StageFinished("head", 1.0), 1.5)],
        2.0,
    )


def confuse(run):
    """Make a run whose test images were mistaken: the third of them surely, the others less and
    less so.
    """
    count = len(run.measured.positions)
    labels = run.learned.index.labels[run.measured.positions]
    wrong = (labels + 1) % 3
    probabilities = np.full((count, 3), 0.1, np.float32)
    probabilities[np.arange(count), labels] = 0.8
    for place, (row, confidence) in enumerate([(2, 0.9), (5, 0.7), (0, 0.6)]):
        probabilities[row] = (1 - confidence) / 2
        probabilities[row, wrong[row]] = confidence
        assert place < count
    measured = Measured(run.measured.positions, probabilities, {})
    return replace(run, measured=measured)


# ---- the record as a whole


def test_the_record_is_plain_json(run):
    record = make_record(run)
    assert json.loads(json.dumps(record)) == json.loads(json.dumps(record, default=None))
    assert record["command"] == "squeezetune train photos"
    assert record["title"] == "photos"
    assert record["timings"] == [
        {"stage": "reading", "seconds": 0.123, "ended_s": 0.235},
        {"stage": "head", "seconds": 1.0, "ended_s": 1.5},
    ]
    assert record["total_seconds"] == 2.0
    assert record["settings"] == run.settings.to_dict()


def test_the_record_counts_the_images_of_every_part(run):
    record = make_record(run)
    split, labels = run.learned.split, run.learned.index.labels
    for label, row in enumerate(record["test"]["per_class"]):
        assert row["train"] == (labels[split.train] == label).sum()
        assert row["validation"] == (labels[split.validation] == label).sum()
        assert row["test"] == (labels[split.test] == label).sum()
    assert record["data"]["parts"] == {"train": 36, "validation": 12, "test": 12}


def test_the_record_names_the_chosen_head(run):
    model = make_record(run)["model"]
    [chosen] = [item for item in model["candidates"] if item["chosen"]]
    assert chosen["validation_accuracy"] == run.learned.head.chosen.validation_accuracy
    assert model["head"] in chosen["name"]
    assert model["file_bytes"] == len(run.learned.model)
    assert model["engine"] == "onnxruntime float32"
    assert model["temperature"] == run.learned.head.chosen.temperature


# ---- stages and epochs


def deepen(run, is_better=True, history=()):
    """Make a run whose layers were trained, with a better or a worse candidate than the frozen
    layers' head.
    """
    frozen = run.learned.head.chosen
    is_correct = np.full(len(frozen.is_correct), is_better)
    candidate = replace(
        frozen,
        name="all layers",
        is_correct=is_correct,
        validation_loss=0.0,
        seconds=60.54321,
        history=history,
    )
    # a head with one mistake, so that better is better
    head = replace(
        run.learned.head, chosen=replace(frozen, is_correct=np.arange(len(is_correct)) > 0)
    )
    plan = StagePlan("all layers", FROM_IMAGES, (Phase(64, 1.0),), 4.0, Recipe())
    probabilities = np.full((len(is_correct), 3), 1 / 3, np.float32)
    scaling = Scaling(np.zeros(2048, np.float32), np.ones(2048, np.float32), use_roots=False)
    deepened = TrainedStage(plan, candidate, scaling, {}, probabilities, is_finished=True)
    compared = Measured(run.learned.split.validation, probabilities, {})
    return replace(
        run, learned=replace(run.learned, head=head, trained=(deepened,)), compared=compared
    )


def test_one_stage_is_no_list(run):
    assert make_record(run)["stages"] == []


@pytest.mark.parametrize("is_better", [True, False])
def test_stages_are_recorded_with_wilson_intervals(run, is_better):
    frozen, trained = make_record(deepen(run, is_better))["stages"]
    low, high = wilson_interval(11, 12)
    assert frozen["validation"] == {"accuracy": 11 / 12, "low": low, "high": high, "images": 12}
    assert (frozen["name"], trained["name"]) == ("frozen layers", "all layers")
    assert (frozen["chosen"], trained["chosen"]) == (not is_better, is_better)
    assert trained["validation"]["accuracy"] == is_better
    assert trained["seconds"] == 60.543
    assert frozen["seconds"] == round(
        sum(candidate.seconds for candidate in run.learned.head.candidates), 3
    )
    assert frozen["note"] == ""
    assert bool(trained["note"]) is not is_better


@pytest.mark.parametrize("is_better", [True, False])
def test_the_chosen_stage_has_the_accuracy_that_was_measured(run, is_better):
    confused = confuse(deepen(run, is_better))  # the file is wrong on three of twelve test images
    frozen, trained = make_record(confused)["stages"]
    chosen, other = (trained, frozen) if is_better else (frozen, trained)
    assert chosen["test"]["accuracy"] == 9 / 12
    if is_better:
        named = run.learned.head.predict(
            run.learned.features.values[run.learned.split.test]
        ).argmax(axis=1)
        assert (
            other["test"]["accuracy"]
            == (named == run.learned.index.labels[run.learned.split.test]).mean()
        )
    else:
        assert other["test"] is None


def test_a_stage_without_validation_images_claims_nothing():
    stage = StageResult("frozen head", np.zeros(0, np.bool_), None, 1.0, True)
    assert record_stages([stage])[0]["validation"] is None


def test_epochs_of_later_stages_follow_those_of_the_head(run):
    first = EpochFinished("head", 1, 1, 0.5, 0.8, 0.6, 0.75, 1234.567, 0.12345)
    later = EpochFinished("all layers", 1, 4, float("nan"), 0.8, None, 0.75, 437.0, 69.0)
    deepened = deepen(run, history=(later,))
    head = replace(deepened.learned.head, chosen=replace(run.learned.head.chosen, history=(first,)))
    heard = [
        (first, 2.34567)
    ]  # the later one was heard by an earlier process, whose run this one went on with
    history = make_record(
        replace(deepened, heard=heard, learned=replace(deepened.learned, head=head))
    )["history"]
    assert history[0] == {
        "stage": "head",
        "epoch": 1,
        "of": 1,
        "train_loss": 0.5,
        "train_accuracy": 0.8,
        "validation_loss": 0.6,
        "validation_accuracy": 0.75,
        "images_per_s": 1234.6,
        "seconds": 0.123,
        "ended_s": 2.346,
    }
    assert history[1]["stage"] == "all layers"
    assert history[1]["train_loss"] is None  # a loss that is lost would be no JSON
    assert history[1]["ended_s"] is None


# ---- the plan


def test_without_a_plan_none_is_recorded(run):
    assert make_record(run)["plan"] is None


def test_the_forecast_stands_beside_what_its_parts_took(run):
    forecasts = (
        ("preparing", 1.5),
        ("head", 0.9),
        ("all layers at 96, 128 px", 58.0),
        ("report", 3.5),
    )
    plan, later = (
        PlanMade(forecasts, 63.9, 70.0, stages=("preparing", "head", "all layers", "report")),
        PlanChanged((("all layers at 96 px", 50.0),), 50.0, 60.0),
    )
    stages = [(StageFinished("head", 1.0), 2.6), (StageFinished("all layers", 55.0), 63.0)]
    deepened = deepen(replace(run, heard=[(plan, 1.5), (later, 2.0), *stages]))
    assert make_record(deepened)["plan"] == {
        "budget_s": 70.0,
        "forecast_s": 63.9,
        "parts": [
            {"part": "preparing", "forecast_s": 1.5, "seconds": None},
            {"part": "head", "forecast_s": 0.9, "seconds": 1.0},
            # with its probe, its pixels and its judgement, as it was forecast
            {"part": "all layers at 96, 128 px", "forecast_s": 58.0, "seconds": 60.543},
            {"part": "report", "forecast_s": 3.5, "seconds": None},
        ],
        "changes": [{"at_s": 2.0, "parts": [{"part": "all layers at 96 px", "forecast_s": 50.0}]}],
        "shortage": None,
    }


def test_looks_that_are_taken_for_near_duplicates_alone_count_among_those(run):
    plan = PlanMade((("near-duplicates", 3.0),), 3.0, 70.0)
    stages = [(StageFinished("looks", 1.5), 2.0), (StageFinished("near-duplicates", 1.0), 3.0)]
    [part] = make_record(replace(run, heard=[(plan, 0.1), *stages]))["plan"]["parts"]
    assert part["seconds"] == 2.5


def test_a_budget_that_was_too_short_is_recorded_with_numbers_and_in_words(run):
    plan = PlanMade((("head", 0.9),), 0.9, 30.0, Shortage("30s", 95.0, 2400, 54_000))
    shortage = make_record(replace(run, heard=[(plan, 1.5)]))["plan"]["shortage"]
    assert {name: shortage[name] for name in ("budget", "needed_s", "used", "photos")} == {
        "budget": "30s", "needed_s": 95.0, "used": 2400, "photos": 54_000,
    }  # fmt: skip
    assert shortage["words"].startswith(
        "30s is too short here for all photos, which need about 1 min 35 s: 2,400 of 54"
    )


def test_the_network_is_named_by_what_was_trained(run):
    model = make_record(deepen(run))["model"]
    assert model["network"] == "SqueezeNet 1.1, all layers trained"
    assert model["head"] == "all layers"
    assert make_record(deepen(run, is_better=False))["model"]["network"] == "SqueezeNet 1.1, frozen"


# ---- galleries


def test_mistakes_come_most_confident_first(run):
    confused = confuse(run)
    assert order_mistakes(confused).tolist() == [2, 5, 0]
    gallery = make_record(confused)["mistakes"]
    assert [item["confidence"] for item in gallery] == pytest.approx([0.9, 0.7, 0.6])
    names = run.learned.index.names
    assert [item["image"] for item in gallery] == [
        names[run.measured.positions[row]] for row in (2, 5, 0)
    ]
    for item in gallery:
        assert item["true"] == item["image"].split("/")[0] != item["predicted"]
        assert item["correct"] is False
        assert item["true_confidence"] < item["confidence"]


def test_unsure_images_come_least_confident_first(run):
    confused = confuse(run)
    assert order_unsure(confused)[:2].tolist() == [0, 5]
    gallery = make_record(confused)["unsure"]
    assert [item["confidence"] for item in gallery] == sorted(
        item["confidence"] for item in gallery
    )
    assert len(gallery) == 12 <= GALLERY


def test_without_mistakes_the_gallery_is_empty(run):
    right = confuse(run)
    labels = run.learned.index.labels[run.measured.positions]
    sure = replace(right.measured, probabilities=np.eye(3, dtype=np.float32)[labels])
    assert make_record(replace(right, measured=sure))["mistakes"] == []


# ---- agreement, and what was skipped


def test_trained_layers_are_compared_on_the_validation_images(run):
    deepened = deepen(run)
    positions = run.learned.split.validation[[3, 5, 8]]
    trained = np.random.default_rng(0).dirichlet([1, 1, 1], 12).astype(np.float32)
    [stage] = deepened.learned.trained
    learned = replace(deepened.learned, trained=(replace(stage, probabilities=trained),))
    same = replace(deepened, learned=learned, compared=Measured(positions, trained[[3, 5, 8]], {}))
    assert measure_agreement(same) == {"top1": 1.0, "mean_difference": 0.0}
    turned = replace(same, compared=Measured(positions, np.roll(trained[[3, 5, 8]], 1, axis=1), {}))
    assert measure_agreement(turned)["top1"] == 0


def test_agreement_of_equal_and_of_different_probabilities(run):
    trained = run.learned.head.predict(run.learned.features.values[run.measured.positions])
    same = replace(run, measured=replace(run.measured, probabilities=trained))
    assert measure_agreement(same) == {"top1": 1.0, "mean_difference": 0.0}
    turned = replace(run, measured=replace(run.measured, probabilities=np.roll(trained, 1, axis=1)))
    assert measure_agreement(turned)["top1"] == 0
    expected = np.abs(trained - np.roll(trained, 1, axis=1)).mean()
    assert measure_agreement(turned)["mean_difference"] == pytest.approx(expected)


def test_images_that_vanished_before_the_measurement_are_skipped(run):
    gone = int(run.measured.positions[1])
    kept = np.delete(np.arange(12), 1)
    measured = Measured(
        run.measured.positions[kept], run.measured.probabilities[kept], {gone: "the file is gone"}
    )
    skipped = make_record(replace(run, measured=measured))["data"]["skipped"]
    assert skipped == [{"name": run.learned.index.names[gone], "reason": "the file is gone"}]


def test_memory_is_set_against_the_ceiling(run):
    ceiling = replace(run.settings, max_ram="1.5GB")
    held = {"starting": 80_000_000, "features": 412_345_678, "head": 300_000_000}
    memory = make_record(replace(run, settings=ceiling, held=held))["memory"]
    assert memory["held_mb"] == 412.3
    assert memory["ceiling_mb"] == 1500
    assert memory["stages"] == {"starting": 80.0, "features": 412.3, "head": 300.0}


def test_memory_that_nobody_measured_is_left_open(run):
    memory = make_record(run)["memory"]
    assert (memory["held_mb"], memory["ceiling_mb"], memory["stages"]) == (None, None, {})
