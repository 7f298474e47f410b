"""Which images there are, what class each belongs to, and what was skipped and why."""

import hashlib
import os
import re
import time
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeezetune.data.columns import parse_columns
from squeezetune.data.content import DIGEST_BYTES, FORMATS, RawImage
from squeezetune.data.layout import (
    Layout,
    Place,
    compile_pattern,
    explain_no_match,
    explain_skipped,
    find_layout,
)
from squeezetune.data.listing import Columns, ImageSource, Listing, quote_name
from squeezetune.data.sources import MemorySource, open_source
from squeezetune.engine import Engine
from squeezetune.errors import ClassesError, ImageError, SettingsError, SourceError
from squeezetune.events import Listener, Notice, StageAdvanced, StageFinished, StageStarted, ignore_event

BATCH_FILES = 64  # of one task of the engine: a task costs about as much as reading one small file
TELL_EVERY_S = 0.05
_NUMBER = re.compile("-?[0-9]+")
LAYOUT_HINT = "Put the photos into one folder for each class: photos/<class>/<image>."


@dataclass(frozen=True)
class Skipped:
    """A file that is not used, and the reason in words."""

    name: str
    reason: str


@dataclass(frozen=True)
class ImageIndex:
    """The images of a source, sorted by name, with their classes.

    `labels` (n,) int64 are positions in `class_names`; `digests` (n, 16) uint8 are BLAKE2b of the content.
    `parts` (n,) int8 is 0, 1, 2 for train, validation, test where the source is already split, else None.
    `groups` (n,) are the names of what has to stay together where the source tells them, "" of an image alone.
    `pictures` (n,) int64 numbers the pictures that the images show, where near-duplicates were looked for: those of
    one picture have one number.
    """

    source: ImageSource
    names: tuple[str, ...]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    digests: NDArray[np.uint8]
    parts: NDArray[np.int8] | None = None
    skipped: tuple[Skipped, ...] = ()
    groups: tuple[str, ...] | None = None
    pictures: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of every image's class and content; names and order do not matter."""
        # surrogatepass: a folder's name may hold bytes that are no text
        class_names = [name.encode(errors="surrogatepass") for name in self.class_names]
        rows = sorted(digest.tobytes() + class_names[label]
                      for label, digest in zip(self.labels, self.digests, strict=True))  # fmt: skip
        return hashlib.blake2b(b"\0".join(rows), digest_size=DIGEST_BYTES).hexdigest()

    @property
    def class_counts(self) -> NDArray[np.int64]:
        """The number of images of each class, (classes,)."""
        return np.bincount(self.labels, minlength=len(self.class_names)).astype(np.int64)

    def without(self, reasons: Mapping[int, str]) -> "ImageIndex":
        """Return the index without the images at some positions; they move to `skipped` with their reasons.

        The images behind them move up, so that positions taken from this index do not fit the new one.
        """
        keep = np.ones(len(self), bool)
        keep[list(reasons)] = False
        gone = tuple(Skipped(self.names[position], reasons[position]) for position in sorted(reasons))
        return replace(
            self,
            names=tuple(compress(self.names, keep)),
            labels=self.labels[keep],
            digests=self.digests[keep],
            parts=None if self.parts is None else self.parts[keep],
            skipped=self.skipped + gone,
            groups=None if self.groups is None else tuple(compress(self.groups, keep)),
            pictures=None if self.pictures is None else self.pictures[keep],
        )


def index_photos(
    path: str | Path, *, engine: Engine, listen: Listener = ignore_event, class_pattern: str = "", columns: str = ""
) -> ImageIndex:
    """Find the images in a folder, an archive or a table, and the class of each; nothing is ever written.

    In a folder or an archive a class is an immediate subfolder, and its images lie in it at any depth.
    `class_pattern` is a regular expression searched in the path below, whose first group (or whole match) names the
    class instead: `^([a-z]+)` reads `apple1/x.jpg` and `apple2/y.jpg` as one class. Where all subfolders are called
    train, test and perhaps validation, they are the parts of a split and hold the folders of the classes.
    A table, CSV or TSV, names the path and the class of each image, and perhaps its part and group; which column is
    which is guessed and told, or given by `columns`: "path=file,label=species".
    An image is known by its content, not its name; whatever is no image is in `skipped` with the reason.

    Raises:
        SourceError: the source is missing, cannot be read, or holds no image.
        ClassesError: there are fewer than two classes, or a class folder has no image.
        SettingsError: `class_pattern` is no regular expression, or matches nothing; `columns` are not there.

    """
    pattern, wanted = compile_pattern("class_pattern", class_pattern), parse_columns(columns)
    source, listing = open_source(Path(path), wanted)
    for note in listing.notes:
        listen(Notice(note))
    if wanted and not listing.columns:
        raise SettingsError(f"{quote_name(source.describe())} is no table and has no columns", "Leave columns out.")
    digests, unread = _read_digests(source, listing.files, engine, listen)
    if not digests:
        raise _explain_no_image(source, listing, unread)
    if listing.columns and not pattern:
        return _index_table(source, listing, listing.columns, digests, unread)
    layout = find_layout(digests, pattern)
    places, misplaced = _place_images(digests, layout)
    skipped = dict(sorted((dict(listing.refused) | unread | misplaced).items()))
    if pattern and not places:
        raise explain_no_match("class_pattern", class_pattern, digests)
    class_names = sort_classes(place.class_name for place in places.values())
    if not pattern:
        _check_folders(layout.find_empty(listing.folders, class_names), skipped)
    if len(class_names) < 2:
        raise _explain_few_classes(source, places, skipped)
    return _build_index(source, places, digests, class_names, skipped)


def _index_table(
    source: ImageSource, listing: Listing, columns: Columns, digests: Mapping[str, bytes], unread: Mapping[str, str]
) -> ImageIndex:
    """Index the images that a table names."""
    parts = columns.parts or (-1,) * len(listing.files)
    rows = zip(listing.files, columns.labels, parts, strict=True)
    places = {name: Place(label, part) for name, label, part in rows if name in digests}
    skipped = dict(sorted((dict(listing.refused) | dict(unread)).items()))
    class_names = sort_classes(place.class_name for place in places.values())
    if len(class_names) < 2:
        raise ClassesError(
            f"{quote_name(source.describe())} has one class, {quote_name(class_names[0])}; needed are two or more"
            f"{explain_skipped(skipped)}",
            "Say which column is the class if it is another one: --columns label=NAME.",
        )
    index = _build_index(source, places, digests, class_names, skipped)
    if columns.groups is None:
        return index
    return replace(index, groups=tuple(compress(columns.groups, (name in digests for name in listing.files))))


def index_images(
    images: Sequence[RawImage | str | os.PathLike[str]] | NDArray[np.uint8],
    labels: Sequence[Hashable] | NDArray[Any],
    *,
    engine: Engine,
    listen: Listener = ignore_event,
) -> ImageIndex:
    """Index images in memory, or files anywhere, with a label for each; classes are in the order of labels.

    The names are the positions, padded with zeros. Images that cannot be used are in `skipped`, with reasons.

    Raises:
        SourceError: images and labels differ in number, or no image can be used.
        ClassesError: there are fewer than two classes, or two labels look the same, as 1 and "1" do.

    """
    if len(images) != len(labels):
        raise SourceError(
            f"{len(images):,} images and {len(labels):,} labels were given; needed is one for each",
            "Give as many labels as images, in the same order.",
        )
    source = MemorySource(images)
    digests, skipped = _read_digests(source, source.names, engine, listen)
    if not digests:
        raise SourceError(
            f"none of {len(images):,} images can be used{explain_skipped(skipped)}",
            f"Give paths or bytes of {FORMATS}, Pillow images, or arrays of uint8.",
        )
    class_of = _name_labels({labels[int(name)] for name in digests})
    places = {name: Place(class_of[labels[int(name)]]) for name in digests}
    if len(class_of) < 2:
        only = quote_name(*class_of.values())
        raise ClassesError(
            f"all images have the label {only}; needed are two labels or more{explain_skipped(skipped)}",
            "Give images of the other classes too.",
        )
    return _build_index(source, places, digests, list(class_of.values()), skipped)


def sort_classes(names: Iterable[str]) -> list[str]:
    """Sort the names of classes: by their letters, or by their values where all are whole numbers.

    >>> sort_classes({"10", "9", "2"})
    ['2', '9', '10']
    """
    found = set(names)
    return sorted(found, key=int if all(_NUMBER.fullmatch(name) for name in found) else None)


def list_some(items: Sequence[str], limit: int = 5) -> str:
    """Join a few items for a message: "a, b, c, d, e and 9,995 more"."""
    rest = f" and {len(items) - limit:,} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + rest


def _read_digests(
    source: ImageSource, names: Sequence[str], engine: Engine, listen: Listener
) -> tuple[dict[str, bytes], dict[str, str]]:
    """Read every file once: the digests of the images, and the reasons why the others are none, by name."""
    started = told = time.perf_counter()
    listen(StageStarted("reading", len(names), "files"))
    batches = [names[start : start + BATCH_FILES] for start in range(0, len(names), BATCH_FILES)]
    results: list[bytes | str] = []
    for batch in engine.map(partial(_digest_batch, source), batches):
        results += batch
        if time.perf_counter() - told >= TELL_EVERY_S:
            told = time.perf_counter()
            listen(StageAdvanced("reading", len(results)))
    listen(StageFinished("reading", time.perf_counter() - started))
    pairs = list(zip(names, results, strict=True))
    digests = {name: result for name, result in pairs if isinstance(result, bytes)}
    return digests, {name: result for name, result in pairs if isinstance(result, str)}


def _digest_batch(source: ImageSource, names: Sequence[str]) -> list[bytes | str]:
    return [_digest(source, name) for name in names]


def _digest(source: ImageSource, name: str) -> bytes | str:
    """Return the digest of an image, or the reason why there is none."""
    try:
        return source.digest(name)
    except ImageError as error:
        return error.message


def _place_images(names: Iterable[str], layout: Layout) -> tuple[dict[str, Place], dict[str, str]]:
    """Find the place of every image, and the reasons why others have none, by name."""
    found = {name: layout.place(name) for name in names}
    places = {name: place for name, place in found.items() if isinstance(place, Place)}
    return places, {name: reason for name, reason in found.items() if isinstance(reason, str)}


def _name_labels(labels: Iterable[Any]) -> dict[Any, str]:
    """Return the name of every label, in the labels' order; words, and what does not compare, as classes are sorted."""
    found = list(labels)
    class_of = {label: str(label) for label in found}
    twice = [name for name, count in Counter(class_of.values()).items() if count > 1]
    if twice:
        raise ClassesError(
            f"different labels have the same name: {list_some([quote_name(name) for name in twice])}",
            "Give labels of one type.",
        )
    places = {name: place for place, name in enumerate(sort_classes(class_of.values()))}
    try:
        ordered = sorted(found, key=lambda label: places[label] if isinstance(label, str) else label)
    except TypeError:
        ordered = sorted(found, key=lambda label: places[class_of[label]])
    return {label: class_of[label] for label in ordered}


def _build_index(
    source: ImageSource,
    places: Mapping[str, Place],
    digests: Mapping[str, bytes],
    class_names: Sequence[str],
    skipped: Mapping[str, str],
) -> ImageIndex:
    """Turn what is known by name into columns."""
    positions = {class_name: position for position, class_name in enumerate(class_names)}
    parts = np.array([place.part for place in places.values()], np.int8)
    return ImageIndex(
        source=source,
        names=tuple(places),
        labels=np.array([positions[place.class_name] for place in places.values()], np.int64),
        class_names=tuple(class_names),
        digests=np.frombuffer(b"".join(digests[name] for name in places), np.uint8).reshape(-1, DIGEST_BYTES),
        parts=parts if parts.max() >= 0 else None,
        skipped=tuple(Skipped(name, reason) for name, reason in skipped.items()),
    )


def _check_folders(empty: Sequence[str], skipped: Mapping[str, str]) -> None:
    """Refuse class folders without an image: an easily made mistake that would go unnoticed."""
    if not empty:
        return
    described = [quote_name(folder) + _explain_inside(folder, skipped) for folder in empty[:5]]
    found = "1 class folder has" if len(empty) == 1 else f"{len(empty):,} class folders have"
    raise ClassesError(
        f"{found} no image: {list_some(described + list(empty[5:]))}",
        "Add photos to these folders, or remove them.",
    )


def _explain_inside(folder: str, skipped: Mapping[str, str]) -> str:
    """Say what was skipped in a folder, or why the folder itself was; nothing where it is simply empty."""
    if folder in skipped:
        return f" ({skipped[folder]})"
    inside = {name: reason for name, reason in skipped.items() if name.startswith(f"{folder}/")}
    return f" ({explain_skipped(inside)[2:]})" if inside else ""


def _explain_no_image(source: ImageSource, listing: Listing, unread: dict[str, str]) -> SourceError:
    count = len(listing.files)
    found = "1 file was" if count == 1 else f"{count:,} files were"
    return SourceError(
        f"no image in {quote_name(source.describe())}: {found} seen, none of {FORMATS}"
        f"{explain_skipped({**listing.refused, **unread})}",
        LAYOUT_HINT,
    )


def _explain_few_classes(source: ImageSource, places: Mapping[str, Place], skipped: Mapping[str, str]) -> ClassesError:
    folder = quote_name(source.describe())
    if not places:
        return ClassesError(f"no image in {folder} lies in a class folder{explain_skipped(skipped)}", LAYOUT_HINT)
    class_name = next(iter(places.values())).class_name
    deeper = {name.split("/")[1] for name in places if name.count("/") > 1}
    hint = f"If the folders in {quote_name(class_name)} are the classes, give the path of that folder. "
    return ClassesError(
        f"{folder} has one class, {quote_name(class_name)}, of {len(places):,} images; needed are two or more"
        f"{explain_skipped(skipped)}",
        (hint if len(deeper) > 1 else "") + LAYOUT_HINT,
    )
