"""What a run does, in which steps, and how long each will take: from the settings, the photos and this machine's speed.

The plan is a pure function of counts and speeds; `probing` measures the speeds.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec

from squeezetune.errors import INSTALL_TORCH, MissingExtraError
from squeezetune.events import Listener, Notice, PlanMade
from squeezetune.learn.recipe import WATCHED_IMAGES, Phase, StagePlan, choose_recipe
from squeezetune.settings import Settings, parse_duration

# A thorough run shows this many training images to the network, and each of them at least and at most so many times.
THOROUGH_IMAGES = 300_000
FEWEST_EPOCHS, MOST_EPOCHS = 8.0, 60.0
# The first part of the work is done on smaller images, which takes a fraction of the time.
SMALL_SHARE, SMALL_SIDE = 0.5, 0.72
SIDE_STEP = 16
# With fewer epochs than this the whole training, and the network it makes, stays at the small size.
EPOCHS_FOR_FULL_SIDE = 3.0
# Less training than this is not worth loading torch for.
LEAST_TRAINING_S, LEAST_EPOCHS = 6.0, 0.4
# Kept back of a budget: a share of it, and what writing the report and leaving take.
RESERVE_SHARE, RESERVE_S = 0.03, 3.5
# A forward pass alone costs this share of a training step.
FORWARD_SHARE = 0.4
# The linear probe is fitted on about so many rows of features.
PROBE_ROWS = 20_000
# The parts of the photos that are looked at where a budget is too short for all of them.
SHARES = (1.0, 0.6, 0.35, 0.2, 0.1, 0.05)
# A plan that was made to fill the time exactly still fits.
TOLERANCE_S = 0.1


@dataclass(frozen=True)
class Workload:
    """How much there is to do: counts of images, and the size that they are seen at.

    `unseen` training and validation images lack features, `unkept` ones lack pixels for the training of layers.
    """

    train: int
    validation: int
    test: int
    unseen: int
    unkept: int
    side: int


@dataclass(frozen=True)
class Speeds:
    """Seconds that this machine takes, with all its threads: for an image, a view of it, or a row of features.

    `read_s` decodes an image, `view_s` runs the frozen layers on a view, `file_s` does so as `model.onnx` does,
    `linear_s` and `hidden_s` learn a row, and `pixel_s` trains all layers on one pixel of an image; None without torch.
    """

    read_s: float
    view_s: float
    file_s: float
    linear_s: float
    hidden_s: float
    pixel_s: float | None


@dataclass(frozen=True)
class Forecast:
    """How long one part of the run will take."""

    part: str
    seconds: float


@dataclass(frozen=True)
class Plan:
    """What a run does: with how many views, which head, and which training of layers behind it.

    `share` is the part of the training and validation images that are looked at: less than 1 where time is too short.
    `forecasts` is empty where nobody asked for them; `after_training_s` is what comes after the last step of training.
    """

    views: int
    head: str
    stage: StagePlan | None
    share: float = 1.0
    forecasts: tuple[Forecast, ...] = ()
    after_training_s: float = 0.0

    @property
    def total_s(self) -> float:
        """How long the run will take."""
        return sum(forecast.seconds for forecast in self.forecasts)


def is_deep_wanted(settings: Settings) -> bool:
    """Say whether the settings ask for the layers themselves to be trained, if there is time."""
    return settings.layers == "all" or (
        settings.layers == "auto" and (settings.effort == "thorough" or bool(settings.budget))
    )


def check_torch(settings: Settings, listen: Listener) -> bool:
    """Say whether layers can be trained, and are to be.

    Raises:
        MissingExtraError: all layers are asked for, and torch is not installed.

    """
    if not is_deep_wanted(settings):
        return False
    if find_spec("torch") is not None:
        return True
    message = "torch, which trains the layers themselves, is not installed"
    if settings.layers == "all":
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
    forecast = [add_forecasts(plan, work, speeds) for plan in plans]
    plan = next((plan for plan in forecast if plan.total_s <= left_s + TOLERANCE_S), forecast[-1])
    return replace(plan, forecasts=(Forecast("preparing", spent_s), *plan.forecasts))


def add_forecasts(plan: Plan, work: Workload, speeds: Speeds) -> Plan:
    """Add to a plan how long its parts will take."""
    parts = forecast_parts(plan, work, speeds)
    after = sum(part.seconds for part in parts[-2:])
    if plan.stage:
        after += forecast_judgement(plan.stage.side, work, speeds)
    return replace(plan, forecasts=parts, after_training_s=after)


def forecast_parts(plan: Plan, work: Workload, speeds: Speeds) -> tuple[Forecast, ...]:
    """Forecast the parts of a plan, in the order in which they are done."""
    rows = plan.share * work.train * plan.views
    head_s = speeds.hidden_s if plan.head != "linear" else speeds.linear_s
    parts = [
        Forecast("features", plan.share * work.unseen * (speeds.read_s + plan.views * speeds.view_s)),
        Forecast("head", 0.5 + rows * head_s),
    ]
    if plan.stage:
        parts.append(Forecast(describe_stage(plan.stage), forecast_stage(plan.stage, work, speeds)))
    file_s = speeds.file_s * ((plan.stage.side / work.side) ** 2 if plan.stage else 1.0)
    parts.append(Forecast("measuring", work.test * (speeds.read_s + plan.views * file_s)))
    return (*parts, Forecast("report", RESERVE_S))


def forecast_stage(stage: StagePlan, work: Workload, speeds: Speeds) -> float:
    """Forecast the seconds of a stage of training: its probe, its pixels, its epochs and its judgement."""
    return forecast_frame(stage, work, speeds) + stage.epochs * measure_epoch(stage.side, work, speeds)


def forecast_frame(stage: StagePlan, work: Workload, speeds: Speeds) -> float:
    """Forecast what a stage takes besides its epochs."""
    probe_s = 1.0 + min(work.train, PROBE_ROWS) * speeds.linear_s
    return probe_s + work.unkept * speeds.read_s + forecast_judgement(stage.side, work, speeds)


def forecast_judgement(side: int, work: Workload, speeds: Speeds) -> float:
    """Forecast the seconds in which the last and the averaged weights name validation images, in two views."""
    images = work.validation + 2 * min(work.validation, WATCHED_IMAGES)
    return 2 * images * FORWARD_SHARE * side**2 * (speeds.pixel_s or 0.0)


def measure_epoch(side: int, work: Workload, speeds: Speeds) -> float:
    """Forecast the seconds of an epoch at one size."""
    return work.train * side**2 * (speeds.pixel_s or 0.0)


def describe_stage(stage: StagePlan) -> str:
    """Name a stage with the sizes that it trains at."""
    return f"{stage.name} at {', '.join(str(phase.side) for phase in stage.phases)} px"


def announce_plan(plan: Plan, settings: Settings, listen: Listener) -> None:
    """Tell the listener what will be done and how long it will take."""
    budget_s = parse_duration(settings.budget) if settings.budget else None
    listen(PlanMade(tuple((item.part, item.seconds) for item in plan.forecasts), plan.total_s, budget_s))


def plan_phases(side: int) -> tuple[Phase, ...]:
    """Plan the image sizes: smaller ones first (Tan and Le 2021, EfficientNetV2, "progressive learning")."""
    small = find_small_side(side)
    return (Phase(small, SMALL_SHARE), Phase(side, 1 - SMALL_SHARE)) if small < side else (Phase(side, 1.0),)


def find_small_side(side: int) -> int:
    """Find the smaller size to train at."""
    return min(side, max(64, round(SMALL_SIDE * side / SIDE_STEP) * SIDE_STEP))


def _list_plans(
    work: Workload, settings: Settings, speeds: Speeds | None, left_s: float, is_deep: bool
) -> Iterator[Plan]:
    """List the plans that are worth making, most wanted first."""
    wanted = {"quick": 1, "balanced": 2, "thorough": 4}[settings.effort]
    views = {"auto": wanted, "plain": 1, "mirror": 2, "crops": 4}[settings.views]
    head = _shorten(settings) if settings.effort == "quick" else settings.head
    if is_deep:
        # a head that trained layers will replace need not be the best one where time is short
        frozen = Plan(min(2, views), _shorten(settings) if settings.budget else head, None)
        stage = plan_stage(work, settings, speeds, frozen, left_s)
        if stage:
            yield replace(frozen, stage=stage)
    yield Plan(min(2, views) if settings.budget else views, head, None)
    if settings.budget:
        yield Plan(min(2, views), _shorten(settings), None)
        yield from (Plan(1, _shorten(settings), None, share) for share in SHARES)


def _shorten(settings: Settings) -> str:
    return "linear" if settings.head == "auto" else settings.head


def plan_stage(
    work: Workload, settings: Settings, speeds: Speeds | None, frozen: Plan, left_s: float
) -> StagePlan | None:
    """Plan the training of all layers, for what a budget leaves; None if that is not worth while."""
    most = settings.epochs or min(MOST_EPOCHS, max(FEWEST_EPOCHS, THOROUGH_IMAGES / work.train))
    stage = StagePlan("all layers", "conv1", plan_phases(work.side), most, choose_recipe(work.train, most))
    if not settings.budget or speeds is None:
        return stage
    most = settings.epochs or MOST_EPOCHS
    others = sum(item.seconds for item in forecast_parts(frozen, work, speeds))
    training_s = left_s - others - forecast_frame(stage, work, speeds)
    epochs = training_s / measure_epoch(work.side, work, speeds)
    phases = stage.phases
    if epochs < EPOCHS_FOR_FULL_SIDE:
        phases = (Phase(find_small_side(work.side), 1.0),)
        training_s = left_s - others - forecast_frame(replace(stage, phases=phases), work, speeds)
        epochs = training_s / measure_epoch(phases[0].side, work, speeds)
    if training_s < LEAST_TRAINING_S or epochs < LEAST_EPOCHS:
        return None
    return replace(stage, phases=phases, epochs=min(most, epochs), recipe=choose_recipe(work.train, epochs))
