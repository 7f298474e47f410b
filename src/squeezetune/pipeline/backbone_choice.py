"""Which pretrained network a training begins with, where that is left open: the small one, unless
another one's features tell the classes apart better by more than chance.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from squeezetune.data.index import ImageIndex
from squeezetune.data.split import Split
from squeezetune.errors import SettingsError
from squeezetune.events import (
    CHOOSING,
    FEATURES,
    HEAD,
    Event,
    Listener,
    Notice,
    StageAdvanced,
    ignore_event,
    tell_stage,
)
from squeezetune.heads.selection import hardly_doubts, is_clearly_less
from squeezetune.network.weights import find_architecture
from squeezetune.pipeline.context import RunContext
from squeezetune.pipeline.extraction import CutIndex
from squeezetune.pipeline.network_trial import Trial, draw_sample
from squeezetune.pipeline.preparation import PreparedRun, plan_prepared, prepare_run
from squeezetune.planning.costs import Timing
from squeezetune.planning.plan import SLACK, NetworkForecast, Plan, add_forecasts
from squeezetune.planning.planner import NO_LIMIT, TimeLimit, check_torch
from squeezetune.planning.speeds import measure_frozen
from squeezetune.planning.stage_plans import name_quick_head
from squeezetune.quantities import format_duration, parse_size
from squeezetune.settings import Settings
from squeezetune.system.checkpoint import NOTHING_KEPT, UnfinishedRun

# What is chosen from: the first, unless the second is surely better.
SMALL, LARGE = "squeezenet1_1", "efficientnet_lite0"
# Its losses have to be less by more than so many standard errors.
ERRORS = 1.0
# The second's layers, and heads on its features, take about so many times as long as the first's.
LARGE_TIMES, LARGE_HEAD_TIMES = 2.5, 1.3
# What comes before layers are trained may take this share of a budget.
MOST_SHARE = 0.4
# What a parameter takes in the smallest file (docs/decisions/0016), by all that a network has.
TINY_BYTES = 0.56


@dataclass(frozen=True)
class BackboneChoice:
    """What a training begins with: its context, in which the network is open no more, and its
    limit, which knows what was measured for the choice.

    `is_compared` says that the photos chose, and not the time or the memory that there is.
    """

    context: RunContext
    limit: TimeLimit
    is_compared: bool


def choose_backbone(
    index: ImageIndex,
    cut: CutIndex,
    context: RunContext,
    limit: TimeLimit = NO_LIMIT,
    unfinished: UnfinishedRun = NOTHING_KEPT,
) -> BackboneChoice:
    """Take the network whose frozen features tell the classes apart better, and say why.

    Both are judged on a sample of the training and the validation part, each image by linear heads
    that have not seen it, nor its group; the test part has no say. A run that is gone on with keeps
    its network.

    Raises:
        MissingExtraError: layers are to be trained, and torch is not installed.
        SettingsError: the run cannot fit under the ceiling of the settings.
        DataError: no image can be decoded, or too few of a class.
    """
    started = time.perf_counter()
    if known := recall_choice(context, unfinished):
        return BackboneChoice(known, limit, is_compared=True)
    trials, reason, limit = open_trials(index, cut(index), context, limit)
    taken = SMALL
    if len(trials) > 1:
        is_better, reason = compare(trials[0], trials[1], context.listen)
        taken = LARGE if is_better else SMALL
    context.listen(Notice(f"{name_title(taken)} is taken: {reason}"))
    limit = replace(limit.keep_speeds(taken), choosing_s=time.perf_counter() - started)
    return BackboneChoice(context.begin_with(taken), limit, is_compared=len(trials) > 1)


def forecast_choice(
    index: ImageIndex, split: Split, context: RunContext, limit: TimeLimit
) -> tuple[Plan, PreparedRun]:
    """Plan a run with each of the networks that it would choose from, and return the plan that
    takes longer, with the forecasts of both in its `networks`.

    Raises:
        MissingExtraError: layers are to be trained, and torch is not installed.
        SettingsError: the run cannot fit under the ceiling of the settings, or the budget is much
            too short.
        DataError: no image can be decoded, or too few of a class.
    """
    trials, reason, limit = open_trials(index, split, context, limit)
    plans = []
    for trial in trials:
        # the last plan is announced
        prepared = trial.tell(context.listen if trial is trials[-1] else ignore_event)
        plans.append(plan_prepared(prepared, limit.keep_speeds(trial.name), is_forecast=True)[0])
    if len(trials) < 2:
        context.listen(Notice(f"{name_title(SMALL)} is taken: {reason}"))
        return plans[0], trials[0].prepared
    pairs = list(zip(trials, plans, strict=True))
    choosing_s = sum(trial.forecast_judging(plan) for trial, plan in pairs)
    pairs = [(trial, trial.add_choosing(plan, choosing_s)) for trial, plan in pairs]
    networks = tuple(summarise_plan(trial.title, plan) for trial, plan in pairs)
    longest, plan = max(pairs, key=lambda pair: pair[1].total_s)
    return replace(plan, networks=networks), longest.prepared


def open_trials(
    index: ImageIndex, split: Split, context: RunContext, limit: TimeLimit
) -> tuple[list[Trial], str, TimeLimit]:
    """Make the networks ready that there is time and memory to try, the small one first; and say
    why it is alone. The limit knows then what was measured for that.
    """
    settings, sample = context.settings, draw_sample(index, split)
    check_torch(settings, ignore_event)  # before anything is computed
    silent = replace(context, listen=ignore_event)
    small = Trial(SMALL, prepare_run(index, split, silent.begin_with(SMALL)), sample)
    if settings.effort == "quick":
        return [small], "the effort is quick", limit
    if is_too_large(LARGE, settings):
        reason = f"no file of {name_title(LARGE)} is within {settings.max_model_size}"
        return [small], reason, limit
    try:
        large = Trial(LARGE, prepare_run(index, split, silent.begin_with(LARGE)), sample)
    except SettingsError:
        large = None
    if large is None or small.is_deep > large.is_deep:
        return [small], f"{settings.max_ram} of memory leave no room for {name_title(LARGE)}", limit
    if limit.is_set and not limit.speeds:
        speeds = measure_frozen(small.prepared.context.make_site(index, small.backbone))
        limit = replace(limit, frozen=speeds, network=SMALL)
        if not has_time(small, limit):
            reason = f"the budget leaves no time to try {name_title(LARGE)}"
            return [small], reason, limit
    return [small, large], "", limit


def is_too_large(name: str, settings: Settings) -> bool:
    """Say whether the smallest file of a network is larger than the settings allow."""
    limit = parse_size(settings.max_model_size)
    return limit is not None and find_architecture(name).size.parameters * TINY_BYTES > limit


def has_time(small: Trial, limit: TimeLimit) -> bool:
    """Say whether a budget has room to try the large network, and for a run with it."""
    prepared, backbone, speeds = small.prepared, small.backbone, limit.frozen
    if speeds is None:
        return True
    slow = replace(
        speeds,
        view_s=LARGE_TIMES * speeds.view_s,
        file_s=LARGE_TIMES * speeds.file_s,
        linear_s=LARGE_HEAD_TIMES * speeds.linear_s,
    )
    work, settings = prepared.count_work(backbone), prepared.settings
    plain = Plan(backbone.views, name_quick_head(settings))
    own, other = (add_forecasts(plain, Timing(work, each)) for each in (speeds, slow))
    needed_s = other.total_s + small.forecast_judging(own) + small.forecast_judging(other)
    return needed_s <= limit.left_s() * (MOST_SHARE if small.is_deep else 1 / (1 + SLACK))


def compare(small: Trial, large: Trial, listen: Listener) -> tuple[bool, str]:
    """Say whether the large network is better than the small one, and why it is taken, or not."""
    count = len(small.sample)
    with tell_stage(CHOOSING, listen, 2 * count) as advance:
        own = small.judge(pass_steps(advance, listen, 0))
        if hardly_doubts(own.losses):
            advance(2 * count)
            return False, f"it hardly doubts any of {len(own.losses):,} photos"
        other = large.judge(pass_steps(advance, listen, count))
    shared = np.intersect1d(own.positions, other.positions)
    speeds = (own.image_s, other.image_s)
    own, other = own.take(shared), other.take(shared)
    more = int(other.is_right.sum()) - int(own.is_right.sum())
    units = small.prepared.split.find_units(shared)
    is_better = more >= 0 and is_clearly_less(other.losses, own.losses, units, ERRORS)
    reason = (
        f"of {len(shared):,} photos, each named by heads that have not seen it, {large.title} has "
        f"{other.is_right.mean():.1%} right, and {small.title} {own.is_right.mean():.1%}"
        f"{'' if is_better else ', which is not surely less'}"
    )
    images = len(small.prepared.index)
    if all(speeds):
        small_s, large_s = (format_duration(images * (speed or 0.0)) for speed in speeds)
        reason += (
            f"; {large.title} looks at all {images:,} in about {large_s}, {small.title} in "
            f"{small_s}"
        )
    return is_better, reason


def pass_steps(advance: Callable[[int], None], listen: Listener, before: int) -> Listener:
    """Tell the photos that are looked at as steps of the choice, after so many before; and pass
    notices on.
    """

    def hear(event: Event) -> None:
        if isinstance(event, StageAdvanced) and event.stage == FEATURES:
            advance(before + event.done)
        elif isinstance(event, Notice):
            listen(event)

    return hear


def recall_choice(context: RunContext, unfinished: UnfinishedRun) -> RunContext | None:
    """Take the network of the training that is gone on with, None where there is none."""
    kept = unfinished.folder.load() if unfinished.folder and unfinished.is_resuming else None
    if kept is None:
        return None
    settings = kept.about.get("identity", {}).get("settings", {})
    named = (context.begin_with(name) for name in (SMALL, LARGE))
    return next((each for each in named if each.pretrained.sha256 == settings.get("weights")), None)


def summarise_plan(title: str, plan: Plan) -> NetworkForecast:
    """Tell what a network's plan takes: features, training, and all."""
    seconds = {item.part: item.seconds for item in plan.forecasts}
    training_s = seconds.get(HEAD, 0.0) + sum(seconds[stage.title] for stage in plan.stages)
    return NetworkForecast(title, seconds.get(FEATURES, 0.0), training_s, plan.total_s)


def name_title(name: str) -> str:
    """Name a network for people."""
    return find_architecture(name).title
