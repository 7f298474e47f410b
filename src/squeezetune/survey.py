"""What the frozen layers look at, and which images can be used at all."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from squeezetune.data.index import ImageIndex
from squeezetune.data.likeness import (
    find_near_duplicates,
    join_pairs,
    load_pictures,
    name_contents,
    save_pictures,
)
from squeezetune.data.looks import find_looks, open_look_store
from squeezetune.data.pixel_rows import choose_pixel_side, find_pixel_rows, open_pixel_store
from squeezetune.data.pixels import PixelSettings
from squeezetune.data.split import Split
from squeezetune.errors import DataError, SourceError
from squeezetune.events import Notice, StageFinished, StageStarted
from squeezetune.learn.features import Features, FeatureStores, compute_features
from squeezetune.learn.trunk import Trunk
from squeezetune.planner import Plan, note_features, note_pixels
from squeezetune.scene import Scene, thin_out
from squeezetune.scratch import Scratch
from squeezetune.store import lend_folder
from squeezetune.workshop import Workshop

NEAR_DUPLICATES = "near-duplicates"
# Cuts an index into training, validation and test images.
CutIndex: TypeAlias = Callable[[ImageIndex], Split]


@dataclass(frozen=True)
class Survey:
    """The images that can be used, their split, and the features of those that the frozen layers have looked at.

    `seen` are the training images that the frozen layers' head is fitted on; all others train layers alone. Head and
    layers are judged on the same validation images.
    """

    index: ImageIndex
    split: Split
    seen: NDArray[np.int64]
    features: Features


def survey_images(scene: Scene, cut: CutIndex, plan: Plan, trunk: Trunk, scratch: Scratch) -> tuple[Survey, Plan]:
    """Run the frozen layers over the images that the plan has them look at; also return the plan with their real speed.

    Images that turn out to be undecodable move to `skipped`, near-duplicates are found, and the images are split anew,
    so that a class does not lose a part to them; the split follows content, so nearly all stay where they were.

    Raises:
        DataError: no image can be decoded, or too few of a class.
    """
    index, (split, seen), started = scene.index, choose_parts(scene.split, plan), time.perf_counter()
    # where time counts, test images are looked at by the finished model alone
    used = np.union1d(seen, split.validation) if scene.settings.budget else None
    shop = scene.workshop
    with lend_folder(shop.cache) as folder:
        stores = FeatureStores(scene.open_features(trunk), open_look_store(folder, trunk.pixels))
        features = compute_features(index, trunk, stores, shop.engine, shop.threads, shop.listen, used, scratch)
        if scene.settings.near_duplicates != "ignored":
            involved = np.concatenate([split.train, split.validation, split.test])
            readable = np.setdiff1d(involved, list(features.failures))
            index = mark_near_duplicates(index, readable, trunk.pixels, folder, shop, scratch)
    plan = note_features(plan, time.perf_counter() - started)
    if plan.head_share < 1 and plan.stage:
        unreadable = find_unreadable(index, shop, split, plan.stage.side, features.sizes)
        features, plan = replace(features, failures={**unreadable, **features.failures}), note_pixels(plan)
    if features.failures:
        check_readable(index, features)
        index, features = index.without(features.failures), features.without_failures()
    if index is not scene.index:
        split, seen = choose_parts(cut(index), plan)
    is_known = features.sizes.min(axis=1) > 0  # an image may have come from the test part
    split = replace(split, validation=split.validation[is_known[split.validation]])
    return Survey(index, split, seen[is_known[seen]], features), plan


def mark_near_duplicates(
    index: ImageIndex,
    positions: NDArray[np.int64],
    pixels: PixelSettings,
    folder: Path,
    workshop: Workshop,
    scratch: Scratch,
) -> ImageIndex:
    """Find out which of the images at some positions show the same picture, and note it in the index."""
    engine, listen = workshop.engine, workshop.listen
    path = folder / "near-duplicates" / f"{name_contents(index.digests, positions, pixels)}.sealed"
    pictures = load_pictures(path, index.digests)
    if pictures is None:
        try:
            looks = find_looks(index, pixels, open_look_store(folder, pixels), engine, listen, positions, scratch)
        except DataError as error:  # a full disk
            listen(Notice(f"near-duplicates are not looked for: {error}"))
            return index
        started = time.perf_counter()
        listen(StageStarted(NEAR_DUPLICATES))
        pictures = join_pairs(len(index), find_near_duplicates(index, looks, pixels.resize, engine))
        listen(StageFinished(NEAR_DUPLICATES, time.perf_counter() - started))
        with suppress(OSError):  # a full disk: they are found anew the next time
            save_pictures(path, index.digests, pictures)
    return replace(index, pictures=pictures)


def choose_parts(split: Split, plan: Plan) -> tuple[Split, NDArray[np.int64]]:
    """Choose the images that take part, and those training images that the head is fitted on, as the plan says."""
    split = thin_out(split, plan.share)
    part = thin_out(split, plan.head_share)
    return replace(split, validation=part.validation), part.train


def find_unreadable(
    index: ImageIndex, workshop: Workshop, split: Split, side: int, sizes: NDArray[np.int32]
) -> dict[int, str]:
    """Decode all training and validation images, keep the pixels for the training of layers, and say what fails."""
    used = np.union1d(split.train, split.validation)
    pixels = PixelSettings(choose_pixel_side(side, sizes[used]), workshop.settings.resize)
    with lend_folder(workshop.cache) as folder:
        store = open_pixel_store(folder, pixels)
        return find_pixel_rows(index, pixels, store, workshop.engine, workshop.listen, used)[1]


def check_readable(index: ImageIndex, features: Features) -> None:
    """Make sure that at least one of the images that were looked at could be decoded.

    Raises:
        SourceError: there is none.

    """
    if not (features.sizes.min(axis=1) > 0).any():
        position, reason = min(features.failures.items())
        example = f"{index.names[position]}: {reason}"
        raise SourceError(
            f"none of {len(features.failures):,} images can be decoded, e.g. {example}", "Replace the damaged files."
        )
