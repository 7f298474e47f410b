"""Everything that a run knows about itself, as plain values: the content of `report.json`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeezetune.data.index import Skipped
from squeezetune.evaluation.measurement import Measured
from squeezetune.evaluation.metrics import Evaluation, wilson_interval
from squeezetune.events import (
    LOOKS,
    NEAR_DUPLICATES,
    EpochFinished,
    Event,
    PlanChanged,
    PlanMade,
    StageFinished,
)
from squeezetune.heads.candidate import Candidate, StageResult
from squeezetune.heads.head_data import VIEW_NAMES
from squeezetune.pipeline.cross_validation import CrossValidationResult
from squeezetune.pipeline.result import TrainingResult
from squeezetune.quantities import parse_size
from squeezetune.settings import Settings
from squeezetune.system.machine import describe_machine, measure_peak_memory, name_version

REPORT_VERSION = 1
GALLERY = 24


@dataclass(frozen=True)
class Run:
    """One training run: what went in and what came out.

    `heard` are the plan and the ends of epochs and stages, each with the seconds since the run
    began, in order. `compared` are the file's probabilities of some validation images, to be held
    against the trained network's own. `held` is the most memory that each stage held, in bytes.
    `crossed` is the cross-validation that measured, if one did; what it predicted is `measured`
    then.
    """

    settings: Settings
    learned: TrainingResult
    measured: Measured
    evaluation: Evaluation
    command: str
    created: str
    heard: Sequence[tuple[Event, float]]
    total_s: float
    compared: Measured | None = None
    held: Mapping[str, int] = field(default_factory=dict)
    crossed: CrossValidationResult | None = None


def make_record(run: Run) -> dict[str, Any]:
    """Make the content of `report.json`."""
    return {
        "format": REPORT_VERSION,
        "title": Path(run.learned.index.source.describe()).name
        or run.learned.index.source.describe(),
        "created": run.created,
        "version": name_version(),
        "command": run.command,
        "class_names": list(run.learned.index.class_names),
        "test": record_test(run),
        "mistakes": list_images(run, order_mistakes(run)),
        "unsure": list_images(run, order_unsure(run)),
        "data": record_data(run),
        "model": record_model(run),
        "settings": run.settings.to_dict(),
        **record_times(run),
        "memory": record_memory(run),
        "machine": describe_machine(),
        "stages": record_stages(list_stages(run)),
        "history": record_history(run),
    }


def record_times(run: Run) -> dict[str, Any]:
    """Tell how long the run took until now, stage by stage, and what was planned."""
    return {
        "plan": record_plan(run),
        "timings": record_timings(run),
        "total_seconds": round(run.total_s, 3),
    }


def record_memory(run: Run) -> dict[str, Any]:
    """Set the memory that was held against the ceiling; `peak_mb` also counts files that are
    mapped.
    """
    ceiling = parse_size(run.settings.max_ram) if run.settings.max_ram else None
    return {
        "peak_mb": measure_peak_memory(),
        "held_mb": round(max(run.held.values()) / 1e6, 1) if run.held else None,
        "ceiling_mb": ceiling and ceiling / 1e6,
        "stages": {stage: round(held / 1e6, 1) for stage, held in run.held.items()},
    }


def record_test(run: Run) -> dict[str, Any]:
    """Join the evaluation with the number of training and validation images of each class."""
    record = run.evaluation.to_dict()
    split, classes = run.learned.split, len(run.learned.index.class_names)
    counts = {
        part: np.bincount(run.learned.index.labels[positions], minlength=classes)
        for part, positions in (("train", split.train), ("validation", split.validation))
    }
    for at, row in enumerate(record["per_class"]):
        row |= {part: int(count[at]) for part, count in counts.items()}
    record["cross_validation"] = run.crossed and run.crossed.describe(run.learned.index.labels)
    return record


def order_mistakes(run: Run) -> NDArray[np.int64]:
    """Order the wrong predictions, most confident first; returns rows of the measured
    probabilities.
    """
    probabilities = run.measured.probabilities
    labels = run.learned.index.labels[run.measured.positions]
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    return take_once(run, wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")])[
        :GALLERY
    ]


def order_unsure(run: Run) -> NDArray[np.int64]:
    """Order all predictions, least confident first; returns rows of the measured probabilities."""
    return take_once(run, np.argsort(run.measured.probabilities.max(axis=1), kind="stable"))[
        :GALLERY
    ]


def take_once(run: Run, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Leave out the rows of an image that came before: repeated cross-validation predicts it
    several times.
    """
    _, first = np.unique(run.measured.positions[rows], return_index=True)
    return rows[np.sort(first)]


def list_images(run: Run, rows: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Describe the predictions in these rows for the galleries."""
    names, labels = run.learned.index.class_names, run.learned.index.labels[run.measured.positions]
    images = []
    for row in rows:
        probabilities, label = run.measured.probabilities[row], int(labels[row])
        predicted = int(probabilities.argmax())
        images.append(
            {
                "image": run.learned.index.names[run.measured.positions[row]],
                "true": names[label],
                "predicted": names[predicted],
                "confidence": float(probabilities[predicted]),
                "true_confidence": float(probabilities[label]),
                "correct": predicted == label,
            }
        )
    return images


def record_data(run: Run) -> dict[str, Any]:
    """Describe the photos: how many, of what size, how they were split, which were skipped and
    why.
    """
    index, split = run.learned.index, run.learned.split
    sides = run.learned.sizes[run.learned.sizes.min(axis=1) > 0].min(axis=1)
    return {
        "source": index.source.describe(),
        "images": sum(len(part) for part in (split.train, split.validation, split.test)),
        "classes": len(index.class_names),
        "parts": {
            "train": len(split.train),
            "validation": len(split.validation),
            "test": len(split.test),
        },
        "unevenness": measure_unevenness(run),
        "duplicates": split.duplicates,
        "conflicts": split.conflicts,
        "near_duplicates": count_near_duplicates(run),
        "leaks": record_leaks(run),
        "groups": split.groups,
        "fingerprint": index.fingerprint,
        "side": {
            "smallest": int(sides.min()),
            "median": int(np.median(sides)),
            "largest": int(sides.max()),
        },
        "skipped": [vars(item) for item in list_skipped(run)],
    }


def measure_unevenness(run: Run) -> float:
    """Measure by how much a class's share of any part differs from that of all images, at most (0
    to 1).
    """
    index, split = run.learned.index, run.learned.split
    counts = np.stack([np.bincount(index.labels[part], minlength=len(index.class_names))
                       for part in (split.train, split.validation, split.test)])  # fmt: skip
    shares = counts / np.maximum(counts.sum(axis=0), 1)
    return float(np.abs(shares - counts.sum(axis=1, keepdims=True) / counts.sum()).max())


def count_near_duplicates(run: Run) -> int | None:
    """Count the photos that show the same picture as another one of other bytes; None where nobody
    looked.
    """
    index = run.learned.index
    if index.pictures is None:
        return None
    firsts = np.unique(index.digests, axis=0, return_index=True)[1]
    pictures = index.pictures[firsts]
    return int((np.bincount(pictures)[pictures] > 1).sum())


def record_leaks(run: Run) -> dict[str, Any]:
    """Say how many validation and test images have a copy, near-duplicate or group in an earlier
    part.

    `test_without` is the accuracy on the other test images, None where there are no leaks.
    """
    split, measured = run.learned.split, run.measured
    leaks = run.crossed.leaks if run.crossed else split.leaks
    tested = measured.positions if run.crossed else split.test
    is_clean = ~np.isin(measured.positions, leaks)
    is_correct = (
        measured.probabilities.argmax(axis=1) == run.learned.index.labels[measured.positions]
    )
    return {
        "validation": int(np.isin(split.validation, leaks).sum()),
        "test": len(np.intersect1d(tested, leaks)),
        "test_without": None if is_clean.all() else record_share(is_correct[is_clean]),
    }


def list_skipped(run: Run) -> list[Skipped]:
    """List every file that was found and not used."""
    index, failures = run.learned.index, run.measured.failures
    return [*index.skipped, *(Skipped(index.names[at], failures[at]) for at in sorted(failures))]


def record_model(run: Run) -> dict[str, Any]:
    """Describe the network, its head and the choices that the validation images made."""
    learned = run.learned
    chosen = learned.chosen
    return {
        "network": learned.network_name,
        "weights": learned.pretrained.provenance,
        "head": chosen.name.split(",")[0],
        "views": VIEW_NAMES[chosen.views],
        "image_side": learned.pixels.side,
        "resize": learned.pixels.resize,
        "engine": learned.engine_name,
        "regularisation": chosen.penalty,
        "temperature": chosen.temperature,
        "file_bytes": len(learned.model),
        "agreement": measure_agreement(run),
        "candidates": [_record_candidate(candidate, chosen) for candidate in learned.candidates],
    }


def _record_candidate(candidate: Candidate, chosen: Candidate) -> dict[str, Any]:
    penalty = f", penalty {candidate.penalty:g}" if candidate.penalty else ""
    return {
        "name": candidate.name + penalty,
        "validation_accuracy": candidate.validation_accuracy,
        "seconds": round(candidate.seconds, 3),
        "chosen": candidate is chosen,
        "note": "" if candidate is chosen else candidate.explain_loss(chosen),
    }


def list_stages(run: Run) -> list[StageResult]:
    """List the stages of training, the chosen one with what its file was measured to be worth."""
    if run.crossed:  # folds judge the procedure, which need not choose the same stage each time
        return list(run.learned.stages)
    labels = run.learned.index.labels[run.measured.positions]
    is_correct = run.measured.probabilities.argmax(axis=1) == labels
    return [
        replace(stage, is_correct_test=is_correct) if stage.is_chosen else stage
        for stage in run.learned.stages
    ]


def record_stages(stages: Sequence[StageResult]) -> list[dict[str, Any]]:
    """Describe what each stage of fine-tuning reached, with 95 % intervals, and which one was
    kept.
    """
    return [
        {
            "name": stage.name,
            "validation": record_share(stage.is_correct_validation),
            "test": record_share(stage.is_correct_test),
            "seconds": round(stage.seconds, 3),
            "chosen": stage.is_chosen,
            "note": stage.note,
        }
        for stage in stages
    ]


def record_share(is_correct: NDArray[np.bool_] | None) -> dict[str, Any] | None:
    """Describe the share of images (n,) that are named right; None where there are none."""
    if is_correct is None or not len(is_correct):
        return None
    low, high = wilson_interval(int(is_correct.sum()), len(is_correct))
    return {
        "accuracy": float(is_correct.mean()),
        "low": low,
        "high": high,
        "images": len(is_correct),
    }


def record_timings(run: Run) -> list[dict[str, Any]]:
    """Tell how long each stage took, and when it was over, in seconds since the run began."""
    return [
        {"stage": event.stage, "seconds": round(event.seconds, 3), "ended_s": round(at, 3)}
        for event, at in run.heard
        if isinstance(event, StageFinished)
    ]


def record_plan(run: Run) -> dict[str, Any] | None:
    """Set the forecast that the run began with against what its parts took; None where no machine
    was measured.

    `changes` are the plans of the rest that were made on the way, each with the seconds since the
    run began.
    """
    plan = next((event for event, _ in run.heard if isinstance(event, PlanMade)), None)
    if plan is None:
        return None
    taken = {
        event.stage: event.seconds for event, _ in run.heard if isinstance(event, StageFinished)
    }
    # the forecast of near-duplicates counts the looks that are taken for them alone
    if NEAR_DUPLICATES in taken:
        taken[NEAR_DUPLICATES] += taken.get(LOOKS, 0.0)
    # the forecast of a stage of training counts its probe, its pixels and its judgement too
    taken |= {stage.name: stage.seconds for stage in run.learned.stages}
    names = plan.stages or [part for part, _ in plan.forecasts]
    parts = [
        {
            "part": part,
            "forecast_s": round(seconds, 3),
            "seconds": round(taken[name], 3) if name in taken else None,
        }
        for (part, seconds), name in zip(plan.forecasts, names, strict=True)
    ]
    changes = [
        {
            "at_s": round(at, 3),
            "parts": [{"part": part, "forecast_s": round(s, 3)} for part, s in event.forecasts],
        }
        for event, at in run.heard
        if isinstance(event, PlanChanged)
    ]
    shortage = plan.shortage and vars(plan.shortage) | {"words": plan.shortage.words}
    return {
        "budget_s": plan.budget_s,
        "forecast_s": round(plan.total_s, 3),
        "parts": parts,
        "changes": changes,
        "shortage": shortage,
    }


def record_history(run: Run) -> list[dict[str, Any]]:
    """Describe all epochs, each with the seconds since the run began, unknown for those before a
    run was resumed.
    """
    moments = {event: round(at, 3) for event, at in run.heard if isinstance(event, EpochFinished)}
    return [record_epoch(epoch) | {"ended_s": moments.get(epoch)} for epoch in run.learned.history]


def record_epoch(epoch: EpochFinished) -> dict[str, Any]:
    """Describe one epoch of a stage; a loss that is no number, which JSON does not know, is left
    open.
    """
    rounded = replace(
        epoch, images_per_s=round(epoch.images_per_s, 1), seconds=round(epoch.seconds, 3)
    )
    return {
        name: None if isinstance(value, float) and not isfinite(value) else value
        for name, value in vars(rounded).items()
    }


def measure_agreement(run: Run) -> dict[str, float]:
    """Compare the file's probabilities with those of the path that it was trained by, image by
    image.
    """
    measured = run.compared or run.measured
    trained = run.learned.recall(measured.positions)
    return {
        "top1": float((trained.argmax(axis=1) == measured.probabilities.argmax(axis=1)).mean()),
        "mean_difference": float(np.abs(trained - measured.probabilities).mean()),
    }
