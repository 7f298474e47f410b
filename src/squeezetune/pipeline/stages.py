"""The planned stages of fine-tuning in order; the rest is planned anew before each."""

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from squeezetune.events import PlanChanged
from squeezetune.finetune.recipe import Ending, StagePlan, choose_recipe
from squeezetune.heads.candidate import Candidate, StageResult
from squeezetune.heads.selection import Head
from squeezetune.pipeline.context import RunContext
from squeezetune.pipeline.stage import (
    StageInputs,
    TrainedStage,
    find_best,
    resume_stages,
    train_stage,
)
from squeezetune.planning.costs import forecast_judgement, forecast_stage, measure_image
from squeezetune.planning.plan import Plan
from squeezetune.planning.planner import is_trainable, is_worth_timing, note_training, plan_rest
from squeezetune.planning.speeds import BenchmarkSetup, measure_training
from squeezetune.planning.stage_plans import find_small_side, list_starts
from squeezetune.system.interrupts import Stopped

# What follows training is not adjusted by any clock, and takes somewhat longer than forecast more
# often than not.
AFTER_TIMES = 1.1
# A plan is another one, of which people are told, if a stage has so much less or more to do.
SAME_EPOCHS = (0.75, 1.33)


def train_stages(
    ground: StageInputs, plan: Plan, context: RunContext, deadline: float | None
) -> tuple[tuple[TrainedStage, ...], bool]:
    """Train the stages that are planned, or go on where an unfinished run stopped.

    Returns what every one left, in order, and whether nobody stopped them. The run has to be over
    at the `deadline`, by `time.perf_counter`; the rest of the plan follows the time that is really
    left. Somebody who asks to stop gets what there is by then.
    """
    # photos that cannot be decoded may have left nothing to judge by
    is_growing = deadline is not None and not context.is_resuming and is_trainable(context.settings)
    if not (plan.stages or is_growing) or not len(ground.split.validation):
        return (), True
    trained = resume_stages(ground, context)
    while True:
        if (
            deadline is not None and not context.is_resuming
        ):  # an unfinished stage goes on with the plan that it had
            plan = time_training(plan, ground, context, deadline) if is_growing else plan
            plan = renew_plan(plan, trained, context, deadline)
        stages = list_rest(plan, trained)
        if not stages:
            return trained, True
        here = replace(context, ending=find_ending(plan, stages, deadline))
        try:
            trained = (*trained, train_stage(ground, stages[0], here, trained))
        except Stopped:
            return trained, False
        if not trained[-1].is_finished:
            return trained, False
        history = trained[-1].candidate.history
        plan = note_training(plan, trained[-1].plan, history[-1].images_per_s if history else None)
        context = replace(context, is_resuming=False)


def time_training(plan: Plan, ground: StageInputs, context: RunContext, deadline: float) -> Plan:
    """Measure how fast layers are trained, if nobody has yet and time has turned up for it."""
    work, speeds, settings = plan.work, plan.speeds, context.settings
    left_s, batch = (
        deadline - time.perf_counter(),
        choose_recipe(len(ground.split.train), 1.0).batch,
    )
    if work is None or speeds is None or speeds.trains_layers:
        return plan
    if plan.share < 1 or not is_worth_timing(
        replace(work, unseen=0, compared=0), settings, speeds, left_s, batch
    ):
        return plan
    site = BenchmarkSetup(
        ground.index,
        ground.backbone,
        ground.weights,
        context.threads,
        context.cache,
        context.micro_pixels,
    )
    starts, side = (
        list_starts(settings, ground.backbone.pixels.side, left_s),
        find_small_side(ground.backbone.pixels.side),
    )
    return replace(plan, speeds=measure_training(site, speeds, starts, side, batch))


def renew_plan(
    plan: Plan, trained: Sequence[TrainedStage], context: RunContext, deadline: float
) -> Plan:
    """Plan the rest of a run from the time that is left and the speeds that were seen; tell if it
    is another one.
    """
    left_s = deadline - time.perf_counter()
    renewed = plan_rest(
        plan, context.settings, left_s, [deepened.plan.start for deepened in trained]
    )
    if not is_same(list_rest(plan, trained), renewed.stages):
        parts = tuple((item.part, item.seconds) for item in renewed.forecasts)
        context.listen(PlanChanged(parts, renewed.total_s, left_s))
    return renewed


def list_rest(plan: Plan, trained: Sequence[TrainedStage]) -> tuple[StagePlan, ...]:
    """List the planned stages that are still to come."""
    done = {deepened.plan.start for deepened in trained}
    return tuple(stage for stage in plan.stages if stage.start not in done)


def is_same(former: Sequence[StagePlan], present: Sequence[StagePlan]) -> bool:
    """Say whether two plans do the same in about the same number of epochs."""
    forms = [
        [(stage.name, stage.phases, stage.extra_views) for stage in stages]
        for stages in (former, present)
    ]
    low, high = SAME_EPOCHS
    return forms[0] == forms[1] and all(
        low <= new.epochs / old.epochs <= high for old, new in zip(former, present, strict=True)
    )


def find_ending(plan: Plan, stages: Sequence[StagePlan], deadline: float | None) -> Ending | None:
    """Find when the first of the stages has to take its last step; None where time does not
    count.
    """
    if deadline is None or plan.work is None or plan.speeds is None:
        return None
    stage, work, speeds = stages[0], plan.narrow(plan.work), plan.speeds
    later = sum(forecast_stage(each, work, speeds) for each in stages[1:])
    own = forecast_judgement(stage, work, speeds) if later else 0.0  # else it is in the plan's end
    pixel_s = stage.recipe.batch * measure_image(stage, speeds) / stage.side**2
    return Ending(
        deadline,
        AFTER_TIMES * plan.after_training_s + later + own,
        pixel_s,
        speeds.step_s if stage.is_whole else 0.0,
    )


def explain_refusal(candidate: Candidate, best: Candidate) -> str:
    """Say why a network does not take the place of another: what stands before the other's name."""
    if candidate.units is None or candidate.rank <= best.rank:
        return "no better on the validation images than"
    groups = len(np.unique(candidate.units))
    return (
        "better on the validation images, but not surely on other groups than these "
        f"{groups:,}, than"
    )


def compare_stages(
    head: Head, trained: Sequence[TrainedStage], is_correct_test: NDArray[np.bool_] | None
) -> tuple[StageResult, ...]:
    """Put the frozen layers' head and all stages side by side; nothing where no layers were
    trained.

    `is_correct_test` tells of each test image whether the head names it right, where that is known.
    """
    if not trained:
        return ()
    chosen, seconds = (
        find_best(trained, head.chosen),
        sum(candidate.seconds for candidate in head.candidates),
    )
    results = [
        StageResult(
            "frozen layers", head.chosen.is_correct, is_correct_test, seconds, chosen is None
        )
    ]
    best, name = head.chosen, "the frozen layers"
    for deepened in trained:
        candidate = deepened.candidate
        is_better = candidate.replaces(best)
        note = (
            "" if is_better else f"{explain_refusal(candidate, best)} {name}, so not gone on with"
        )
        own = deepened.plan.name
        results.append(
            StageResult(
                own, candidate.is_correct, None, candidate.seconds, deepened is chosen, note
            )
        )
        if is_better:
            best, name = candidate, f"the {own}" if own.startswith("last") else own
    return tuple(results)
