"""Measure whether the report on a model of a few images is honest, and whether it pays to hold some
of them back.

    python benchmarks/few_images.py --data FOLDER [--each 5] [--draws 20]

So many images of every class are drawn from a set, again and again. Each draw is trained on as
`squeezetune train` does: by itself it takes folds; `--folds none` sets images aside to choose and
to measure. What the model is really worth is measured on others of the set, which it has not seen.
An honest 95 % interval holds that truth in about 95 of 100 draws.
"""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from figures import format_mean, print_machine, print_table
from numpy.typing import NDArray
from photos import (
    BACKBONE,
    PHOTO_SETS,
    add_photo_options,
    prepare_photos,
    scan_photos,
    split_photos,
)

from squeezetune.data.index import ImageIndex
from squeezetune.evaluation.measurement import Measured
from squeezetune.evaluation.metrics import Evaluation, evaluate_probabilities
from squeezetune.events import ignore_event
from squeezetune.network.features import FeatureStores, compute_features
from squeezetune.network.graph import FEATURE_COUNT
from squeezetune.pipeline.context import open_context
from squeezetune.pipeline.cross_validation import cross_validate
from squeezetune.pipeline.fitting import fit_classifier
from squeezetune.pipeline.result import TransferResult
from squeezetune.pipeline.scheme import choose_scheme
from squeezetune.settings import Settings
from squeezetune.system.scratch import Selection
from squeezetune.system.store import RowStore

OTHERS = 2000  # images on which the truth is measured


@dataclass(frozen=True)
class Draw:
    """What a run reports of its model, and what that is worth on images that nobody has seen."""

    reported: Evaluation
    truth: Evaluation

    @property
    def is_covered(self) -> bool:
        """Say whether the reported interval holds the truth."""
        low, high = self.reported.interval
        return low <= self.truth.accuracy <= high


def take_images(index: ImageIndex, positions: NDArray[np.int64]) -> ImageIndex:
    """Keep the images at these positions."""
    names = tuple(index.names[at] for at in positions)
    return replace(
        index, names=names, labels=index.labels[positions], digests=index.digests[positions]
    )


def draw_images(
    index: ImageIndex, counts: Sequence[int], seed: int
) -> tuple[ImageIndex, ImageIndex]:
    """Draw so many images of every class, and others on which the truth is measured."""
    order = np.random.default_rng(seed).permutation(len(index))
    ranks = np.empty(len(index), np.int64)
    for label in range(len(counts)):
        own = order[index.labels[order] == label]
        ranks[own] = np.arange(len(own))
    is_drawn = ranks[order] < np.array(counts)[index.labels[order]]
    others = order[~is_drawn][
        -OTHERS:
    ]  # the last: a class of which most are drawn has its others there
    return take_images(index, np.sort(order[is_drawn])), take_images(index, np.sort(others))


def measure_draw(photos: ImageIndex, others: ImageIndex, settings: Settings, cache: Path) -> Draw:
    """Train on some photos, and set what is reported against the truth; features are kept in the
    cache.
    """
    context, scheme = (
        open_context(settings, cache, ignore_event),
        choose_scheme(photos, settings, ignore_event),
    )
    if scheme:
        learned = fit_classifier(photos, scheme.keep_all, context)
        measured = cross_validate(learned, scheme, context).pool()
    else:
        learned = fit_classifier(photos, lambda images: split_photos(images, settings), context)
        measured = Measured(learned.split.test, learned.recall(learned.split.test), {})
    return Draw(measured.evaluate(photos, learned.split), measure_truth(learned, others, cache))


def measure_truth(learned: TransferResult, others: ImageIndex, cache: Path) -> Evaluation:
    """Measure the head on other images, which the same frozen layers look at."""
    backbone = learned.backbone
    store = RowStore(cache / "features" / backbone.key, (backbone.views, FEATURE_COUNT))
    shop = open_context(Settings(backbone=BACKBONE), cache, ignore_event)
    features = compute_features(
        others, backbone, FeatureStores(store), shop.executor, shop.threads, ignore_event
    )
    probabilities = learned.head.predict(Selection(features.values, np.arange(len(others))))
    return evaluate_probabilities(probabilities, others.labels, others.class_names)


def describe_draws(draws: Sequence[Draw]) -> list[object]:
    """Describe draws as a row: what was reported, what is true, and how often the interval holds
    it.
    """
    reported, truth = (
        [getattr(draw, name).accuracy for draw in draws] for name in ("reported", "truth")
    )
    widths = [high - low for low, high in (draw.reported.interval for draw in draws)]
    covered = sum(draw.is_covered for draw in draws)
    return [
        format_mean(reported),
        format_mean(truth),
        f"{statistics.mean(widths):.1%}",
        f"{covered} of {len(draws)}",
    ]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_photo_options(parser)
    parser.add_argument("--sets", nargs="+", choices=PHOTO_SETS, default=list(PHOTO_SETS))
    parser.add_argument(
        "--each", type=int, default=5, help="images of every class (default: %(default)s)"
    )
    parser.add_argument("--draws", type=int, default=20, help="(default: %(default)s)")
    options = parser.parse_args(argv)
    print_machine()
    rows = []
    for name in options.sets:
        index = scan_photos(name, prepare_photos(name, options))
        with tempfile.TemporaryDirectory(dir=options.work) as cache:
            for folds in ("auto", "none"):
                settings = Settings(
                    backbone=BACKBONE,
                    folds=folds,
                    engine="onnxruntime",
                    precision="float32",
                    threads=1,
                )
                draws = []
                for seed in range(options.draws):
                    photos, others = draw_images(
                        index, [options.each] * len(index.class_names), seed
                    )
                    draws.append(measure_draw(photos, others, settings, Path(cache)))
                rows.append([name, folds, *describe_draws(draws)])
                print(rows[-1], flush=True)
    print(f"\n{options.each} images of every class, {OTHERS} others for the truth")
    print_table(
        [
            "photos",
            "--folds",
            "reported",
            "truth",
            "width of the interval",
            "intervals with the truth",
        ],
        rows,
    )


if __name__ == "__main__":
    main()
