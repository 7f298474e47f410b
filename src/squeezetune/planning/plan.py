"""What a run does, in which steps, and how long each will take."""

from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from math import ceil
from typing import Any

from squeezetune.events import FEATURES, HEAD, NEAR_DUPLICATES
from squeezetune.finetune.recipe import StagePlan
from squeezetune.heads.head_data import WATCHED_IMAGES
from squeezetune.planning.costs import Forecast, Timing, Workload

# Choices are made on so many validation images, where there are as many; a few more are looked at,
# since some may turn out to belong to another part, with their near-duplicates.
LEAST_JUDGING = round(1.05 * WATCHED_IMAGES)
# A plan that was made to fill the time exactly still fits. The training of layers ends by the
# clock; a plan without it has to leave so large a share of itself for what takes longer than
# forecast.
TOLERANCE_S, SLACK = 0.1, 0.08
# What was over sooner than this says nothing about a speed.
LEAST_SEEN_S = 2.0


@dataclass(frozen=True)
class NetworkForecast:
    """How long a run takes with one of the networks that it would choose from, in seconds: to look
    at the photos, to train, and in all.
    """

    network: str
    features_s: float
    training_s: float
    total_s: float


@dataclass(frozen=True)
class Plan:
    """What a run does: with how many views, which head, and which stages of training layers behind
    it, in order.

    `share` is the part of the training and validation images that take part: less than 1 where time
    is too short. `head_share` is the part of those that the frozen layers look at: more training
    images train layers alone. `needed_s` is what all photos would take in all where the budget is
    too short for that, None elsewhere. `forecasts` is empty where nobody asked for them;
    `after_training_s` is what comes after the last step of training. They rest on `timing`, which
    is None where nobody has measured this machine. `peak_memory` is the most that the run will
    hold, in bytes. `networks` forecasts a run with each of those that it will choose from; this one
    takes longest.
    """

    views: int
    head: str
    stages: tuple[StagePlan, ...] = ()
    share: float = 1.0
    head_share: float = 1.0
    forecasts: tuple[Forecast, ...] = ()
    after_training_s: float = 0.0
    timing: Timing | None = None
    peak_memory: int = 0
    needed_s: float | None = None
    networks: tuple[NetworkForecast, ...] = ()

    @property
    def stage(self) -> StagePlan | None:
        """The last stage, None where no layers are trained."""
        return self.stages[-1] if self.stages else None

    @property
    def total_s(self) -> float:
        """How long the run will take."""
        return sum(forecast.seconds for forecast in self.forecasts)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        plain = dict[str, Any]()
        for name, value in asdict(self).items():
            timed = (value or {"work": None, "speeds": None}) if name == "timing" else {name: value}
            plain |= timed
        return plain | {"total_s": self.total_s}

    def fits(self, left_s: float) -> bool:
        """Say whether the run will be over in so many seconds."""
        return self.total_s * (1.0 if self.stages else 1 + SLACK) <= left_s + TOLERANCE_S

    def narrow(self, work: Workload) -> Workload:
        """Leave the validation images out of the work that nobody will look at."""
        wanted = ceil(self.share * self.head_share * work.validation)
        return replace(work, validation=min(work.validation, max(wanted, LEAST_JUDGING)))

    def narrow_timing(self, timing: Timing) -> Timing:
        """Leave the validation images out of the work that nobody will look at."""
        return replace(timing, work=self.narrow(timing.work))

    def count_used(self, work: Workload) -> int:
        """Count the training and validation images that take part."""
        return ceil(self.share * work.train) + self.narrow(work).validation

    def count_seen(self, work: Workload) -> float:
        """Count the training and validation images that the frozen layers look at."""
        return self.share * self.head_share * work.train + self.narrow(work).validation

    def count_unseen(self, work: Workload) -> float:
        """Count those of them whose features no earlier run has kept."""
        return work.unseen * self.count_seen(work) / max(1, work.train + work.validation)

    def list_rest(self, done: Collection[str]) -> tuple[StagePlan, ...]:
        """List the stages that are still to come, where those with the first blocks `done` are
        over.
        """
        return tuple(stage for stage in self.stages if stage.start not in done)

    def note_features(self, seconds: float) -> "Plan":
        """Take the speed at which the frozen layers really went for that of all like it that is
        still to come.
        """
        timing = self.timing
        if timing is None:
            return self
        forecast_s = timing.forecast_features(self.views, self.count_unseen(timing.work))
        if forecast_s < LEAST_SEEN_S:
            return self
        names = ("read_s", "view_s", "file_s", "draw_s")
        return replace(self, timing=timing.slow_down(seconds / forecast_s, *names))

    def note_pixels(self) -> "Plan":
        """Take note that the images have been decoded for the training of layers."""
        if self.timing is None:
            return self
        return replace(self, timing=self.timing.count_anew(unkept=0))

    def note_training(self, stage: StagePlan, images_per_s: float | None) -> "Plan":
        """Take the speed at which a stage really went for that of all training that is still to
        come.
        """
        image_s = self.timing.measure_training(stage) if self.timing else 0.0
        if self.timing is None or not images_per_s or not image_s or len(stage.phases) > 1:
            return self
        names = ("pixel_s", "step_s", "last_s")
        return replace(self, timing=self.timing.slow_down(1 / images_per_s / image_s, *names))


def add_forecasts(plan: Plan, timing: Timing, spare_s: float = 0.0) -> Plan:
    """Add to a plan how long its parts will take.

    The frozen layers may turn out to be better than trained ones, and see larger images: what
    measuring those takes longer has to end in time as well, with `spare_s` beyond the plan's own
    end.
    """
    narrowed, beginning = plan.narrow_timing(timing), forecast_beginning(plan, timing)
    rest = forecast_rest(plan, narrowed)
    after = end_s = sum(part.seconds for part in rest[len(plan.stages) :])
    if plan.stage:
        after += narrowed.forecast_judgement(plan.stage)
        larger = narrowed.forecast_end(timing.work.side, plan.views, is_deep=False)
        after += max(0.0, sum(part.seconds for part in larger) - end_s - spare_s)
    return replace(plan, forecasts=(*beginning, *rest), after_training_s=after, timing=timing)


def forecast_beginning(plan: Plan, timing: Timing) -> tuple[Forecast, ...]:
    """Forecast the parts of a plan that come before the training of layers."""
    work, fitted = timing.work, plan.share * plan.head_share * timing.work.train
    head_s = timing.forecast_head(plan.views, fitted, is_linear=plan.head == "linear")
    features_s = timing.forecast_features(plan.views, plan.count_unseen(work))
    parts = [Forecast(FEATURES, features_s), Forecast(HEAD, head_s)]
    if work.compared:
        # the looks of what the frozen layers have not seen are taken for this alone
        unlooked = work.unlooked + (1 - plan.head_share) * plan.share * work.train
        compared = work.compared * (plan.count_seen(work) + unlooked) / work.images
        near_s = timing.forecast_near_duplicates(compared, unlooked)
        parts.insert(1, Forecast(NEAR_DUPLICATES, near_s))
    return tuple(parts)


def forecast_rest(plan: Plan, timing: Timing) -> tuple[Forecast, ...]:
    """Forecast the training of layers, and what follows."""
    side = plan.stage.side if plan.stage else timing.work.side
    stages = (Forecast(stage.title, timing.forecast_stage(stage)) for stage in plan.stages)
    return (*stages, *timing.forecast_end(side, plan.views, is_deep=bool(plan.stages)))
