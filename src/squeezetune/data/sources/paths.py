"""What the path of an image says: its class and its part, and both as numbers."""

import re
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from squeezetune.data.sources.source import quote_name
from squeezetune.errors import ClassesError, SettingsError

# The folders of an already split source, in lower case, and what they are in `ImageIndex.parts`.
PARTS = {"train": 0, "training": 0, "val": 1, "valid": 1, "validation": 1, "test": 2, "testing": 2}


@dataclass(frozen=True)
class ClassAndPart:
    """Where an image belongs: the name of its class, and its part: 0, 1, 2, or -1 if there are no
    parts.
    """

    class_name: str
    part: int = -1


@dataclass(frozen=True)
class PathLayout:
    """How paths are read: whether the first folder names the part, and the pattern that names the
    class.

    Without a pattern the class is the first folder (the second where the first one names the part).
    """

    is_split: bool
    pattern: "re.Pattern[str] | None" = None

    @property
    def class_depth(self) -> int:
        """The number of folders above the folder of a class."""
        return 1 if self.is_split else 0

    def place(self, name: str) -> ClassAndPart | str:
        """Return the place of an image, or the reason why it has none."""
        folders = name.split("/")[:-1]
        if self.is_split and not folders:
            return "not in a folder of train, validation or test"
        part = PARTS[folders[0].lower()] if self.is_split else -1
        if self.pattern:
            class_name = match_name(self.pattern, name)
            return (
                ClassAndPart(class_name, part)
                if class_name
                else "its path does not match class_pattern"
            )
        if len(folders) <= self.class_depth:
            return "not in the folder of a class"
        return ClassAndPart(folders[self.class_depth], part)

    def find_empty(self, folders: Iterable[str], class_names: Iterable[str]) -> list[str]:
        """Return the folders of classes, out of all folders, whose class has no image at all."""
        known = set(class_names)
        found = [folder for folder in folders if folder.count("/") == self.class_depth]
        return [folder for folder in found if folder.rpartition("/")[2] not in known]


def find_layout(names: Iterable[str], pattern: "re.Pattern[str] | None" = None) -> PathLayout:
    """Find out from the paths of all images whether their folders are the parts of a split.

    They are if every folder with images at the top is called like a part, train and another part
    are there, and each holds folders with images (`train/ bus/` are classes), unless a pattern
    names the classes.

    Raises:
        ClassesError: some of the parts hold folders and others only images, whose classes are then
            unknown.

    """
    nested = [name for name in names if "/" in name]
    tops = {name.partition("/")[0] for name in nested}
    parts = {PARTS.get(top.lower(), -1) for top in tops}
    if -1 in parts or 0 not in parts or len(parts) < 2:
        return PathLayout(False, pattern)
    flat = tops - {name.partition("/")[0] for name in nested if name.count("/") > 1}
    if flat and flat != tops and not pattern:
        found = ", ".join(quote_name(top) for top in sorted(flat))
        raise ClassesError(
            f"the images in {found} lie in no class folder, while those in the other parts do",
            "Put them into class folders as well (test/<class>/<image>), or move them out of the "
            "folder.",
        )
    return PathLayout(pattern is not None or not flat, pattern)


def find_shard_parts(names: Sequence[str]) -> dict[str, int]:
    """Find the part that each file's name begins with, as in `train-00001.tar`; nothing unless they
    are a split.

    They are if all do, and if train and another part are there.
    """
    words = {name: re.split("[^a-z]", name.lower())[0] for name in names}
    parts = {name: PARTS[word] for name, word in words.items() if word in PARTS}
    is_split = len(parts) == len(names) and 0 in parts.values() and len(set(parts.values())) > 1
    return parts if is_split else {}


def compile_pattern(setting: str, pattern: str) -> "re.Pattern[str] | None":
    """Compile the regular expression of a setting; None where it is empty.

    Raises:
        SettingsError: it is no regular expression.

    """
    try:
        return re.compile(pattern) if pattern else None
    except re.error as error:
        raise SettingsError(
            f"{setting} is {pattern!r}, which is no regular expression: {error}"
        ) from error


def match_name(pattern: "re.Pattern[str]", name: str) -> str:
    """Return what the pattern finds in a name: its first group, or the whole match; nothing if it
    fails.
    """
    match = pattern.search(name)
    return (match.group(1 if pattern.groups else 0) or "") if match else ""


def explain_no_match(setting: str, pattern: str, names: Iterable[str]) -> SettingsError:
    """Say that a pattern matches no image, with a path to try it on."""
    example = quote_name(next(iter(names)))
    return SettingsError(
        f"{setting} {pattern!r} matches the path of no image; a path is, for example, {example}",
        f"Write a regular expression that is found in {example}; its first group is the name.",
    )


def explain_skipped(skipped: Mapping[str, str]) -> str:
    """Say how much was skipped, with one example and its reason; nothing where nothing was."""
    if not skipped:
        return ""
    name, reason = next(iter(skipped.items()))
    return f"; {len(skipped):,} skipped, e.g. {quote_name(name)}: {reason}"


@dataclass(frozen=True)
class Places:
    """The place of each image: its position in `kinds`, or -1 where it has none, (n,) int32.

    `reasons` says by position why an image has none.
    """

    kinds: tuple[ClassAndPart, ...]
    numbers: NDArray[np.int32]
    reasons: Mapping[int, str]

    @property
    def is_known(self) -> NDArray[np.bool_]:
        """Which images have a place, (n,)."""
        return self.numbers >= 0


def number_places(found: Iterable[ClassAndPart | str]) -> Places:
    """Give the place of each image a number; a string is the reason why it has none."""
    kinds: dict[ClassAndPart, int] = {}
    numbers, reasons = array("i"), {}
    for position, place in enumerate(found):
        if isinstance(place, str):
            reasons[position] = place
            numbers.append(-1)
        else:
            numbers.append(kinds.setdefault(place, len(kinds)))
    return Places(tuple(kinds), np.array(numbers, np.int32), reasons)
