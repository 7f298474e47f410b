"""How much memory each stage of a run holds at most, and how a run is made to fit under a ceiling.

Pure functions of counts and settings. The numbers were measured with `benchmarks/memory_ceiling.py`
and are rounded up (docs/decisions/0006-memory.md). What counts is anonymous and shared memory:
mapped files are dropped by the system when it is short.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from math import ceil, inf
from typing import Any

from squeezetune.data.decoding import BYTES_A_PIXEL
from squeezetune.data.reading import DECODING_BYTES
from squeezetune.errors import SettingsError
from squeezetune.finetune.recipe import MICRO_PIXELS, PROBE_IMAGES, count_micro
from squeezetune.model.classifier import CHUNK, HELD_PIXELS
from squeezetune.network.architecture import NetworkSize
from squeezetune.network.inference import BATCH_PIXELS, batch_size
from squeezetune.network.zoo import SQUEEZENET1_1
from squeezetune.quantities import parse_size
from squeezetune.settings import LAYERS_NEED_TORCH, Settings
from squeezetune.system.scratch import HELD_BYTES

MB = 1_000_000
# Python with numpy, scipy, ONNX and ONNX Runtime; then what each of the extras adds for good, once
# it was used.
BASE, OPENVINO, TORCH = 115 * MB, 40 * MB, 150 * MB
# What the lists of names, digests and labels take for an image.
INDEX_ROW = 600
# Finding near-duplicates: for the cosines of both threads, and for each image.
LIKENESS, LIKENESS_ROW = 100 * MB, 2_500
# An engine with a batch of `BATCH_PIXELS`: opened once, and then for each thread.
ENGINE, ENGINE_THREAD = 50 * MB, 75 * MB
# All was measured with SqueezeNet 1.1. Another network's maps take as much more as they have more
# values, and so many times that difference, since the largest maps differ by more than most
# (SqueezeNet 1.0, which makes images smaller later, was seen to take 2.2 times as much).
SHARE_TIMES = 1.6
# A parameter with its average, moments, gradient and copies in training.
TRAINED_PARAMETER = 24
# Timing the engines against each other, or one in its forms, and the ranges of int8: on top of what
# one engine takes.
TIMING, TIMING_ONE = 90 * MB, 70 * MB
# `model.onnx` with a small batch on each thread; of large photos it runs so many together.
MODEL, MODEL_THREAD, RUN_TOGETHER = 100 * MB, 60 * MB, 4
# Rows of features that wait to be saved, and those of pixels; both are copied once.
UNSAVED_IMAGES, UNSAVED_PIXELS = 2048, 130 * MB
# Gradients and moments of a head; the sample of rows that gives many of them their curvature; then
# for each class.
HEAD, HEAD_SAMPLE, HEAD_CLASS = 100 * MB, 120 * MB, 1 * MB
# Parameters, averages, moments, gradients and copies of a network whose layers are trained; then
# for each pixel that goes through the network at once on a thread, in bfloat16 and in float32.
NETWORK, NETWORK_THREAD, NETWORK_PIXEL = 30 * MB, 15 * MB, {True: 900, False: 1800}
# A value of an image that autograd may keep: of five networks of timm at 224 pixels it was seen to
# hold 0.4 to 0.84 of all values, gradients included (docs/decisions/0030-training-graphs.md).
AUTOGRAD_VALUE = 4
REPORT = 75 * MB

# The views of an image by the setting, and where that is open by the effort.
VIEWS = {"plain": 1, "mirror": 2, "crops": 4}
EFFORT_VIEWS = {"quick": 1, "balanced": 2, "thorough": 4}

# What a ceiling makes of rows that are large: they go to the disk earlier.
SMALLER_HELD = (64 * MB, 16 * MB)
NOT_BELOW = 10 * MB  # ceilings are named in steps of this


@dataclass(frozen=True)
class MemoryInputs:
    """What the memory of a run depends on: counts of images and classes, the size they are seen at,
    and the photos.

    `decoded_bytes` is what the largest photo takes while it is decoded. `is_deep` says that all
    layers are to be trained, or with `is_last` the last blocks on what the others gave, and
    `is_probed` that the machine is measured before. Layers are trained in bfloat16 where the
    processor `has_bfloat16`; where a classifier of the network `teacher` says what they learn, it
    runs beside them.
    """

    images: int
    train: int
    validation: int
    classes: int
    side: int
    decoded_bytes: int
    is_deep: bool
    is_probed: bool
    is_last: bool = False
    has_bfloat16: bool = True
    network: NetworkSize = SQUEEZENET1_1.size
    teacher: NetworkSize | None = None

    @property
    def share(self) -> float:
        """What the maps of the network take, as a share of what SqueezeNet 1.1's do."""
        share = self.network.values / SQUEEZENET1_1.count_values(self.network.side)
        return max(share, 1 + SHARE_TIMES * (share - 1))

    @property
    def more_parameters(self) -> int:
        """How many parameters the network has more than SqueezeNet 1.1."""
        return max(0, self.network.parameters - SQUEEZENET1_1.parameter_count)


@dataclass(frozen=True)
class ResourceLimits:
    """What a run may use: threads, an engine, views, rows in memory, and pixels at once in
    training.

    `micro_pixels` is infinite where the training takes what is fastest; `views` is the most there
    may be.
    """

    threads: int
    engine: str
    views: int
    held_bytes: int
    micro_pixels: float
    is_deep: bool


@dataclass(frozen=True)
class StageMemory:
    """The most that one stage of a run holds, in bytes."""

    stage: str
    peak: int


@dataclass(frozen=True)
class MemoryPlan:
    """What a run may use, how much each of its stages will hold at most, and the ceiling, if there
    is one.
    """

    provision: ResourceLimits
    stages: tuple[StageMemory, ...]
    ceiling: int | None = None

    @property
    def peak(self) -> int:
        """The most that the run will hold, in bytes."""
        return max(stage.peak for stage in self.stages)


def plan_memory(demand: MemoryInputs, settings: Settings, threads: int) -> MemoryPlan:
    """Find what a run may use under the ceiling of the settings, giving up first what costs least.

    Raises:
        SettingsError: nothing fits; it names the smallest ceiling that would do.
    """
    ceiling = parse_size(settings.max_ram) if settings.max_ram else None
    provision = _provide(demand, settings, threads)
    plan = MemoryPlan(provision, forecast_memory(demand, provision), ceiling)
    if ceiling is None:
        return plan
    savings = list(_list_savings(provision, settings))
    for change in (
        savings + savings
    ):  # fewer views may make rows so small that they would be in memory again
        if plan.peak <= ceiling:
            return plan
        saving = replace(plan.provision, **change)
        stages = forecast_memory(demand, saving)
        now = {stage.stage: stage.peak for stage in stages}
        if any(stage.peak > max(ceiling, now.get(stage.stage, 0)) for stage in plan.stages):
            plan = MemoryPlan(saving, stages, ceiling)  # it helps where help is needed
    if plan.peak > ceiling:
        raise _refuse(plan, demand, settings)
    return plan


def apply_plan(plan: MemoryPlan, settings: Settings) -> Settings:
    """Write what a ceiling has chosen into the settings; without one they stay as they are."""
    if plan.ceiling is None:
        return settings
    chosen = plan.provision
    return replace(
        settings,
        threads=chosen.threads,
        engine=chosen.engine,
        views=settings.views
        if count_views(settings) <= chosen.views
        else next(name for name, views in VIEWS.items() if views == chosen.views),
        layers=settings.layers
        if chosen.is_deep or settings.layers in LAYERS_NEED_TORCH
        else "head",
    )


def count_views(settings: Settings, unasked: int = 0) -> int:
    """Count the views of an image that the settings ask for at most; where they leave that open,
    `unasked`, or what the effort says.
    """
    return VIEWS.get(settings.views, unasked or EFFORT_VIEWS[settings.effort])


def forecast_memory(demand: MemoryInputs, provision: ResourceLimits) -> tuple[StageMemory, ...]:
    """Forecast the most that each stage holds; what a stage freed is given back before the next."""
    has_openvino = provision.engine == "openvino" or (
        provision.engine == "auto" and find_spec("openvino") is not None
    )
    is_deep = demand.is_deep and provision.is_deep
    timing = TIMING if provision.engine == "auto" else TIMING_ONE
    base = BASE + INDEX_ROW * demand.images + (OPENVINO if has_openvino else 0)
    base += demand.network.held_bytes
    before = base + (TORCH if is_deep and demand.is_probed else 0)
    kept = before + _hold(
        demand.images, provision.views, demand.network.features * 2, provision
    )  # the features, all through the run
    after = kept + (TORCH - (before - base) if is_deep else 0)
    probe = _train_layers(demand, provision) if is_deep and demand.is_probed else 0
    stages = [
        StageMemory("preparing", before + max(probe, _run_engine(demand, provision) + timing)),
        StageMemory(
            "features", kept + _run_engine(demand, provision) + _wait_for_saving(demand, provision)
        ),
        StageMemory("near-duplicates", kept + LIKENESS + LIKENESS_ROW * demand.images),
        StageMemory("head", kept + _fit_head(demand, provision)),
    ]
    if is_deep:
        probed = replace(demand, train=min(demand.train, PROBE_IMAGES), validation=0)
        stages += [
            StageMemory("probe", after + _fit_head(probed, provision)),
            _forecast_rows(demand, provision, after),
            StageMemory(
                "last blocks" if demand.is_last else "all layers",
                after + _train_layers(demand, provision),
            ),
        ]
    stages += [
        StageMemory("measuring", after + _measure_model(demand, provision)),
        StageMemory("report", after + MODEL + provision.threads * MODEL_THREAD // 2 + REPORT),
    ]
    return tuple(stages)


def _forecast_rows(demand: MemoryInputs, provision: ResourceLimits, held: int) -> StageMemory:
    """Forecast the pass that keeps what the training of layers reads: pixels, or activations from
    an engine.
    """
    if demand.is_last:
        return StageMemory("activations", held + UNSAVED_PIXELS + _run_engine(demand, provision))
    return StageMemory("pixels", held + UNSAVED_PIXELS + _run_engine(demand, provision) * 2 // 3)


def _provide(demand: MemoryInputs, settings: Settings, threads: int) -> ResourceLimits:
    """Say what a run takes where nothing limits it."""
    views = min(count_views(settings), 2 if settings.budget or demand.is_deep else 4)
    return ResourceLimits(threads, settings.engine, views, HELD_BYTES, inf, demand.is_deep)


def _list_savings(provision: ResourceLimits, settings: Settings) -> Iterator[dict[str, Any]]:
    """List what may be given up for memory, what costs least first."""
    yield from ({"held_bytes": held} for held in SMALLER_HELD)
    yield from ({"micro_pixels": MICRO_PIXELS[True] // share} for share in (2, 4, 8))
    if settings.engine == "auto" and settings.precision != "bfloat16":  # which ONNX Runtime has not
        yield {"engine": "onnxruntime"}
    if settings.views == "auto":
        yield from ({"views": views} for views in (2, 1) if views < provision.views)
    threads = provision.threads
    while threads > 1:
        threads //= 2
        yield {"threads": threads}
    if settings.layers not in LAYERS_NEED_TORCH:
        yield {"is_deep": False}


def _refuse(plan: MemoryPlan, demand: MemoryInputs, settings: Settings) -> SettingsError:
    """Say that nothing fits, and what would."""
    largest = max(plan.stages, key=lambda stage: stage.peak)
    hint = f"Give --max-ram {format_size(plan.peak)} or more"
    if demand.is_deep and plan.provision.is_deep:
        provision = replace(
            plan.provision,
            is_deep=False,
            engine="onnxruntime" if settings.engine == "auto" else settings.engine,
        )
        head = max(stage.peak for stage in forecast_memory(demand, provision))
        hint += f"; with --layers head {format_size(head)} would do"
    return SettingsError(
        f"max_ram is {settings.max_ram}, and the stage {largest.stage!r} needs "
        f"{format_size(largest.peak)} "
        f"for these {demand.images:,} photos",
        f"{hint}.",
    )


def format_size(size: int) -> str:
    """Write a size so that it does as a ceiling: rounded up, in MB.

    >>> format_size(451_200_000)
    '460MB'
    """
    return f"{ceil(size / NOT_BELOW) * NOT_BELOW // MB}MB"


def _hold(images: int, views: int, row_bytes: int, provision: ResourceLimits) -> int:
    """Count what rows of features take of memory: nothing where they are so many that they go to
    the disk.
    """
    size = images * views * row_bytes
    return size if size <= provision.held_bytes else 0


def _run_engine(demand: MemoryInputs, provision: ResourceLimits) -> int:
    """Count what the frozen layers take: with large images a batch is one, and larger than
    others.
    """
    share = max(
        1.0,
        batch_size(demand.side, provision.views) * demand.side**2 * provision.views / BATCH_PIXELS,
    )
    engine = provision.threads * round(ENGINE_THREAD * share * demand.share)
    own = ENGINE + demand.network.parameter_bytes * demand.more_parameters
    return own + engine + _decode(demand, provision)


def _wait_for_saving(demand: MemoryInputs, provision: ResourceLimits) -> int:
    return 2 * UNSAVED_IMAGES * provision.views * demand.network.features * 2


def _fit_head(demand: MemoryInputs, provision: ResourceLimits) -> int:
    features = demand.network.features
    rows = (
        _hold(count, provision.views, features * 4, provision)
        for count in (demand.train, demand.validation)
    )
    sample = HEAD_SAMPLE if demand.train * provision.views > 2 * features else 0
    return sum(rows) + HEAD + sample + HEAD_CLASS * demand.classes * (1 + provision.threads) // 4


def _train_layers(demand: MemoryInputs, provision: ResourceLimits) -> int:
    images = count_micro(demand.side, provision.micro_pixels, has_bfloat16=demand.has_bfloat16)
    image = round(NETWORK_PIXEL[demand.has_bfloat16] * demand.share) * demand.side**2
    if demand.network.autograd_values:
        image = AUTOGRAD_VALUE * demand.network.autograd_values
    own = NETWORK + TRAINED_PARAMETER * demand.more_parameters
    if demand.teacher:
        own += _run_engine(replace(demand, network=demand.teacher), replace(provision, views=1))
    return own + provision.threads * (NETWORK_THREAD + image * images)


def _measure_model(demand: MemoryInputs, provision: ResourceLimits) -> int:
    """Count what `model.onnx` takes, with the photos that wait for it and those that it makes
    smaller.
    """
    pixels = demand.decoded_bytes // BYTES_A_PIXEL
    waiting = min(CHUNK * pixels, HELD_PIXELS + pixels)
    inside = min(RUN_TOGETHER * pixels, waiting)
    return (
        MODEL
        + demand.network.parameter_bytes * demand.more_parameters
        + _decode(demand, provision)
        + provision.threads * (MODEL_THREAD + 3 * waiting + 2 * 3 * inside)
    )


def _decode(demand: MemoryInputs, provision: ResourceLimits) -> int:
    """Count what photos take while all threads decode: no more than these may take together."""
    return min(provision.threads * demand.decoded_bytes, DECODING_BYTES)
