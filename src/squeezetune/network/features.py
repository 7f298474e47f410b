"""One pass of the frozen layers over every image, kept by content so that nothing is computed
twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from squeezetune.data.image_cache import (
    RowBatch,
    RowSaver,
    RowWork,
    compute_batches,
    decode_batch,
    find_firsts,
    spread_failures,
)
from squeezetune.data.index import ImageIndex
from squeezetune.data.thumbnails import make_look_rows
from squeezetune.events import Listener, Notice
from squeezetune.network.backbone import Backbone
from squeezetune.network.inference import RunGraph
from squeezetune.system.executor import Executor
from squeezetune.system.scratch import IN_MEMORY, Scratch, list_blocks
from squeezetune.system.store import RowStore

# Little, since it waits in memory while networks run; and a killed run loses seconds of work.
SEGMENT_BYTES = 16_000_000

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
    values = scratch.make_zeros((len(index), backbone.views, backbone.feature_count), np.float16)
    sizes = np.zeros((len(index), 2), np.int32)
    store = stores.features
    known = store.load(index.digests, values, sizes) if store else np.zeros(len(index), np.bool_)
    firsts, failures = find_firsts(index.digests), dict[int, str]()
    missing = np.flatnonzero(~known)
    missing = np.unique(
        firsts[missing if positions is None else np.intersect1d(missing, positions)]
    )

    def take(batch: RowBatch) -> None:
        values[batch.positions], sizes[batch.positions] = batch.values, batch.sizes
        failures.update(batch.failures)

    # each thread both decodes a batch and runs the frozen layers on it
    work = RowWork(
        STAGE,
        backbone.batch_size,
        lambda: partial(run_batch, index, backbone, backbone.open(threads)),
    )
    compute_batches(work, missing, _open_saver(index, stores, listen), executor, listen, take)
    copies = np.flatnonzero(firsts != np.arange(len(index)))
    sizes[copies] = sizes[firsts[copies]]
    for block in list_blocks(len(copies)):
        values[copies[block]] = values[firsts[copies[block]]]
    everywhere = spread_failures(failures, firsts, np.arange(len(index)))
    return Features(values, sizes, everywhere, len(missing))


def run_batch(
    index: ImageIndex, backbone: Backbone, run: RunGraph, positions: NDArray[np.int64]
) -> RowBatch:
    """Decode the images at these positions of the index and run the frozen layers on them: rows of
    how they look, and of their features.
    """
    # always a full batch: engines may choose another kernel, with other rounding, for another batch
    # size
    batch = decode_batch(index, positions, backbone.pixels, backbone.batch_size)
    pixels, count = batch.values, len(batch.positions)
    values = run(pixels)[:count].astype(np.float16)
    return replace(batch, rows=(make_look_rows(pixels[:count], batch.sizes), values))


def _open_saver(index: ImageIndex, stores: FeatureStores, listen: Listener) -> RowSaver:
    """Open what saves both; a full disk costs the cache, not the run."""

    def tell(store: RowStore, error: OSError) -> None:
        listen(
            Notice(
                f"features cannot be kept in {store.folder}: {error.strerror}; the run goes on "
                f"without"
            )
        )

    kinds = (stores.looks, stores.features)
    return RowSaver(index.digests, kinds, tell, SEGMENT_BYTES, pause_share=0)
