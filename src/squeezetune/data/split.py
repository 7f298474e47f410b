"""Which images train, which choose and which measure: an index cut into train, validation and test.

Images that must stay together form a unit: files with the same bytes, near-duplicates, and the
images of one group. Units of one image are cut by a seeded hash of their content, so that each
class has its exact counts, file names and order do not matter, and a photo that is added later
leaves nearly every other one in its part. Larger units are placed before them, the largest first,
where the classes miss most.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from squeezetune.array_types import Ints
from squeezetune.data.index import ImageIndex
from squeezetune.data.sources.paths import compile_pattern, explain_no_match, match_name
from squeezetune.data.sources.source import list_some, quote_name
from squeezetune.data.stratify import PART_COUNT, count_targets, count_units, place_units
from squeezetune.errors import ClassesError, SettingsError

TRAIN, VALIDATION, TEST = 0, 1, 2  # as in `ImageIndex.parts`
PART_NAMES = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """The positions of the images of each part in the index, int64 arrays, by class and then by
    content.

    So the order is the same whatever the images are called and wherever they come from.

    `groups` is the number of groups that were kept together, None without `group_by`. `duplicates`
    counts images whose bytes an earlier one has; `conflicts` counts contents that stand in two
    classes or more. `leaks` are the positions of validation and test images of which a copy, a
    near-duplicate, or another image of the group is in an earlier part. `units` (n,) tells of each
    image of the index with which others it was kept together, where groups were asked for.
    """

    train: Ints
    validation: Ints
    test: Ints
    groups: int | None = None
    duplicates: int = 0
    conflicts: int = 0
    leaks: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    units: Ints | None = None

    def find_units(self, positions: Ints) -> Ints | None:
        """Find the units of some images, by their positions in the index; None where there are no
        groups.
        """
        return None if self.units is None else self.units[positions]


@dataclass(frozen=True)
class Units:
    """What stays together: `of_image` (n,) is the unit of each image, `keys` (units,) uint64 a
    seeded order.

    `contents` (n,) numbers the different contents; `groups` is the number of groups, None without
    `group_by`.
    """

    of_image: Ints
    keys: NDArray[np.uint64]
    contents: Ints
    groups: int | None = None


def split_index(
    index: ImageIndex,
    *,
    validation: float,
    test: float,
    seed: int,
    group_by: str = "",
    near_duplicates: str = "together",
) -> Split:
    """Split an index into train, validation and test: seeded, the same share of every class in each
    part.

    Files with the same bytes are always in one part, and so are images of one picture, unless
    `near_duplicates` is another word than "together", and images whose path matches `group_by`
    alike: its first group, or the whole match, names the group; an image that does not match is its
    own group. Without `group_by` the groups that the source tells are kept together. A source that
    is already split keeps its parts; a part that it lacks is taken from train, as that share of
    train.

    Raises:
        ClassesError: a class has too few different images (or groups) to be in every part.
        SettingsError: the shares leave nothing for a part, or `group_by` matches nothing.

    """
    _check_shares(validation=validation, test=test)
    known = gather_units(index, seed, group_by)
    units = (
        known
        if near_duplicates == "together"
        else gather_units(replace(index, pictures=None), seed, group_by)
    )
    shares = np.array([1 - validation - test, validation, test])
    if index.parts is None:
        parts = _assign_parts(index.labels, index.class_names, units, shares)
    else:
        parts = _complete_parts(index, index.parts, units, shares)
    return replace(_make_split(index, units, parts), leaks=_find_leaks(known, parts))


def split_train_validation(
    index: ImageIndex,
    share: float,
    seed: int,
    *,
    group_by: str = "",
    test: NDArray[np.bool_] | None = None,
) -> Split:
    """Split an index into train and validation for a caller who chooses the test part, or has test
    data elsewhere.

    The rules are those of `split_index`, but a class of one image (or of its copies) is in train
    only, and the parts of an already split source are not looked at. `test` (n,) says which images
    are the test part; it has to hold whole units, and is empty if not given. `share` is of the
    other images; with 0 all of them train.

    Raises:
        SettingsError: the share is not below 1, or `group_by` matches nothing.

    """
    if share:
        _check_shares(validation=share)
    units = gather_units(index, seed, group_by)
    parts = np.full(len(index), TEST, np.int8)
    rest = np.arange(len(index)) if test is None else np.flatnonzero(~test)
    left, shares = replace(units, of_image=units.of_image[rest]), np.array([1 - share, share, 0])
    parts[rest] = _assign_parts(index.labels[rest], index.class_names, left, shares, lenient=True)
    return _make_split(index, units, parts)


def _check_shares(**shares: float) -> None:
    if min(shares.values()) <= 0 or sum(shares.values()) >= 1:
        found = " and ".join(f"{name} is {share:g}" for name, share in shares.items())
        raise SettingsError(
            f"{found}; needed are shares above 0 that leave images to train on", "Try 0.1."
        )


def gather_units(index: ImageIndex, seed: int, group_by: str = "") -> Units:
    """Find what must stay together; units are numbered and ordered by content, not by name."""
    distinct, contents = np.unique(
        np.ascontiguousarray(index.digests).view("S16").ravel(), return_inverse=True
    )
    keys = _hash_words(distinct.view("<u8")[::2], seed)
    found = _find_groups(index, group_by)
    if found is None and index.pictures is None:
        return Units(contents, keys, contents)
    ties = [] if index.pictures is None else [index.pictures]
    if found is not None:
        names: list[Hashable] = [group or position for position, group in enumerate(found)]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        ties.append(np.array([numbers[name] for name in names], np.int64))
    first_contents, of_image = np.unique(
        _join_contents(contents, ties)[contents], return_inverse=True
    )
    return Units(of_image, keys[first_contents], contents, None if found is None else len(numbers))


def _find_groups(index: ImageIndex, group_by: str) -> Sequence[str] | None:
    """Find the name of each image's group, "" where it has none: by a pattern, else as the source
    says.
    """
    pattern = compile_pattern("group_by", group_by)
    if pattern is None:
        return index.groups
    found = [match_name(pattern, name) for name in index.names]
    if not any(found):
        raise explain_no_match("group_by", group_by, index.names)
    return found


def _hash_words(words: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """Mix words with a seeded salt by the finaliser of SplitMix64 (Steele et al. 2014), a
    bijection.
    """
    salt = np.random.Generator(np.random.PCG64(seed)).integers(2**64, dtype=np.uint64)
    mixed: NDArray[np.uint64] = words.astype(np.uint64) ^ salt
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def _join_contents(contents: Ints, ties: Sequence[Ints]) -> Ints:
    """Join contents whose images share a number in one of the ties (n,), directly or through
    others.

    Returns the lowest content of those joined with each.
    """
    count = nodes = int(contents.max()) + 1
    ends = []
    for tie in ties:  # its numbers are nodes of a graph, like the contents
        ends.append(nodes + tie)
        nodes += int(tie.max()) + 1
    links = (np.tile(contents, len(ties)), np.concatenate(ends))
    graph = coo_array((np.ones(len(links[0]), np.int8), links), shape=(nodes, nodes))
    joined = connected_components(graph, directed=False)[1][:count]
    _, firsts, numbers = np.unique(joined, return_index=True, return_inverse=True)
    lowest: Ints = firsts[numbers]
    return lowest


def _complete_parts(
    index: ImageIndex, given: NDArray[np.int8], units: Units, shares: NDArray[np.float64]
) -> NDArray[np.int8]:
    """Return the part of each image of an already split source, which may lack one."""
    parts: NDArray[np.int8] = given.copy()
    absent = [part for part in (VALIDATION, TEST) if not np.any(parts == part)]
    for part in {TRAIN, TEST} - set(absent):
        _check_part(index, parts, part)
    if absent:
        train = np.flatnonzero(parts == TRAIN)
        wanted = np.where(np.isin(np.arange(3), [TRAIN, *absent]), shares, 0)
        left = replace(units, of_image=units.of_image[train])
        parts[train] = _assign_parts(index.labels[train], index.class_names, left, wanted)
    return parts


def _find_leaks(units: Units, parts: NDArray[np.int8]) -> Ints:
    """Find the validation and test images of which another image of their unit is in an earlier
    part.
    """
    earliest = np.full(len(units.keys), PART_COUNT, np.int8)
    np.minimum.at(earliest, units.of_image, parts)
    return np.flatnonzero(parts > earliest[units.of_image])


def _check_part(index: ImageIndex, parts: NDArray[np.int8], part: int) -> None:
    """Refuse an already split source that has no image of a class in a part."""
    counts = np.bincount(index.labels[parts == part], minlength=len(index.class_names))
    names = [quote_name(index.class_names[label]) for label in np.flatnonzero(counts == 0).tolist()]
    if names:
        raise ClassesError(
            f"no image in {PART_NAMES[part]} of {list_some(names)}; needed is one of every class",
            f"Add images of these classes to {PART_NAMES[part]}, or remove their folders.",
        )


def _assign_parts(
    labels: Ints,
    class_names: Sequence[str],
    units: Units,
    shares: NDArray[np.float64],
    *,
    lenient: bool = False,
) -> NDArray[np.int8]:
    """Return the part of each image; a part with no share gets none.

    `lenient` leaves a class of one unit in train, where else it is an error.
    """
    targets = count_targets(np.bincount(labels, minlength=len(class_names)), shares)
    unit_counts = count_units(units.of_image, labels, len(class_names))
    if lenient:
        only_train = targets.sum(axis=1, keepdims=True) * (1, 0, 0)
        targets = np.where((unit_counts < 2)[:, None], only_train, targets)
    else:
        _check_units(
            unit_counts, class_names, np.flatnonzero(shares), is_grouped=units.groups is not None
        )
    parts = place_units(units.of_image, labels, units.keys, targets)
    counts = np.bincount(labels * PART_COUNT + parts, minlength=targets.size).reshape(targets.shape)
    torn = np.flatnonzero(np.any((targets > 0) & (counts == 0), axis=1)).tolist()
    if torn:
        raise ClassesError(
            "images that must stay together stand in several classes, so that not every part can "
            f"have: {list_some([quote_name(class_names[label]) for label in torn])}",
            "Add photos to these classes, or choose another group_by.",
        )
    return parts


def _check_units(
    counts: Ints, class_names: Sequence[str], parts: Ints, *, is_grouped: bool
) -> None:
    """Refuse classes that have fewer units than there are parts, and name them with their
    counts.
    """
    few = np.flatnonzero(counts < len(parts)).tolist()
    if not few:
        return
    unit = "groups of images" if is_grouped else "different images"
    found = "1 class has" if len(few) == 1 else f"{len(few):,} classes have"
    raise ClassesError(
        f"{found} too few {unit} for a split into "
        f"{', '.join(PART_NAMES[part] for part in parts.tolist())}: "
        f"{list_some([f'{quote_name(class_names[label])} ({counts[label]})' for label in few])}; "
        f"needed are {len(parts)} in each class",
        "Add photos to these classes, or remove them.",
    )


def sort_by_content(index: ImageIndex, positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sort positions (n,) by class, and within one by content, so that the same images come first
    whatever they are called.
    """
    halves = np.ascontiguousarray(index.digests[positions]).view("<u8")
    return positions[np.lexsort((halves[:, 1], halves[:, 0], index.labels[positions]))]


def _make_split(index: ImageIndex, units: Units, parts: NDArray[np.int8]) -> Split:
    order = sort_by_content(index, np.arange(len(index)))
    train, validation, test = (
        order[parts[order] == part].astype(np.int64) for part in range(PART_COUNT)
    )
    content_classes = count_units(index.labels, units.contents, int(units.contents.max()) + 1)
    return Split(
        train=train,
        validation=validation,
        test=test,
        groups=units.groups,
        duplicates=len(index) - len(content_classes),
        conflicts=int(np.count_nonzero(content_classes > 1)),
        units=None if units.groups is None else units.of_image,
    )
