"""What a run does, in which steps, and how long each will take."""

from dataclasses import dataclass, replace
from math import ceil

from squeezetune.finetune.recipe import StagePlan
from squeezetune.heads.head_data import WATCHED_IMAGES
from squeezetune.planning.costs import (
    Forecast,
    Speeds,
    Workload,
    forecast_end,
    forecast_features,
    forecast_head,
    forecast_judgement,
    forecast_near_duplicates,
    forecast_stages,
)

# Choices are made on so many validation images, where there are as many; a few more are looked at,
# since some may turn out to belong to another part, with their near-duplicates.
LEAST_JUDGING = round(1.05 * WATCHED_IMAGES)
# A plan that was made to fill the time exactly still fits. The training of layers ends by the
# clock; a plan without it has to leave so large a share of itself for what takes longer than
# forecast.
TOLERANCE_S, SLACK = 0.1, 0.08


@dataclass(frozen=True)
class Plan:
    """What a run does: with how many views, which head, and which stages of training layers behind
    it, in order.

    `share` is the part of the training and validation images that take part: less than 1 where time
    is too short. `head_share` is the part of those that the frozen layers look at: more training
    images train layers alone. `needed_s` is what all photos would take in all where the budget is
    too short for that, None elsewhere. `forecasts` is empty where nobody asked for them;
    `after_training_s` is what comes after the last step of training. They rest on `work` and
    `speeds`. `peak_memory` is the most that the run will hold, in bytes.
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
    needed_s: float | None = None

    @property
    def stage(self) -> StagePlan | None:
        """The last stage, None where no layers are trained."""
        return self.stages[-1] if self.stages else None

    def narrow(self, work: Workload) -> Workload:
        """Leave the validation images out of the work that nobody will look at."""
        wanted = ceil(self.share * self.head_share * work.validation)
        return replace(work, validation=min(work.validation, max(wanted, LEAST_JUDGING)))

    def count_used(self, work: Workload) -> int:
        """Count the training and validation images that take part."""
        return ceil(self.share * work.train) + self.narrow(work).validation

    @property
    def total_s(self) -> float:
        """How long the run will take."""
        return sum(forecast.seconds for forecast in self.forecasts)

    def fits(self, left_s: float) -> bool:
        """Say whether the run will be over in so many seconds."""
        return self.total_s * (1.0 if self.stages else 1 + SLACK) <= left_s + TOLERANCE_S


def add_forecasts(plan: Plan, work: Workload, speeds: Speeds, spare_s: float = 0.0) -> Plan:
    """Add to a plan how long its parts will take.

    The frozen layers may turn out to be better than trained ones, and see larger images: what
    measuring those takes longer has to end in time as well, with `spare_s` beyond the plan's own
    end.
    """
    narrowed, beginning = plan.narrow(work), forecast_beginning(plan, work, speeds)
    rest = forecast_rest(plan, narrowed, speeds)
    after = end_s = sum(part.seconds for part in rest[len(plan.stages) :])
    if plan.stage:
        after += forecast_judgement(plan.stage, narrowed, speeds)
        larger_s = sum(
            part.seconds
            for part in forecast_end(work.side, plan.views, narrowed, speeds, is_deep=False)
        )
        after += max(0.0, larger_s - end_s - spare_s)
    return replace(
        plan, forecasts=(*beginning, *rest), after_training_s=after, work=work, speeds=speeds
    )


def forecast_beginning(plan: Plan, work: Workload, speeds: Speeds) -> tuple[Forecast, ...]:
    """Forecast the parts of a plan that come before the training of layers."""
    head = forecast_head(
        plan.views, count_fitted(plan, work), speeds, is_linear=plan.head == "linear"
    )
    parts = [
        Forecast("features", forecast_features(plan.views, count_unseen(plan, work), speeds)),
        Forecast("head", head),
    ]
    if work.compared:
        # the looks of what the frozen layers have not seen are taken for this alone
        unlooked = work.unlooked + (1 - plan.head_share) * plan.share * work.train
        compared = work.compared * (count_seen(plan, work) + unlooked) / work.images
        near_s = forecast_near_duplicates(compared, unlooked, speeds)
        parts.insert(1, Forecast("near-duplicates", near_s))
    return tuple(parts)


def count_fitted(plan: Plan, work: Workload) -> float:
    """Count the training images that the frozen layers' head is fitted on."""
    return plan.share * plan.head_share * work.train


def count_seen(plan: Plan, work: Workload) -> float:
    """Count the training and validation images that the frozen layers look at."""
    return count_fitted(plan, work) + plan.narrow(work).validation


def count_unseen(plan: Plan, work: Workload) -> float:
    """Count those of them whose features no earlier run has kept."""
    return work.unseen * count_seen(plan, work) / max(1, work.train + work.validation)


def forecast_rest(plan: Plan, work: Workload, speeds: Speeds) -> tuple[Forecast, ...]:
    """Forecast the training of layers, and what follows."""
    side = plan.stage.side if plan.stage else work.side
    end = forecast_end(side, plan.views, work, speeds, is_deep=bool(plan.stages))
    return (*forecast_stages(plan.stages, work, speeds), *end)
