"""How fast this machine is at each part of a run: a few seconds of measuring before a plan is made."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from squeezetune.data.index import ImageIndex
from squeezetune.data.pixels import load_pixels
from squeezetune.engine import Engine, ThreadEngine
from squeezetune.errors import ImageError
from squeezetune.events import ignore_event
from squeezetune.learn.dense import Task, fit_linear
from squeezetune.learn.graph import FEATURE_COUNT, build_trunk
from squeezetune.learn.inference import batch_size, measure_speed, open_graph
from squeezetune.learn.quantization import FLOAT_RUNTIME
from squeezetune.learn.trunk import Trunk
from squeezetune.learn.weights import Weights, detect_version
from squeezetune.planner import Speeds

READ_IMAGES = 48
PROBE_S = 0.4
LINEAR_ROWS, LINEAR_CLASSES = 3000, 10
# The fit of a large linear head takes about this share of a small one's time a row; a hidden layer this many times it.
LINEAR_SHARE, HIDDEN_TIMES = 0.5, 3.0
# Steps of training that are timed, after one that is not.
STEPS = 3


@dataclass(frozen=True)
class Site:
    """What is measured on: the photos, the frozen layers as they will be run, and the threads.

    In `cache` choices that timings make are kept, None where nothing may be.
    """

    index: ImageIndex
    trunk: Trunk
    weights: Weights
    threads: int
    cache: Path | None


def measure_speeds(site: Site, is_deep: bool, side: int) -> Speeds:
    """Measure how fast this machine reads, runs and trains."""
    linear_s = time_linear(site.threads)
    return Speeds(
        read_s=time_reading(site, ThreadEngine(site.threads)),
        view_s=time_graph(site.trunk.open(site.threads), site) / site.trunk.views,
        file_s=time_graph(open_graph(build_trunk(site.weights), FLOAT_RUNTIME, site.threads), site),
        linear_s=linear_s,
        hidden_s=HIDDEN_TIMES * linear_s,
        pixel_s=time_training(site, side) / side**2 if is_deep else None,
    )


def time_reading(site: Site, engine: Engine) -> float:
    """Time how long an image takes to be decoded, with all threads at work."""
    step = max(1, len(site.index) // READ_IMAGES)
    positions = range(0, len(site.index), step)

    def read(position: int) -> None:
        try:
            load_pixels(site.index.source, site.index.names[position], site.trunk.pixels)
        except ImageError:  # it took its time all the same
            return

    return _time_once(lambda: list(engine.map(read, positions))) / len(positions)


def time_graph(run: Callable[[NDArray[np.uint8]], NDArray[np.float32]], site: Site) -> float:
    """Time how long a graph takes over an image, with all threads at work."""
    side = site.trunk.pixels.side
    shape = (batch_size(side, site.trunk.views), side, side, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return 1 / measure_speed(run, pixels, site.threads, PROBE_S)


def time_linear(threads: int) -> float:
    """Estimate how long a linear head takes over a row of features."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((LINEAR_ROWS, FEATURE_COUNT), np.float32)
    labels = rng.integers(0, LINEAR_CLASSES, LINEAR_ROWS)
    task = Task(rows, labels, np.ones(LINEAR_CLASSES, np.float32))
    with threadpool_limits(1):
        seconds = _time_once(lambda: fit_linear(task, 80.0, threads=threads, max_iterations=30))
    return LINEAR_SHARE * seconds / LINEAR_ROWS


def time_training(site: Site, side: int) -> float:
    """Time how long an image takes in a step of training of all layers at this size, augmentation included."""
    from squeezetune.learn.crew import Conditions, recall_precision
    from squeezetune.learn.crew import Task as TuningTask
    from squeezetune.learn.feeds import PixelFeed
    from squeezetune.learn.finetune import measure_step
    from squeezetune.learn.network import build_network
    from squeezetune.learn.recipe import Phase, Recipe, StagePlan
    from squeezetune.learn.tapped import TappedNetwork

    recipe = Recipe()
    count = recipe.batch * (STEPS + 1)
    rng = np.random.default_rng(0)
    kept = rng.integers(0, 256, (recipe.batch, side, side, 3), dtype=np.uint8)
    positions = np.arange(count)
    feed = PixelFeed(_Repeated(kept), recipe.augmentation)
    task = TuningTask(feed, positions % 2, positions, positions[:0], np.ones(2, np.float32))
    plan = StagePlan("probe", "conv1", (Phase(side, 1.0),), 1.0, recipe)
    conditions = Conditions("probe", 0, site.threads, recall_precision(site.cache), ignore_event)
    network = TappedNetwork(build_network(site.weights, version=detect_version(site.weights)), 2)
    return measure_step(network, task, plan, conditions, STEPS) / recipe.batch


@dataclass(frozen=True)
class _Repeated:
    """A few rows, again and again."""

    rows: NDArray[np.uint8]

    def gather(self, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the rows at these positions."""
        return self.rows[positions % len(self.rows)]


def _time_once(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
