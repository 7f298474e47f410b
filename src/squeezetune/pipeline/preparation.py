"""A run made ready: its photos, split, image size and limits of memory; and its plan."""

import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from squeezetune.data.decoding import estimate_memory, read_size
from squeezetune.data.duplicates.near_duplicates import locate_pictures
from squeezetune.data.index import ImageIndex
from squeezetune.data.pixels import PixelSettings, load_indexed
from squeezetune.data.reading import DECODING_BYTES, read_image
from squeezetune.data.split import Split
from squeezetune.data.thumbnails import open_look_store
from squeezetune.errors import ImageError, SettingsError, SourceError
from squeezetune.events import Notice
from squeezetune.network.architecture import Architecture
from squeezetune.network.backbone import (
    CALIBRATION_IMAGES,
    Backbone,
    BackboneOptions,
    PretrainedNetwork,
    prepare_backbone,
)
from squeezetune.network.features import Features, FeatureStores, compute_features
from squeezetune.pipeline.context import RunContext
from squeezetune.planning.costs import Workload
from squeezetune.planning.memory import (
    MemoryInputs,
    MemoryPlan,
    apply_plan,
    count_views,
    plan_memory,
)
from squeezetune.planning.plan import Plan
from squeezetune.planning.planner import (
    TimeLimit,
    announce_plan,
    check_torch,
    choose_plan,
    is_trainable,
    plan_run,
    tell_reading,
)
from squeezetune.settings import Settings
from squeezetune.system.disk import cache_or_temporary, measure_room
from squeezetune.system.executor import ThreadExecutor
from squeezetune.system.machine import has_bfloat16
from squeezetune.system.scratch import IN_MEMORY, Scratch
from squeezetune.system.store import RowStore

SMALL_SIDE_PX = 128
SMALL_IMAGE_PX = 100
SAMPLE_FOR_SIDE = 32
# Activations are kept in no more than this.
MOST_ROOM_BYTES = 8_000_000_000
# Where the machine is measured before there is a plan, the frozen layers look at so many views.
PROBED_VIEWS = 2


@dataclass(frozen=True)
class PreparedRun:
    """What a run is planned for, and what it works with; its layers see images at `side` pixels.

    It was `opened` when the photos had been read, by `time.perf_counter`.
    """

    index: ImageIndex
    split: Split
    side: int
    context: RunContext
    memory: MemoryPlan
    opened: float = field(default_factory=time.perf_counter)

    @property
    def settings(self) -> Settings:
        """The settings, as far as memory allows them."""
        return self.context.settings

    def prepare_backbone(self, views: int) -> Backbone:
        """Make the frozen layers ready for so many views."""
        settings, context, pixels = (
            self.settings,
            self.context,
            PixelSettings(self.side, self.settings.resize),
        )
        options = BackboneOptions(
            pixels, views, settings.engine, settings.precision, context.threads, context.cache
        )
        train = self.split.train
        return prepare_backbone(
            context.pretrained,
            options,
            self.index,
            lambda: draw_sample(self.index, train, pixels),
            context.listen,
        )

    def prepare_probed(self) -> Backbone:
        """Make the frozen layers ready for the views that a plan begins with, where the machine is
        measured first.
        """
        return self.prepare_backbone(count_views(self.settings, PROBED_VIEWS))

    def prepare_planned(self) -> Backbone:
        """Make the frozen layers ready as the plan will begin with them."""
        settings = self.settings
        if settings.budget:
            return self.prepare_probed()
        is_deep = has_trainable_layers(settings, self.split)
        return self.prepare_backbone(
            choose_plan(self.count_work(), settings, is_deep=is_deep).views
        )

    def count_work(self, backbone: Backbone | None = None) -> Workload:
        """Count what there is to do; what an earlier run has kept is taken into account if the
        backbone is given.
        """
        index, split, cache = self.index, self.split, self.context.cache
        involved = np.concatenate([split.train, split.validation, split.test])
        used = np.union1d(split.train, split.validation)
        # where time counts, the file alone looks at test images
        looked_at = used if self.settings.budget else involved
        store = self.open_features(backbone) if backbone else None
        missing = store.open_rows(index.digests).missing if store else looked_at
        with cache_or_temporary(cache) as folder:
            room_bytes = min(MOST_ROOM_BYTES, measure_room(folder))
        pixels = PixelSettings(self.side, self.settings.resize)
        is_known = self.settings.near_duplicates == "ignored" or (
            cache is not None and locate_pictures(cache, index.digests, involved, pixels).exists()
        )
        return Workload(
            train=len(split.train),
            validation=len(split.validation),
            test=len(split.test),
            unseen=len(np.intersect1d(looked_at, missing)),
            unkept=len(used),
            side=self.side,
            room_bytes=room_bytes,
            is_kept=cache is not None,
            network=self.context.layout,
            compared=0 if is_known else len(involved),
            unlooked=len(involved) - len(looked_at),
        )

    def open_features(self, backbone: Backbone) -> RowStore | None:
        """Open the store of features, where anything may be kept."""
        cache = self.context.cache
        return (
            RowStore(cache / "features" / backbone.key, (backbone.views, backbone.feature_count))
            if cache
            else None
        )

    def compute_features(
        self,
        backbone: Backbone,
        folder: Path,
        scratch: Scratch = IN_MEMORY,
        positions: NDArray[np.int64] | None = None,
    ) -> Features:
        """Run the frozen layers over the images, or over those at some positions, as far as that is
        not kept; how images look, which is seen in the same pass, is kept in `folder`.
        """
        stores = FeatureStores(
            self.open_features(backbone), open_look_store(folder, backbone.pixels)
        )
        context = self.context
        return compute_features(
            self.index,
            backbone,
            stores,
            context.executor,
            context.threads,
            context.listen,
            positions,
            scratch,
        )

    def open_scratch(self) -> Scratch:
        """Open the room for arrays that are too large for memory."""
        folder = self.context.cache and self.context.cache / "scratch"
        return Scratch(
            folder, self.memory.provision.held_bytes, is_strict=self.memory.ceiling is not None
        )


def thin_out(positions: NDArray[np.int64], share: float, least: int = 0) -> NDArray[np.int64]:
    """Keep a share of the positions, evenly: every n-th where the share is 1/n; but `least` of
    them, or all.
    """
    share = min(1.0, max(share, least / max(1, len(positions))))
    step = round(1 / share, 6)
    return (
        positions[np.arange(0, len(positions), step).astype(np.int64)] if share < 1 else positions
    )


def plan_prepared(
    prepared: PreparedRun, limit: TimeLimit, *, is_forecast: bool = False
) -> tuple[Plan, Backbone]:
    """Plan the run, and make the frozen layers ready.

    If there is a budget, or a forecast is asked for, the machine is measured first, and the plan
    announced.

    Raises:
        SettingsError: the budget is much too short.

    """
    settings, listen = prepared.settings, prepared.context.listen
    is_deep = check_torch(settings, listen) and bool(len(prepared.split.validation))
    if not (limit.is_set or is_forecast):
        plan = choose_plan(prepared.count_work(), settings, is_deep=is_deep)
        return plan, prepared.prepare_backbone(plan.views)
    backbone = prepared.prepare_probed()
    site, work = prepared.context.make_site(prepared.index, backbone), prepared.count_work(backbone)
    plan = plan_run(site, work, settings, limit, is_deep=is_deep)
    if plan.views != backbone.views:
        backbone = prepared.prepare_backbone(plan.views)
        own = prepared.count_work(backbone)
        if own.unseen > work.unseen and plan.timing:  # what is kept is kept of other views
            limit = replace(limit, speeds=plan.timing.speeds)
            plan = plan_run(site, own, settings, limit, is_deep=is_deep)
    if limit.started:
        chosen_s = limit.choosing_s
        plan = tell_reading(plan, prepared.opened - limit.started - chosen_s, chosen_s)
    announce_plan(plan, settings, listen)
    return plan, backbone if plan.views == backbone.views else prepared.prepare_backbone(plan.views)


def prepare_run(index: ImageIndex, split: Split, context: RunContext) -> PreparedRun:
    """Choose the image size, and make the run fit into memory: its context becomes as small as it
    has to be.

    Raises:
        SettingsError: the run cannot fit under the ceiling of the settings, or the network cannot
            take images as small as these are to be, or has not so many blocks.

    """
    settings = context.settings
    network = context.pretrained
    side = network.fixed_side or settings.image_side or choose_side(index, split.train, network)
    if side < network.least_side:
        raise SettingsError(
            f"image_side is {side}; {network.network} needs {network.least_side} or more",
            "Leave it out, or choose another backbone.",
        )
    if settings.layers == "last" and settings.last_blocks >= (
        blocks := len(context.layout.block_names)
    ):
        raise SettingsError(
            f"last_blocks is {settings.last_blocks}; {network.network} has {blocks} blocks",
            "Give fewer, or take --layers all.",
        )
    demand = count_demand(index, split, settings, side, network)
    if context.teaching:
        demand = replace(demand, teacher=context.teaching.network.size)
    memory = plan_memory(demand, settings, context.threads)
    if demand.is_deep and not memory.provision.is_deep:
        context.listen(
            Notice(
                f"layers cannot be trained within {settings.max_ram} of memory, so the head alone "
                f"is"
            )
        )
    threads, micro_pixels = memory.provision.threads, memory.provision.micro_pixels
    executor = ThreadExecutor(threads) if memory.ceiling else context.executor
    settings = apply_plan(memory, settings)
    return PreparedRun(
        index,
        split,
        side,
        replace(
            context,
            settings=settings,
            executor=executor,
            threads=threads,
            micro_pixels=micro_pixels,
        ),
        memory,
    )


def has_trainable_layers(settings: Settings, split: Split) -> bool:
    """Say whether layers may be trained: somebody asks for it, torch is there, and there are images
    to judge them by.
    """
    return is_trainable(settings) and bool(len(split.validation))


def count_demand(
    index: ImageIndex, split: Split, settings: Settings, side: int, network: PretrainedNetwork
) -> MemoryInputs:
    """Count what the memory of a run depends on."""
    is_deep = has_trainable_layers(settings, split)
    needs = [0]
    for position in split.train[:: max(1, len(split.train) // SAMPLE_FOR_SIDE)]:
        with suppress(ImageError), read_image(index.source, index.names[position]) as raw:
            needs.append(min(estimate_memory(raw, side), DECODING_BYTES))
    return MemoryInputs(
        images=len(index),
        train=len(split.train),
        validation=len(split.validation),
        classes=len(index.class_names),
        side=side,
        decoded_bytes=max(needs),
        is_deep=is_deep,
        is_probed=bool(settings.budget),
        is_last=settings.layers == "last" and network.is_described,
        has_bfloat16=has_bfloat16() and network.is_described,
        network=network.size,
    )


def choose_side(
    index: ImageIndex, positions: NDArray[np.int64], network: Architecture | PretrainedNetwork
) -> int:
    """Choose the side that the network was made for, or 128 where most images are so small that
    more would be made up.
    """
    sides = []
    for position in positions[:: max(1, len(positions) // SAMPLE_FOR_SIDE)]:
        with suppress(ImageError), read_image(index.source, index.names[position]) as raw:
            sides.append(max(read_size(raw)))
    return SMALL_SIDE_PX if sides and np.median(sides) < SMALL_IMAGE_PX else network.side


def draw_sample(
    index: ImageIndex, positions: NDArray[np.int64], pixels: PixelSettings
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read an even sample of training images: their digests (n, 16) and pixels (n, side, side, 3).

    Raises:
        SourceError: none of them can be decoded.

    """
    digests, images, reason = [], [], ""
    for position in positions[:: max(1, len(positions) // CALIBRATION_IMAGES)][:CALIBRATION_IMAGES]:
        try:
            images.append(load_indexed(index, int(position), pixels)[0])
        except ImageError as error:
            reason = f"{index.names[position]}: {error.message}"
            continue
        digests.append(index.digests[position])
    if not images:
        raise SourceError(
            f"none of the images looked at can be decoded, e.g. {reason}",
            "Replace the damaged files.",
        )
    return np.array(digests, np.uint8), np.array(images, np.uint8)
