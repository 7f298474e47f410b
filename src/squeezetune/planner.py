"""What a run does, in which steps, and how long each will take: from the settings, the photos and this machine's speed.

The plan is a pure function of counts and speeds; `probing` measures the speeds.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from math import ceil

from squeezetune.errors import INSTALL_TORCH, MissingExtraError
from squeezetune.events import Listener, Notice, PlanMade
from squeezetune.forecasts import RESERVE_SHARE as RESERVE_SHARE
from squeezetune.forecasts import (
    Forecast,
    Speeds,
    Workload,
    forecast_end,
    forecast_familiarity,
    forecast_features,
    forecast_head,
    forecast_judgement,
    forecast_stages,
    measure_training,
    slow_down,
)
from squeezetune.learn.recipe import PROBE_IMAGES, StagePlan
from squeezetune.quantities import parse_duration
from squeezetune.settings import LAYERS_NEED_TORCH, Settings
from squeezetune.stage_plans import list_stages

# What was over sooner than this says nothing about a speed.
LEAST_SEEN_S = 2.0
# The parts of the photos that are looked at where a budget is too short for all of them.
SHARES = (1.0, 0.6, 0.35, 0.2, 0.1, 0.05)
# The frozen layers and their head may take this share of a budget in which layers are trained.
MOST_BEGINNING = 0.15
# Features and head.
BEGINNING_PARTS = 2
# The parts of a run that are not made again for each fold.
ONCE = ("preparing", "features", "report")
# A plan that was made to fill the time exactly still fits. The training of layers ends by the clock; a plan without it
# has to leave so large a share of itself for what takes longer than forecast.
TOLERANCE_S, SLACK = 0.1, 0.08


@dataclass(frozen=True)
class Plan:
    """What a run does: with how many views, which head, and which stages of training layers behind it, in order.

    `share` is the part of the training and validation images that take part: less than 1 where time is too short.
    `head_share` is the part of those that the frozen layers look at: more training images train layers alone.
    `forecasts` is empty where nobody asked for them; `after_training_s` is what comes after the last step of training.
    They rest on `work` and `speeds`. `peak_memory` is the most that the run will hold, in bytes.
    """

    views: int
    head: str
    stages: tuple[StagePlan, ...] = ()
    share: float = 1.0
    head_share: float = 1.0
    forecasts: tuple[Forecast, ...] = ()
    after_training_s: float = 0.0
    work: Workload | None = None
    speeds: Speeds | None = None
    peak_memory: int = 0

    @property
    def stage(self) -> StagePlan | None:
        """The last stage, None where no layers are trained."""
        return self.stages[-1] if self.stages else None

    def narrow(self, work: Workload) -> Workload:
        """Leave the validation images out of the work that nobody will look at."""
        return replace(work, validation=ceil(self.head_share * work.validation))

    @property
    def total_s(self) -> float:
        """How long the run will take."""
        return sum(forecast.seconds for forecast in self.forecasts)

    def fits(self, left_s: float) -> bool:
        """Say whether the run will be over in so many seconds."""
        return self.total_s * (1.0 if self.stages else 1 + SLACK) <= left_s + TOLERANCE_S


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


def make_plan(
    work: Workload, settings: Settings, speeds: Speeds | None, left_s: float, is_deep: bool, spent_s: float = 0.0
) -> Plan:
    """Make the best plan that fits into the seconds that are left, or the shortest one if none does.

    Without a budget the settings alone decide, and `left_s` is infinite.
    """
    plans = list(_list_plans(work, settings, speeds, left_s, is_deep))
    if speeds is None:
        return plans[0]
    spare_s = find_spare(settings)
    forecast = [add_forecasts(plan, work, speeds, spare_s) for plan in plans]
    plan = next((plan for plan in forecast if plan.fits(left_s)), forecast[-1])
    return replace(plan, forecasts=(Forecast("preparing", spent_s), *plan.forecasts))


def add_rounds(plan: Plan, rounds: int) -> Plan:
    """Add the trainings of so many folds to a plan: each takes what the model itself does, but for what is kept."""
    again_s = sum(item.seconds for item in plan.forecasts if item.part not in ONCE)
    return replace(plan, forecasts=(*plan.forecasts, Forecast("folds", rounds * again_s)))


def find_spare(settings: Settings) -> float:
    """Find the seconds of a budget that may be used up by something unlikely; as many again are for slow moments."""
    return RESERVE_SHARE / 2 * (parse_duration(settings.budget) or 0.0) if settings.budget else 0.0


def add_forecasts(plan: Plan, work: Workload, speeds: Speeds, spare_s: float = 0.0) -> Plan:
    """Add to a plan how long its parts will take.

    The frozen layers may turn out to be better than trained ones, and see larger images: what measuring those takes
    longer has to end in time as well, with `spare_s` beyond the plan's own end.
    """
    narrowed = plan.narrow(work)
    parts = (*forecast_beginning(plan, work, speeds), *forecast_rest(plan, narrowed, speeds))
    after = end_s = sum(part.seconds for part in parts[BEGINNING_PARTS + len(plan.stages) :])
    if plan.stage:
        after += forecast_judgement(plan.stage, narrowed, speeds)
        larger_s = sum(part.seconds for part in forecast_end(work.side, plan.views, narrowed, speeds, is_deep=False))
        after += max(0.0, larger_s - end_s - spare_s)
    return replace(plan, forecasts=parts, after_training_s=after, work=work, speeds=speeds)


def forecast_beginning(plan: Plan, work: Workload, speeds: Speeds) -> tuple[Forecast, ...]:
    """Forecast the parts of a plan that come before the training of layers."""
    share, is_linear = plan.share * plan.head_share, plan.head == "linear"
    return (
        Forecast("features", forecast_features(plan.views, share * work.unseen, speeds)),
        Forecast("head", forecast_head(plan.views, share * work.train, speeds, is_linear=is_linear)),
    )


def forecast_rest(plan: Plan, work: Workload, speeds: Speeds) -> tuple[Forecast, ...]:
    """Forecast the training of layers, and what follows."""
    side = plan.stage.side if plan.stage else work.side
    end = forecast_end(side, plan.views, work, speeds, is_deep=bool(plan.stages))
    return (*forecast_stages(plan.stages, work, speeds), *end)


def plan_rest(plan: Plan, settings: Settings, left_s: float, done: Collection[str]) -> Plan:
    """Plan anew what follows the head, and the stages with the first blocks `done`, in the seconds that are left."""
    work, speeds = plan.work, plan.speeds
    if work is None or speeds is None:
        return plan
    end_s = sum(part.seconds for part in forecast_rest(replace(plan, stages=()), work, speeds))
    end_s += forecast_familiarity(work.side, plan.views, work, speeds)
    for stages in (*list_stages(plan.narrow(work), settings, speeds, left_s - end_s, done), ()):
        renewed = add_forecasts(replace(plan, stages=stages), work, speeds, find_spare(settings))
        renewed = replace(renewed, forecasts=renewed.forecasts[BEGINNING_PARTS:])  # features and head are done
        if renewed.fits(left_s):
            break
    return renewed


def note_features(plan: Plan, seconds: float) -> Plan:
    """Take the speed at which the frozen layers really went for that of all like it that is still to come."""
    if plan.work is None or plan.speeds is None:
        return plan
    share = plan.share * plan.head_share
    forecast_s = forecast_features(plan.views, share * plan.work.unseen, plan.speeds)
    if forecast_s < LEAST_SEEN_S:
        return plan
    return replace(plan, speeds=slow_down(plan.speeds, seconds / forecast_s, ("read_s", "view_s", "file_s", "draw_s")))


def note_pixels(plan: Plan) -> Plan:
    """Take note that the images have been decoded for the training of layers."""
    return plan if plan.work is None else replace(plan, work=replace(plan.work, unkept=0))


def note_training(plan: Plan, stage: StagePlan, images_per_s: float | None) -> Plan:
    """Take the speed at which a stage really went for that of all training that is still to come."""
    image_s = measure_training(stage, plan.speeds) if plan.speeds else 0.0
    if plan.speeds is None or not images_per_s or not image_s or len(stage.phases) > 1:
        return plan
    return replace(plan, speeds=slow_down(plan.speeds, 1 / images_per_s / image_s, ("pixel_s", "step_s", "last_s")))


def announce_plan(plan: Plan, settings: Settings, listen: Listener) -> None:
    """Tell the listener what will be done and how long it will take."""
    budget_s = parse_duration(settings.budget) if settings.budget else None
    listen(PlanMade(tuple((item.part, item.seconds) for item in plan.forecasts), plan.total_s, budget_s))


def _list_plans(
    work: Workload, settings: Settings, speeds: Speeds | None, left_s: float, is_deep: bool
) -> Iterator[Plan]:
    """List the plans that are worth making, most wanted first."""
    wanted = {"quick": 1, "balanced": 2, "thorough": 4}[settings.effort]
    views = {"auto": wanted, "plain": 1, "mirror": 2, "crops": 4}[settings.views]
    head = _shorten(settings) if settings.effort == "quick" else settings.head
    if is_deep:
        # a head that trained layers will replace need not be the best one where time is short
        frozen = Plan(min(2, views), _shorten(settings) if settings.budget else head)
        for beginning in (*_list_quick_beginnings(frozen, work, speeds, left_s), frozen):
            others_s = 0.0
            if speeds:
                others_s = sum(item.seconds for item in add_forecasts(beginning, work, speeds).forecasts)
                others_s += forecast_familiarity(work.side, beginning.views, beginning.narrow(work), speeds)
            for stages in list_stages(beginning.narrow(work), settings, speeds, left_s - others_s):
                if beginning is frozen or all(stage.is_whole for stage in stages):
                    yield replace(beginning, stages=stages)
    yield Plan(min(2, views) if settings.budget else views, head)
    if settings.budget:
        yield Plan(min(2, views), _shorten(settings))
        yield from (Plan(1, _shorten(settings), (), share) for share in SHARES)


def _list_quick_beginnings(frozen: Plan, work: Workload, speeds: Speeds | None, left_s: float) -> list[Plan]:
    """List the plan that fits the head on the probe's images alone, where all would take much of the time.

    Training all layers gains more from that time than a head does from more images. All others have to be decoded
    before, to find those that cannot be, and once more where nothing is kept.
    """
    if speeds is None or work.train <= PROBE_IMAGES or not work.is_kept:
        return []
    whole_s = sum(item.seconds for item in forecast_beginning(frozen, work, speeds))
    quick = replace(frozen, head_share=1 / ceil(work.train / PROBE_IMAGES))  # exactly those of the probe
    return [quick] if whole_s > MOST_BEGINNING * left_s else []


def _shorten(settings: Settings) -> str:
    return "linear" if settings.head == "auto" else settings.head
