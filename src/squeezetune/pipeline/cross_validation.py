"""How a run is measured: on a test part, or by folds, each predicted by a training that never saw
it.

What a finished fold gave is kept beside the model until the run is over, so that a killed run does
not train it again::

    .<model>.unfinished/                the model's own training (see `checkpoint`)
        fold-001/                       the training of the first fold, while it lasts
        fold-001-result/                what its model made of its test images
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeezetune.data.folds import Folds, cut_folds, leave_groups_out
from squeezetune.data.index import ImageIndex
from squeezetune.data.split import Split, split_index, split_train_validation
from squeezetune.data.stratify import count_targets
from squeezetune.data.thumbnails import open_look_store
from squeezetune.errors import ClassesError, SettingsError
from squeezetune.evaluation.measurement import Measured, run_classifier
from squeezetune.events import (
    Event,
    Listener,
    Notice,
    StageAdvanced,
    StageFinished,
    StageStarted,
    TrainingAdvanced,
    ignore_event,
)
from squeezetune.model.classifier import Classifier
from squeezetune.network.features import FeatureStores, compute_features
from squeezetune.pipeline.context import RunContext
from squeezetune.pipeline.fitting import RECIPES, make_manifest
from squeezetune.pipeline.preparation import (
    count_work,
    measure_machine,
    prepare_probed,
    prepare_run,
)
from squeezetune.pipeline.result import TrainingResult
from squeezetune.planning.costs import forecast_features
from squeezetune.planning.planner import check_torch, is_deep_wanted
from squeezetune.settings import Settings, parse_folds
from squeezetune.system.checkpoint import CheckpointFolder
from squeezetune.system.disk import cache_or_temporary
from squeezetune.system.interrupts import catch_interrupts
from squeezetune.system.machine import list_libraries, name_version

AUTOMATIC_FOLDS = 5
# A test part of fewer images says little, and a validation part of fewer chooses badly.
FEW_IMAGES = 30
# A class is better measured by folds where it has one test image; with more images in all that
# takes too long unasked.
MOST_UNASKED = 1000
# Later repeats take seeds that nobody can give, so that no run has the folds of another's first.
SEED_STEP = 2**31


@dataclass(frozen=True)
class FoldRun:
    """One training of a cross-validation: which fold is tested, in which repeat; both count
    from 0.
    """

    repeat: int
    fold: int
    folds: Folds


@dataclass(frozen=True)
class CrossValidation:
    """Cross-validation in so many folds, 0 for a fold a group; of the images that train, a share
    `validation` chooses.

    `is_automatic` says that nobody asked for it.
    """

    folds: int
    settings: Settings
    validation: float
    is_automatic: bool = False

    @property
    def name(self) -> str:
        """Name the procedure for readers."""
        times = f", repeated {self.settings.repeats} times" if self.settings.repeats > 1 else ""
        return (
            f"{self.folds}-fold cross-validation{times}"
            if self.folds
            else "leaving each group out once"
        )

    def keep_all(self, index: ImageIndex) -> Split:
        """Split the images for the training of the model itself: none is a test image."""
        s = self.settings
        return split_train_validation(
            self.join_pictures(index), self.validation, s.seed, group_by=s.group_by
        )

    def split_round(self, index: ImageIndex, turn: FoldRun) -> Split:
        """Split the images for one round: its fold is the test part, and the rest is split as for
        the model itself.
        """
        s = self.settings
        return turn.folds.split(
            self.join_pictures(index), turn.fold, self.validation, s.seed, s.group_by
        )

    def join_pictures(self, index: ImageIndex) -> ImageIndex:
        """Forget which images are near-duplicates, unless these are to stay together."""
        return (
            index if self.settings.near_duplicates == "together" else replace(index, pictures=None)
        )

    def list_rounds(self, index: ImageIndex, listen: Listener = ignore_event) -> Iterator[FoldRun]:
        """List the trainings, all folds of the first repeat first.

        Near-duplicates are in one fold, unless a class has too few other images, of which the
        listener is told.

        Raises:
            ClassesError: a class cannot be tested and learnt at once.
            SettingsError: there are no groups, or too many.

        """
        for repeat in range(self.settings.repeats):
            try:
                folds = self._cut(self.join_pictures(index), repeat)
            except ClassesError:
                if index.pictures is None:
                    raise
                listen(
                    Notice(
                        "so many photos are near-duplicates that they cannot all be kept in one "
                        "fold"
                    )
                )
                folds = self._cut(replace(index, pictures=None), repeat)
            yield from (FoldRun(repeat, fold, folds) for fold in range(folds.count))

    def _cut(self, index: ImageIndex, repeat: int) -> Folds:
        seed, pattern = self.settings.seed + repeat * SEED_STEP, self.settings.group_by
        return (
            cut_folds(index, self.folds, seed, pattern)
            if self.folds
            else leave_groups_out(index, seed, pattern)
        )


def choose_scheme(
    index: ImageIndex, settings: Settings, listen: Listener
) -> CrossValidation | None:
    """Choose how to measure: None is a test part.

    Raises:
        SettingsError: folds are asked for where the source has a split of its own, or no groups.
        ClassesError: a class has so few images that it cannot be tested and learnt at once.

    """
    if settings.folds == "none" or (settings.folds == "auto" and not is_small(index, settings)):
        return None
    if index.parts is not None:
        raise SettingsError(
            "the photos are already split, and folds would mix the parts that somebody chose",
            "Leave folds out, which measures on their test part; or give a source without parts.",
        )
    validation = 0.0 if is_chosen_without(index, settings) else settings.validation
    is_automatic = settings.folds == "auto"
    count = AUTOMATIC_FOLDS if is_automatic else parse_folds(settings.folds) or 0
    scheme = CrossValidation(count, settings, validation, is_automatic)
    next(scheme.list_rounds(index))  # what cannot be cut is refused before anything is computed
    if is_automatic:
        listen(
            Notice(
                f"so few photos are measured by {scheme.name}, and none is set aside; --folds "
                f"none would do so"
            )
        )
    return scheme


def is_small(index: ImageIndex, settings: Settings) -> bool:
    """Say whether a test part would be so small that folds measure better, for little time.

    A class too small to be in every part leaves no other way. Where layers are trained folds have
    to be asked for: they multiply hours.
    """
    if index.parts is not None:
        return False
    shares = np.array([1 - settings.validation - settings.test, settings.validation, settings.test])
    test = count_targets(index.class_counts, shares)[:, 2]
    is_fast = not trains_layers(settings)
    if is_fast and (test.sum() < FEW_IMAGES or (test.min() < 2 and len(index) <= MOST_UNASKED)):
        return True
    is_grouped = bool(settings.group_by) or index.groups is not None
    if index.class_counts.min() >= FEW_IMAGES and not is_grouped:
        return False  # large sets need not be split twice to know that they can be
    try:
        split_index(
            index,
            validation=settings.validation,
            test=settings.test,
            seed=settings.seed,
            group_by=settings.group_by,
        )
    except ClassesError:
        return True
    return False


def is_chosen_without(index: ImageIndex, settings: Settings) -> bool:
    """Say whether the head is better off without a validation part: what trains layers cannot do
    without one.
    """
    is_small_part = len(index) * settings.validation < FEW_IMAGES
    return is_small_part and settings.head != "hidden" and not trains_layers(settings)


def trains_layers(settings: Settings) -> bool:
    """Say whether more than the head will be trained."""
    is_deep = is_deep_wanted(settings) and find_spec("torch") is not None
    return settings.recipe == "original" or is_deep


STAGE = "folds"
FOLDERS = "fold-*"
# Looking at the photos may take this share of a budget that several trainings share.
MOST_LOOKING = 0.5


@dataclass(frozen=True)
class RoundResult:
    """What the model of one round made of its test images: probabilities (n, classes) at these
    positions.
    """

    turn: FoldRun
    positions: NDArray[np.int64]
    probabilities: NDArray[np.float32]


@dataclass(frozen=True)
class CrossValidationResult:
    """The results of the rounds that were finished, of all those `planned`.

    `leaks` are the positions of images of which a near-duplicate is in another fold, where they
    were not kept together.
    """

    scheme: CrossValidation
    planned: int
    results: tuple[RoundResult, ...]
    leaks: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def pool(self) -> Measured:
        """Put the predictions of all rounds together; with repeats an image is among them several
        times.
        """
        positions = np.concatenate([result.positions for result in self.results])
        return Measured(
            positions, np.concatenate([result.probabilities for result in self.results]), {}
        )

    def pool_once(self) -> NDArray[np.float32]:
        """Return the probabilities (n, classes) of the images of all rounds, of each image by one
        model only.
        """
        pooled = self.pool()
        return pooled.probabilities[np.unique(pooled.positions, return_index=True)[1]]

    def describe(self, labels: NDArray[np.int64]) -> dict[str, Any]:
        """Describe the rounds for the record: the accuracy of each fold, and its mean and
        deviation.

        With repeats also those of the repeats that were finished.
        """
        folds = [self._describe_round(result, labels) for result in self.results]
        shares = [fold["accuracy"] for fold in folds]
        pooled = self.pool()
        return {
            "name": self.scheme.name,
            "is_automatic": self.scheme.is_automatic,
            "planned": self.planned,
            "images": len(np.unique(pooled.positions)),
            "folds": folds,
            "mean": float(np.mean(shares)),
            "deviation": measure_deviation(shares),
            "repeats": self._describe_repeats(labels),
        }

    def _describe_round(self, result: RoundResult, labels: NDArray[np.int64]) -> dict[str, Any]:
        is_correct = result.probabilities.argmax(axis=1) == labels[result.positions]
        return {
            "repeat": result.turn.repeat + 1,
            "fold": result.turn.fold + 1,
            "images": len(is_correct),
            "correct": int(is_correct.sum()),
            "accuracy": float(is_correct.mean()),
        }

    def _describe_repeats(self, labels: NDArray[np.int64]) -> dict[str, Any] | None:
        """Describe the accuracies of whole repeats; None where there are not several."""
        shares = []
        for repeat in range(self.scheme.settings.repeats):
            own = [result for result in self.results if result.turn.repeat == repeat]
            if own and len(own) == own[0].turn.folds.count:
                pooled = CrossValidationResult(self.scheme, len(own), tuple(own)).pool()
                shares.append(
                    float((pooled.probabilities.argmax(axis=1) == labels[pooled.positions]).mean())
                )
        if len(shares) < 2:
            return None
        return {
            "accuracies": shares,
            "mean": float(np.mean(shares)),
            "deviation": measure_deviation(shares),
        }


def measure_deviation(values: Sequence[float]) -> float | None:
    """Return the standard deviation of several values; None of one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def share_budget(
    index: ImageIndex, scheme: CrossValidation, context: RunContext, end: float
) -> RunContext:
    """Look at all photos and measure the machine, once, before the rest of a budget is shared by
    all trainings.

    Raises:
        SettingsError: looking at the photos alone would take most of it.

    """
    scene = prepare_run(index, scheme.keep_all(index), context)
    backbone, left_s = prepare_probed(scene), end - time.perf_counter()
    rounds = 1 + len(list(scheme.list_rounds(index)))
    speeds = measure_machine(
        scene, backbone, left_s / rounds, check_torch(scene.settings, context.listen)
    )
    needed_s = forecast_features(backbone.views, count_work(scene, backbone).unseen, speeds)
    if needed_s > MOST_LOOKING * left_s:
        raise SettingsError(
            f"looking at the photos takes about {needed_s:.0f} s, and {rounds} trainings follow: "
            "too much for a budget "
            f"of {context.settings.budget}",
            "Give more time, or measure on a test part: --folds none.",
        )
    each_s = (left_s - needed_s) / rounds
    context.listen(
        Notice(
            f"{rounds} trainings share the budget: about {each_s:,.0f} s for the model and for "
            f"each fold"
        )
    )
    shop = scene.context
    with cache_or_temporary(shop.cache) as folder:
        stores = FeatureStores(
            scene.open_features(backbone), open_look_store(folder, backbone.pixels)
        )
        compute_features(
            index,
            backbone,
            stores,
            shop.executor,
            shop.threads,
            shop.listen,
            scratch=scene.open_scratch(),
        )
    return replace(context, speeds=speeds, run_ends=share_time(end, rounds))


def cross_validate(
    learned: TrainingResult, scheme: CrossValidation, context: RunContext, end: float | None
) -> CrossValidationResult:
    """Train once more for every fold, as the model itself was, and predict that fold.

    Rounds that an unfinished run had finished are taken from it. What is left of a budget until
    `end`, by `time.perf_counter`, is shared out evenly. After a first Ctrl-C the finished rounds
    have to do.

    Raises:
        KeyboardInterrupt: nothing can be measured, since somebody stopped the training before a
            round was finished.

    """
    index, start, results = learned.index, time.perf_counter(), list[RoundResult]()
    rounds, listen = list(scheme.list_rounds(index, context.listen)), context.listen
    if not learned.is_finished:
        raise explain_stop(listen)
    listen(StageStarted(STAGE, len(rounds), "folds"))
    with catch_interrupts(listen) as interruption:
        for number, turn in enumerate(rounds, 1):
            if interruption.poll():
                break
            shop = replace(context, run_ends=share_time(end, len(rounds) - number + 1))
            result = recall_round(index, scheme, turn, number, shop) or train_round(
                index, scheme, turn, number, shop
            )
            if result is None:
                break
            results.append(result)
            listen(StageAdvanced(STAGE, number))
    if not results:
        raise explain_stop(listen)
    listen(StageFinished(STAGE, time.perf_counter() - start))
    return CrossValidationResult(
        scheme, len(rounds), tuple(results), rounds[0].folds.find_leaks(index)
    )


def explain_stop(listen: Listener) -> KeyboardInterrupt:
    """Say why a run that was stopped leaves no model."""
    listen(
        Notice(
            "stopped before a fold was measured, so no model is written; --resume goes on from here"
        )
    )
    return KeyboardInterrupt()


def share_time(end: float | None, rounds: int) -> float | None:
    """Find when the first of so many trainings has to be over, if all take the same time until
    `end`.
    """
    now = time.perf_counter()
    return None if end is None else now + (end - now) / rounds


def train_round(
    index: ImageIndex, scheme: CrossValidation, turn: FoldRun, number: int, context: RunContext
) -> RoundResult | None:
    """Train for one fold and predict its images; None where somebody stopped the training."""
    place, listen = context.unfinished, hush(context.listen)
    own = CheckpointFolder(place.path / f"fold-{number:03}") if place else None
    settings, shop = context.settings, replace(context, listen=listen, unfinished=own)
    learned = RECIPES[settings.recipe](
        index, lambda photos: scheme.split_round(photos, turn), shop, None
    )
    if not learned.is_finished:
        return None
    test = learned.split.test
    if learned.knows(test):
        measured = Measured(test, learned.recall(test), {})
    else:
        classifier = Classifier(learned.model, make_manifest(learned, settings))
        measured = run_classifier(classifier, learned.index, test, context.executor, listen)
    # a photo that has become unreadable meanwhile has moved the others up
    names = {learned.index.names[at] for at in measured.positions}
    own_test = scheme.split_round(index, turn).test
    rows = np.array([row for row, at in enumerate(own_test) if index.names[at] in names], np.int64)
    if place and own:
        about = {"identity": identify_round(index, turn, context)}
        tensors: dict[str, NDArray[Any]] = {"rows": rows, "probabilities": measured.probabilities}
        name_result(place, number).save(tensors, about)
        own.remove()
    return RoundResult(turn, own_test[rows], measured.probabilities)


def recall_round(
    index: ImageIndex, scheme: CrossValidation, turn: FoldRun, number: int, context: RunContext
) -> RoundResult | None:
    """Take what an unfinished run kept of a round; None where it is not to be gone on with, or had
    not come so far.

    Raises:
        CheckpointError: it is of other photos or settings.
    """
    if not context.unfinished or not context.is_resuming:
        return None
    kept = name_result(context.unfinished, number).load(identify_round(index, turn, context))
    if kept is None:
        return None
    # by their content, as the split orders them: files may have other names now
    test = scheme.split_round(index, turn).test
    return RoundResult(turn, test[kept.tensors["rows"]], kept.tensors["probabilities"])


def identify_round(index: ImageIndex, turn: FoldRun, context: RunContext) -> dict[str, Any]:
    """Name all that the result of a round depends on."""
    return {
        "version": name_version(),
        "photos": index.fingerprint,
        "settings": context.identify_settings(),
        "threads": context.threads,
        "libraries": list_libraries(),
        "round": [turn.repeat, turn.fold],
    }


def name_result(place: CheckpointFolder, number: int) -> CheckpointFolder:
    """Name the folder in which the result of a round is kept."""
    return CheckpointFolder(place.path / f"fold-{number:03}-result")


def remove_unfinished(place: CheckpointFolder) -> None:
    """Remove all that was kept of an unfinished run, its rounds included; what is not ours
    stays.
    """
    for path in sorted(place.path.glob(FOLDERS)):
        CheckpointFolder(path).remove()
    place.remove()


def hush(listen: Listener) -> Listener:
    """Pass on what people want to hear of one training among many: notices, and how the training of
    layers stands.
    """

    def hear(event: Event) -> None:
        if isinstance(event, Notice | TrainingAdvanced):
            listen(event)

    return hear
