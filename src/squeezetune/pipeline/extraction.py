"""Feature extraction: which images can be used, their features, and which are near-duplicates."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from squeezetune.data.duplicates.near_duplicates import (
    find_near_duplicates,
    join_pairs,
    load_pictures,
    locate_pictures,
    save_pictures,
)
from squeezetune.data.image_cache import choose_pixel_side, find_pixel_rows, open_pixel_store
from squeezetune.data.index import ImageIndex
from squeezetune.data.pixels import PixelSettings
from squeezetune.data.split import Split
from squeezetune.data.thumbnails import load_thumbnails, open_look_store
from squeezetune.errors import DataError, SourceError
from squeezetune.events import NEAR_DUPLICATES, Notice, tell_stage
from squeezetune.network.backbone import Backbone
from squeezetune.network.features import Features
from squeezetune.pipeline.context import RunContext
from squeezetune.pipeline.preparation import PreparedRun, thin_out
from squeezetune.planning.plan import LEAST_JUDGING, Plan
from squeezetune.system.disk import cache_or_temporary
from squeezetune.system.scratch import Scratch

# Cuts an index into training, validation and test images.
CutIndex: TypeAlias = Callable[[ImageIndex], Split]


@dataclass(frozen=True)
class ExtractedFeatures:
    """The images that can be used, their split, and the features of those that the frozen layers
    have looked at.

    `seen` are the training images that the frozen layers' head is fitted on; all others train
    layers alone. Head and layers are judged on the same validation images.
    """

    index: ImageIndex
    split: Split
    seen: NDArray[np.int64]
    features: Features


def extract_features(
    prepared: PreparedRun, cut: CutIndex, plan: Plan, backbone: Backbone, scratch: Scratch
) -> tuple[ExtractedFeatures, Plan]:
    """Run the frozen layers over the images that the plan has them look at; also return the plan
    with their real speed.

    Images that turn out to be undecodable move to `skipped`, near-duplicates are found, and the
    images are split anew, so that a class does not lose a part to them; the split follows content,
    so nearly all stay where they were.

    Raises:
        DataError: no image can be decoded, or too few of a class.
    """
    index, context, (split, seen) = prepared.index, prepared.context, choose_parts(prepared, plan)
    # where time counts, test images are looked at by the finished model alone
    used = np.union1d(seen, split.validation) if prepared.settings.budget else np.arange(len(index))
    with cache_or_temporary(context.cache) as folder:
        started = time.perf_counter()
        features = prepared.compute_features(backbone, folder, scratch, used)
        plan = plan.note_features(time.perf_counter() - started)
        if prepared.settings.near_duplicates != "ignored":
            involved = np.concatenate([split.train, split.validation, split.test])
            readable = np.setdiff1d(involved, list(features.failures))
            index = mark_near_duplicates(index, readable, backbone.pixels, folder, context, scratch)
    if plan.head_share < 1 and plan.stage:
        unreadable = find_unreadable(index, context, split, plan.stage.side, features.sizes)
        features = replace(features, failures={**unreadable, **features.failures})
        plan = plan.note_pixels()
    is_used = np.isin(np.arange(len(index)), used) & (features.sizes.min(axis=1) > 0)
    if features.failures:
        check_readable(index, features)
        is_used = np.delete(is_used, list(features.failures))
        index, features = index.without(features.failures), features.without_failures()
    split = prepared.split if index is prepared.index else cut(index)
    return ExtractedFeatures(index, *keep_used(split, plan, is_used), features), plan


def mark_near_duplicates(
    index: ImageIndex,
    positions: NDArray[np.int64],
    pixels: PixelSettings,
    folder: Path,
    context: RunContext,
    scratch: Scratch,
) -> ImageIndex:
    """Find out which of the images at some positions show the same picture, and note it in the
    index.
    """
    executor, listen = context.executor, context.listen
    path = locate_pictures(folder, index.digests, positions, pixels)
    pictures = load_pictures(path, index.digests)
    if pictures is None:
        try:
            looks = load_thumbnails(
                index, pixels, open_look_store(folder, pixels), executor, listen, positions, scratch
            )
        except DataError as error:  # a full disk
            listen(Notice(f"near-duplicates are not looked for: {error}"))
            return index
        with tell_stage(NEAR_DUPLICATES, listen):
            pairs = find_near_duplicates(index, looks, pixels.resize, executor)
            pictures = join_pairs(len(index), pairs)
        with suppress(OSError):  # a full disk: they are found anew the next time
            save_pictures(path, index.digests, pictures)
    return replace(index, pictures=pictures)


def choose_parts(prepared: PreparedRun, plan: Plan) -> tuple[Split, NDArray[np.int64]]:
    """Choose the images that take part, and those training images that the head is fitted on, as
    the plan says.
    """
    split = prepared.split
    train = thin_out(split.train, plan.share)
    validation = thin_out(split.validation, plan.share * plan.head_share, LEAST_JUDGING)
    return replace(split, train=train, validation=validation), thin_out(train, plan.head_share)


def keep_used(
    split: Split, plan: Plan, is_used: NDArray[np.bool_]
) -> tuple[Split, NDArray[np.int64]]:
    """Keep those images of a split that the frozen layers have looked at, and name those that the
    head is fitted on.

    The split may be another one than that which said what is looked at: images that have come to
    another part since are used there, and nobody is chosen anew. Where layers are trained all
    training images take part.
    """
    seen = split.train[is_used[split.train]]
    train = split.train if plan.share >= 1 else seen
    return replace(split, train=train, validation=split.validation[is_used[split.validation]]), seen


def find_unreadable(
    index: ImageIndex, context: RunContext, split: Split, side: int, sizes: NDArray[np.int32]
) -> dict[int, str]:
    """Decode all training and validation images, keep the pixels for the training of layers, and
    say what fails.
    """
    used = np.union1d(split.train, split.validation)
    pixels = PixelSettings(choose_pixel_side(side, sizes[used]), context.settings.resize)
    with cache_or_temporary(context.cache) as folder:
        store = open_pixel_store(folder, pixels)
        return find_pixel_rows(index, pixels, store, context.executor, context.listen, used)[1]


def check_readable(index: ImageIndex, features: Features) -> None:
    """Make sure that at least one of the images that were looked at could be decoded.

    Raises:
        SourceError: there is none.

    """
    if not (features.sizes.min(axis=1) > 0).any():
        position, reason = min(features.failures.items())
        example = f"{index.names[position]}: {reason}"
        raise SourceError(
            f"none of {len(features.failures):,} images can be decoded, e.g. {example}",
            "Replace the damaged files.",
        )
