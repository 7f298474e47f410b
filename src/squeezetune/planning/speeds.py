"""How fast this machine is at each part of a run: a few seconds of measuring before a plan is
made.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from squeezetune.data.duplicates.alignment import overlay_images
from squeezetune.data.duplicates.candidates import find_nearest
from squeezetune.data.duplicates.near_duplicates import LEVELS
from squeezetune.data.index import ImageIndex
from squeezetune.data.pixels import load_indexed
from squeezetune.errors import ImageError
from squeezetune.events import ignore_event
from squeezetune.finetune.recipe import FROM_IMAGES, Phase, Recipe, StagePlan, choose_recipe
from squeezetune.heads.linear import WeightedRows, fit_linear
from squeezetune.network.activations import Activations, choose_kind, draw_view, make_form
from squeezetune.network.architecture import Architecture, NetworkLayout
from squeezetune.network.backbone import FLOAT_RUNTIME, Backbone, PretrainedNetwork
from squeezetune.network.frozen_classifier import Teaching
from squeezetune.network.graph import build_features
from squeezetune.network.inference import RunGraph, batch_size, measure_speed, open_graph
from squeezetune.planning.costs import Speeds, Timing, Workload
from squeezetune.planning.plan import Plan, add_forecasts
from squeezetune.planning.stage_plans import (
    LEAST_TRAINING_S,
    find_quick_share,
    find_timed_side,
    list_starts,
    name_quick_head,
)
from squeezetune.settings import Settings
from squeezetune.system.executor import Executor, ThreadExecutor
from squeezetune.system.monitor import release_memory

if TYPE_CHECKING:
    from squeezetune.finetune.batches import BatchSource

READ_IMAGES, DRAWN_VIEWS = 48, 48
# Rows of activations are timed with so many views, of which a step of training takes one.
ACTIVATION_VIEWS = 4
# Graphs are timed in turn, so often, so long each; on slow machines less often.
PROBE_ROUNDS, PROBE_S, MOST_PROBE_S = 3, 0.12, 2.0
COMPARED_ROWS, DESCRIBED, OVERLAID, PYTHON_LOOP, REPEATS = (256, 8000), 35, 256, 200_000, 3
LINEAR_ROWS, LINEAR_CLASSES = 3000, 10
# A row of a linear head on all images takes so many times as long as in the timing; of a hidden
# layer, times that.
LINEAR_TIMES, HIDDEN_TIMES = 1.25, 3.0
# Steps of training that are timed, after one that is not.
STEPS = 3


@dataclass(frozen=True)
class BenchmarkSetup:
    """What is measured on: the photos, the frozen layers as they will be run, and the threads.

    In `cache` choices that timings make are kept, None where nothing may be. Where there is a
    `teaching`, layers are trained by that.
    """

    index: ImageIndex
    backbone: Backbone
    network: PretrainedNetwork
    layout: NetworkLayout
    threads: int
    cache: Path | None
    micro_pixels: float = math.inf
    teaching: Teaching | None = None


def measure_machine(
    site: BenchmarkSetup,
    work: Workload,
    settings: Settings,
    left_s: float,
    *,
    is_deep: bool,
    frozen: Speeds | None = None,
) -> Timing:
    """Measure how fast this machine is at all that a training of so many seconds may do; `frozen`
    are the speeds of the frozen layers, where they are known.
    """
    started = time.perf_counter()
    timing = Timing(work, frozen or measure_frozen(site))
    left_s -= time.perf_counter() - started
    return measure_layers(site, timing, settings, left_s) if is_deep else timing


def measure_layers(
    site: BenchmarkSetup, timing: Timing, settings: Settings, left_s: float
) -> Timing:
    """Measure as well how fast layers are trained, where there may be time for that training."""
    work, batch = timing.work, choose_recipe(timing.work.train, 1.0).batch
    if not is_worth_timing(timing, settings, left_s, batch):
        return timing
    starts, side = list_starts(settings, work, left_s), find_timed_side(work)
    return replace(timing, speeds=measure_training(site, timing.speeds, starts, side, batch))


def is_worth_timing(timing: Timing, settings: Settings, left_s: float, batch: int) -> bool:
    """Say whether there is time to train layers besides the rest of a run, once it is known how
    fast that goes.

    To find out takes longer than many a run that trains none.
    """
    # layers need not begin with a head on all images
    share = find_quick_share(timing.work)
    shortest = add_forecasts(Plan(1, name_quick_head(settings), head_share=share), timing)
    probe_s = timing.forecast_probe(find_timed_side(timing.work), batch)
    return shortest.total_s + probe_s + LEAST_TRAINING_S <= left_s


def measure_frozen(site: BenchmarkSetup) -> Speeds:
    """Measure how fast this machine reads, runs the frozen layers, fits a head and compares images:
    in a second or two.

    What is measured several times, in turn, counts by its median: a slow moment of the machine is
    nobody's speed.
    """
    executor, linear_s = ThreadExecutor(site.threads), time_linear(site)
    view_s, file_s = time_graphs(
        site.backbone.open(site.threads),
        open_graph(build_features(site.network.freeze()), FLOAT_RUNTIME, site.threads),
        site,
    )
    return Speeds(
        read_s=time_reading(site, executor),
        view_s=view_s / site.backbone.views,
        file_s=file_s,
        linear_s=linear_s,
        hidden_s=HIDDEN_TIMES * linear_s,
        pair_s=time_pairs() / site.threads,
        overlay_s=time_overlays() / site.threads,
        python_s=time_python(),
    )


def measure_training(
    site: BenchmarkSetup, speeds: Speeds, starts: Sequence[str], side: int, batch: int
) -> Speeds:
    """Measure as well how fast the layers from each of these blocks on are trained, for which torch
    is loaded.

    All layers are trained at `side`, the last blocks at the size that the frozen layers see,
    `batch` images a step.
    """
    last = [start for start in starts if start != FROM_IMAGES]
    image_s, step_s = time_whole(site, side, batch) if FROM_IMAGES in starts else (None, 0.0)
    return replace(
        speeds,
        pixel_s=image_s and image_s / side**2,
        step_s=step_s,
        last_s=time_step(site, last[0], site.backbone.pixels.side, batch) / batch if last else None,
        draw_s=time_drawing(site, ThreadExecutor(site.threads)) if last else None,
    )


def time_reading(site: BenchmarkSetup, executor: Executor) -> float:
    """Time how long an image takes to be decoded, with all threads at work."""
    step = max(1, len(site.index) // READ_IMAGES)
    positions = range(0, len(site.index), step)

    def read(position: int) -> None:
        try:
            load_indexed(site.index, position, site.backbone.pixels)
        except ImageError:  # it took its time all the same
            return

    return _time_once(lambda: list(executor.map(read, positions))) / len(positions)


def time_graphs(backbone: RunGraph, file: RunGraph, site: BenchmarkSetup) -> tuple[float, float]:
    """Time how long the frozen layers, and `model.onnx`, take over an image, with all threads at
    work.
    """
    side, started = site.backbone.pixels.side, time.perf_counter()
    rng, found = np.random.default_rng(0), list[tuple[float, float]]()
    pixels = [rng.integers(0, 256, (batch_size(side, views), side, side, 3), dtype=np.uint8)
              for views in (site.backbone.views, 1)]  # fmt: skip
    while len(found) < PROBE_ROUNDS and time.perf_counter() < started + MOST_PROBE_S:
        first, second = (
            1 / measure_speed(run, images, site.threads, PROBE_S)
            for run, images in zip((backbone, file), pixels, strict=True)
        )
        found.append((first, second))
    view_s, file_s = np.median(found, axis=0).tolist()
    return view_s, file_s


def time_pairs() -> float:
    """Time how long a thread takes to compare two images by their descriptions."""
    rng = np.random.default_rng(0)
    queries, known = (
        0.1 * rng.standard_normal((rows, DESCRIBED), np.float32) for rows in COMPARED_ROWS
    )
    with threadpool_limits(1):
        seconds = _time_median(lambda: find_nearest(queries @ known.T))
    return seconds / (len(queries) * len(known))


def time_overlays() -> float:
    """Time how long a thread takes to lay an image over another as near-duplicates are told
    apart.
    """
    rng = np.random.default_rng(0)
    first, second = (
        rng.standard_normal((OVERLAID, LEVELS[0].side, LEVELS[0].side), np.float32)
        for _ in range(2)
    )
    place = np.zeros((OVERLAID, 4), np.float32)
    with threadpool_limits(1):
        return (
            _time_median(lambda: overlay_images(first, second, place, LEVELS[0].steps)) / OVERLAID
        )


def time_python() -> float:
    """Time a plain loop of Python, as starting, drawing a report and leaving are one; its best,
    since it is short.
    """
    return min(
        _time_once(lambda: sum(number * number % 7 for number in range(PYTHON_LOOP)))
        for _ in range(REPEATS)
    )


def time_linear(site: BenchmarkSetup) -> float:
    """Estimate how long a linear head takes over a row of features."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((LINEAR_ROWS, site.backbone.feature_count), np.float32)
    labels = rng.integers(0, LINEAR_CLASSES, LINEAR_ROWS)
    task = WeightedRows(rows, labels, np.ones(LINEAR_CLASSES, np.float32))
    with threadpool_limits(1):
        seconds = _time_once(
            lambda: fit_linear(task, 80.0, threads=site.threads, max_iterations=30)
        )
    return LINEAR_TIMES * seconds / LINEAR_ROWS


def time_drawing(site: BenchmarkSetup, executor: Executor) -> float:
    """Time how long a random view of an image takes to be drawn, with all threads at work."""
    side = site.backbone.pixels.side
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)

    def draw(seed: int) -> NDArray[np.uint8]:
        return draw_view(pixels, np.random.default_rng(seed))

    return _time_once(lambda: list(executor.map(draw, range(DRAWN_VIEWS)))) / DRAWN_VIEWS


def time_whole(site: BenchmarkSetup, side: int, batch: int) -> tuple[float, float]:
    """Time how long an image takes in training all layers, and a step besides where it has few
    images to share it.
    """
    full, few_s = Recipe().batch, time_step(site, FROM_IMAGES, side, batch)
    if batch >= full:
        return few_s / batch, 0.0
    full_s = time_step(site, FROM_IMAGES, side, full)
    step_s = min(
        few_s, max(0.0, (full * few_s - batch * full_s) / (full - batch))
    )  # the line through both
    return (few_s - step_s) / batch, step_s


def time_step(site: BenchmarkSetup, start: str, side: int, batch: int) -> float:
    """Time a step of training from a block on, augmentation included."""
    from squeezetune.finetune.loop import measure_step
    from squeezetune.finetune.teachers import add_teacher
    from squeezetune.finetune.trainable import build_trainable
    from squeezetune.finetune.workers import TrainerOptions, recall_precision
    from squeezetune.finetune.workers import TrainingTask as TuningTask

    release_memory()  # of the engines: both together would take the most of the whole run
    network, classes = site.layout, len(site.index.class_names)
    recipe = Recipe(batch=batch, frozen_blocks=network.frozen_blocks)
    positions = np.arange(recipe.batch * (STEPS + 1))
    feed = make_feed(start, side, recipe, network)
    task = TuningTask(feed, positions % 2, positions, positions[:0], np.ones(classes, np.float32))
    if site.teaching:
        task = add_teacher(task, site.teaching, network, site.threads)
    plan = StagePlan("probe", start, (Phase(side, 1.0),), 1.0, recipe)
    precision = recall_precision(site.cache, is_described=site.network.is_described)
    conditions = TrainerOptions(
        "probe", 0, site.threads, precision, ignore_event, micro_pixels=site.micro_pixels
    )
    trainable = build_trainable(site.network, classes, start, recipe.frozen_blocks)
    return measure_step(trainable, task, plan, conditions, STEPS)


def make_feed(start: str, side: int, recipe: Recipe, layout: NetworkLayout) -> "BatchSource":
    """Make noise in the form of what training from a block on reads."""
    from squeezetune.finetune.batches import ActivationBatches, PixelBatches

    rng = np.random.default_rng(0)
    if start == FROM_IMAGES:
        pixels = rng.integers(0, 256, (recipe.batch, side, side, 3), dtype=np.uint8)
        return PixelBatches(_Repeated(pixels), recipe.augmentation, layout)
    assert isinstance(layout, Architecture)  # of these alone activations are kept
    block = layout.name_before(start)
    kind, channels = choose_kind(layout, block), layout.measure_block(block, side)[2]
    scales = np.ones(channels, np.float32) if kind == "uint8" else None
    form = make_form(block, kind, ACTIVATION_VIEWS, side, layout, scales)
    # the upper halves of float32 are to be small numbers, but none that is denormal
    least = 0 if kind == "uint8" else 56
    rows = rng.integers(least, 64, (recipe.batch, form.row_bytes), dtype=np.uint8)
    return ActivationBatches(Activations(form, _Repeated(rows)))


@dataclass(frozen=True)
class _Repeated:
    """A few rows, again and again."""

    rows: NDArray[np.uint8]

    def gather(self, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the rows at these positions."""
        return self.rows[positions % len(self.rows)]


def _time_median(work: Callable[[], object]) -> float:
    return float(np.median([_time_once(work) for _ in range(REPEATS)]))


def _time_once(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
