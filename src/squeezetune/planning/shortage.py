"""What is done where a budget is too short for all photos: fewer of them, a little more time, or
nothing.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import ceil, inf

from squeezetune.errors import SettingsError
from squeezetune.events import Shortage
from squeezetune.planning.costs import RESERVE_SHARE, Timing
from squeezetune.planning.plan import SLACK, Plan, add_forecasts
from squeezetune.quantities import format_duration
from squeezetune.settings import Settings

# The parts of the photos that are looked at; fewer are not worth a model.
SHARES = tuple(part / 20 for part in range(19, 0, -1))
# Where nothing fits, a run that is over so much later, or in so much more time, is made all the
# same: what it has taken to find that out is spent, and would be again.
PATIENCE_S = 30.0
# A plan takes hardly longer than another if all of the run takes so many times as long.
HARDLY_LONGER = 1.1
# Times are told in whole steps of so many seconds, up to so many.
ROUND_STEPS = ((60, 5), (600, 30), (inf, 300))


def list_thinned(whole: Plan, timing: Timing, spent_s: float) -> list[Plan]:
    """List the plans that leave photos out and gain by it, those that leave out the fewest first.

    A plan gains if it saves at least as many seconds as cannot be saved: those of starting,
    measuring and the report.
    """
    none = add_forecasts(replace(whole, share=0.0), timing)
    needed_s = find_needed(whole, spent_s)
    thinned = [
        add_forecasts(replace(whole, share=share, needed_s=needed_s), timing) for share in SHARES
    ]
    return [plan for plan in thinned if whole.total_s - plan.total_s >= spent_s + none.total_s]


def choose_whole(forecast: Sequence[Plan], spent_s: float) -> Plan:
    """Choose, where no plan fits, the best one that takes hardly longer than the shortest that
    looks at all photos.
    """
    whole = [plan for plan in forecast if not plan.stages]
    longest_s = HARDLY_LONGER * (spent_s + whole[-1].total_s)
    best = next(plan for plan in whole if spent_s + plan.total_s <= longest_s)
    return replace(best, needed_s=find_needed(best, spent_s))


def find_needed(plan: Plan, spent_s: float) -> float:
    """Find the budget that a plan needs, with its reserves, in seconds rounded up."""
    exact_s = (spent_s + (1 + SLACK) * plan.total_s) / (1 - RESERVE_SHARE)
    step_s = next((step for limit, step in ROUND_STEPS if exact_s <= limit), ROUND_STEPS[-1][1])
    return float(step_s * ceil(exact_s / step_s))


def refuse_budget(
    budget: str, whole: Plan, thinned: Sequence[Plan], spent_s: float
) -> SettingsError:
    """Say how much time is needed where there is much less."""
    words = (
        f"{budget} is too short here; about {format_duration(whole.needed_s or 0.0)} are "
        f"needed for all photos"
    )
    if thinned:
        least = thinned[-1]
        words += (
            f", or {format_duration(find_needed(least, spent_s))} for {least.share:.0%} of "
            f"the photos"
        )
    return SettingsError(words, "Give more time with --budget, or leave it out.")


def find_shortage(plan: Plan, settings: Settings) -> Shortage | None:
    """Find what a plan does where the budget is too short for all photos; None where it is not."""
    if plan.needed_s is None or plan.timing is None:
        return None
    work = plan.timing.work
    used, photos = plan.count_used(work), work.train + work.validation
    return Shortage(settings.budget, plan.needed_s, used, photos)
