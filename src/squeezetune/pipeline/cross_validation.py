"""Cross-validation: the training again for every fold, which is predicted by a model that never saw
it.

What a finished fold gave is kept beside the model until the run is over, so that a killed run does
not train it again::

    .<model>.unfinished/                the model's own training (see `checkpoint`)
        fold-001/                       the training of the first fold, while it lasts
        fold-001-result/                what its model made of its test images
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeezetune.data.index import ImageIndex
from squeezetune.data.split import Split
from squeezetune.errors import SettingsError
from squeezetune.evaluation.measurement import Measured, run_classifier
from squeezetune.events import (
    FOLDS,
    Event,
    Listener,
    Notice,
    TrainingAdvanced,
    ignore_event,
    tell_stage,
)
from squeezetune.model.classifier import Classifier
from squeezetune.pipeline.backbone_choice import choose_backbone
from squeezetune.pipeline.context import RunContext
from squeezetune.pipeline.fitting import RECIPES, make_manifest
from squeezetune.pipeline.preparation import prepare_run
from squeezetune.pipeline.result import TrainingResult
from squeezetune.pipeline.scheme import CrossValidation, FoldRun
from squeezetune.planning.planner import NO_LIMIT, TimeLimit, check_torch
from squeezetune.planning.speeds import measure_machine
from squeezetune.system.checkpoint import NOTHING_KEPT, CheckpointFolder, UnfinishedRun
from squeezetune.system.disk import cache_or_temporary
from squeezetune.system.interrupts import catch_interrupts
from squeezetune.system.machine import list_libraries, name_version

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
    index: ImageIndex, scheme: CrossValidation, context: RunContext, limit: TimeLimit
) -> TimeLimit:
    """Look at all photos and measure the machine, once, before the rest of a budget is shared by
    all trainings.

    Raises:
        SettingsError: looking at the photos alone would take most of it.

    """
    prepared, trainings = prepare_run(index, scheme.keep_all(index), context), 1
    trainings += scheme.count_rounds(index)
    backbone, settings, left_s = prepared.prepare_probed(), prepared.settings, limit.left_s()
    is_deep, work = check_torch(settings, context.listen), prepared.count_work(backbone)
    site = prepared.context.make_site(index, backbone)
    each_s, known = left_s / trainings, limit.frozen
    timing = measure_machine(site, work, settings, each_s, is_deep=is_deep, frozen=known)
    needed_s = timing.forecast_features(backbone.views, work.unseen)
    if needed_s > MOST_LOOKING * left_s:
        raise SettingsError(
            f"looking at the photos takes about {needed_s:.0f} s, and {trainings} trainings "
            f"follow: too much for a budget of {settings.budget}",
            "Give more time, or measure on a test part: --folds none.",
        )
    each_s = (left_s - needed_s) / trainings
    context.listen(
        Notice(
            f"{trainings} trainings share the budget: about {each_s:,.0f} s for the model and for "
            f"each fold"
        )
    )
    with cache_or_temporary(context.cache) as folder:
        prepared.compute_features(backbone, folder, prepared.open_scratch())
    return replace(limit, speeds=timing.speeds, network=context.pretrained.name)


def cross_validate(
    learned: TrainingResult,
    scheme: CrossValidation,
    context: RunContext,
    limit: TimeLimit = NO_LIMIT,
    unfinished: UnfinishedRun = NOTHING_KEPT,
) -> CrossValidationResult:
    """Train once more for every fold, as the model itself was, and predict that fold.

    Rounds that an unfinished run had finished are taken from it. What is left of a budget is shared
    out evenly. After a first Ctrl-C the finished rounds have to do.

    Raises:
        KeyboardInterrupt: nothing can be measured, since somebody stopped the training before a
            round was finished.

    """
    index, results, listen = learned.index, list[RoundResult](), context.listen
    rounds = list(scheme.list_rounds(index, listen))
    if not learned.is_finished:
        raise explain_stop(listen)
    with tell_stage(FOLDS, listen, len(rounds), "folds") as advance:
        with catch_interrupts(listen) as interruption:
            for number, turn in enumerate(rounds, 1):
                if interruption.poll():
                    break
                training = FoldTraining(
                    index, scheme, turn, number, context, unfinished, learned.pretrained.network
                )
                result = training.recall() or training.run(limit.share(len(rounds) - number + 1))
                if result is None:
                    break
                results.append(result)
                advance(number)
        if not results:
            raise explain_stop(listen)
    leaks = rounds[0].folds.find_leaks(index)
    return CrossValidationResult(scheme, len(rounds), tuple(results), leaks)


def explain_stop(listen: Listener) -> KeyboardInterrupt:
    """Say why a run that was stopped leaves no model."""
    listen(
        Notice(
            "stopped before a fold was measured, so no model is written; --resume goes on from here"
        )
    )
    return KeyboardInterrupt()


@dataclass(frozen=True)
class FoldTraining:
    """The training for one fold, the `number`th in all; its result is kept beside the model, which
    begins with `network`, if anything is.
    """

    index: ImageIndex
    scheme: CrossValidation
    turn: FoldRun
    number: int
    context: RunContext
    unfinished: UnfinishedRun
    network: str

    def run(self, limit: TimeLimit) -> RoundResult | None:
        """Train for the fold and predict its images; None where somebody stopped the training."""
        index, unfinished = self.index, self._open()
        context, limit = self._choose(limit, unfinished)
        listen, settings = filter_events(context.listen), context.settings
        learned = RECIPES[settings.recipe](
            index, self._cut, replace(context, listen=listen), limit, unfinished
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
        names, test = {learned.index.names[at] for at in measured.positions}, self._find_test()
        rows = np.flatnonzero([index.names[at] in names for at in test])
        if unfinished.folder and (place := self._open("-result").folder):
            arrays: dict[str, NDArray[Any]]
            arrays = {"rows": rows, "probabilities": measured.probabilities}
            place.save(arrays, {"identity": self._identify()})
            unfinished.folder.remove()
        return RoundResult(self.turn, test[rows], measured.probabilities)

    def recall(self) -> RoundResult | None:
        """Take what an unfinished run kept of the fold; None where it is not to be gone on with, or
        had not come so far.

        Raises:
            CheckpointError: it is of other photos or settings.

        """
        kept = self._open("-result").load(self._identify())
        if kept is None:
            return None
        # by their content, as the split orders them: files may have other names now
        positions = self._find_test()[kept.tensors["rows"]]
        return RoundResult(self.turn, positions, kept.tensors["probabilities"])

    def _choose(self, limit: TimeLimit, unfinished: UnfinishedRun) -> tuple[RunContext, TimeLimit]:
        """Choose the network, where that is open, by the photos that the fold learns from; somebody
        hears of it where it is another one than the model's.
        """
        context = self.context
        if not context.settings.is_backbone_open:
            return context, limit
        silent = replace(context, listen=ignore_event)
        chosen = choose_backbone(self.index, self._cut, silent, limit, unfinished)
        taken = chosen.context.pretrained.network
        if taken != self.network:
            context.listen(Notice(f"{taken} is taken for fold {self.number}, by its own photos"))
        return replace(chosen.context, listen=context.listen), replace(chosen.limit, choosing_s=0.0)

    def _cut(self, index: ImageIndex) -> Split:
        """Split the images as the fold does."""
        return self.scheme.split_round(index, self.turn)

    def _find_test(self) -> NDArray[np.int64]:
        """Find the positions of the images that are tested."""
        return self._cut(self.index).test

    def _open(self, ending: str = "") -> UnfinishedRun:
        """Open the place where the training, or its result, is kept."""
        place = self.unfinished.folder
        folder = place and CheckpointFolder(place.path / f"fold-{self.number:03}{ending}")
        return replace(self.unfinished, folder=folder)

    def _identify(self) -> dict[str, Any]:
        """Name all that the result depends on."""
        return {
            "version": name_version(),
            **self.context.identify_run(self.index),
            "libraries": list_libraries(),
            "round": [self.turn.repeat, self.turn.fold],
        }


def remove_unfinished(place: CheckpointFolder) -> None:
    """Remove all that was kept of an unfinished run, its rounds included; what is not ours
    stays.
    """
    for path in sorted(place.path.glob(FOLDERS)):
        CheckpointFolder(path).remove()
    place.remove()


def filter_events(listen: Listener) -> Listener:
    """Pass on what people want to hear of one training among many: notices, and how the training of
    layers stands.
    """

    def hear(event: Event) -> None:
        if isinstance(event, Notice | TrainingAdvanced):
            listen(event)

    return hear
