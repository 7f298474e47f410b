"""Shares of every class in train, validation and test: where units of images are placed, whole
groups together.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from squeezetune.array_types import Ints

PART_COUNT = 3  # train, validation, test


def count_units(units: Ints, labels: Ints, class_count: int) -> Ints:
    """Count the different units in which each class has an image, (classes,)."""
    pairs = np.unique(units * class_count + labels)
    return np.bincount(pairs % class_count, minlength=class_count)


def count_targets(counts: Ints, shares: NDArray[np.float64]) -> Ints:
    """Return how many images of each class every part should have, (classes, 3), from the counts
    (classes,).

    Validation and test get the rounded share, but one image at least, if their share is not 0, and
    train one.
    """
    wanted = np.rint(counts[:, None] * shares).astype(np.int64)
    least = (shares > 0).astype(np.int64)
    test = np.clip(wanted[:, 2], least[2], np.maximum(0, counts - 1 - least[1]))
    validation = np.clip(wanted[:, 1], least[1], np.maximum(0, counts - 1 - test))
    return np.stack([counts - validation - test, validation, test], axis=1)


def place_units(
    units: Ints, labels: Ints, keys: NDArray[np.uint64], targets: Ints
) -> NDArray[np.int8]:
    """Return the part of each image: one for all images of a unit, and the targets are met closely.

    `units` (n,) is the unit of each image, `labels` (n,) its class, `keys` (units,) a random order,
    and `targets` (classes, 3) the images wanted. Units of several images go first, the largest
    before others, each to the part that its classes miss most; single images then fill the parts up
    exactly.
    """
    sizes = np.bincount(units, minlength=len(keys))
    is_single = sizes[units] == 1
    large_parts = _place_large(units, labels, keys, sizes, targets)
    parts = large_parts[units]
    large = ~is_single
    placed = np.zeros_like(targets)
    np.add.at(placed, (labels[large], parts[large]), 1)
    singles = np.bincount(labels[is_single], minlength=len(targets))
    fill = _settle_fill(targets - placed, singles, placed == 0)
    parts[is_single] = _cut_singles(labels[is_single], keys[units[is_single]], fill)
    return parts


@dataclass(frozen=True)
class _Ledger:
    """What each class still misses while large units are placed; its lists change with every
    unit.
    """

    missing: list[list[int]]  # images, by class and part
    waiting: list[int]  # units of the class that are not placed yet
    empty: list[set[int]]  # parts that should have the class and do not yet
    totals: list[int]  # images of the class

    def rate(self, part: int, members: Mapping[int, int]) -> tuple[int, float]:
        """Rate a part for a unit: first by the classes that must not miss it now, then by what they
        lack.
        """
        urgent = sum(
            part in self.empty[c] and self.waiting[c] <= len(self.empty[c]) for c in members
        )
        return urgent, sum(
            images * self.missing[c][part] / self.totals[c] for c, images in members.items()
        )

    def book(self, part: int, members: Mapping[int, int]) -> None:
        """Note that a unit is in a part."""
        for c, images in members.items():
            self.missing[c][part] -= images
            self.waiting[c] -= 1
            self.empty[c].discard(part)


def _place_large(
    units: Ints, labels: Ints, keys: NDArray[np.uint64], sizes: Ints, targets: Ints
) -> NDArray[np.int8]:
    """Return the part of every unit of several images, (units,), and 0 for the others."""
    parts = np.zeros(len(keys), np.int8)
    large = np.flatnonzero(sizes > 1)
    if not len(large):
        return parts
    ledger = _Ledger(
        missing=targets.tolist(),
        waiting=count_units(units, labels, len(targets)).tolist(),
        empty=[set(np.flatnonzero(row).tolist()) for row in targets],
        totals=targets.sum(axis=1).tolist(),
    )
    members = _list_members(units, labels, sizes[units] > 1)
    candidates = np.flatnonzero(targets.any(axis=0)).tolist()
    for unit in large[np.lexsort((keys[large], -sizes[large]))].tolist():
        ratings = [ledger.rate(part, members[unit]) for part in candidates]
        part = candidates[ratings.index(max(ratings))]
        ledger.book(part, members[unit])
        parts[unit] = part
    return parts


def _list_members(
    units: Ints, labels: Ints, chosen: NDArray[np.bool_]
) -> dict[int, dict[int, int]]:
    """Return the number of images of each class in each unit, of the chosen images."""
    members: dict[int, dict[int, int]] = {}
    pairs: Iterable[tuple[int, int]] = zip(
        units[chosen].tolist(), labels[chosen].tolist(), strict=True
    )
    for unit, label in pairs:
        classes = members.setdefault(unit, {})
        classes[label] = classes.get(label, 0) + 1
    return members


def _settle_fill(missing: Ints, singles: Ints, is_empty: NDArray[np.bool_]) -> Ints:
    """Return how many single images of each class each part gets, (classes, 3); rows sum to
    `singles`.

    It is what is missing, but where large units have overfilled a part the other parts get less:
    the one that gets most first, and a part that has no image of the class yet last.
    """
    fill = np.maximum(missing, 0)
    excess = fill.sum(axis=1) - singles
    for c in np.flatnonzero(excess):
        for _ in range(excess[c]):
            fill[c, np.argmax(fill[c] - 0.5 * is_empty[c])] -= 1
    return fill


def _cut_singles(labels: Ints, keys: NDArray[np.uint64], fill: Ints) -> NDArray[np.int8]:
    """Return the part of single images (n,): each class in the order of the keys, cut where `fill`
    says.
    """
    order = np.lexsort((keys, labels))
    starts = np.cumsum(fill.sum(axis=1)) - fill.sum(axis=1)
    rank = np.arange(len(labels)) - starts[labels[order]]
    ends = np.cumsum(fill, axis=1)[labels[order]]
    parts = np.empty(len(labels), np.int8)
    parts[order] = (rank[:, None] >= ends).sum(axis=1)
    return parts
