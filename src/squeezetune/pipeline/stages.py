"""The planned stages of fine-tuning in order; the rest is planned anew before each."""

from collections.abc import Sequence
from dataclasses import replace

from squeezetune.events import PlanChanged
from squeezetune.finetune.recipe import StagePlan
from squeezetune.pipeline.context import RunContext
from squeezetune.pipeline.stage import StageInputs, resume_stages, train_stage
from squeezetune.pipeline.trained_stage import TrainedStage
from squeezetune.planning.plan import Plan
from squeezetune.planning.planner import (
    TimeLimit,
    find_ending,
    is_trainable,
    plan_rest,
    time_layers,
)
from squeezetune.system.checkpoint import UnfinishedRun
from squeezetune.system.interrupts import Stopped

# A plan is another one, of which people are told, if a stage has so much less or more to do.
SAME_EPOCHS = (0.75, 1.33)


def train_stages(
    inputs: StageInputs,
    plan: Plan,
    context: RunContext,
    limit: TimeLimit,
    unfinished: UnfinishedRun,
) -> tuple[tuple[TrainedStage, ...], bool]:
    """Train the stages that are planned, or go on where an unfinished run stopped.

    Returns what every one left, in order, and whether nobody stopped them. Where the time is
    limited the rest of the plan follows the time that is really left. Somebody who asks to stop
    gets what there is by then.
    """
    is_growing = limit.is_set and not unfinished.is_resuming and is_trainable(context.settings)
    # photos that cannot be decoded may have left nothing to judge by
    if not (plan.stages or is_growing) or not len(inputs.split.validation):
        return (), True
    trained = resume_stages(inputs, context, unfinished)
    while True:
        # an unfinished stage goes on with the plan that it had
        if limit.is_set and not unfinished.is_resuming:
            plan = renew_plan(plan, inputs, trained, context, limit)
        stages = plan.list_rest(list_done(trained))
        if not stages:
            return trained, True
        ending = find_ending(plan, stages, limit)
        try:
            stage = train_stage(inputs, stages[0], context, trained, ending, unfinished)
        except Stopped:
            return trained, False
        trained = (*trained, stage)
        if not stage.is_finished:
            return trained, False
        history = stage.candidate.history
        plan = plan.note_training(stage.plan, history[-1].images_per_s if history else None)
        unfinished = replace(unfinished, is_resuming=False)


def renew_plan(
    plan: Plan,
    inputs: StageInputs,
    trained: Sequence[TrainedStage],
    context: RunContext,
    limit: TimeLimit,
) -> Plan:
    """Plan the rest of a run from the time that is left and the speeds that were seen; tell if it
    is another one.
    """
    settings, done = context.settings, list_done(trained)
    if is_trainable(settings):
        site = context.make_site(inputs.index, inputs.backbone)
        plan = time_layers(plan, site, settings, limit.left_s())
    left_s = limit.left_s()
    renewed = plan_rest(plan, settings, left_s, done)
    if not is_same(plan.list_rest(done), renewed.stages):
        parts = tuple((item.part, item.seconds) for item in renewed.forecasts)
        context.listen(PlanChanged(parts, renewed.total_s, left_s))
    return renewed


def list_done(trained: Sequence[TrainedStage]) -> list[str]:
    """List the first blocks of the stages that are over."""
    return [stage.plan.start for stage in trained]


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
