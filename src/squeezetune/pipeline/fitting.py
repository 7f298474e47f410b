"""An index and its split become a trained network, its out-of-distribution score and its files."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from squeezetune.data.index import ImageIndex
from squeezetune.events import FAMILIARITY, PREPARING, tell_stage
from squeezetune.heads.familiarity import Familiarity, fit_discriminants, weigh_parts
from squeezetune.heads.head_data import apply_to_views
from squeezetune.heads.linear import Rows
from squeezetune.heads.scaling import transform
from squeezetune.heads.selection import Head, LabelledFeatures, fit_head
from squeezetune.model.artifact import Manifest
from squeezetune.model.rejection import tabulate_confidences, tabulate_scores
from squeezetune.network.backbone import FLOAT_RUNTIME, Backbone
from squeezetune.network.features import run_batch
from squeezetune.network.float_layers import store_floats
from squeezetune.network.foreign_network import ForeignNetwork
from squeezetune.network.graph import WeightFormat, build_features
from squeezetune.network.trained import TrainedNetwork, pack_network
from squeezetune.pipeline.backbone_choice import choose_backbone
from squeezetune.pipeline.context import RunContext
from squeezetune.pipeline.extraction import CutIndex, ExtractedFeatures, extract_features
from squeezetune.pipeline.original import OriginalResult, learn_original, pack_files
from squeezetune.pipeline.preparation import plan_prepared, prepare_run
from squeezetune.pipeline.result import TrainingResult, TransferResult
from squeezetune.pipeline.stage import StageInputs
from squeezetune.pipeline.stages import train_stages
from squeezetune.planning.costs import FAMILIAR_IMAGES
from squeezetune.planning.planner import TimeLimit, limit_time, renew_head
from squeezetune.settings import Settings
from squeezetune.system.checkpoint import NOTHING_KEPT, UnfinishedRun
from squeezetune.system.disk import cache_or_temporary
from squeezetune.system.machine import list_libraries, name_version
from squeezetune.system.scratch import Scratch, Selection, list_blocks

# So many photos are enough, of those that were learnt and of those that were not.
LEARNT_IMAGES, JUDGING_IMAGES = 3000, 1000
# Fewer of those that were not learnt cannot tell what is unusual.
LEAST_JUDGING = 10


# What a network's classifier reads of some images: their positions (n,), and the rows (n, views,
# features).
NetworkFeatures: TypeAlias = tuple[NDArray[np.int64], Rows]


def fit_familiarity(
    learned: TransferResult, network: TrainedNetwork, context: RunContext
) -> tuple[Familiarity, NDArray[np.float32]] | None:
    """Find out how the features of photos lie that were learnt, and how familiar others look: also
    the scores (n,) of these.

    None where too few photos were held back to tell.
    """
    judging = learned.split.validation
    if len(judging) < LEAST_JUDGING:
        return None
    if learned.best:
        parts = [thin(learned.split.train, FAMILIAR_IMAGES), thin(judging, FAMILIAR_IMAGES)]
        learnt, others = recompute_features(learned, network, parts, context)
    else:
        learnt = recall_features(learned, network, thin(learned.extracted.seen, LEARNT_IMAGES))
        others = recall_features(learned, network, thin(judging, JUDGING_IMAGES))
    (positions, rows), (held_back, unseen) = learnt, others
    labels = learned.index.labels[positions]
    if len(np.unique(labels)) < 2 or len(held_back) < LEAST_JUDGING:
        return None
    with threadpool_limits(1):  # threads of BLAS stall when the machine is busy
        discriminants = fit_discriminants(rows.mean(axis=1), labels)
        logits = apply_to_views(network.head, unseen)
        familiarity = weigh_parts(discriminants, unseen, logits)
        return familiarity, familiarity.score(unseen, logits)


def thin(positions: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Take at most so many positions, evenly."""
    return positions[:: -(-len(positions) // most)] if len(positions) else positions


def recall_features(
    learned: TransferResult, network: TrainedNetwork, positions: NDArray[np.int64]
) -> NetworkFeatures:
    """Take the features that the frozen layers gave."""
    values = learned.features.values
    parts = [transform(values[positions[block]][:, : network.views], use_roots=network.use_roots)
             for block in list_blocks(len(positions))]  # fmt: skip
    return positions, np.concatenate(parts)


def recompute_features(
    learned: TransferResult,
    network: TrainedNetwork,
    parts: list[NDArray[np.int64]],
    context: RunContext,
) -> list[NetworkFeatures]:
    """Run layers that were trained over some photos, part by part; those that cannot be read any
    more are left out.
    """
    done, found = 0, list[NetworkFeatures]()
    with tell_stage(FAMILIARITY, context.listen, sum(map(len, parts))) as advance:
        layers, views = network.freeze(WeightFormat(store_floats)), network.views
        graph = build_features(layers, views)
        backbone = Backbone(graph, FLOAT_RUNTIME, learned.pixels, views, layers.feature_count)
        look = partial(run_batch, learned.index, backbone, backbone.open(context.threads))
        size = backbone.batch_size
        for positions in parts:
            pieces = [positions[at : at + size] for at in range(0, len(positions), size)]
            batches = []
            for batch in context.executor.map(look, pieces):
                batches.append(batch)
                done += len(batch.positions) + len(batch.failures)
                advance(done)
            values = np.concatenate([batch.rows[-1] for batch in batches])
            known = np.concatenate([batch.positions for batch in batches])
            found.append((known, transform(values, use_roots=network.use_roots)))
    return found


def fit_classifier(
    index: ImageIndex,
    cut: CutIndex,
    context: RunContext,
    limit: TimeLimit | None = None,
    unfinished: UnfinishedRun = NOTHING_KEPT,
    *,
    is_forecast: bool = False,
) -> TransferResult:
    """Run the frozen layers once over every image, fit the head, and train layers where the
    settings ask for it; the network is chosen first where that is open.

    Without a `limit` a budget is counted from now. With `is_forecast` it is told beforehand how
    long everything takes, also where there is no budget. The training of layers is kept where
    `unfinished` says, and may be gone on with.

    Raises:
        SettingsError: the run cannot fit under the ceiling of the settings.
        DataError: no image can be decoded, or too few of a class.

    """
    limit = limit or limit_time(context.settings)
    if context.settings.is_backbone_open:
        # features are computed once even where nothing may be kept
        with cache_or_temporary(context.cache) as folder:
            opened = replace(context, cache=folder)
            chosen = choose_backbone(index, cut, opened, limit, unfinished)
            context, limit = chosen.context, chosen.limit
            return fit_classifier(index, cut, context, limit, unfinished, is_forecast=is_forecast)
    with tell_stage(PREPARING, context.listen):
        prepared = prepare_run(index, cut(index), context)
        context, settings = prepared.context, prepared.settings
        plan, backbone = plan_prepared(prepared, limit, is_forecast=is_forecast)
    scratch = prepared.open_scratch()
    extracted, plan = extract_features(prepared, cut, plan, backbone, scratch)
    plan = renew_head(plan, settings, limit.left_s()) if limit.is_set else plan
    head = fit_frozen_head(extracted, replace(settings, head=plan.head), context, scratch)
    weights, features = context.pretrained.weights, extracted.features
    inputs = StageInputs(
        extracted.index, extracted.split, features, backbone, weights, head, scratch
    )
    trained, is_finished = train_stages(inputs, plan, context, limit, unfinished)
    return make_files(
        TransferResult(extracted, backbone, head, context.pretrained, trained, is_finished), context
    )


def fit_frozen_head(
    extracted: ExtractedFeatures, settings: Settings, context: RunContext, scratch: Scratch
) -> Head:
    """Fit the head on the features of the frozen layers."""
    index, values = extracted.index, extracted.features.values
    train, validation = (
        LabelledFeatures(
            Selection(values, part), index.labels[part], extracted.split.find_units(part)
        )
        for part in (extracted.seen, extracted.split.validation)
    )
    # our own threads share the work: those of BLAS stall when the machine is busy
    with threadpool_limits(1):
        return fit_head(
            train,
            validation,
            len(index.class_names),
            settings,
            context.listen,
            threads=context.threads,
            scratch=scratch,
        )


def learn_as_original(
    index: ImageIndex,
    cut: CutIndex,
    context: RunContext,
    limit: TimeLimit | None = None,
    unfinished: UnfinishedRun = NOTHING_KEPT,
) -> OriginalResult:
    """Train as the original work did, whatever that takes; `limit` means nothing here.

    Raises:
        MissingExtraError: torch is not installed.
        DataError: no image can be decoded, or too few of a class.

    """
    learned = learn_original(index, cut, context, unfinished)
    return pack_files(learned, describe_model(learned))


# The setting `recipe` says which of them trains.
RECIPES: dict[
    str,
    Callable[[ImageIndex, CutIndex, RunContext, TimeLimit | None, UnfinishedRun], TrainingResult],
] = {
    "auto": fit_classifier,
    "original": learn_as_original,
}


def make_files(learned: TransferResult, context: RunContext) -> TransferResult:
    """Write the better network as `model.onnx`, which also says how familiar an image looks, and
    its parameters.
    """
    pretrained, pixels, views = context.pretrained, learned.pixels, learned.chosen.views
    weights, layers, use_roots = pretrained.weights, learned.head.layers, True
    foreign = pretrained if isinstance(pretrained, ForeignNetwork) else None
    if best := learned.best:
        layers, use_roots = best.layers, False
        weights = {} if foreign else best.weights
        foreign = foreign and foreign.replace_parameters(best.weights)
    network = TrainedNetwork(
        weights,
        layers,
        views,
        pixels.side,
        pixels.resize,
        use_roots,
        foreign=foreign,
    )
    familiarity, scores = fit_familiarity(learned, network, context) or (None, None)
    model = network.build_model(describe_model(learned), familiarity=familiarity)
    table = {} if scores is None else tabulate_scores(scores, "validation")
    return replace(learned, model=model, network=pack_network(network), familiarities=table)


def describe_model(learned: TrainingResult) -> dict[str, str]:
    """Make the metadata of `model.onnx`, so that the file explains itself."""
    weights = learned.pretrained.provenance
    return {
        "class_names": json.dumps(learned.index.class_names),
        "data_fingerprint": learned.index.fingerprint,
        "image_side": str(learned.pixels.side),
        "resize": learned.pixels.resize,
        "views": str(learned.chosen.views),
        "network": learned.pretrained.network,
        "weights": weights["origin"],
        "weights_sha256": weights["sha256"],
        "license": f"weights {weights['license']}; the photos' owner decides on the rest",
    }


def make_manifest(
    learned: TrainingResult, settings: Settings, crossed: NDArray[np.float32] | None = None
) -> Manifest:
    """Say what the model is and what it was made from.

    `crossed` are the probabilities (n, classes) of photos by models of folds that had not seen
    them, if there are any.
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
        weights=learned.pretrained.provenance,
        confidences=measure_confidences(learned, crossed),
        familiarities=learned.familiarities,
    )


def measure_confidences(
    learned: TrainingResult, crossed: NDArray[np.float32] | None
) -> dict[str, Any]:
    """Tabulate how sure the network is of photos that it has not learnt; nothing where none are
    known.
    """
    judging = learned.split.validation
    if len(judging) and learned.knows(judging):
        return tabulate_confidences(learned.recall(judging), "validation")
    return {} if crossed is None else tabulate_confidences(crossed, "folds")
