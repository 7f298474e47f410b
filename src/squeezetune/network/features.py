"""One pass of the frozen layers over every image, kept by content so that nothing is computed
twice.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from squeezetune.data.index import ImageIndex
from squeezetune.data.pixels import load_indexed
from squeezetune.data.thumbnails import make_look_rows
from squeezetune.errors import ImageError
from squeezetune.events import Listener, Notice, StageAdvanced, StageFinished, StageStarted
from squeezetune.network.backbone import Backbone
from squeezetune.network.graph import FEATURE_COUNT
from squeezetune.network.inference import RunGraph
from squeezetune.system.executor import Executor
from squeezetune.system.scratch import IN_MEMORY, Scratch, list_blocks
from squeezetune.system.store import RowStore

# A killed run loses at most this many images or seconds of work.
SAVE_EVERY_IMAGES = 2048
SAVE_EVERY_S = 5.0

STAGE = "features"


@dataclass(frozen=True)
class Features:
    """What the frozen layers make of every image of an index.

    `values` (n, views, 2048) float16, `sizes` (n, 2) int32 are the images' own widths and heights
    in pixels; `failures` says why an image could not be read. `computed` counts the images that
    were not in the cache.
    """

    values: NDArray[np.float16]
    sizes: NDArray[np.int32]
    failures: Mapping[int, str]
    computed: int

    def knows(self, positions: NDArray[np.int64]) -> bool:
        """Say whether all the images at these positions were computed."""
        return bool((self.sizes[positions].min(axis=1, initial=1) > 0).all())

    def without_failures(self) -> "Features":
        """Leave out the images that failed, as `ImageIndex.without(failures)` does; the others move
        up in place.
        """
        kept = np.setdiff1d(np.arange(len(self.values)), list(self.failures))
        for block in list_blocks(len(kept)):
            self.values[block] = self.values[kept[block]]
        return Features(self.values[: len(kept)], self.sizes[kept], {}, self.computed)


@dataclass(frozen=True)
class FeatureStores:
    """Where features are kept, and how the images look, which is seen in the same pass; None is not
    kept.
    """

    features: RowStore | None
    looks: RowStore | None = None


@dataclass(frozen=True)
class FeatureBatch:
    """The features of some images of an index and how these look, and the reasons of those that
    failed.
    """

    positions: NDArray[np.int64]
    values: NDArray[np.float16]
    looks: NDArray[np.uint8]
    sizes: NDArray[np.int32]
    failures: Mapping[int, str] = field(default_factory=dict)


def compute_features(
    index: ImageIndex,
    backbone: Backbone,
    stores: FeatureStores,
    executor: Executor,
    threads: int,
    listen: Listener,
    positions: NDArray[np.int64] | None = None,
    scratch: Scratch = IN_MEMORY,
) -> Features:
    """Load the features of every image from the store; compute, and keep, those that are missing.

    With `positions` only the images at these are computed; the rows of others that the store does
    not know are zero.
    """
    values = scratch.make_zeros((len(index), backbone.views, FEATURE_COUNT), np.float16)
    sizes = np.zeros((len(index), 2), np.int32)
    store = stores.features
    known = store.load(index.digests, values, sizes) if store else np.zeros(len(index), np.bool_)
    first, copies = _find_copies(index.digests)
    missing = np.flatnonzero(~known)
    missing = np.unique(first[missing if positions is None else np.intersect1d(missing, positions)])
    failures: dict[int, str] = {}
    for batch in _keep_batches(
        _run_backbone(index, backbone, missing, executor, threads, listen), index, stores, listen
    ):
        values[batch.positions], sizes[batch.positions] = batch.values, batch.sizes
        failures |= batch.failures
    sizes[copies] = sizes[first[copies]]
    for block in list_blocks(len(copies)):
        values[copies[block]] = values[first[copies[block]]]
    failures |= {
        int(copy): failures[int(first[copy])] for copy in copies if int(first[copy]) in failures
    }
    return Features(values, sizes, failures, len(missing))


def _find_copies(digests: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return for each image the first one of the same content (n,), and the positions that are not
    the first.
    """
    _, first, inverse = np.unique(digests, axis=0, return_index=True, return_inverse=True)
    origin = first[inverse.ravel()]
    return origin, np.flatnonzero(origin != np.arange(len(digests)))


def _run_backbone(
    index: ImageIndex,
    backbone: Backbone,
    missing: NDArray[np.int64],
    executor: Executor,
    threads: int,
    listen: Listener,
) -> Iterator[FeatureBatch]:
    """Decode and run the missing images, batch by batch; each thread does both for its batch."""
    if not len(missing):
        return
    start, done, size = time.perf_counter(), 0, backbone.batch_size
    listen(StageStarted(STAGE, len(missing)))
    run = backbone.open(threads)
    parts = [missing[at : at + size] for at in range(0, len(missing), size)]
    for batch in executor.map(lambda part: run_batch(index, backbone, run, part), parts):
        yield batch
        done += len(batch.positions) + len(batch.failures)
        listen(StageAdvanced(STAGE, done))
    listen(StageFinished(STAGE, time.perf_counter() - start))


def run_batch(
    index: ImageIndex, backbone: Backbone, run: RunGraph, positions: NDArray[np.int64]
) -> FeatureBatch:
    """Decode the images at these positions of the index and run the frozen layers on them."""
    # always a full batch: engines may choose another kernel, with other rounding, for another batch
    # size
    pixels = np.zeros(
        (backbone.batch_size, backbone.pixels.side, backbone.pixels.side, 3), np.uint8
    )
    good: list[int] = []
    sizes: list[tuple[int, int]] = []
    failures: dict[int, str] = {}
    for position in positions:
        try:
            pixels[len(good)], image_size = load_indexed(index, int(position), backbone.pixels)
        except ImageError as error:
            failures[int(position)] = error.message
            continue
        good.append(position)
        sizes.append(image_size)
    values = run(pixels)[: len(good)].astype(np.float16)
    own = np.array(sizes, np.int32).reshape(-1, 2)
    return FeatureBatch(
        np.array(good, np.int64), values, make_look_rows(pixels[: len(good)], own), own, failures
    )


def _keep_batches(
    batches: Iterable[FeatureBatch], index: ImageIndex, stores: FeatureStores, listen: Listener
) -> Iterator[FeatureBatch]:
    """Pass batches on, and save them now and then; a full disk costs the cache, not the run."""
    unsaved: list[FeatureBatch] = []
    saved_at = time.monotonic()
    try:
        for batch in batches:
            unsaved.append(batch)
            yield batch
            count = sum(len(item.positions) for item in unsaved)
            if count >= SAVE_EVERY_IMAGES or time.monotonic() > saved_at + SAVE_EVERY_S:
                stores = _save_batches(unsaved, index, stores, listen)
                unsaved, saved_at = [], time.monotonic()
    finally:  # an interrupted run keeps what it has done
        _save_batches(unsaved, index, stores, listen)


def _save_batches(
    batches: list[FeatureBatch], index: ImageIndex, stores: FeatureStores, listen: Listener
) -> FeatureStores:
    if not any(len(batch.positions) for batch in batches):
        return stores
    positions, values, looks, sizes = (
        np.concatenate([getattr(batch, column) for batch in batches])
        for column in ("positions", "values", "looks", "sizes")
    )
    for store, rows in ((stores.looks, looks), (stores.features, values)):
        if store is None:
            continue
        try:
            store.save(index.digests[positions], rows, sizes)
        except OSError as error:
            listen(
                Notice(
                    f"features cannot be kept in {store.folder}: {error.strerror}; the run goes "
                    f"on without"
                )
            )
            return FeatureStores(None)
    return stores
