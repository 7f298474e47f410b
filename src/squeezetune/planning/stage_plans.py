"""The stages that may train layers: which blocks, at which sizes, and for how many epochs in the
time that each is given.
"""

from collections.abc import Collection, Iterator
from dataclasses import replace
from math import ceil

from squeezetune.events import ALL_LAYERS, name_last
from squeezetune.finetune.recipe import (
    FROM_IMAGES,
    PROBE_IMAGES,
    Phase,
    StagePlan,
    choose_recipe,
)
from squeezetune.network.architecture import Architecture
from squeezetune.network.graph_layout import GraphLayout
from squeezetune.planning.costs import PLAIN_VIEWS, Timing, Workload, measure_room
from squeezetune.settings import Settings

# A thorough run shows this many training images to the network, and each of them at least and at
# most so many times.
THOROUGH_IMAGES = 300_000
FEWEST_EPOCHS, MOST_EPOCHS = 8.0, 60.0
# The first part of the work is done on smaller images, which takes a fraction of the time.
SMALL_SHARE, SMALL_SIDE = 0.5, 0.72
SIDE_STEP = 16
# With fewer epochs than this the whole training, and the network it makes, stays at the small size.
EPOCHS_FOR_FULL_SIDE = 3.0
# Less training than this is not worth loading torch for.
LEAST_TRAINING_S, LEAST_EPOCHS = 6.0, 0.4
# The last blocks: so many random views are kept of an image besides itself and its mirror image, if
# the disk has room for them and time lets each view be seen once.
EXTRA_VIEWS = 4
# When nobody asks for the last blocks, they are trained only where photos are seen at this size or
# more, as on smaller ones all layers are nearly as fast, and for at least so many epochs. Only
# budgets of so many seconds are worth the timing of it.
SIDE_FOR_LAST, EPOCHS_FOR_LAST, BUDGET_FOR_LAST_S = 192, 3.0, 120.0


def list_stages(
    work: Workload,
    settings: Settings,
    timing: Timing | None,
    left_s: float,
    done: Collection[str] = (),
) -> Iterator[tuple[StagePlan, ...]]:
    """List the stages of training, one after another, that are worth making in so many seconds,
    most wanted first.

    None of them is one whose first block is `done`, nor does any follow the training of all layers.
    There is none where it was not measured how fast layers are trained, since there would not have
    been time to. Where `timing` is None nobody has measured anything.
    """
    if FROM_IMAGES in done or (timing and not timing.speeds.trains_layers):
        return
    if settings.layers == "last":
        stage = plan_last(work, settings, timing, left_s) if not done else None
        yield from [(stage,)] if stage else []
        return
    whole = plan_stage(work, settings, timing, left_s)
    if settings.layers == "auto" and timing and timing.speeds.last_s and not done:
        yield from _list_with_last(settings, timing, left_s, whole)
    yield from [(whole,)] if whole else []


def _list_with_last(
    settings: Settings, timing: Timing, left_s: float, whole: StagePlan | None
) -> Iterator[tuple[StagePlan, ...]]:
    """List the plans with a stage of the last blocks that are better than all layers alone, as far
    as is known.

    Where all layers come to fewer epochs than pay, it is to be instead of them; and
    before them, where time would be left over. Both take nothing from the training of all layers as
    it would be without.
    """
    others = list[StagePlan]()
    if whole and whole.epochs >= timing.work.network.epochs_for_all:
        if whole.epochs < (settings.epochs or MOST_EPOCHS):
            return
        others, left_s = [whole], left_s - timing.forecast_stage(whole)
    last = plan_last(timing.work, settings, timing, left_s)
    if last and last.epochs >= EPOCHS_FOR_LAST:
        yield (last, *others)


def plan_stage(
    work: Workload, settings: Settings, timing: Timing | None, left_s: float
) -> StagePlan | None:
    """Plan the training of all layers, for what a budget leaves; None if that is not worth
    while.
    """
    most = choose_epochs(work, settings)
    recipe = choose_recipe(work.train, most, work.network)
    name, phases = ALL_LAYERS, plan_phases(work.side)
    if isinstance(work.network, GraphLayout):
        # its last blocks are trained from images as well, and it takes them in one size alone
        name, phases = name_graph_stage(settings, work.network), (Phase(work.side, 1.0),)
    stage = StagePlan(name, FROM_IMAGES, phases, most, recipe)
    if not settings.budget or timing is None:
        return stage
    if count_epochs(stage, timing, left_s) < EPOCHS_FOR_FULL_SIDE:
        stage = replace(stage, phases=(Phase(phases[0].side, 1.0),))
    return fit_stage(stage, settings, timing, left_s)


def name_graph_stage(settings: Settings, network: GraphLayout) -> str:
    """Name what is trained of a network that is a graph alone."""
    count = len(network.block_names) - network.frozen_blocks
    return name_last(count) if settings.layers == "last" else ALL_LAYERS


def plan_last(
    work: Workload, settings: Settings, timing: Timing | None, left_s: float
) -> StagePlan | None:
    """Plan the training of the last blocks from kept activations; None if a budget leaves too
    little time for it.

    More random views take a longer pass and more room on the disk, so there are no more than are
    seen once each.
    """
    network = work.network
    if not isinstance(network, Architecture):
        return plan_stage(work, settings, timing, left_s)
    count = settings.last_blocks or network.last_blocks
    most = choose_epochs(work, settings)
    phases = (Phase(work.side, 1.0),)
    stage = StagePlan(
        name_last(count),
        find_last_start(settings, network),
        phases,
        most,
        choose_recipe(work.train, most, network),
    )
    extra_views = max(
        0,
        min(
            EXTRA_VIEWS, work.room_bytes // max(1, measure_room(stage, work, network)) - PLAIN_VIEWS
        ),
    )
    if not settings.budget or timing is None:
        return replace(stage, extra_views=extra_views)
    for extra in range(extra_views, -1, -1):
        fitted = fit_stage(replace(stage, extra_views=extra), settings, timing, left_s)
        if fitted and (not extra or fitted.epochs >= PLAIN_VIEWS + extra):
            return fitted
    return None


def list_starts(settings: Settings, work: Workload, left_s: float) -> list[str]:
    """List the first blocks of the stages that may be planned for this work and so many seconds."""
    if not isinstance(work.network, Architecture):
        return [FROM_IMAGES]
    if settings.layers == "last":
        return [find_last_start(settings, work.network)]
    is_chosen_here = settings.layers == "auto" and bool(settings.budget)
    if is_chosen_here and work.side >= SIDE_FOR_LAST and left_s >= BUDGET_FOR_LAST_S:
        return [FROM_IMAGES, find_last_start(settings, work.network)]
    return [FROM_IMAGES]


def name_quick_head(settings: Settings) -> str:
    """Name the head that takes the least time, of those that the settings allow."""
    return "linear" if settings.head == "auto" else settings.head


def find_quick_share(work: Workload) -> float:
    """Find the share of the training images that the probe is fitted on, where the others can
    wait.
    """
    can_wait = work.train > PROBE_IMAGES and work.is_kept
    return 1 / ceil(work.train / PROBE_IMAGES) if can_wait else 1.0


def find_last_start(settings: Settings, network: Architecture) -> str:
    """Find the first of the last blocks."""
    return network.block_names[-(settings.last_blocks or network.last_blocks)]


def choose_epochs(work: Workload, settings: Settings) -> float:
    """Choose how often training sees each image where no time is set."""
    return settings.epochs or min(MOST_EPOCHS, max(FEWEST_EPOCHS, THOROUGH_IMAGES / work.train))


def fit_stage(
    stage: StagePlan, settings: Settings, timing: Timing, left_s: float
) -> StagePlan | None:
    """Give a stage as many epochs as fit into so many seconds; None if they are too few to be of
    use.
    """
    epochs = count_epochs(stage, timing, left_s)
    if epochs < LEAST_EPOCHS or epochs * timing.measure_epoch(stage) < LEAST_TRAINING_S:
        return None
    most, work = settings.epochs or MOST_EPOCHS, timing.work
    recipe = choose_recipe(work.train, epochs, work.network)
    return replace(stage, epochs=min(most, epochs), recipe=recipe)


def count_epochs(stage: StagePlan, timing: Timing, left_s: float) -> float:
    """Count the epochs of a stage that fit into so many seconds."""
    return (left_s - timing.forecast_frame(stage)) / timing.measure_epoch(stage)


def plan_phases(side: int) -> tuple[Phase, ...]:
    """Plan the image sizes: smaller ones first (Tan and Le 2021, EfficientNetV2, "progressive
    learning").
    """
    small = find_small_side(side)
    return (
        (Phase(small, SMALL_SHARE), Phase(side, 1 - SMALL_SHARE))
        if small < side
        else (Phase(side, 1.0),)
    )


def find_timed_side(work: Workload) -> int:
    """Find the side at which the training of all layers is timed: the smaller one, where the
    network takes it.
    """
    return work.side if isinstance(work.network, GraphLayout) else find_small_side(work.side)


def find_small_side(side: int) -> int:
    """Find the smaller size to train at."""
    return min(side, max(64, round(SMALL_SIDE * side / SIDE_STEP) * SIDE_STEP))
