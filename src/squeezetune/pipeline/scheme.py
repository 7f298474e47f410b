"""How a run is measured: on a test part, or by folds where that would be too small to say much."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from squeezetune.data.folds import Folds, cut_folds, leave_groups_out
from squeezetune.data.index import ImageIndex
from squeezetune.data.split import Split, split_index, split_train_validation
from squeezetune.data.stratify import count_targets
from squeezetune.errors import ClassesError, SettingsError
from squeezetune.events import Listener, Notice, ignore_event
from squeezetune.planning.planner import is_trainable
from squeezetune.settings import Settings, parse_folds

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

    def count_rounds(self, index: ImageIndex) -> int:
        """Count the trainings, without that of the model itself."""
        return len(list(self.list_rounds(index)))

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
    return settings.recipe == "original" or is_trainable(settings)
