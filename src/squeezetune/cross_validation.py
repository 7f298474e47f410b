"""Cross-validation: the whole training again for each fold, and each photo predicted by a model that never saw it.

What a finished fold gave is kept beside the model until the run is over, so that a killed run does not train it again::

    .<model>.unfinished/                the model's own training (see `checkpoint`)
        fold-001/                       the training of the first fold, while it lasts
        fold-001-result/                what its model made of its test images
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeezetune.checkpoint import CheckpointFolder
from squeezetune.data.index import ImageIndex
from squeezetune.data.looks import open_look_store
from squeezetune.disk import lend_folder
from squeezetune.errors import SettingsError
from squeezetune.events import Event, Listener, Notice, StageAdvanced, StageFinished, StageStarted, TrainingAdvanced
from squeezetune.forecasts import forecast_features
from squeezetune.interruption import catch_interrupts
from squeezetune.learn.features import FeatureStores, compute_features
from squeezetune.learned import Trained
from squeezetune.learning import RECIPES, make_manifest
from squeezetune.machine import list_libraries, name_version
from squeezetune.measurement import Measured, run_classifier
from squeezetune.planner import check_torch
from squeezetune.prediction import Classifier
from squeezetune.scene import count_work, measure_machine, open_scene, prepare_probed
from squeezetune.scheme import Round, Scheme
from squeezetune.workshop import Workshop

STAGE = "folds"
FOLDERS = "fold-*"
# Looking at the photos may take this share of a budget that several trainings share.
MOST_LOOKING = 0.5


@dataclass(frozen=True)
class RoundResult:
    """What the model of one round made of its test images: probabilities (n, classes) at these positions."""

    turn: Round
    positions: NDArray[np.int64]
    probabilities: NDArray[np.float32]


@dataclass(frozen=True)
class Crossed:
    """The results of the rounds that were finished, of all those `planned`.

    `leaks` are the positions of images of which a near-duplicate is in another fold, where they were not kept together.
    """

    scheme: Scheme
    planned: int
    results: tuple[RoundResult, ...]
    leaks: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def pool(self) -> Measured:
        """Put the predictions of all rounds together; with repeats an image is among them several times."""
        positions = np.concatenate([result.positions for result in self.results])
        return Measured(positions, np.concatenate([result.probabilities for result in self.results]), {})

    def pool_once(self) -> NDArray[np.float32]:
        """Return the probabilities (n, classes) of the images of all rounds, of each image by one model only."""
        pooled = self.pool()
        return pooled.probabilities[np.unique(pooled.positions, return_index=True)[1]]

    def describe(self, labels: NDArray[np.int64]) -> dict[str, Any]:
        """Describe the rounds for the record: the accuracy of each fold, and its mean and deviation.

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
                pooled = Crossed(self.scheme, len(own), tuple(own)).pool()
                shares.append(float((pooled.probabilities.argmax(axis=1) == labels[pooled.positions]).mean()))
        if len(shares) < 2:
            return None
        return {"accuracies": shares, "mean": float(np.mean(shares)), "deviation": measure_deviation(shares)}


def measure_deviation(values: Sequence[float]) -> float | None:
    """Return the standard deviation of several values; None of one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def share_budget(index: ImageIndex, scheme: Scheme, workshop: Workshop, end: float) -> Workshop:
    """Look at all photos and measure the machine, once, before the rest of a budget is shared by all trainings.

    Raises:
        SettingsError: looking at the photos alone would take most of it.

    """
    scene = open_scene(index, scheme.keep_all(index), workshop)
    trunk, left_s = prepare_probed(scene), end - time.perf_counter()
    rounds = 1 + len(list(scheme.list_rounds(index)))
    speeds = measure_machine(scene, trunk, left_s / rounds, check_torch(scene.settings, workshop.listen))
    needed_s = forecast_features(trunk.views, count_work(scene, trunk).unseen, speeds)
    if needed_s > MOST_LOOKING * left_s:
        raise SettingsError(
            f"looking at the photos takes about {needed_s:.0f} s, and {rounds} trainings follow: too much for a budget "
            f"of {workshop.settings.budget}",
            "Give more time, or measure on a test part: --folds none.",
        )
    each_s = (left_s - needed_s) / rounds
    workshop.listen(
        Notice(f"{rounds} trainings share the budget: about {each_s:,.0f} s for the model and for each fold")
    )
    shop = scene.workshop
    with lend_folder(shop.cache) as folder:
        stores = FeatureStores(scene.open_features(trunk), open_look_store(folder, trunk.pixels))
        compute_features(index, trunk, stores, shop.engine, shop.threads, shop.listen, scratch=scene.open_scratch())
    return replace(workshop, speeds=speeds, run_ends=share_time(end, rounds))


def cross_validate(learned: Trained, scheme: Scheme, workshop: Workshop, end: float | None) -> Crossed:
    """Train once more for every fold, as the model itself was, and predict that fold.

    Rounds that an unfinished run had finished are taken from it. What is left of a budget until `end`, by
    `time.perf_counter`, is shared out evenly. After a first Ctrl-C the finished rounds have to do.

    Raises:
        KeyboardInterrupt: nothing can be measured, since somebody stopped the training before a round was finished.

    """
    index, start, results = learned.index, time.perf_counter(), list[RoundResult]()
    rounds, listen = list(scheme.list_rounds(index, workshop.listen)), workshop.listen
    if not learned.is_finished:
        raise explain_stop(listen)
    listen(StageStarted(STAGE, len(rounds), "folds"))
    with catch_interrupts(listen) as interruption:
        for number, turn in enumerate(rounds, 1):
            if interruption.poll():
                break
            shop = replace(workshop, run_ends=share_time(end, len(rounds) - number + 1))
            result = recall_round(index, scheme, turn, number, shop) or train_round(index, scheme, turn, number, shop)
            if result is None:
                break
            results.append(result)
            listen(StageAdvanced(STAGE, number))
    if not results:
        raise explain_stop(listen)
    listen(StageFinished(STAGE, time.perf_counter() - start))
    return Crossed(scheme, len(rounds), tuple(results), rounds[0].folds.find_leaks(index))


def explain_stop(listen: Listener) -> KeyboardInterrupt:
    """Say why a run that was stopped leaves no model."""
    listen(Notice("stopped before a fold was measured, so no model is written; --resume goes on from here"))
    return KeyboardInterrupt()


def share_time(end: float | None, rounds: int) -> float | None:
    """Find when the first of so many trainings has to be over, if all take the same time until `end`."""
    now = time.perf_counter()
    return None if end is None else now + (end - now) / rounds


def train_round(index: ImageIndex, scheme: Scheme, turn: Round, number: int, workshop: Workshop) -> RoundResult | None:
    """Train for one fold and predict its images; None where somebody stopped the training."""
    place, listen = workshop.unfinished, hush(workshop.listen)
    own = CheckpointFolder(place.path / f"fold-{number:03}") if place else None
    settings, shop = workshop.settings, replace(workshop, listen=listen, unfinished=own)
    learned = RECIPES[settings.recipe](index, lambda photos: scheme.split_round(photos, turn), shop, None)
    if not learned.is_finished:
        return None
    test = learned.split.test
    if learned.knows(test):
        measured = Measured(test, learned.recall(test), {})
    else:
        classifier = Classifier(learned.model, make_manifest(learned, settings))
        measured = run_classifier(classifier, learned.index, test, workshop.engine, listen)
    # a photo that has become unreadable meanwhile has moved the others up
    names = {learned.index.names[at] for at in measured.positions}
    own_test = scheme.split_round(index, turn).test
    rows = np.array([row for row, at in enumerate(own_test) if index.names[at] in names], np.int64)
    if place and own:
        about = {"identity": identify_round(index, turn, workshop)}
        tensors: dict[str, NDArray[Any]] = {"rows": rows, "probabilities": measured.probabilities}
        name_result(place, number).save(tensors, about)
        own.remove()
    return RoundResult(turn, own_test[rows], measured.probabilities)


def recall_round(index: ImageIndex, scheme: Scheme, turn: Round, number: int, workshop: Workshop) -> RoundResult | None:
    """Take what an unfinished run kept of a round; None where it is not to be gone on with, or had not come so far.

    Raises:
        CheckpointError: it is of other photos or settings.
    """
    if not workshop.unfinished or not workshop.is_resuming:
        return None
    kept = name_result(workshop.unfinished, number).load(identify_round(index, turn, workshop))
    if kept is None:
        return None
    # by their content, as the split orders them: files may have other names now
    test = scheme.split_round(index, turn).test
    return RoundResult(turn, test[kept.tensors["rows"]], kept.tensors["probabilities"])


def identify_round(index: ImageIndex, turn: Round, workshop: Workshop) -> dict[str, Any]:
    """Name all that the result of a round depends on."""
    return {
        "version": name_version(),
        "photos": index.fingerprint,
        "settings": workshop.identify_settings(),
        "threads": workshop.threads,
        "libraries": list_libraries(),
        "round": [turn.repeat, turn.fold],
    }


def name_result(place: CheckpointFolder, number: int) -> CheckpointFolder:
    """Name the folder in which the result of a round is kept."""
    return CheckpointFolder(place.path / f"fold-{number:03}-result")


def remove_unfinished(place: CheckpointFolder) -> None:
    """Remove all that was kept of an unfinished run, its rounds included; what is not ours stays."""
    for path in sorted(place.path.glob(FOLDERS)):
        CheckpointFolder(path).remove()
    place.remove()


def hush(listen: Listener) -> Listener:
    """Pass on what people want to hear of one training among many: notices, and how the training of layers stands."""

    def hear(event: Event) -> None:
        if isinstance(event, Notice | TrainingAdvanced):
            listen(event)

    return hear
