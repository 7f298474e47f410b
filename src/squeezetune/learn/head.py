"""Features and labels -> the trained classifier on top; every choice is made on the validation part."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from squeezetune.events import EpochFinished, Listener, StageAdvanced, StageFinished, StageStarted
from squeezetune.learn.calibration import fit_temperature, measure_loss
from squeezetune.learn.crossing import cross_fit, deal_folds
from squeezetune.learn.dense import Layers, Rows, Task, apply_layers, fit_linear
from squeezetune.learn.hidden import Epoch, HiddenOptions, fit_hidden
from squeezetune.learn.recipe import WATCHED_IMAGES
from squeezetune.learn.scaling import measure_scaling
from squeezetune.scratch import IN_MEMORY, Scratch, Selection, list_blocks
from squeezetune.settings import Settings

# Penalties on the summed loss; the best one hardly depends on the number of images. The first is the likeliest.
PENALTIES = (80.0, 20.0, 320.0)
# The penalty and the views are chosen on at most this many training images, and hold for all of them.
PILOT_IMAGES = 3000
# A validation part with no more mistakes than this share cannot tell a better head from a worse one.
SETTLED_ERROR = 0.005
HIDDEN = {"balanced": HiddenOptions(), "thorough": HiddenOptions(epochs=30, min_steps=1000)}
# Few images want a narrow hidden layer: widths below so many training images (docs/decisions/0001-head.md).
WIDTHS = ((5_000, 128), (15_000, 256))
IMBALANCE = 1.5

STAGE = "head"
VIEW_NAMES = {1: "image", 2: "image and mirror image", 4: "image, mirror image and the middles of both"}


@dataclass(frozen=True)
class LabelledFeatures:
    """Features (n, views, 2048) float16 of the frozen layers, and the class of each image (n,).

    `units` (n,) numbers the groups that the images belong to, where there are any.
    """

    features: NDArray[np.float16] | Selection
    labels: NDArray[np.int64]
    units: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Candidate:
    """One head that was tried, and what the validation part says of it; `is_correct` (n,) tells of each image.

    `units` (n,) numbers the groups that the validation images belong to, where there are any.
    """

    name: str
    layers: Layers
    views: int
    penalty: float | None
    is_correct: NDArray[np.bool_]
    validation_loss: float
    temperature: float
    seconds: float
    history: tuple[EpochFinished, ...] = ()
    units: NDArray[np.int64] | None = None

    @property
    def validation_accuracy(self) -> float:
        """The share of the validation images that are named right."""
        return float(self.is_correct.mean())

    @property
    def rank(self) -> tuple[float, float]:
        """Order candidates of one kind: by accuracy, then by calibrated likelihood."""
        return (self.validation_accuracy, -self.validation_loss)

    def pays_over(self, other: "Candidate") -> bool:
        """Say whether this one is better than a simpler one by more than a standard error of the paired difference.

        Images of one group are hardly more than one observation: with groups, it has to be so for their differences
        too (Liang and Zeger 1986, "Longitudinal data analysis using generalized linear models").
        """
        gains = self.is_correct.astype(np.int64) - other.is_correct
        return is_sure(gains) and (self.units is None or is_sure(sum_groups(gains, self.units)))

    def replaces(self, other: "Candidate") -> bool:
        """Say whether this one, a network with more of its layers trained, takes the place of another.

        It has to be better, and where there are groups, so much better that it is not the luck of a few of them: new
        images of known groups gain from trained layers, new groups may lose.
        """
        return self.pays_over(other) if self.units is not None else self.rank > other.rank


def is_sure(gains: NDArray[np.int64]) -> bool:
    """Say whether the sum of differences is above its standard error, if there were no difference."""
    return bool(gains.sum() > np.sqrt((gains**2).sum()))


def sum_groups(gains: NDArray[np.int64], units: NDArray[np.int64]) -> NDArray[np.int64]:
    """Add up the differences (n,) of the images of each group."""
    groups, group_of = np.unique(units, return_inverse=True)
    sums = np.zeros(len(groups), np.int64)
    np.add.at(sums, group_of, gains)
    return sums


@dataclass(frozen=True)
class Head:
    """The trained classifier: dense layers on the square roots of the features, with scaling and temperature folded in.

    `candidates` are all that were tried; `chosen` is the one that these layers come from.
    """

    layers: Layers
    views: int
    chosen: Candidate
    candidates: tuple[Candidate, ...]

    def predict(self, features: NDArray[np.float16] | Selection) -> NDArray[np.float32]:
        """Compute probabilities (n, classes) of features (n, views, 2048)."""
        parts = [self._predict_block(features[block]) for block in list_blocks(len(features))]
        return np.concatenate([np.empty((0, len(self.layers[-1][1])), np.float32), *parts])

    def _predict_block(self, features: NDArray[np.float16]) -> NDArray[np.float32]:
        n, views = features.shape[0], self.views
        roots = np.sqrt(features[:, :views].astype(np.float32)).reshape(n * views, -1)
        logits = apply_layers(self.layers, roots).reshape(n, views, -1).mean(axis=1)
        exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities: NDArray[np.float32] = exponents / exponents.sum(axis=1, keepdims=True)
        return probabilities


def fit_head(
    train: LabelledFeatures,
    validation: LabelledFeatures,
    class_count: int,
    settings: Settings,
    listen: Listener,
    *,
    threads: int = 1,
    scratch: Scratch = IN_MEMORY,
) -> Head:
    """Fit the classifier on the training images and choose its form on the validation images."""
    start = time.perf_counter()
    listen(StageStarted(STAGE, 100, "%"))
    scaling = measure_scaling(train.features)
    weights = weigh_classes(train.labels, class_count, settings.class_weight)
    rows, unseen = scaling.spread(train.features, scratch), scaling.spread(validation.features, scratch)
    bench = Bench(rows, train.labels, unseen, validation.labels, weights, threads, validation.units)
    if not len(validation.labels):  # too few images to hold any back: the training images themselves must do
        bench = replace(bench, validation_rows=rows, validation_labels=train.labels, units=train.units)
    best, candidates = choose_head(bench, settings, listen)
    if best.penalty and not len(validation.labels):
        best = cross_judge(bench, best)
        candidates = [best]
    listen(StageFinished(STAGE, time.perf_counter() - start))
    return Head(scaling.fold(best.layers, best.temperature), best.views, best, tuple(candidates))


def cross_judge(bench: "Bench", linear: Candidate) -> Candidate:
    """Judge a linear head by training images that others like it, fitted for this, have not seen.

    So few images are worth more in training than held back: with five of a class, ETH-80 and CIFAR-10 gain two to
    three points from learning all of them (benchmarks/few_images.py). The image that is tested must not be the only
    one of its class, so that nothing is judged where there is such a class.
    """
    counts = np.bincount(bench.labels)
    if counts[counts > 0].min() < 2:
        return linear
    task = bench.make_task(linear.views)
    penalty = (linear.penalty or PENALTIES[0]) * linear.views
    logits = cross_fit(task, penalty, deal_folds(bench.labels, bench.units), threads=bench.threads)
    temperature = fit_temperature(logits, bench.labels)
    is_correct = logits.argmax(axis=1) == bench.labels
    loss = measure_loss(logits, bench.labels, temperature)
    return replace(linear, is_correct=is_correct, validation_loss=loss, temperature=temperature)


def weigh_classes(labels: NDArray[np.int64], class_count: int, policy: str) -> NDArray[np.float32]:
    """Weigh each class (classes,) by its rarity, with mean 1 over the images; all 1 where classes are about equal."""
    counts = np.maximum(np.bincount(labels, minlength=class_count), 1)
    if policy == "none" or (policy == "auto" and counts.max() <= IMBALANCE * counts.min()):
        return np.ones(class_count, np.float32)
    return (len(labels) / (class_count * counts)).astype(np.float32)


@dataclass(frozen=True)
class Bench:
    """Training and validation rows (n, views, 2048), standardised, with labels, and the weights of the classes.

    `units` (n,) numbers the groups of the validation images, where there are any.
    """

    rows: Rows
    labels: NDArray[np.int64]
    validation_rows: Rows
    validation_labels: NDArray[np.int64]
    class_weights: NDArray[np.float32]
    threads: int
    units: NDArray[np.int64] | None = None

    def make_task(self, views: int) -> Task:
        """Make every view of every image one row."""
        rows = self.rows[:, :views].reshape(len(self.rows) * views, -1)
        return Task(rows, np.repeat(self.labels, views), self.class_weights)

    def take_pilot(self) -> "Bench":
        """Keep an even sample of the training images, at most `PILOT_IMAGES`."""
        step = -(-len(self.labels) // PILOT_IMAGES)
        return self if step == 1 else replace(self, rows=self.rows[::step], labels=self.labels[::step])

    def take_watched(self) -> "Bench":
        """Keep an even sample of the validation images, cheap enough to look at in every epoch."""
        step = -(-len(self.validation_labels) // WATCHED_IMAGES)
        rows, labels = self.validation_rows[::step], self.validation_labels[::step]
        return replace(self, validation_rows=rows, validation_labels=labels)

    def infer(self, layers: Layers, views: int) -> NDArray[np.float32]:
        """Compute the logits (n, classes) of the validation images, averaged over the views."""
        parts = [
            apply_to_views(layers, self.validation_rows[b, :views]) for b in list_blocks(len(self.validation_rows))
        ]
        return np.concatenate(parts)

    def describe_epoch(self, epoch: Epoch, views: int, images: int, seconds: float) -> EpochFinished:
        """Measure the validation part after an epoch; `images` were seen in every one until now, after `seconds`."""
        logits, labels = self.infer(epoch.layers, views), self.validation_labels
        return EpochFinished(
            stage=STAGE,
            epoch=epoch.number,
            of=epoch.of,
            train_loss=epoch.loss,
            train_accuracy=epoch.accuracy,
            validation_loss=measure_loss(logits, labels),
            validation_accuracy=float((logits.argmax(axis=1) == labels).mean()),
            images_per_s=images * epoch.number / seconds,
            seconds=seconds,
        )

    def judge(self, name: str, layers: Layers, views: int, penalty: float | None, start: float) -> Candidate:
        """Measure layers on the validation part, averaging the logits of the views."""
        logits, labels = self.infer(layers, views), self.validation_labels
        # images that were learnt say nothing of how sure to be
        temperature = 1.0 if self.validation_rows is self.rows else fit_temperature(logits, labels)
        is_correct = logits.argmax(axis=1) == labels
        loss = measure_loss(logits, labels, temperature)
        name = f"{name}, {VIEW_NAMES[views]}"
        seconds = time.perf_counter() - start
        return Candidate(name, layers, views, penalty, is_correct, loss, temperature, seconds, units=self.units)


def apply_to_views(layers: Layers, rows: Rows) -> NDArray[np.float32]:
    """Compute the logits (n, classes) of rows (n, views, features), averaged over the views."""
    count, views, _ = rows.shape
    logits = apply_layers(layers, rows.reshape(count * views, -1)).reshape(count, views, -1)
    means: NDArray[np.float32] = logits.mean(axis=1)
    return means


def choose_head(bench: Bench, settings: Settings, listen: Listener) -> tuple[Candidate, list[Candidate]]:
    """Fit a linear head, and a hidden layer where there is something left to gain; return the chosen one and all."""
    linear, tried = choose_linear(bench, settings)
    listen(StageAdvanced(STAGE, 25))
    if settings.head == "linear" or (settings.head == "auto" and (settings.effort == "quick" or is_settled(linear))):
        return linear, tried
    hidden = fit_hidden_candidate(bench, linear.views, settings, listen)
    is_hidden_chosen = settings.head == "hidden" or hidden.pays_over(linear)
    return (hidden if is_hidden_chosen else linear), [*tried, hidden]


def choose_linear(bench: Bench, settings: Settings) -> tuple[Candidate, list[Candidate]]:
    """Choose penalty and views on a pilot, and fit them on all; return the linear head and those that compete."""
    pilot = bench.take_pilot()
    tried = list(search_linear(pilot, settings))
    full_views = [candidate for candidate in tried if candidate.views == bench.rows.shape[1]]
    best = max(full_views, key=lambda candidate: candidate.rank)
    # photos rarely have a handedness, so the mirror image stays unless it clearly harms, as it does with writing
    for candidate in tried:
        best = candidate if candidate.views < best.views and candidate.pays_over(best) else best
    if pilot is bench:
        return best, tried
    best = fit_linear_candidate(bench, best.views, best.penalty or PENALTIES[0])
    return best, [best]


def search_linear(bench: Bench, settings: Settings) -> Iterator[Candidate]:
    """Try penalties, then fewer views at the best of them, until the validation part is settled."""
    views = bench.rows.shape[1]
    best = None
    for penalty in PENALTIES:
        candidate = fit_linear_candidate(bench, views, penalty)
        yield candidate
        best = candidate if best is None or candidate.rank > best.rank else best
        if is_settled(best):
            return
    fewer_views = [count for count in VIEW_NAMES if count < views] if settings.views == "auto" else []
    for count in reversed(fewer_views):
        yield fit_linear_candidate(bench, count, best.penalty if best and best.penalty else PENALTIES[0])


def fit_linear_candidate(bench: Bench, views: int, penalty: float) -> Candidate:
    """Fit one linear head and judge it."""
    start = time.perf_counter()
    layers = fit_linear(bench.make_task(views), penalty * views, threads=bench.threads)
    return bench.judge("linear", layers, views, penalty, start)


def fit_hidden_candidate(bench: Bench, views: int, settings: Settings, listen: Listener) -> Candidate:
    """Train one hidden layer and judge it."""
    start = time.perf_counter()
    options = HIDDEN.get(settings.effort, HiddenOptions())
    widths = [width for images, width in WIDTHS if len(bench.labels) < images]
    options = replace(options, width=min([*widths, options.width]))
    watched = bench.take_watched()
    history: list[EpochFinished] = []

    def report(epoch: Epoch) -> None:
        seconds = time.perf_counter() - start
        figures = watched.describe_epoch(epoch, views, len(bench.labels), seconds)
        history.append(figures)
        listen(figures)
        listen(StageAdvanced(STAGE, 25 + 75 * epoch.number // epoch.of))

    layers = fit_hidden(bench.make_task(views), settings.seed, options, report, threads=bench.threads)
    candidate = bench.judge(f"hidden layer of {options.width}", layers, views, None, start)
    return replace(candidate, history=tuple(history))


def is_settled(candidate: Candidate) -> bool:
    """Say whether the validation part has so few mistakes that it cannot order better heads."""
    errors = int((~candidate.is_correct).sum())
    # one mistake less is never more than a standard error
    return errors <= max(1, SETTLED_ERROR * len(candidate.is_correct))
