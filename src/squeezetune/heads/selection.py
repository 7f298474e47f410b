"""The head that is chosen: its form, views and penalty, never by images that it is measured on."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from squeezetune.events import EpochFinished, Listener, StageAdvanced, StageFinished, StageStarted
from squeezetune.heads.candidate import Candidate, sum_groups
from squeezetune.heads.head_data import STAGE, VIEW_NAMES, HeadData
from squeezetune.heads.linear import (
    DenseWeights,
    Rows,
    apply_layers,
    fit_linear,
    fit_share,
    fit_temperature,
    measure_loss,
    mix_layers,
)
from squeezetune.heads.mlp import Epoch, HiddenOptions, fit_hidden
from squeezetune.heads.out_of_fold import Pilot, cross_fit, deal_folds, draw_pilot
from squeezetune.heads.scaling import measure_scaling, take_roots
from squeezetune.settings import Settings
from squeezetune.system.scratch import IN_MEMORY, Scratch, Selection, list_blocks

# The likeliest penalty on the summed loss; the best one hardly depends on the number of images. It
# is looked for between this, divided by the step, and multiplied by it.
PENALTY, PENALTY_STEP = 80.0, 4.0
# Nats that a whole step away from the likeliest costs: no more than a few dozen images say by
# chance.
STEP_NATS = 1.0
# Fewer views are better if they are so by more standard errors than this.
SURE_ERRORS = 2.0
# Of a mixture with less of the hidden layer nothing is left but its size.
LEAST_SHARE = 0.1
# A validation part with no more mistakes than this share cannot tell a better head from a worse
# one.
SETTLED_ERROR = 0.005
# An image with a greater loss has less than half of the probability in its own class.
DOUBT_NATS = log(2)
HIDDEN = {"balanced": HiddenOptions(), "thorough": HiddenOptions(epochs=30, min_steps=1000)}
# Few images want a narrow hidden layer: widths below so many training images
# (docs/decisions/0001-head.md).
WIDTHS = ((5_000, 128), (15_000, 256))
IMBALANCE = 1.5
Losses: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class LabelledFeatures:
    """Features (n, views, 2048) float16 of the frozen layers, and the class of each image (n,).

    `units` (n,) numbers the groups that the images belong to, where there are any.
    """

    features: NDArray[np.float16] | Selection
    labels: NDArray[np.int64]
    units: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Head:
    """The trained classifier: dense layers on the square roots of the features, with scaling and
    temperature folded in.

    `candidates` are all that were tried; `chosen` is the one that these layers come from.
    """

    layers: DenseWeights
    views: int
    chosen: Candidate
    candidates: tuple[Candidate, ...]

    def predict(self, features: NDArray[np.float16] | Selection) -> NDArray[np.float32]:
        """Compute probabilities (n, classes) of features (n, views, 2048)."""
        parts = [self._predict_block(features[block]) for block in list_blocks(len(features))]
        return np.concatenate([np.empty((0, len(self.layers[-1][1])), np.float32), *parts])

    def _predict_block(self, features: NDArray[np.float16]) -> NDArray[np.float32]:
        n, views = features.shape[0], self.views
        roots = take_roots(features[:, :views]).reshape(n * views, -1)
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
    rows = scaling.spread(train.features, scratch)
    unseen = scaling.spread(validation.features, scratch)
    bench = HeadData(
        rows,
        train.labels,
        unseen,
        validation.labels,
        weights,
        threads,
        train.units,
        validation.units,
    )
    # too few images to hold any back: the training images themselves must do
    if not len(validation.labels):
        bench = replace(
            bench,
            validation_rows=rows,
            validation_labels=train.labels,
            validation_units=train.units,
        )
    best, candidates = choose_head(bench, settings, listen)
    if best.penalty and not len(validation.labels):
        best = cross_judge(bench, best)
        candidates = [best]
    listen(StageFinished(STAGE, time.perf_counter() - start))
    return Head(scaling.fold(best.layers, best.temperature), best.views, best, tuple(candidates))


def cross_judge(bench: HeadData, linear: Candidate) -> Candidate:
    """Judge a linear head by training images that others like it, fitted for this, have not seen.

    So few images are worth more in training than held back: with five of a class, ETH-80 and
    CIFAR-10 gain two to three points from learning all of them (benchmarks/few_images.py). The
    image that is tested must not be the only one of its class, so that nothing is judged where
    there is such a class.
    """
    counts = np.bincount(bench.labels)
    if counts[counts > 0].min() < 2:
        return linear
    task = bench.make_task(linear.views)
    penalty = (linear.penalty or PENALTY) * linear.views
    logits = cross_fit(task, penalty, deal_folds(bench.labels, bench.units), threads=bench.threads)
    temperature = fit_temperature(logits, bench.labels)
    is_correct = logits.argmax(axis=1) == bench.labels
    loss = measure_loss(logits, bench.labels, temperature)
    return replace(linear, is_correct=is_correct, validation_loss=loss, temperature=temperature)


def weigh_classes(labels: NDArray[np.int64], class_count: int, policy: str) -> NDArray[np.float32]:
    """Weigh each class (classes,) by its rarity, with mean 1 over the images; all 1 where classes
    are about equal.
    """
    counts = np.maximum(np.bincount(labels, minlength=class_count), 1)
    if policy == "none" or (policy == "auto" and counts.max() <= IMBALANCE * counts.min()):
        return np.ones(class_count, np.float32)
    return (len(labels) / (class_count * counts)).astype(np.float32)


def choose_head(
    bench: HeadData, settings: Settings, listen: Listener
) -> tuple[Candidate, list[Candidate]]:
    """Fit a linear head, and mix a hidden layer in where there is something left to gain; return
    the head and all.
    """
    factor = bench.measure_factor(PENALTY)
    pilot, most = draw_pilot(bench, factor), bench.rows.shape[1]
    usual = pilot.measure(most, PENALTY)
    is_sure = hardly_doubts(usual)
    views, penalty = (most, PENALTY) if is_sure else choose_form(pilot, usual, settings)
    listen(StageAdvanced(STAGE, 20))
    linear = fit_linear_candidate(bench, views, penalty, factor)
    listen(StageAdvanced(STAGE, 25))
    is_enough = (
        settings.effort == "quick" or bench.is_judging_itself or is_sure or is_settled(linear)
    )
    if settings.head == "linear" or (settings.head == "auto" and is_enough):
        return linear, [linear]
    hidden = fit_hidden_candidate(bench, views, settings, listen)
    if settings.head == "hidden":
        return hidden, [linear, hidden]
    mixed = mix_candidates(bench, linear, hidden)
    return (mixed, [linear, hidden, mixed]) if mixed else (linear, [linear, hidden])


def hardly_doubts(losses: Losses) -> bool:
    """Say whether so few images are in doubt, by their losses (n,) in nats, that no other head can
    be told from this.

    >>> [hardly_doubts(np.array([0.1] * (200 - doubts) + [3.0] * doubts)) for doubts in (1, 2)]
    [True, False]
    """
    return are_few(int((losses > DOUBT_NATS).sum()), len(losses))


def are_few(errors: int, images: int) -> bool:
    """Say whether there are so few errors that better heads cannot be told from worse ones."""
    # one mistake less is never more than a standard error
    return errors <= max(1, SETTLED_ERROR * images)


def choose_form(pilot: Pilot, usual: Losses, settings: Settings) -> tuple[int, float]:
    """Choose how many views are learnt, and the penalty, by losses of images that others have not
    seen.

    `usual` are those with all views and the usual penalty.
    """
    views, kept = pilot.halves[0].rows.shape[1], usual
    less, more = (
        pilot.measure(views, penalty)
        for penalty in (PENALTY / PENALTY_STEP, PENALTY * PENALTY_STEP)
    )
    penalty = find_penalty([float(each.sum()) for each in (less, usual, more)])
    # photos rarely have a handedness, so the mirror image stays unless it clearly harms, as it does
    # with writing
    for count in sorted(VIEW_NAMES, reverse=True) if settings.views == "auto" else ():
        if count < views and is_clearly_less(
            fewer := pilot.measure(count, PENALTY), kept, pilot.units
        ):
            views, kept = count, fewer
    return views, penalty


def find_penalty(losses: Sequence[float]) -> float:
    """Find the penalty of the least loss between three that are a step apart, by a parabola through
    their logarithms.

    The losses are sums, in nats. So the penalty moves a little where the images change a little.

    >>> find_penalty([300.0, 290.0, 300.0]), find_penalty([300.0, 290.0, 280.0])
    (80.0, 320.0)
    """
    less, usual, more = losses[0] + STEP_NATS, losses[1], losses[2] + STEP_NATS
    bend = less - 2 * usual + more
    step = (less - more) / (2 * bend) if bend > 0 else float(np.sign(less - more))
    return float(f"{PENALTY * PENALTY_STEP ** np.clip(step, -1, 1):.2g}")


def is_clearly_less(
    losses: Losses,
    others: Losses,
    units: NDArray[np.int64] | None,
    errors: float = SURE_ERRORS,
) -> bool:
    """Say whether losses (n,) are less than others, by more than so many standard errors of their
    paired differences.

    Images of one group are hardly more than one observation: with groups, theirs are added up.
    """
    gains = others - losses if units is None else sum_groups(others - losses, units)
    return bool(gains.sum() > errors * np.sqrt((gains**2).sum()))


def fit_linear_candidate(
    bench: HeadData, views: int, penalty: float, factor: Rows | None = None
) -> Candidate:
    """Fit one linear head and judge it."""
    start = time.perf_counter()
    layers = fit_linear(
        bench.make_task(views), penalty * views, threads=bench.threads, factor=factor
    )
    return bench.judge("linear", layers, views, penalty, start)


def fit_hidden_candidate(
    bench: HeadData, views: int, settings: Settings, listen: Listener
) -> Candidate:
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

    layers = fit_hidden(
        bench.make_task(views), settings.seed, options, report, threads=bench.threads
    )
    candidate = bench.judge(f"hidden layer of {options.width}", layers, views, None, start)
    return replace(candidate, history=tuple(history))


def mix_candidates(bench: HeadData, linear: Candidate, hidden: Candidate) -> Candidate | None:
    """Mix both heads in the share that is likeliest on the validation part; None where the linear
    head is enough.

    The mean of both is better than either, and does not hang on the few validation images on which
    one is ahead.
    """
    start, views = time.perf_counter(), linear.views
    share = fit_share(
        bench.infer(linear.layers, views),
        bench.infer(hidden.layers, views),
        bench.validation_labels,
    )
    if share < LEAST_SHARE:
        return None
    name = f"linear and {hidden.name.split(',')[0]}"
    mixed = bench.judge(
        name, mix_layers(linear.layers, hidden.layers, share), views, linear.penalty, start
    )
    return replace(mixed, history=hidden.history)


def is_settled(candidate: Candidate) -> bool:
    """Say whether the validation part has so few mistakes that it cannot order better heads."""
    return are_few(int((~candidate.is_correct).sum()), len(candidate.is_correct))
