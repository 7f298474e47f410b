import json
from dataclasses import replace

import numpy as np
import pytest

from squeezetune.data.index import scan_folder
from squeezetune.data.split import split_index
from squeezetune.engine import ThreadEngine
from squeezetune.events import EpochFinished, ignore_event
from squeezetune.learn.evaluation import evaluate_probabilities, wilson_interval
from squeezetune.learn.stages import StageResult
from squeezetune.learning import learn_classifier, make_manifest
from squeezetune.measurement import Measured, run_classifier
from squeezetune.prediction import Classifier
from squeezetune.record import GALLERY, Run, make_record, measure_agreement, order_mistakes, order_unsure


def cut(index):
    return split_index(index, validation=0.2, test=0.2, seed=0)


@pytest.fixture(scope="module")
def run(shape_folder, fixed_settings):
    engine = ThreadEngine(2)
    index = scan_folder(shape_folder, engine=engine)
    learned = learn_classifier(index, cut, fixed_settings, None, engine, ignore_event)
    classifier = Classifier(learned.model, make_manifest(learned, fixed_settings))
    measured = run_classifier(classifier, index, learned.split.test, engine, ignore_event)
    evaluation = evaluate_probabilities(measured.probabilities, index.labels[measured.positions], index.class_names)
    return Run(fixed_settings, learned, measured, evaluation, "squeezetune train photos", "2026-01-01T00:00:00Z",
               [("reading", 0.12345), ("head", 1.0)], 2.0)  # fmt: skip


def confuse(run):
    """Make a run whose test images were mistaken: the third of them surely, the others less and less so."""
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
    assert record["timings"] == [{"stage": "reading", "seconds": 0.123}, {"stage": "head", "seconds": 1.0}]
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


def test_stages_are_recorded_with_wilson_intervals(run):
    right = np.array([True] * 9 + [False])
    stages = (
        StageResult("frozen head", right, None, 1.23456, False, "all layers are better"),
        StageResult("all layers", right, right[:5], 60, True),
    )
    head, layers = make_record(replace(run, stages=stages))["stages"]
    low, high = wilson_interval(9, 10)
    share = {"accuracy": 0.9, "low": low, "high": high, "images": 10}
    assert head == {"name": "frozen head", "validation": share, "test": None, "seconds": 1.235, "chosen": False,
                    "note": "all layers are better"}  # fmt: skip
    assert layers["chosen"] is True
    assert layers["test"]["images"] == 5
    assert layers["test"]["accuracy"] == layers["test"]["high"] == 1
    assert make_record(run)["stages"] == []


def test_a_stage_without_validation_images_claims_nothing(run):
    stage = StageResult("frozen head", np.zeros(0, np.bool_), None, 1.0, True)
    assert make_record(replace(run, stages=[stage]))["stages"][0]["validation"] is None


def test_epochs_of_later_stages_follow_those_of_the_head(run):
    first = EpochFinished("head", 1, 1, 0.5, 0.8, 0.6, 0.75, 1234.567, 0.12345)
    later = EpochFinished("all layers", 1, 4, float("nan"), 0.8, None, 0.75, 437.0, 69.0)
    head = replace(run.learned.head, chosen=replace(run.learned.head.chosen, history=(first,)))
    history = make_record(replace(run, learned=replace(run.learned, head=head), epochs=[later]))["history"]
    assert history[0] == {"stage": "head", "epoch": 1, "of": 1, "train_loss": 0.5, "train_accuracy": 0.8,
                          "validation_loss": 0.6, "validation_accuracy": 0.75, "images_per_s": 1234.6,
                          "seconds": 0.123}  # fmt: skip
    assert history[1]["stage"] == "all layers"
    assert history[1]["train_loss"] is None  # a loss that is lost would be no JSON


# ---- galleries


def test_mistakes_come_most_confident_first(run):
    confused = confuse(run)
    assert order_mistakes(confused).tolist() == [2, 5, 0]
    gallery = make_record(confused)["mistakes"]
    assert [item["confidence"] for item in gallery] == pytest.approx([0.9, 0.7, 0.6])
    names = run.learned.index.names
    assert [item["image"] for item in gallery] == [names[run.measured.positions[row]] for row in (2, 5, 0)]
    for item in gallery:
        assert item["true"] == item["image"].split("/")[0] != item["predicted"]
        assert item["correct"] is False
        assert item["true_confidence"] < item["confidence"]


def test_unsure_images_come_least_confident_first(run):
    confused = confuse(run)
    assert order_unsure(confused)[:2].tolist() == [0, 5]
    gallery = make_record(confused)["unsure"]
    assert [item["confidence"] for item in gallery] == sorted(item["confidence"] for item in gallery)
    assert len(gallery) == 12 <= GALLERY


def test_without_mistakes_the_gallery_is_empty(run):
    right = confuse(run)
    labels = run.learned.index.labels[run.measured.positions]
    sure = replace(right.measured, probabilities=np.eye(3, dtype=np.float32)[labels])
    assert make_record(replace(right, measured=sure))["mistakes"] == []


# ---- agreement, and what was skipped


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
    measured = Measured(run.measured.positions[kept], run.measured.probabilities[kept], {gone: "the file is gone"})
    skipped = make_record(replace(run, measured=measured))["data"]["skipped"]
    assert skipped == [{"name": run.learned.index.names[gone], "reason": "the file is gone"}]
