"""An index and its split -> a trained network and the file that predicts with it."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from squeezetune.acquaintance import get_acquainted
from squeezetune.artifact import Manifest
from squeezetune.course import train_stages
from squeezetune.data.index import ImageIndex
from squeezetune.deepening import Ground
from squeezetune.events import PREPARING, tell_stage
from squeezetune.learn.head import LabelledFeatures, fit_head
from squeezetune.learn.trained import TrainedNetwork, pack_network
from squeezetune.learned import Learned, Trained
from squeezetune.machine import list_libraries, name_version
from squeezetune.original import LearnedOriginal, learn_original, pack_files
from squeezetune.planner import renew_head
from squeezetune.rejection import tabulate_confidences, tabulate_scores
from squeezetune.scene import find_deadline, open_scene, plan_run
from squeezetune.scratch import Selection
from squeezetune.settings import Settings
from squeezetune.survey import CutIndex, survey_images
from squeezetune.workshop import Workshop


def learn_classifier(index: ImageIndex, cut: CutIndex, workshop: Workshop, started: float | None = None) -> Learned:
    """Run the frozen layers once over every image, fit the head, and train layers where the settings ask for it.

    A budget is counted from the moment `started`, by `time.perf_counter`; otherwise from now.

    Raises:
        SettingsError: the run cannot fit under the ceiling of the settings.
        DataError: no image can be decoded, or too few of a class.

    """
    with tell_stage(PREPARING, workshop.listen):
        scene = open_scene(index, cut(index), workshop)
        workshop, settings, weights = scene.workshop, scene.settings, workshop.pretrained.weights
        deadline = workshop.run_ends or find_deadline(settings, started)
        plan, trunk = plan_run(scene, deadline, started=started)
    scratch = scene.open_scratch()
    survey, plan = survey_images(scene, cut, plan, trunk, scratch)
    plan = plan if deadline is None else renew_head(plan, settings, deadline - time.perf_counter())
    index, features = survey.index, survey.features
    train, validation = (
        LabelledFeatures(Selection(features.values, part), index.labels[part], survey.split.find_units(part))
        for part in (survey.seen, survey.split.validation)
    )
    with threadpool_limits(1):  # our own threads share the work: those of BLAS stall when the machine is busy
        head = fit_head(
            train,
            validation,
            len(index.class_names),
            replace(settings, head=plan.head),
            workshop.listen,
            threads=workshop.threads,
            scratch=scratch,
        )
    ground = Ground(index, survey.split, features, trunk, weights, head, scratch)
    trained, is_finished = train_stages(ground, plan, workshop, deadline)
    return make_files(Learned(survey, trunk, head, workshop.pretrained, trained, is_finished), workshop)


def learn_as_original(
    index: ImageIndex, cut: CutIndex, workshop: Workshop, started: float | None = None
) -> LearnedOriginal:
    """Train as the original work did, whatever that takes; `started` means nothing here.

    Raises:
        MissingExtraError: torch is not installed.
        DataError: no image can be decoded, or too few of a class.

    """
    learned = learn_original(index, cut, workshop)
    return pack_files(learned, describe_model(learned))


# The setting `recipe` says which of them trains.
RECIPES: dict[str, Callable[[ImageIndex, CutIndex, Workshop, float | None], Trained]] = {
    "auto": learn_classifier,
    "original": learn_as_original,
}


def make_files(learned: Learned, workshop: Workshop) -> Learned:
    """Write the better network as `model.onnx`, which also says how familiar an image looks, and its parameters."""
    weights, layers, use_roots = workshop.pretrained.weights, learned.head.layers, True
    if best := learned.best:
        weights, layers, use_roots = best.weights, best.layers, False
    pixels = learned.pixels
    network = TrainedNetwork(weights, layers, learned.chosen.views, pixels.side, pixels.resize, use_roots)
    known = get_acquainted(learned, network, workshop)
    model = network.build_model(describe_model(learned), familiarity=known.familiarity if known else None)
    table = tabulate_scores(known.scores, "validation") if known else {}
    return replace(learned, model=model, network=pack_network(network), familiarities=table)


def describe_model(learned: Trained) -> dict[str, str]:
    """Make the metadata of `model.onnx`, so that the file explains itself."""
    return {
        "class_names": json.dumps(learned.index.class_names),
        "data_fingerprint": learned.index.fingerprint,
        "image_side": str(learned.pixels.side),
        "resize": learned.pixels.resize,
        "views": str(learned.chosen.views),
        "network": learned.pretrained.network,
        "weights": learned.pretrained.origin,
        "weights_sha256": learned.pretrained.sha256,
        "license": f"weights {learned.pretrained.license}; the photos' owner decides on the rest",
    }


def make_manifest(learned: Trained, settings: Settings, crossed: NDArray[np.float32] | None = None) -> Manifest:
    """Say what the model is and what it was made from.

    `crossed` are the probabilities (n, classes) of photos by models of folds that had not seen them, if there are any.
    """
    index, split = learned.index, learned.split
    return Manifest(
        class_names=index.class_names,
        image_side=learned.pixels.side,
        resize=learned.pixels.resize,
        views=learned.chosen.views,
        settings=settings.to_dict(),
        data={
            "fingerprint": index.fingerprint,
            "train": len(split.train),
            "validation": len(split.validation),
            "test": len(split.test),
        },
        libraries=list_libraries(),
        version=name_version(),
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        weights=learned.pretrained.describe(),
        confidences=measure_confidences(learned, crossed),
        familiarities=learned.familiarities,
    )


def measure_confidences(learned: Trained, crossed: NDArray[np.float32] | None) -> dict[str, Any]:
    """Tabulate how sure the network is of photos that it has not learnt; nothing where none are known."""
    judging = learned.split.validation
    if len(judging) and learned.knows(judging):
        return tabulate_confidences(learned.recall(judging), "validation")
    return {} if crossed is None else tabulate_confidences(crossed, "folds")
