"""One stage of training layers: from the head, or the best so far, to trained layers, and what it
leaves.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from threadpoolctl import threadpool_limits

from squeezetune.data.image_cache import choose_pixel_side, compute_pixel_rows, open_pixel_store
from squeezetune.data.index import ImageIndex
from squeezetune.data.pixels import PixelSettings
from squeezetune.data.split import Split
from squeezetune.finetune.recipe import (
    PROBE_IMAGES,
    DeadlinePace,
    Ending,
    EpochPace,
    StagePlan,
    StageProgress,
)
from squeezetune.heads.candidate import Candidate
from squeezetune.heads.linear import (
    DenseWeights,
    WeightedRows,
    fit_linear,
    fit_temperature,
    measure_loss,
)
from squeezetune.heads.scaling import Scaling, measure_scaling
from squeezetune.heads.selection import PENALTY, Head, weigh_classes
from squeezetune.network.backbone import GUARD_IMAGES, Backbone
from squeezetune.network.features import Features
from squeezetune.network.pretrained import round_weights
from squeezetune.network.weights import Weights, detect_architecture
from squeezetune.pipeline.context import RunContext
from squeezetune.pipeline.preparation import draw_sample
from squeezetune.pipeline.trained_stage import TrainedStage, find_best
from squeezetune.planning.stage_plans import MOST_EPOCHS
from squeezetune.settings import Settings
from squeezetune.system.checkpoint import NOTHING_KEPT, CheckpointWriter, UnfinishedRun
from squeezetune.system.disk import cache_or_temporary
from squeezetune.system.interrupts import catch_interrupts
from squeezetune.system.machine import name_version
from squeezetune.system.scratch import IN_MEMORY, Scratch, Selection

if TYPE_CHECKING:
    from squeezetune.finetune.batches import BatchSource
    from squeezetune.finetune.loop import FinetuneResult
    from squeezetune.finetune.trainable import TransferNetwork
    from squeezetune.finetune.workers import TrainingTask as TuningTask


@dataclass(frozen=True)
class StageInputs:
    """What fine-tuning stands on: the photos, their split, and what the frozen layers made of
    them.
    """

    index: ImageIndex
    split: Split
    features: Features
    backbone: Backbone
    weights: Weights
    head: Head
    scratch: Scratch = IN_MEMORY

    @property
    def views(self) -> int:
        """How many views of an image are averaged: the mirror image takes part unless it did
        harm.
        """
        return min(2, self.head.views)


def train_stage(
    inputs: StageInputs,
    plan: StagePlan,
    context: RunContext,
    earlier: tuple[TrainedStage, ...] = (),
    ending: Ending | None = None,
    unfinished: UnfinishedRun = NOTHING_KEPT,
) -> TrainedStage:
    """Train the layers as planned, from the best so far, or go on where an unfinished run stopped.

    It begins with the best of the `earlier` stages, or with a linear probe where none of them
    helped. With an `ending` it takes its last step in time for what follows.

    Raises:
        MissingExtraError: torch is not installed.
        DataError: a photo that could be read before cannot be read any more.
        CheckpointError: the unfinished run is of other photos or settings.
        Stopped: somebody asked to stop before anything was trained.

    """
    from squeezetune.finetune.loop import tune
    from squeezetune.finetune.state import SnapshotWriter, load_kept
    from squeezetune.finetune.teachers import add_teacher
    from squeezetune.finetune.workers import TrainerOptions, recall_precision

    start, settings, listen = time.perf_counter(), context.settings, context.listen
    identity = identify_stage(inputs, context)
    found = load_kept(unfinished, identity)
    is_described = context.pretrained.is_described
    precision = recall_precision(context.cache, is_described=is_described)
    kept, plan, precision = found or (None, plan, precision)
    network = build_tapped(inputs, plan, context, find_best(earlier, inputs.head.chosen))
    with ExitStack() as stack:
        interruption = stack.enter_context(catch_interrupts(listen))
        feed = stack.enter_context(
            open_feed(inputs, plan, replace(context, listen=interruption.tell))
        )
        task = make_task(inputs, feed, settings)
        if teaching := context.teaching:
            task = add_teacher(task, teaching, network.layout, context.threads)
        keep = None
        if unfinished.folder:
            writer = stack.enter_context(CheckpointWriter(unfinished.folder, listen))
            finished = tuple(stage.to_plain() for stage in earlier)
            keep = SnapshotWriter(writer, identity, plan, precision, finished).keep
        conditions = TrainerOptions(
            plan.name,
            settings.seed,
            context.threads,
            precision,
            listen,
            interruption.poll,
            context.micro_pixels,
        )
        pace = make_pace(plan, len(task.train) // plan.recipe.batch, settings, ending)
        tuned = tune(network, task, plan, pace, conditions, kept, keep)
    return judge(inputs, plan, network, tuned, time.perf_counter() - start)


def resume_stages(
    inputs: StageInputs, context: RunContext, unfinished: UnfinishedRun
) -> tuple[TrainedStage, ...]:
    """Load the stages that an unfinished run had finished; none where nothing is to be gone on
    with.

    Raises:
        CheckpointError: it is of other photos or settings.

    """
    from squeezetune.finetune.state import load_earlier

    finished = load_earlier(unfinished, identify_stage(inputs, context))
    return tuple(TrainedStage.from_plain(arrays, plain) for arrays, plain in finished)


def make_pace(
    plan: StagePlan, steps: int, settings: Settings, ending: Ending | None
) -> StageProgress:
    """Say how the training gets on: by its epochs, or so that it ends in time."""
    steps = max(1, steps)
    if ending is None:
        return EpochPace(steps, plan.epochs, plan.side)
    # the plan's epochs were a forecast: a faster machine makes more of them
    return DeadlinePace(EpochPace(steps, settings.epochs or MOST_EPOCHS, plan.side), ending)


def identify_stage(inputs: StageInputs, context: RunContext) -> dict[str, Any]:
    """Name all that the trained network depends on, so that an unfinished run goes on with the same
    only.

    The plan is not among it: it follows from the rest, but that one which fills a budget is another
    one each time, and that the room on the disk limits the random views. The unfinished run's own
    is gone on with.
    """
    return {
        "version": name_version(),
        **context.identify_run(inputs.index),
        "frozen layers": inputs.backbone.key,
        "images": len(inputs.split.train),
        "torch": version("torch"),
    }


def build_tapped(
    inputs: StageInputs, plan: StagePlan, context: RunContext, origin: TrainedStage | None
) -> "TransferNetwork":
    """Build the network as an earlier stage left it, or with the pretrained layers and a linear
    probe behind them.

    Raises:
        WeightsError: it is a graph alone, which torch does not compute as ONNX Runtime does.
    """
    from squeezetune.finetune.graph_network import GraphNetwork, check_features
    from squeezetune.finetune.trainable import build_trainable

    if origin:
        scaling, ((weight, bias),) = origin.scaling, origin.candidate.layers
    else:
        scaling, ((weight, bias),) = fit_probe(inputs, context.settings, context.threads)
    network = build_trainable(
        context.pretrained,
        len(inputs.index.class_names),
        plan.start,
        plan.recipe.frozen_blocks,
        origin.weights if origin else None,
    )
    if isinstance(network, GraphNetwork):
        _, pixels = draw_sample(inputs.index, inputs.split.train, inputs.backbone.pixels)
        check_features(network, pixels[-GUARD_IMAGES:])
    network.set_classifier(scaling, weight, bias)
    return network


def fit_probe(
    inputs: StageInputs, settings: Settings, threads: int
) -> tuple[Scaling, DenseWeights]:
    """Fit a linear classifier on standardised features, whose roots fine-tuning could not bear near
    zero.
    """
    step = -(-len(inputs.split.train) // PROBE_IMAGES)
    chosen = inputs.split.train[::step]
    chosen = chosen[
        inputs.features.sizes[chosen].min(axis=1) > 0
    ]  # a budget may have left some out
    features, labels = Selection(inputs.features.values, chosen), inputs.index.labels[chosen]
    scaling = measure_scaling(features, use_roots=False, views=inputs.views)
    class_weights = weigh_classes(labels, len(inputs.index.class_names), settings.class_weight)
    rows = scaling.spread(features, inputs.scratch, inputs.views).reshape(
        len(labels) * inputs.views, -1
    )
    task = WeightedRows(rows, np.repeat(labels, inputs.views), class_weights)
    with threadpool_limits(1):  # our own threads share the work
        return scaling, fit_linear(task, PENALTY * inputs.views, threads=threads)


@contextmanager
def open_feed(inputs: StageInputs, plan: StagePlan, context: RunContext) -> Iterator["BatchSource"]:
    """Give what training reads: kept pixels, or what the frozen blocks make of them, in the cache
    or a folder for now.

    Neither is held in memory.
    """
    used = np.union1d(inputs.split.train, inputs.split.validation)
    with cache_or_temporary(context.cache) as folder:
        if plan.is_whole:
            yield feed_pixels(inputs, plan, context, folder, used)
        else:
            yield feed_activations(inputs, plan, context, folder, used)


def feed_pixels(
    inputs: StageInputs,
    plan: StagePlan,
    context: RunContext,
    folder: Path,
    used: NDArray[np.int64],
) -> "BatchSource":
    """Keep the pixels of the images that take part, a little larger than they are trained at."""
    from squeezetune.finetune.batches import PixelBatches

    pixels = PixelSettings(
        choose_pixel_side(plan.side, inputs.features.sizes[used]), context.settings.resize
    )
    store = open_pixel_store(folder, pixels)
    rows = compute_pixel_rows(inputs.index, pixels, store, context.executor, context.listen, used)
    # photos whose mirror image did harm, such as writing, are not mirrored in training either
    augmentation = replace(plan.recipe.augmentation, mirror=inputs.views == 2)
    return PixelBatches(rows, augmentation, context.pretrained.layout)


def feed_activations(
    inputs: StageInputs,
    plan: StagePlan,
    context: RunContext,
    folder: Path,
    used: NDArray[np.int64],
) -> "BatchSource":
    """Keep what the block before the first trained one makes of the images that take part, in
    several views.
    """
    from squeezetune.finetune.batches import ActivationBatches
    from squeezetune.network.activations import (
        ActivationOptions,
        choose_kind,
        compute_activations,
        draw_unmirrored_view,
        draw_view,
        prepare_activations,
    )

    network = detect_architecture(inputs.weights)
    block = network.name_before(plan.start)
    # photos whose mirror image did harm, such as writing, are not mirrored in training either
    draw_extra = draw_view if inputs.views == 2 else draw_unmirrored_view
    options = ActivationOptions(
        block,
        choose_kind(network, block),
        inputs.views,
        plan.extra_views,
        context.settings.seed,
        context.threads,
        draw_extra,
    )

    def draw() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        return draw_sample(inputs.index, inputs.split.train, inputs.backbone.pixels)

    frozen = prepare_activations(
        inputs.weights, inputs.backbone, options, inputs.index, draw, context.cache
    )
    store = frozen.open_store(folder)
    return ActivationBatches(
        compute_activations(inputs.index, frozen, store, context.executor, context.listen, used)
    )


def make_task(inputs: StageInputs, feed: "BatchSource", settings: Settings) -> "TuningTask":
    """Say what is to be learnt from which photos."""
    from squeezetune.finetune.workers import TrainingTask as TuningTask

    index, split = inputs.index, inputs.split
    class_weights = weigh_classes(
        index.labels[split.train], len(index.class_names), settings.class_weight
    )
    return TuningTask(
        feed, index.labels, split.train, split.validation, class_weights, inputs.views
    )


def judge(
    inputs: StageInputs,
    plan: StagePlan,
    network: "TransferNetwork",
    tuned: "FinetuneResult",
    seconds: float,
) -> TrainedStage:
    """Turn what training left into arrays that need no torch, and judge it on the validation
    images.
    """
    labels = inputs.index.labels[inputs.split.validation]
    temperature = fit_temperature(tuned.logits, labels)
    scaling, layers, weights = network.to_arrays(tuned.parameters)
    candidate = Candidate(
        plan.name,
        layers,
        inputs.views,
        None,
        tuned.logits.argmax(axis=1) == labels,
        measure_loss(tuned.logits, labels, temperature),
        temperature,
        seconds,
        tuned.history,
        inputs.split.find_units(inputs.split.validation),
    )
    probabilities = softmax(tuned.logits / temperature, axis=1).astype(np.float32)
    # those of a graph stay float32: its features may differ by less than float16 tells apart
    kept = round_weights(weights) if inputs.weights else weights
    return TrainedStage(plan, candidate, scaling, kept, probabilities, tuned.is_finished)
