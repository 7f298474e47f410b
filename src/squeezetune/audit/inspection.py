"""A close look at all photos of an index: how they look, what they say of each other's labels,
which are alike.
"""

from dataclasses import dataclass, replace

import numpy as np

from squeezetune.audit.label_errors import LabelErrors, find_label_errors
from squeezetune.audit.outliers import Outliers, find_outliers
from squeezetune.data.duplicates.near_duplicates import (
    DuplicatePairs,
    find_near_duplicates,
    join_pairs,
)
from squeezetune.data.index import ImageIndex
from squeezetune.data.split import Split, gather_units, sort_by_content
from squeezetune.data.thumbnails import Thumbnails, load_thumbnails, open_look_store
from squeezetune.events import PREPARING, tell_stage
from squeezetune.heads.out_of_fold import OutOfFoldPredictions, deal_folds, predict_out_of_fold
from squeezetune.network.backbone import Backbone
from squeezetune.network.features import Features
from squeezetune.pipeline.backbone_choice import choose_backbone
from squeezetune.pipeline.context import RunContext
from squeezetune.pipeline.extraction import check_readable
from squeezetune.pipeline.preparation import PreparedRun, prepare_run
from squeezetune.system.disk import cache_or_temporary
from squeezetune.system.scratch import Selection

VIEWS = 2  # as `train` takes unless it is told otherwise, so that both share the features


@dataclass(frozen=True)
class Inspection:
    """What was seen of every image of an index; images that cannot be decoded are in its `skipped`.

    `outliers` and `likeness` look at one image of each content; `pictures` (n,) numbers what shows
    the same picture.
    """

    index: ImageIndex
    looks: Thumbnails
    opinions: OutOfFoldPredictions
    doubts: LabelErrors
    likeness: DuplicatePairs
    outliers: Outliers


def inspect_photos(index: ImageIndex, context: RunContext) -> Inspection:
    """Look at every image: once decoded, it is kept in the cache for the next time, and for
    training; by the network that these photos choose, where it is open.

    Raises:
        SettingsError: `group_by` matches nothing, or the work cannot be done under the ceiling of
            memory.
        SourceError: no image can be decoded.

    """
    if context.settings.is_backbone_open:
        # features are computed once even where nothing may be kept
        with cache_or_temporary(context.cache) as folder:
            opened = replace(context, cache=folder)
            return inspect_photos(index, choose_backbone(index, _take_all, opened).context)
    with tell_stage(PREPARING, context.listen):
        scene = _open_whole(index, context)
        backbone = scene.prepare_backbone(VIEWS)
    index, features, looks = _look_at_all(scene, backbone)
    shop = scene.context
    with tell_stage("near-duplicates", shop.listen):
        likeness = find_near_duplicates(index, looks, shop.settings.resize, shop.executor)
    index = replace(index, pictures=join_pairs(len(index), likeness))
    with tell_stage("labels", shop.listen):
        opinions = _ask_opinions(index, features, scene)
    with tell_stage("outliers", shop.listen):
        outliers = _find_outliers(index, features, scene)
    return Inspection(
        index, looks, opinions, find_label_errors(opinions, index.labels), likeness, outliers
    )


def _open_whole(index: ImageIndex, context: RunContext) -> PreparedRun:
    """Make the run ready for an index that is not split."""
    return prepare_run(index, _take_all(index), context)


def _take_all(index: ImageIndex) -> Split:
    """Take all images for training ones."""
    none = np.empty(0, np.int64)
    return Split(sort_by_content(index, np.arange(len(index))), none, none)


def _look_at_all(scene: PreparedRun, backbone: Backbone) -> tuple[ImageIndex, Features, Thumbnails]:
    """Run the frozen layers over all images; those that cannot be decoded are left out."""
    index, shop, scratch = scene.index, scene.context, scene.open_scratch()
    with cache_or_temporary(shop.cache) as folder:
        look_store = open_look_store(folder, backbone.pixels)
        features = scene.compute_features(backbone, folder, scratch)
        if features.failures:
            check_readable(index, features)
            index, features = index.without(features.failures), features.without_failures()
        looks = load_thumbnails(
            index, backbone.pixels, look_store, shop.executor, shop.listen, scratch=scratch
        )
    return index, features, looks


def _ask_opinions(
    index: ImageIndex, features: Features, scene: PreparedRun
) -> OutOfFoldPredictions:
    """Ask of every image what those think that are no copies of it, nor of its group."""
    settings = scene.settings
    units = gather_units(index, settings.seed, settings.group_by)
    folds = deal_folds(index.labels, units.of_image, keys=units.keys)
    return predict_out_of_fold(
        features.values,
        index.labels,
        folds,
        len(index.class_names),
        threads=scene.context.threads,
        scratch=scene.open_scratch(),
    )


def _find_outliers(index: ImageIndex, features: Features, scene: PreparedRun) -> Outliers:
    """Find the outliers among images of different content: a copy would keep an outlier company."""
    firsts = np.sort(np.unique(index.digests, axis=0, return_index=True)[1])
    found = find_outliers(Selection(features.values, firsts), scene.context.executor)
    return replace(found, positions=firsts[found.positions])
