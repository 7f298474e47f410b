"""What a run does, in which steps, and how long each will take: from the settings, the photos and
this machine's speed.

The plan is a pure function of counts and speeds; `probing` measures the speeds.
"""

from collections.abc import Collection, Iterator
from dataclasses import replace
from importlib.util import find_spec
from math import ceil

from squeezetune.errors import INSTALL_TORCH, MissingExtraError
from squeezetune.events import Listener, Notice, PlanMade, Shortage
from squeezetune.finetune.recipe import PROBE_IMAGES, StagePlan
from squeezetune.planning.costs import (
    RESERVE_SHARE,
    Forecast,
    Speeds,
    Workload,
    forecast_familiarity,
    forecast_features,
    forecast_probe,
    measure_training,
    slow_down,
)
from squeezetune.planning.plan import (
    Plan,
    add_forecasts,
    count_unseen,
    forecast_beginning,
    forecast_rest,
)
from squeezetune.planning.shortage import PATIENCE_S, choose_whole, list_thinned, refuse_budget
from squeezetune.planning.stage_plans import LEAST_TRAINING_S, find_small_side, list_stages
from squeezetune.quantities import parse_duration
from squeezetune.settings import LAYERS_NEED_TORCH, Settings

# What was over sooner than this says nothing about a speed.
LEAST_SEEN_S = 2.0
# The frozen layers and their head may take this share of a budget in which layers are trained; what
# a better head takes beyond a linear one may be this share of it.
MOST_BEGINNING, MOST_HEAD = 0.15, 0.05
# Layers that are shown all photos once, and so many images in all, replace any head on frozen
# layers (docs/decisions/0019-budgets.md).
IMAGES_TO_REPLACE = 20_000
# The parts of a run that are not made again for each fold.
ONCE = ("reading", "preparing", "features", "near-duplicates", "report")


def is_deep_wanted(settings: Settings) -> bool:
    """Say whether the settings ask for the layers themselves to be trained, if there is time."""
    return settings.layers in LAYERS_NEED_TORCH or (
        settings.layers == "auto" and (settings.effort == "thorough" or bool(settings.budget))
    )


def check_torch(settings: Settings, listen: Listener) -> bool:
    """Say whether layers can be trained, and are to be.

    Raises:
        MissingExtraError: layers are asked for, and torch is not installed.

    """
    if not is_deep_wanted(settings):
        return False
    if find_spec("torch") is not None:
        return True
    message = "torch, which trains the layers themselves, is not installed"
    if settings.layers in LAYERS_NEED_TORCH:
        raise MissingExtraError(message, INSTALL_TORCH)
    listen(Notice(f"{message}, so the head alone is trained. {INSTALL_TORCH}"))
    return False


def is_trainable(settings: Settings) -> bool:
    """Say whether the settings, as far as memory allows them, ask for layers to be trained, and
    torch is there.
    """
    return is_deep_wanted(settings) and find_spec("torch") is not None


def is_worth_timing(
    work: Workload, settings: Settings, speeds: Speeds, left_s: float, batch: int
) -> bool:
    """Say whether there is time to train layers besides the rest of a run, once it is known how
    fast that goes.

    To find out takes longer than many a run that trains none.
    """
    # layers need not begin with a head on all images
    shortest = replace(Plan(1, _shorten(settings)), head_share=_find_quick_share(work))
    probe_s = forecast_probe(work, find_small_side(work.side), batch, speeds)
    return add_forecasts(shortest, work, speeds).total_s + probe_s + LEAST_TRAINING_S <= left_s


def make_plan(
    work: Workload,
    settings: Settings,
    speeds: Speeds | None,
    left_s: float,
    is_deep: bool,
    spent_s: float = 0.0,
    *,
    patience_s: float = PATIENCE_S,
) -> Plan:
    """Make the best plan that fits into the seconds that are left after those `spent_s`.

    Where none does, photos are left out if that saves much; else all are looked at, and the run is
    over a little later, by at most `patience_s`. Without a budget the settings alone decide, and
    `left_s` is infinite.

    Raises:
        SettingsError: the budget is much too short.

    """
    plans = _list_plans(work, settings, speeds, left_s, is_deep)
    if speeds is None:
        return next(plans)
    forecast = []
    for plan in plans:
        forecast.append(add_forecasts(plan, work, speeds, find_spare(settings)))
        if forecast[-1].fits(left_s):
            break
    plan = forecast[-1]
    if settings.budget and not plan.fits(left_s):
        thinned = list_thinned(plan, work, speeds, spent_s)
        fitting = next((part for part in thinned if part.fits(left_s)), None)
        plan = fitting or choose_whole(forecast, spent_s)
        if plan.total_s > max(0.0, left_s) + patience_s:
            raise refuse_budget(settings.budget, plan, thinned, spent_s)
    return replace(plan, forecasts=(Forecast("preparing", spent_s), *plan.forecasts))


def add_rounds(plan: Plan, rounds: int) -> Plan:
    """Add the trainings of so many folds to a plan: each takes what the model itself does, but for
    what is kept.
    """
    again_s = sum(item.seconds for item in plan.forecasts if item.part not in ONCE)
    return replace(plan, forecasts=(*plan.forecasts, Forecast("folds", rounds * again_s)))


def find_spare(settings: Settings) -> float:
    """Find the seconds of a budget that may be used up by something unlikely; as many again are for
    slow moments.
    """
    return RESERVE_SHARE / 2 * (parse_duration(settings.budget) or 0.0) if settings.budget else 0.0


def plan_rest(plan: Plan, settings: Settings, left_s: float, done: Collection[str]) -> Plan:
    """Plan anew what follows the head, and the stages with the first blocks `done`, in the seconds
    that are left.
    """
    work, speeds = plan.work, plan.speeds
    if work is None or speeds is None:
        return plan
    end_s = sum(part.seconds for part in forecast_rest(replace(plan, stages=()), work, speeds))
    end_s += forecast_familiarity(work.side, plan.views, work, speeds)
    for stages in (*list_stages(plan.narrow(work), settings, speeds, left_s - end_s, done), ()):
        renewed = add_forecasts(replace(plan, stages=stages), work, speeds, find_spare(settings))
        beginning = len(forecast_beginning(plan, work, speeds))
        renewed = replace(
            renewed, forecasts=renewed.forecasts[beginning:]
        )  # features and head are done
        if renewed.fits(left_s):
            break
    return renewed


def renew_head(plan: Plan, settings: Settings, left_s: float) -> Plan:
    """Choose the head anew in the seconds that are left once the photos have been looked at, where
    it is the last one.

    Time that has turned up buys the head that there would be without a budget, and time that is
    missing a linear one.
    """
    if plan.work is None or plan.speeds is None or plan.stages or plan.needed_s is not None:
        return plan
    work = replace(plan.work, unseen=0, compared=0)
    wanted = _shorten(settings) if settings.effort == "quick" else settings.head
    heads = (replace(plan, head=head) for head in (wanted, _shorten(settings)))
    fitting = (head for head in heads if add_forecasts(head, work, plan.speeds).fits(left_s))
    return next(fitting, replace(plan, head=_shorten(settings)))


def note_features(plan: Plan, seconds: float) -> Plan:
    """Take the speed at which the frozen layers really went for that of all like it that is still
    to come.
    """
    if plan.work is None or plan.speeds is None:
        return plan
    forecast_s = forecast_features(plan.views, count_unseen(plan, plan.work), plan.speeds)
    if forecast_s < LEAST_SEEN_S:
        return plan
    return replace(
        plan,
        speeds=slow_down(
            plan.speeds, seconds / forecast_s, ("read_s", "view_s", "file_s", "draw_s")
        ),
    )


def note_pixels(plan: Plan) -> Plan:
    """Take note that the images have been decoded for the training of layers."""
    return plan if plan.work is None else replace(plan, work=replace(plan.work, unkept=0))


def note_training(plan: Plan, stage: StagePlan, images_per_s: float | None) -> Plan:
    """Take the speed at which a stage really went for that of all training that is still to
    come.
    """
    image_s = measure_training(stage, plan.speeds) if plan.speeds else 0.0
    if plan.speeds is None or not images_per_s or not image_s or len(stage.phases) > 1:
        return plan
    return replace(
        plan,
        speeds=slow_down(plan.speeds, 1 / images_per_s / image_s, ("pixel_s", "step_s", "last_s")),
    )


def announce_plan(plan: Plan, settings: Settings, listen: Listener) -> None:
    """Tell the listener what will be done and how long it will take."""
    budget_s = parse_duration(settings.budget) if settings.budget else None
    parts = tuple((item.part, item.seconds) for item in plan.forecasts)
    listen(PlanMade(parts, plan.total_s, budget_s, find_shortage(plan, settings)))


def find_shortage(plan: Plan, settings: Settings) -> Shortage | None:
    """Find what a plan does where the budget is too short for all photos; None where it is not."""
    if plan.needed_s is None or plan.work is None:
        return None
    return Shortage(
        settings.budget,
        plan.needed_s,
        plan.count_used(plan.work),
        plan.work.train + plan.work.validation,
    )


def _list_plans(
    work: Workload, settings: Settings, speeds: Speeds | None, left_s: float, is_deep: bool
) -> Iterator[Plan]:
    """List the plans that are worth making with all photos, most wanted first.

    With a budget the second to last is what would be done without one, as far as the head goes.
    """
    wanted = {"quick": 1, "balanced": 2, "thorough": 4}[settings.effort]
    views = {"auto": wanted, "plain": 1, "mirror": 2, "crops": 4}[settings.views]
    head = _shorten(settings) if settings.effort == "quick" else settings.head
    plain = Plan(min(2, views) if settings.budget else views, head)
    if is_deep:
        yield from _list_deep(replace(plain, views=min(2, views)), work, settings, speeds, left_s)
    yield plain
    if settings.budget:
        yield replace(plain, head=_shorten(settings))
        yield Plan(1, _shorten(settings))


def _list_deep(
    plain: Plan, work: Workload, settings: Settings, speeds: Speeds | None, left_s: float
) -> Iterator[Plan]:
    """List the plans that train layers behind the frozen layers' head, most wanted first.

    Where the head that is fitted without layers has its place in the budget, another one stands
    before layers only if these are trained for so long that they surely replace it: a budget makes
    no model worse than none would.
    """
    if not settings.budget or speeds is None:
        yield from (
            replace(plain, stages=stages) for stages in list_stages(work, settings, speeds, left_s)
        )
        return
    short, is_asked = replace(plain, head=_shorten(settings)), settings.layers in LAYERS_NEED_TORCH
    plain_s, short_s = (add_forecasts(plan, work, speeds).total_s for plan in (plain, short))
    first = (
        plain if plain_s - short_s <= MOST_HEAD * left_s else short
    )  # the better head costs nearly nothing
    for beginning in (*_list_quick_beginnings(first, work, speeds, left_s), first, short, plain):
        others_s = sum(item.seconds for item in add_forecasts(beginning, work, speeds).forecasts)
        others_s += forecast_familiarity(work.side, beginning.views, beginning.narrow(work), speeds)
        for stages in list_stages(beginning.narrow(work), settings, speeds, left_s - others_s):
            shown = sum(stage.epochs for stage in stages) * work.train
            is_sure = shown >= max(work.train, IMAGES_TO_REPLACE) or beginning == plain
            is_possible = beginning.head_share >= 1 or all(stage.is_whole for stage in stages)
            if is_possible and (is_sure or is_asked or plain_s > left_s):
                yield replace(beginning, stages=stages)


def _list_quick_beginnings(
    frozen: Plan, work: Workload, speeds: Speeds | None, left_s: float
) -> list[Plan]:
    """List the plan that fits the head on the probe's images alone, where all would take much of
    the time.

    Training all layers gains more from that time than a head does from more images. All others have
    to be decoded before, to find those that cannot be, and once more where nothing is kept.
    """
    share = _find_quick_share(work)
    if speeds is None or share == 1:
        return []
    whole_s = sum(item.seconds for item in forecast_beginning(frozen, work, speeds))
    quick = replace(frozen, head_share=share)
    return [quick] if whole_s > MOST_BEGINNING * left_s else []


def _find_quick_share(work: Workload) -> float:
    """Find the share of the training images that the probe is fitted on, where the others can
    wait.
    """
    return (
        1 / ceil(work.train / PROBE_IMAGES) if work.train > PROBE_IMAGES and work.is_kept else 1.0
    )


def _shorten(settings: Settings) -> str:
    return "linear" if settings.head == "auto" else settings.head
