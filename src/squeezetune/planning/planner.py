"""A budget of time becomes a plan: the images, the head and the stages that fit into it, by this
machine's speed, and planned anew on the way.
"""

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from math import inf

from squeezetune.errors import INSTALL_TORCH, MissingExtraError
from squeezetune.events import (
    CHOOSING,
    FEATURES,
    FOLDS,
    NEAR_DUPLICATES,
    PREPARING,
    READING,
    REPORT,
    Listener,
    Notice,
    PlanMade,
)
from squeezetune.finetune.recipe import Ending, StagePlan
from squeezetune.planning.costs import RESERVE_SHARE, Forecast, Speeds, Timing, Workload
from squeezetune.planning.memory import count_views
from squeezetune.planning.plan import Plan, add_forecasts, forecast_beginning, forecast_rest
from squeezetune.planning.shortage import (
    PATIENCE_S,
    choose_whole,
    find_shortage,
    list_thinned,
    refuse_budget,
)
from squeezetune.planning.speeds import BenchmarkSetup, measure_layers, measure_machine
from squeezetune.planning.stage_plans import find_quick_share, list_stages, name_quick_head
from squeezetune.quantities import parse_duration
from squeezetune.settings import LAYERS_NEED_TORCH, Settings

# The frozen layers and their head may take this share of a budget in which layers are trained; what
# a better head takes beyond a linear one may be this share of it.
MOST_BEGINNING, MOST_HEAD = 0.15, 0.05
# Layers that are shown all photos once, and so many images in all, replace any head on frozen
# layers (docs/decisions/0019-budgets.md).
IMAGES_TO_REPLACE = 20_000
# What follows training is not adjusted by any clock, and takes somewhat longer than forecast more
# often than not.
AFTER_TIMES = 1.1
# The parts of a run that are not made again for each fold.
ONCE = (READING, CHOOSING, PREPARING, FEATURES, NEAR_DUPLICATES, REPORT)


@dataclass(frozen=True)
class TimeLimit:
    """The time of a training, by `time.perf_counter`: when it has to be over, infinite without a
    budget, and when the run began, None where that is told of another training.

    `speeds` were measured before, where several trainings share a budget; `frozen`, those of the
    frozen layers alone, where these were chosen by them, which took `choosing_s`. Both are of
    `network`.
    """

    deadline: float = inf
    started: float | None = None
    speeds: Speeds | None = None
    frozen: Speeds | None = None
    network: str = ""
    choosing_s: float = 0.0

    @property
    def is_set(self) -> bool:
        """Say whether there is a budget at all."""
        return self.deadline < inf

    def left_s(self) -> float:
        """Return the seconds that are left from now on."""
        return self.deadline - time.perf_counter()

    def spent_s(self) -> float:
        """Return the seconds since the run began."""
        return time.perf_counter() - self.started if self.started else 0.0

    def keep_speeds(self, network: str) -> "TimeLimit":
        """Forget the speeds that were measured of another network."""
        return self if network == self.network else replace(self, speeds=None, frozen=None)

    def share(self, trainings: int) -> "TimeLimit":
        """Limit the first of so many trainings, all of which take the same time."""
        now = time.perf_counter()
        return replace(self, deadline=now + (self.deadline - now) / trainings)


NO_LIMIT = TimeLimit()


def limit_time(settings: Settings, started: float | None = None) -> TimeLimit:
    """Limit a run that began then, or begins now, to its budget without the reserve."""
    budget_s = parse_duration(settings.budget) if settings.budget else None
    begun = time.perf_counter() if started is None else started
    return TimeLimit(begun + (1 - RESERVE_SHARE) * (inf if budget_s is None else budget_s), started)


def is_deep_wanted(settings: Settings) -> bool:
    """Say whether the settings ask for the layers themselves to be trained, if there is time."""
    return settings.layers in LAYERS_NEED_TORCH or (
        settings.layers == "auto"
        and not settings.has_foreign_backbone
        and (settings.effort == "thorough" or bool(settings.budget))
    )


def check_torch(settings: Settings, listen: Listener) -> bool:
    """Say whether layers can be trained, and are to be.

    Raises:
        MissingExtraError: layers are asked for, and torch is not installed.

    """
    if not is_deep_wanted(settings) or is_trainable(settings):
        return is_deep_wanted(settings)
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


def plan_run(
    site: BenchmarkSetup, work: Workload, settings: Settings, limit: TimeLimit, *, is_deep: bool
) -> Plan:
    """Measure this machine, unless that was done before, and make the best plan for the time that
    is left then.

    Raises:
        SettingsError: the budget is much too short.

    """
    patience_s = PATIENCE_S
    if limit.speeds:  # one of several trainings is not refused among them
        timing, patience_s = Timing(work, limit.speeds), inf
    else:
        known, left_s = limit.frozen, limit.left_s()
        timing = measure_machine(site, work, settings, left_s, is_deep=is_deep, frozen=known)
    is_deep = is_deep and timing.speeds.trains_layers
    return fit_plan(timing, settings, limit.left_s(), limit.spent_s(), patience_s, is_deep=is_deep)


def choose_plan(work: Workload, settings: Settings, *, is_deep: bool) -> Plan:
    """Make the plan that the settings alone decide on, without a word on time."""
    return next(_list_plans(work, settings, None, inf, is_deep=is_deep))


def fit_plan(
    timing: Timing,
    settings: Settings,
    left_s: float,
    spent_s: float = 0.0,
    patience_s: float = PATIENCE_S,
    *,
    is_deep: bool,
) -> Plan:
    """Make the best plan that fits into the seconds that are left after those `spent_s`.

    Where none does, photos are left out if that saves much; else all are looked at, and the run is
    over a little later, by at most `patience_s`. Without a budget the settings alone decide, and
    `left_s` is infinite.

    Raises:
        SettingsError: the budget is much too short.

    """
    forecast = []
    for plan in _list_plans(timing.work, settings, timing, left_s, is_deep=is_deep):
        forecast.append(add_forecasts(plan, timing, find_spare(settings)))
        if forecast[-1].fits(left_s):
            break
    plan = forecast[-1]
    if settings.budget and not plan.fits(left_s):
        thinned = list_thinned(plan, timing, spent_s)
        fitting = next((part for part in thinned if part.fits(left_s)), None)
        plan = fitting or choose_whole(forecast, spent_s)
        if plan.total_s > max(0.0, left_s) + patience_s:
            raise refuse_budget(settings.budget, plan, thinned, spent_s)
    return replace(plan, forecasts=(Forecast(PREPARING, spent_s), *plan.forecasts))


def tell_reading(plan: Plan, read_s: float, choosing_s: float = 0.0) -> Plan:
    """Tell the reading of the photos, and the choice of the network, from what else came before the
    plan.
    """
    before, *rest = plan.forecasts
    parts = [Forecast(READING, read_s)]
    parts += [Forecast(CHOOSING, choosing_s)] if choosing_s else []
    parts.append(Forecast(before.part, before.seconds - read_s - choosing_s))
    return replace(plan, forecasts=(*parts, *rest))


def add_rounds(plan: Plan, rounds: int) -> Plan:
    """Add the trainings of so many folds to a plan: each takes what the model itself does, but for
    what is kept.
    """
    again_s = sum(item.seconds for item in plan.forecasts if item.part not in ONCE)
    return replace(plan, forecasts=(*plan.forecasts, Forecast(FOLDS, rounds * again_s)))


def find_spare(settings: Settings) -> float:
    """Find the seconds of a budget that may be used up by something unlikely; as many again are for
    slow moments.
    """
    return RESERVE_SHARE / 2 * (parse_duration(settings.budget) or 0.0) if settings.budget else 0.0


def plan_rest(plan: Plan, settings: Settings, left_s: float, done: Collection[str]) -> Plan:
    """Plan anew what follows the head, and the stages with the first blocks `done`, in the seconds
    that are left.
    """
    timing = plan.timing
    if timing is None:
        return plan
    work, frozen = timing.work, replace(plan, stages=())
    end_s = sum(part.seconds for part in forecast_rest(frozen, timing))
    end_s += timing.forecast_familiarity(work.side, plan.views)
    beginning, narrowed = len(forecast_beginning(plan, timing)), plan.narrow_timing(timing)
    rests = list_stages(narrowed.work, settings, narrowed, left_s - end_s, done)
    for stages in (*rests, ()):
        renewed = add_forecasts(replace(plan, stages=stages), timing, find_spare(settings))
        # features and head are done
        renewed = replace(renewed, forecasts=renewed.forecasts[beginning:])
        if renewed.fits(left_s):
            break
    return renewed


def time_layers(plan: Plan, site: BenchmarkSetup, settings: Settings, left_s: float) -> Plan:
    """Measure how fast layers are trained, if nobody has yet and time has turned up for it."""
    timing = plan.timing
    if timing is None or timing.speeds.trains_layers or plan.share < 1:
        return plan
    rest = timing.count_anew(unseen=0, compared=0)
    speeds = measure_layers(site, rest, settings, left_s).speeds
    return replace(plan, timing=replace(timing, speeds=speeds))


def find_ending(plan: Plan, stages: Sequence[StagePlan], limit: TimeLimit) -> Ending | None:
    """Find when the first of the stages has to take its last step; None where time does not
    count.
    """
    if not limit.is_set or plan.timing is None:
        return None
    stage, timing = stages[0], plan.narrow_timing(plan.timing)
    later_s = sum(timing.forecast_stage(each) for each in stages[1:])
    own_s = timing.forecast_judgement(stage) if later_s else 0.0  # else it is in the plan's end
    after_s = AFTER_TIMES * plan.after_training_s + later_s + own_s
    pixel_s = stage.recipe.batch * timing.measure_image(stage) / stage.side**2
    step_s = timing.speeds.step_s if stage.is_whole else 0.0
    return Ending(limit.deadline, after_s, pixel_s, step_s)


def renew_head(plan: Plan, settings: Settings, left_s: float) -> Plan:
    """Choose the head anew in the seconds that are left once the photos have been looked at, where
    it is the last one.

    Time that has turned up buys the head that there would be without a budget, and time that is
    missing a linear one.
    """
    if plan.timing is None or plan.stages or plan.needed_s is not None:
        return plan
    timing, quick = plan.timing.count_anew(unseen=0, compared=0), name_quick_head(settings)
    wanted = quick if settings.effort == "quick" else settings.head
    heads = (replace(plan, head=head) for head in (wanted, quick))
    fitting = (head for head in heads if add_forecasts(head, timing).fits(left_s))
    return next(fitting, replace(plan, head=quick))


def announce_plan(plan: Plan, settings: Settings, listen: Listener) -> None:
    """Tell the listener what will be done and how long it will take."""
    budget_s = parse_duration(settings.budget) if settings.budget else None
    parts = tuple((item.part, item.seconds) for item in plan.forecasts)
    names = {stage.title: stage.name for stage in plan.stages}
    stages = tuple(names.get(part, part) for part, _ in parts)
    listen(PlanMade(parts, plan.total_s, budget_s, find_shortage(plan, settings), stages))


def _list_plans(
    work: Workload, settings: Settings, timing: Timing | None, left_s: float, *, is_deep: bool
) -> Iterator[Plan]:
    """List the plans that are worth making with all photos, most wanted first.

    With a budget the second to last is what would be done without one, as far as the head goes.
    """
    views, quick = count_views(settings), name_quick_head(settings)
    head = quick if settings.effort == "quick" else settings.head
    plain = Plan(min(2, views) if settings.budget else views, head)
    if is_deep and settings.budget and timing:
        yield from _list_deep(replace(plain, views=min(2, views)), settings, timing, left_s)
    elif is_deep:
        for stages in list_stages(work, settings, timing, left_s):
            yield replace(plain, views=min(2, views), stages=stages)
    yield plain
    if settings.budget:
        yield replace(plain, head=quick)
        yield Plan(1, quick)


def _list_deep(plain: Plan, settings: Settings, timing: Timing, left_s: float) -> Iterator[Plan]:
    """List the plans for a budget that train layers behind the frozen layers' head, most wanted
    first.

    Where the head that is fitted without layers has its place in the budget, another one stands
    before layers only if these are trained for so long that they surely replace it: a budget makes
    no model worse than none would.
    """
    work, short = timing.work, replace(plain, head=name_quick_head(settings))
    plain_s, short_s = (add_forecasts(plan, timing).total_s for plan in (plain, short))
    is_cheap = plain_s - short_s <= MOST_HEAD * left_s  # the better head costs nearly nothing
    first = plain if is_cheap else short
    for beginning in (*_list_quick_beginnings(first, timing, left_s), first, short, plain):
        narrowed = beginning.narrow_timing(timing)
        others_s = add_forecasts(beginning, timing).total_s
        others_s += narrowed.forecast_familiarity(work.side, beginning.views)
        for stages in list_stages(narrowed.work, settings, narrowed, left_s - others_s):
            shown = sum(stage.epochs for stage in stages) * work.train
            is_sure = shown >= max(work.train, IMAGES_TO_REPLACE) or beginning == plain
            is_possible = beginning.head_share >= 1 or all(stage.is_whole for stage in stages)
            is_asked = settings.layers in LAYERS_NEED_TORCH
            if is_possible and (is_sure or is_asked or plain_s > left_s):
                yield replace(beginning, stages=stages)


def _list_quick_beginnings(frozen: Plan, timing: Timing, left_s: float) -> list[Plan]:
    """List the plan that fits the head on the probe's images alone, where all would take much of
    the time.

    Training all layers gains more from that time than a head does from more images. All others have
    to be decoded before, to find those that cannot be, and once more where nothing is kept.
    """
    share = find_quick_share(timing.work)
    whole_s = sum(item.seconds for item in forecast_beginning(frozen, timing))
    is_long = share < 1 and whole_s > MOST_BEGINNING * left_s
    return [replace(frozen, head_share=share)] if is_long else []
