"""Measure how steady heads are: accuracy on one fixed test part, over redrawn validation photos and
over engines.

    python benchmarks/steadiness.py --data FOLDER [--only clothing eth80 objects cifar10] [--seeds
        10] [--sizes 300 0]
        [--runtimes "onnxruntime int8,onnxruntime float32"] [--threads 1] [--inner]

FOLDER holds clothing.zip, eth80.zip and cifar10.zip. Each set's test part stays the same: the
publisher's (clothing), a seeded tenth (eth80) or fifth (cifar10), or the last two objects of every
class (objects). Every seed draws anew which of the other photos choose and which train: a tenth
(cifar10: a quarter), or an object of every class. So whatever differs between seeds comes from the
choices and from what is learnt, and not from which photos are tested. `--sizes` are training
photos, 0 takes all. On the same photos and features, in one process and in turn, there are

before   the rule that was: the penalty (80, 20, 320) of the best validation accuracy, fewer views
         or the hidden layer in the place of the linear head if better by one standard error, on
         half of 3,068 photos;
now      `squeezetune.heads.selection.fit_head`.

`--inner` leaves the test parts alone and tests on a fixed sixth of the other photos: for trying a
rule out.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
from figures import print_machine, print_table
from numpy.typing import NDArray
from photos import PHOTO_SETS
from threadpoolctl import threadpool_limits

from squeezetune.data.index import ImageIndex, index_photos
from squeezetune.data.pixels import PixelSettings
from squeezetune.events import ignore_event
from squeezetune.heads.candidate import Candidate
from squeezetune.heads.head_data import VIEW_NAMES, HeadData
from squeezetune.heads.scaling import measure_scaling
from squeezetune.heads.selection import (
    Head,
    LabelledFeatures,
    fit_head,
    fit_hidden_candidate,
    fit_linear_candidate,
    is_settled,
    weigh_classes,
)
from squeezetune.network.backbone import BackboneOptions, prepare_backbone
from squeezetune.network.features import FeatureStores, compute_features
from squeezetune.network.inference import Runtime
from squeezetune.network.pretrained import load_pretrained
from squeezetune.pipeline.preparation import draw_sample
from squeezetune.settings import Settings
from squeezetune.system.executor import ThreadExecutor, count_cores
from squeezetune.system.scratch import IN_MEMORY

TEST = 2  # the publisher's test part, in the parts of an index
SIDES = {"clothing": 224, "eth80": 224, "objects": 224, "cifar10": 128}
FILES = {"objects": "eth80"}
OLD_PENALTIES, OLD_PILOT = (80.0, 20.0, 320.0), 3000
FIRST_TEST_OBJECT, LAST_SEEN = 9, 8
INNER = 6

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Photos:
    """A data set: its labels, its groups if these count, its fixed test part, and the features of
    each runtime.
    """

    name: str
    labels: Ints
    units: Ints | None
    tested: Ints
    features: dict[str, NDArray[np.float16]]


@dataclass(frozen=True)
class Outcome:
    """A head of one seed: its share of right test photos, which these are, what was chosen, and its
    seconds.
    """

    accuracy: float
    answers: Ints
    form: str
    penalty: float
    seconds: float


def read_set(name: str, runtimes: Sequence[Runtime], options: argparse.Namespace) -> Photos:
    """Index a set, compute the features by every runtime unless they are in the work folder, and
    fix its test part.
    """
    file = FILES.get(name, name)
    pattern = PHOTO_SETS[file].class_pattern if file in PHOTO_SETS else ""
    index = index_photos(
        options.data / f"{file}.zip", executor=ThreadExecutor(), class_pattern=pattern
    )
    names = [index.names[at] for at in range(len(index))]
    objects = (
        np.array([int("".join(filter(str.isdigit, n.split("/")[-2]))) for n in names])
        if name == "objects"
        else None
    )
    if name == "clothing":
        tested = np.flatnonzero(np.asarray(index.parts) == TEST)
    elif objects is not None:
        tested = np.flatnonzero(objects >= FIRST_TEST_OBJECT)
    else:
        tested = draw_even(
            np.random.default_rng(12345), index.labels, 0.2 if name == "cifar10" else 0.1
        )
    if options.inner:
        rest = np.setdiff1d(np.arange(len(index)), tested)
        inner = draw_even(np.random.default_rng(1), index.labels[rest], 1 / INNER)
        tested = np.concatenate(
            [rest[inner], tested]
        )  # the real test photos come last, and are cut off
        tested = tested[: len(inner)] if objects is None else rest[objects[rest] == LAST_SEEN]
    units = None if objects is None else index.labels * 100 + objects
    features = {str(each): read_features(file, index, each, options) for each in runtimes}
    return Photos(name, index.labels.astype(np.int64), units, tested, features)


def draw_even(rng: np.random.Generator, labels: Ints, share: float) -> Ints:
    """Draw positions: the same share of every class."""
    parts = (np.flatnonzero(labels == label) for label in np.unique(labels))
    return np.sort(
        np.concatenate(
            [rng.permutation(part)[: max(1, round(share * len(part)))] for part in parts]
        )
    )


def read_features(
    file: str, index: ImageIndex, runtime: Runtime, options: argparse.Namespace
) -> NDArray[np.float16]:
    """Compute the features (n, 2, 2048) of all photos, or take them from the work folder."""
    path = options.work / f"{file}-{runtime.engine}-{runtime.precision}.npy"
    if not path.exists():
        options.work.mkdir(parents=True, exist_ok=True)
        pixels, threads = PixelSettings(SIDES[file]), count_cores()
        backbone_options = BackboneOptions(
            pixels, 2, runtime.engine, runtime.precision, threads, None
        )
        known = (
            np.arange(len(index))
            if index.parts is None
            else np.flatnonzero(np.asarray(index.parts) != TEST)
        )
        backbone = prepare_backbone(
            load_pretrained(),
            backbone_options,
            index,
            lambda: draw_sample(index, known, pixels),
            ignore_event,
        )
        found = compute_features(
            index, backbone, FeatureStores(None), ThreadExecutor(threads), threads, ignore_event
        )
        np.save(path, found.values)
    return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]


def draw_parts(photos: Photos, seed: int, size: int, inner: bool) -> tuple[Ints, Ints]:
    """Draw training and validation photos among those that are not tested."""
    rng = np.random.default_rng(seed)
    rest = np.setdiff1d(np.arange(len(photos.labels)), photos.tested)
    if photos.units is not None:
        known = (photos.units % 100 < (LAST_SEEN if inner else FIRST_TEST_OBJECT))[rest]
        rest = rest[known]
        classes = np.unique(photos.units // 100)
        chosen = [
            100 * c + rng.integers(1, LAST_SEEN if inner else FIRST_TEST_OBJECT) for c in classes
        ]
        is_judging = np.isin(photos.units[rest], chosen)
        train, validation = rest[~is_judging], rest[is_judging]
    else:
        drawn = draw_even(rng, photos.labels[rest], 0.25 if photos.name == "cifar10" else 0.1)
        train, validation = np.delete(rest, drawn), rest[drawn]
    if size and size < len(train):
        share = size / len(train)
        train, validation = (
            part[draw_even(rng, photos.labels[part], share)] for part in (train, validation)
        )
    return train, validation


def fit_before(
    train: LabelledFeatures,
    validation: LabelledFeatures,
    classes: int,
    settings: Settings,
    threads: int,
) -> Head:
    """Fit the head by the rule that stood before."""
    scaling = measure_scaling(train.features)
    rows, unseen = (scaling.spread(each.features, IN_MEMORY) for each in (train, validation))
    weights = weigh_classes(train.labels, classes, settings.class_weight)
    bench = HeadData(
        rows, train.labels, unseen, validation.labels, weights, threads, None, validation.units
    )
    best = choose_linear_before(bench)
    if not is_settled(best):
        hidden = fit_hidden_candidate(bench, best.views, settings, ignore_event)
        best = hidden if hidden.pays_over(best) else best
    return Head(scaling.fold(best.layers, best.temperature), best.views, best, (best,))


def choose_linear_before(bench: HeadData) -> Candidate:
    """Choose the penalty by validation accuracy, and fewer views by one standard error of it, on a
    pilot.
    """
    step = -(-len(bench.labels) // OLD_PILOT)
    pilot = (
        bench if step == 1 else replace(bench, rows=bench.rows[::step], labels=bench.labels[::step])
    )
    tried, views = [], bench.rows.shape[1]
    for penalty in OLD_PENALTIES:
        tried.append(fit_linear_candidate(pilot, views, penalty))
        best = max(tried, key=lambda candidate: candidate.rank)
        if is_settled(best):
            break
    penalty = best.penalty or OLD_PENALTIES[0]
    for count in (
        count
        for count in sorted(VIEW_NAMES, reverse=True)
        if count < views and not is_settled(best)
    ):
        fewer = fit_linear_candidate(pilot, count, penalty)
        best = fewer if fewer.pays_over(best) else best
    return best if pilot is bench else fit_linear_candidate(bench, best.views, penalty)


def fit_now(train: LabelledFeatures, validation: LabelledFeatures, classes: int, settings: Settings,
            threads: int) -> Head:  # fmt: skip
    """Fit the head by the product's rule."""
    return fit_head(train, validation, classes, settings, ignore_event, threads=threads)


RULES: dict[str, Callable[..., Head]] = {"before": fit_before, "now": fit_now}


def measure(
    photos: Photos, runtime: str, seed: int, size: int, options: argparse.Namespace
) -> dict[str, Outcome]:
    """Fit one seed's head by both rules, in turn, and count what it recognises of the test
    photos.
    """
    values, classes = photos.features[runtime], int(photos.labels.max()) + 1
    train, validation = (
        LabelledFeatures(np.asarray(values[part]), photos.labels[part],
                         None if photos.units is None else photos.units[part])
        for part in draw_parts(photos, seed, size, options.inner)
    )  # fmt: skip
    tested, truth = np.asarray(values[photos.tested]), photos.labels[photos.tested]
    outcomes = {}
    for name in sorted(RULES, reverse=bool(seed % 2)):
        start = time.process_time()
        with threadpool_limits(1):
            head = RULES[name](train, validation, classes, Settings(seed=seed), options.threads)
        seconds, answers = time.process_time() - start, head.predict(tested).argmax(axis=1)
        form = f"{head.chosen.name.split(',')[0]}, {head.views} views"
        outcomes[name] = Outcome(
            float((answers == truth).mean()), answers, form, head.chosen.penalty or 0.0, seconds
        )
    return outcomes


def describe(
    name: str, outcomes: dict[tuple[str, int], Outcome], runtimes: Sequence[str]
) -> list[Any]:
    """Make a row of the table of one rule."""
    accuracies = [each.accuracy for each in outcomes.values()]
    seeds = sorted({seed for _, seed in outcomes})
    means = " / ".join(
        f"{statistics.mean(outcomes[r, s].accuracy for s in seeds):.2%}" for r in runtimes
    )
    pairs = [(outcomes[a, s], outcomes[b, s]) for s in seeds for a, b in combinations(runtimes, 2)]
    spread = statistics.mean(
        statistics.stdev(outcomes[r, s].accuracy for s in seeds) for r in runtimes
    )
    between = statistics.mean(abs(a.accuracy - b.accuracy) for a, b in pairs) if pairs else 0.0
    forms = sum(a.form == b.form for a, b in pairs)
    ratios = [
        max(a.penalty, b.penalty) / min(a.penalty, b.penalty)
        for a, b in pairs
        if a.penalty and b.penalty
    ]
    alike = statistics.mean((a.answers == b.answers).mean() for a, b in pairs) if pairs else 1.0
    kinds = sorted({each.form for each in outcomes.values()})
    counts = ", ".join(
        f"{sum(each.form == kind for each in outcomes.values())} {kind}" for kind in kinds
    )
    return [
        name,
        means,
        f"{100 * spread:.2f}",
        f"{100 * (max(accuracies) - min(accuracies)):.2f}",
        f"{100 * between:.2f}",
        f"{alike:.1%}",
        f"{forms} of {len(pairs)}",
        f"{statistics.median(ratios):.2f} / {max(ratios):.2f}" if ratios else "-",
        f"{statistics.mean(each.seconds for each in outcomes.values()):.1f}",
        counts,
    ]


HEADER = [
    "rule",
    "mean accuracy, by runtime",
    "sd over seeds, points",
    "highest - lowest",
    "|difference| of runtimes",
    "same class by both",
    "same form",
    "ratio of penalties, median / most",
    "CPU s",
    "forms",
]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="the folder with the three zip files"
    )
    work = Path(tempfile.gettempdir()) / "squeezetune-steadiness"
    parser.add_argument(
        "--work", type=Path, default=work, help="where features are kept (default: %(default)s)"
    )
    parser.add_argument("--only", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--sizes", type=int, nargs="+", default=[300, 0])
    parser.add_argument("--runtimes", default="onnxruntime int8,onnxruntime float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--inner", action="store_true")
    options = parser.parse_args(argv)
    runtimes = [Runtime(*name.split()) for name in options.runtimes.split(",")]
    for name in options.only:
        photos = read_set(name, runtimes, options)
        for size in options.sizes:
            found = {
                (str(runtime), seed): measure(photos, str(runtime), seed, size, options)
                for seed, runtime in product(range(options.seeds), runtimes)
            }
            train, validation = draw_parts(photos, 0, size, options.inner)
            print(
                f"{name}: {len(train):,} train, {len(validation):,} choose, "
                f"{len(photos.tested):,} tested"
                f"{' (inner)' if options.inner else ''}; {options.seeds} seeds",
                flush=True,
            )
            print_table(
                HEADER,
                [
                    describe(
                        rule,
                        {key: each[rule] for key, each in found.items()},
                        [str(each) for each in runtimes],
                    )
                    for rule in RULES
                ],
            )
            gains = [
                100 * (each["now"].accuracy - each["before"].accuracy) for each in found.values()
            ]
            print(
                f"now - before: {statistics.mean(gains):+.2f} points, "
                f"{sum(gain > 0 for gain in gains)} better, "
                f"{sum(gain < 0 for gain in gains)} worse of {len(gains)}\n",
                flush=True,
            )
    print_machine()


if __name__ == "__main__":
    main()
