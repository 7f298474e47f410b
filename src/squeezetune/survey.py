"""What the frozen layers look at, and which images can be used at all."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from squeezetune.data.index import ImageIndex
from squeezetune.data.pixel_rows import choose_pixel_side, find_pixel_rows, open_pixel_store
from squeezetune.data.pixels import PixelSettings
from squeezetune.data.split import Split
from squeezetune.engine import Engine
from squeezetune.errors import SourceError
from squeezetune.learn.features import Features, compute_features
from squeezetune.learn.trunk import Trunk
from squeezetune.planner import Plan, note_features, note_pixels
from squeezetune.scene import Scene, thin_out
from squeezetune.scratch import Scratch

# Cuts an index into training, validation and test images.
CutIndex: TypeAlias = Callable[[ImageIndex], Split]


@dataclass(frozen=True)
class Survey:
    """The images that can be used, their split, and the features of those that the frozen layers have looked at.

    `seen` is the part of the split that the frozen layers' head is fitted and judged on.
    """

    index: ImageIndex
    split: Split
    seen: Split
    features: Features


def survey_images(
    scene: Scene, cut: CutIndex, plan: Plan, trunk: Trunk, engine: Engine, scratch: Scratch
) -> tuple[Survey, Plan]:
    """Run the frozen layers over the images that the plan has them look at; also return the plan with their real speed.

    Images that turn out to be undecodable move to `skipped`, and the others are split anew, so that a class does not
    lose a part to them; the split follows content, so nearly all others stay where they were.

    Raises:
        DataError: no image can be decoded, or too few of a class.
    """
    index, split = scene.index, thin_out(scene.split, plan.share)
    seen, started = thin_out(split, plan.head_share), time.perf_counter()
    # where time counts, test images are looked at by the finished model alone
    used = np.union1d(seen.train, seen.validation) if scene.settings.budget else None
    store = scene.open_features(trunk)
    features = compute_features(index, trunk, store, engine, scene.threads, scene.listen, used, scratch)
    plan = note_features(plan, time.perf_counter() - started)
    if plan.head_share < 1 and scene.cache and plan.stage:
        unreadable = find_unreadable(scene, scene.cache, split, plan.stage.side, features.sizes, engine)
        features, plan = replace(features, failures={**unreadable, **features.failures}), note_pixels(plan)
    if features.failures:
        check_readable(index, features)
        index, features = index.without(features.failures), features.without_failures()
        split = thin_out(cut(index), plan.share)
        seen = thin_out(split, plan.head_share)
    return Survey(index, split, keep_known(seen, features), features), plan


def find_unreadable(
    scene: Scene, cache: Path, split: Split, side: int, sizes: NDArray[np.int32], engine: Engine
) -> dict[int, str]:
    """Decode all training and validation images, keep the pixels for the training of layers, and say what fails."""
    used = np.union1d(split.train, split.validation)
    pixels = PixelSettings(choose_pixel_side(side, sizes[used]), scene.settings.resize)
    return find_pixel_rows(scene.index, pixels, open_pixel_store(cache, pixels), engine, scene.listen, used)[1]


def keep_known(split: Split, features: Features) -> Split:
    """Leave the images out of training and validation that the frozen layers have not looked at."""
    is_known = features.sizes.min(axis=1) > 0
    train, validation = (part[is_known[part]] for part in (split.train, split.validation))
    return replace(split, train=train, validation=validation)


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
