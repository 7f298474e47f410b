"""An index cut into folds: each is tested once, by a model that learnt from the others alone.

As in `split`, units stay together, every class is spread evenly, and neither names nor order of the
files matter.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from squeezetune.array_types import Ints
from squeezetune.data.index import ImageIndex
from squeezetune.data.sources.source import list_some, quote_name
from squeezetune.data.split import Split, Units, gather_units, split_train_validation
from squeezetune.data.stratify import count_units, place_units
from squeezetune.errors import ClassesError, SettingsError
from squeezetune.settings import MOST_FOLDS


@dataclass(frozen=True)
class Folds:
    """The fold that each image is tested in, by its name: 0 to `count` - 1.

    `groups` is the number of groups that were kept together, None where there are none.
    """

    of_name: Mapping[str, int]
    count: int
    groups: int | None = None

    def split(
        self, index: ImageIndex, fold: int, share: float, seed: int, group_by: str = ""
    ) -> Split:
        """Make one fold the test part of an index, which may have lost images; a `share` of the
        others chooses.
        """
        test = np.array([self.of_name[name] == fold for name in index.names])
        return split_train_validation(index, share, seed, group_by=group_by, test=test)

    def find_leaks(self, index: ImageIndex) -> Ints:
        """Find the positions of images of which a copy or near-duplicate is in another fold."""
        units = gather_units(index, 0).of_image
        folds = np.array([self.of_name[name] for name in index.names])
        lowest, highest = np.full(units.max() + 1, self.count), np.full(units.max() + 1, -1)
        np.minimum.at(lowest, units, folds)
        np.maximum.at(highest, units, folds)
        return np.flatnonzero(lowest[units] < highest[units])


def cut_folds(index: ImageIndex, count: int, seed: int, group_by: str = "") -> Folds:
    """Cut an index into `count` folds of about the same size, each class spread evenly; none stays
    empty.

    Raises:
        ClassesError: a class has so few different images (or groups) that it cannot be tested and
            learnt at once.
        SettingsError: `group_by` matches nothing.

    """
    units = gather_units(index, seed, group_by)
    _check_units(index, units)
    folds = place_units(
        units.of_image, index.labels, units.keys, share_out(index.class_counts, count)
    )
    return _make_folds(index, units, folds.astype(np.int64))


def leave_groups_out(index: ImageIndex, seed: int, group_by: str = "") -> Folds:
    """Make each group a fold of its own.

    Raises:
        ClassesError: a class has one group only.
        SettingsError: no groups are known, or too many.

    """
    units = gather_units(index, seed, group_by)
    if units.groups is None:
        raise SettingsError(
            "folds is groups, but nothing says which images belong together",
            "Name the group in each path by --group-by, or in a column of a table; or give a "
            "number of folds.",
        )
    _check_units(index, units)
    present = np.unique(units.of_image)
    if len(present) > MOST_FOLDS:
        raise SettingsError(
            f"leaving each of {len(present):,} groups out once is as many trainings; at most "
            f"{MOST_FOLDS} are made",
            "Give a number of folds, such as --folds 10: groups are kept together there too.",
        )
    ranks = np.empty(len(units.keys), np.int64)
    # by content: whatever the groups are called
    ranks[np.argsort(units.keys)] = np.arange(len(units.keys))
    return _make_folds(index, units, ranks[units.of_image])


def share_out(counts: Ints, folds: int) -> Ints:
    """Return how many images of each class every fold should have, (classes, folds), from the
    counts (classes,).

    What is over goes to the folds in turn, where the class before it left off, so that the folds
    are of one size.

    >>> share_out(np.array([5, 4]), 3)
    array([[2, 2, 1],
           [1, 1, 2]])
    """
    over = counts % folds
    starts = np.cumsum(over) - over
    is_more = (np.arange(folds) - starts[:, None]) % folds < over[:, None]
    shares: Ints = counts[:, None] // folds + is_more
    return shares


def _check_units(index: ImageIndex, units: Units) -> None:
    """Refuse classes of one unit: nobody would have learnt what is tested."""
    counts = count_units(units.of_image, index.labels, len(index.class_names))
    few = [quote_name(index.class_names[label]) for label in np.flatnonzero(counts < 2).tolist()]
    if few:
        unit = "different image" if units.groups is None else "group of images"
        found = "1 class has" if len(few) == 1 else f"{len(few):,} classes have"
        raise ClassesError(
            f"{found} one {unit} only: {list_some(few)}; needed are 2 in each class, one to learn "
            f"from and one to test",
            "Add photos to these classes, or remove them.",
        )


def _make_folds(index: ImageIndex, units: Units, folds: Ints) -> Folds:
    """Make the folds, without empty ones; refuse any that would test a class which no other fold
    has.
    """
    numbers, of_image = np.unique(folds, return_inverse=True)
    counts = np.bincount(
        index.labels * len(numbers) + of_image, minlength=len(index.class_names) * len(numbers)
    )
    is_whole = (counts.reshape(-1, len(numbers)) == index.class_counts[:, None]).any(axis=1)
    torn = [quote_name(index.class_names[label]) for label in np.flatnonzero(is_whole).tolist()]
    if torn:
        raise ClassesError(
            "images that must stay together put all images of a class into one fold: "
            f"{list_some(torn)}",
            "Add photos to these classes, or choose another group_by.",
        )
    of_name = dict(zip(index.names, of_image.tolist(), strict=True))
    return Folds(of_name, len(numbers), units.groups)
