"""A pretrained network that is tried on a sample of the photos: how well its frozen features tell
the classes apart, and what that takes.
"""

import time
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from squeezetune.array_types import Ints
from squeezetune.data.index import ImageIndex
from squeezetune.data.split import Split, sort_by_content
from squeezetune.events import CHOOSING, FEATURES, Listener
from squeezetune.heads.out_of_fold import deal_folds, predict_out_of_fold, rank_within_class
from squeezetune.network.backbone import Backbone
from squeezetune.network.weights import find_architecture
from squeezetune.pipeline.preparation import PreparedRun
from squeezetune.planning.costs import Forecast
from squeezetune.planning.plan import Plan
from squeezetune.system.disk import cache_or_temporary
from squeezetune.system.scratch import Selection

# About so many photos are looked at, but so many of each class
# (docs/decisions/0028-choosing-the-network.md).
JUDGED_IMAGES, LEAST_OF_CLASS = 1000, 10
# Judging takes as long as a linear head on so many rows besides those that are judged.
JUDGING_ROWS = 500
# Fewer photos say nothing of a speed.
TIMED_IMAGES = 50


def draw_sample(index: ImageIndex, split: Split) -> Ints:
    """Draw some of the images that are learnt from, of every class, by their content: positions in
    rising order.
    """
    used = sort_by_content(index, np.concatenate([split.train, split.validation]))
    labels = index.labels[used]
    counts = np.bincount(labels)
    wanted = np.ceil(counts * min(1.0, JUDGED_IMAGES / len(used))).astype(np.int64)
    wanted = np.minimum(counts, np.maximum(wanted, LEAST_OF_CLASS))
    ranks = rank_within_class(labels)
    # evenly, so that an image more changes few others
    is_drawn = ranks * wanted[labels] // counts[labels] != (
        (ranks + 1) * wanted[labels] // counts[labels]
    )
    return np.sort(used[is_drawn])


@dataclass(frozen=True)
class Judgement:
    """What linear heads that have not seen them make of some images, by their positions in rising
    order: the losses (n,) in nats, and which are named right.

    `image_s` is how long an image took to be looked at, None where too few were.
    """

    positions: Ints
    losses: NDArray[np.float64]
    is_right: NDArray[np.bool_]
    image_s: float | None = None

    def take(self, positions: Ints) -> "Judgement":
        """Take those at some of the positions."""
        rows = np.searchsorted(self.positions, positions)
        return Judgement(positions, self.losses[rows], self.is_right[rows], self.image_s)


@dataclass(frozen=True)
class Trial:
    """A network that is tried on a sample of the photos, by their positions; it prepares itself in
    silence, since the one that is taken will say all of it again.
    """

    name: str
    prepared: PreparedRun
    sample: Ints

    @property
    def title(self) -> str:
        """Name the network for people."""
        return find_architecture(self.name).title

    @property
    def is_deep(self) -> bool:
        """Say whether there is memory to train its layers, if they are to be."""
        return self.prepared.memory.provision.is_deep

    @cached_property
    def backbone(self) -> Backbone:
        """The frozen layers, as the run will begin with them."""
        return self.prepared.prepare_planned()

    def tell(self, listen: Listener, index: ImageIndex | None = None) -> PreparedRun:
        """Tell somebody what becomes of the run, or of one on some of its photos."""
        context = replace(self.prepared.context, listen=listen)
        return replace(self.prepared, index=index or self.prepared.index, context=context)

    def judge(self, listen: Listener) -> Judgement:
        """Judge the frozen features on the sample."""
        index, prepared, backbone = self.prepared.index, self.prepared, self.backbone
        started = time.perf_counter()
        others = np.setdiff1d(np.arange(len(index)), self.sample)
        part, scratch = index.without(dict.fromkeys(others.tolist(), "")), prepared.open_scratch()
        with cache_or_temporary(prepared.context.cache) as folder:
            features = self.tell(listen, part).compute_features(backbone, folder, scratch)
        seconds = time.perf_counter() - started
        rows = np.flatnonzero(features.sizes.min(axis=1) > 0)
        if not len(rows):
            return Judgement(self.sample[:0], np.empty(0), np.empty(0, np.bool_))
        labels, units = part.labels[rows], prepared.split.find_units(self.sample[rows])
        predicted = predict_out_of_fold(
            Selection(features.values, rows),
            labels,
            deal_folds(labels, units),
            len(index.class_names),
            threads=prepared.context.threads,
            scratch=scratch,
        )
        own = predicted.probabilities[np.arange(len(rows)), labels].astype(np.float64)
        return Judgement(
            self.sample[rows],
            -np.log(np.maximum(own, np.finfo(np.float32).tiny)),
            predicted.probabilities.argmax(axis=1) == labels,
            seconds / features.computed if features.computed >= TIMED_IMAGES else None,
        )

    def forecast_judging(self, plan: Plan) -> float:
        """Forecast how long the sample is looked at and judged."""
        timing = plan.timing
        if timing is None:
            return 0.0
        rows = len(self.sample) + JUDGING_ROWS
        looking_s = timing.forecast_features(plan.views, self._count_unseen())
        return looking_s + rows * timing.speeds.linear_s

    def add_choosing(self, plan: Plan, choosing_s: float) -> Plan:
        """Add the choice to a plan, which then has so many photos less to look at."""
        timing = plan.timing
        saved_s = timing.forecast_features(plan.views, self._count_unseen()) if timing else 0.0
        parts = list[Forecast]()
        for item in plan.forecasts:
            if item.part == FEATURES:
                parts.append(Forecast(CHOOSING, choosing_s))
                item = replace(item, seconds=max(0.0, item.seconds - saved_s))
            parts.append(item)
        return replace(plan, forecasts=tuple(parts))

    def _count_unseen(self) -> int:
        """Count the photos of the sample that no earlier run has looked at."""
        store = self.prepared.open_features(self.backbone)
        missing = store.open_rows(self.prepared.index.digests).missing if store else self.sample
        return len(np.intersect1d(missing, self.sample))
