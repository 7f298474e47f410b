"""Which images there are, what class each belongs to, what was skipped, and why a source cannot be
used.
"""

import hashlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import compress, repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeezetune.data.digests import read_digests
from squeezetune.data.sources.class_names import name_labels, sort_classes
from squeezetune.data.sources.content import DIGEST_BYTES, FORMATS
from squeezetune.data.sources.image_formats import tell_missing
from squeezetune.data.sources.paths import (
    ClassAndPart,
    Places,
    compile_pattern,
    explain_no_match,
    explain_skipped,
    find_layout,
    number_places,
)
from squeezetune.data.sources.registry import ImageLike, MemorySource, hold_images, open_source
from squeezetune.data.sources.source import Columns, ImageSource, list_some, quote_name
from squeezetune.data.sources.table import parse_columns
from squeezetune.errors import ClassesError, SettingsError, SourceError
from squeezetune.events import Listener, Notice, ignore_event
from squeezetune.system.executor import Executor

LAYOUT_HINT = "Put the photos into one folder for each class: photos/<class>/<image>."


def check_folders(empty: Sequence[str], skipped: Mapping[str, str]) -> None:
    """Refuse class folders without an image: an easily made mistake that would go unnoticed.

    Raises:
        ClassesError: there are some.

    """
    if not empty:
        return
    described = [quote_name(folder) + _explain_inside(folder, skipped) for folder in empty[:5]]
    found = "1 class folder has" if len(empty) == 1 else f"{len(empty):,} class folders have"
    raise ClassesError(
        f"{found} no image: {list_some(described + list(empty[5:]))}",
        "Add photos to these folders, or remove them.",
    )


def _explain_inside(folder: str, skipped: Mapping[str, str]) -> str:
    """Say what was skipped in a folder, or why the folder itself was; nothing where it is simply
    empty.
    """
    if folder in skipped:
        return f" ({skipped[folder]})"
    inside = {name: reason for name, reason in skipped.items() if name.startswith(f"{folder}/")}
    return f" ({explain_skipped(inside)[2:]})" if inside else ""


def explain_no_image(source: ImageSource, count: int, skipped: Mapping[str, str]) -> SourceError:
    """Say that none of some files is an image."""
    found = "1 file was" if count == 1 else f"{count:,} files were"
    return SourceError(
        f"no image in {quote_name(source.describe())}: {found} seen, none of "
        f"{FORMATS}{explain_skipped(skipped)}",
        LAYOUT_HINT,
    )


def explain_few_classes(
    source: ImageSource,
    names: Sequence[str],
    kinds: Sequence[ClassAndPart],
    skipped: Mapping[str, str],
) -> ClassesError:
    """Say that the images of these names have one class, or none."""
    folder = quote_name(source.describe())
    if not names:
        return ClassesError(
            f"no image in {folder} lies in a class folder{explain_skipped(skipped)}", LAYOUT_HINT
        )
    class_name = kinds[0].class_name
    deeper = {name.split("/")[1] for name in names if name.count("/") > 1}
    hint = (
        f"If the folders in {quote_name(class_name)} are the classes, give the path of that "
        f"folder. "
    )
    return ClassesError(
        f"{folder} has one class, {quote_name(class_name)}, of {len(names):,} images; needed are "
        f"two or more{explain_skipped(skipped)}",
        (hint if len(deeper) > 1 else "") + LAYOUT_HINT,
    )


def explain_one_label(
    source: ImageSource, class_name: str, skipped: Mapping[str, str]
) -> ClassesError:
    """Say that a table has one class."""
    return ClassesError(
        f"{quote_name(source.describe())} has one class, {quote_name(class_name)}; needed are two "
        f"or more{explain_skipped(skipped)}",
        "Say which column is the class if it is another one: --columns label=NAME.",
    )


HASHED_ROWS = 4096


@dataclass(frozen=True)
class Skipped:
    """A file that is not used, and the reason in words."""

    name: str
    reason: str


@dataclass(frozen=True)
class ImageIndex:
    """The images of a source, sorted by name, with their classes.

    `labels` (n,) int64 are positions in `class_names`; `digests` (n, 16) uint8 are BLAKE2b of the
    content. `parts` (n,) int8 is 0, 1, 2 for train, validation, test where the source is already
    split, else None. `groups` (n,) are the names of what has to stay together where the source
    tells them, "" of an image alone. `pictures` (n,) int64 numbers the pictures that the images
    show, where near-duplicates were looked for: those of one picture have one number.
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
        ranks = np.empty(len(class_names), np.int64)
        ranks[sorted(range(len(class_names)), key=class_names.__getitem__)] = np.arange(
            len(class_names)
        )
        halves = np.ascontiguousarray(self.digests).view(">u8")  # in the order of their bytes
        order = np.lexsort((ranks[self.labels], halves[:, 1], halves[:, 0]))
        state = hashlib.blake2b(digest_size=DIGEST_BYTES)
        for start in range(0, len(order), HASHED_ROWS):
            chunk = order[start : start + HASHED_ROWS]
            pairs = zip(self.digests[chunk], self.labels[chunk].tolist(), strict=True)
            rows = [digest.tobytes() + class_names[label] for digest, label in pairs]
            state.update(b"\0" * (start > 0) + b"\0".join(rows))
        return state.hexdigest()

    @property
    def class_counts(self) -> NDArray[np.int64]:
        """The number of images of each class, (classes,)."""
        return np.bincount(self.labels, minlength=len(self.class_names)).astype(np.int64)

    def without(self, reasons: Mapping[int, str]) -> "ImageIndex":
        """Return the index without the images at some positions; they move to `skipped` with their
        reasons.

        The images behind them move up, so that positions taken from this index do not fit the new
        one.
        """
        keep = np.ones(len(self), bool)
        keep[list(reasons)] = False
        gone = tuple(
            Skipped(self.names[position], reasons[position]) for position in sorted(reasons)
        )
        return replace(
            self,
            names=_pick(self.names, keep),
            labels=self.labels[keep],
            digests=self.digests[keep],
            parts=None if self.parts is None else self.parts[keep],
            skipped=self.skipped + gone,
            groups=None if self.groups is None else _pick(self.groups, keep),
            pictures=None if self.pictures is None else self.pictures[keep],
        )


def index_photos(
    path: str | Path,
    *,
    executor: Executor,
    listen: Listener = ignore_event,
    class_pattern: str = "",
    columns: str = "",
    cache: Path | None = None,
) -> ImageIndex:
    """Find the images in a folder, an archive or a table, and the class of each; nothing is ever
    written.

    In a folder or an archive a class is an immediate subfolder, and its images lie in it at any
    depth. `class_pattern` is a regular expression searched in the path below, whose first group (or
    whole match) names the class instead: `^([a-z]+)` reads `apple1/x.jpg` and `apple2/y.jpg` as one
    class. Where all subfolders are called train, test and perhaps validation, they are the parts of
    a split and hold the folders of the classes. A table, CSV or TSV, names the path and the class
    of each image, and perhaps its part and group; which column is which is guessed and told, or
    given by `columns`: "path=file,label=species". An image is known by its content, not its name;
    whatever is no image is in `skipped` with the reason. With a `cache`, files that were read
    before and have not changed are not read again.

    Raises:
        SourceError: the source is missing, cannot be read, or holds no image.
        ClassesError: there are fewer than two classes, or a class folder has no image.
        SettingsError: `class_pattern` is no regular expression, or matches nothing; `columns` are
            not there.

    """
    pattern, wanted = compile_pattern("class_pattern", class_pattern), parse_columns(columns)
    source, listing = open_source(Path(path), wanted)
    for note in listing.notes:
        listen(Notice(note))
    if wanted and not listing.columns:
        raise SettingsError(
            f"{quote_name(source.describe())} is no table and has no columns", "Leave columns out."
        )
    digests = read_digests(source, listing.files, executor, listen, cache)
    unread = {listing.files[at]: reason for at, reason in digests.reasons.items()}
    tell_missing(digests.reasons.values(), listen)
    refused = {**listing.refused, **listing.unlabelled, **unread}
    if len(unread) == len(listing.files):
        raise explain_no_image(source, len(listing.files), refused)
    images = _Images(
        source, _pick(listing.files, digests.is_image), digests.values[digests.is_image], refused
    )
    if listing.columns and not pattern:
        return _index_table(images, listing.columns, digests.is_image)
    return _index_paths(images, listing.folders, class_pattern)


@dataclass(frozen=True)
class _Images:
    """The images of a source whose classes are still to be found, and the files that are none, with
    reasons.
    """

    source: ImageSource
    names: tuple[str, ...]
    digests: NDArray[np.uint8]  # (n, 16)
    refused: Mapping[str, str]


def _index_paths(images: _Images, folders: Sequence[str], class_pattern: str) -> ImageIndex:
    """Index images whose paths say their classes."""
    pattern = compile_pattern("class_pattern", class_pattern)
    layout = find_layout(images.names, pattern)
    places = number_places(map(layout.place, images.names))
    if pattern and not places.kinds:
        raise explain_no_match("class_pattern", class_pattern, images.names)
    class_names = sort_classes(place.class_name for place in places.kinds)
    index = _build_index(images, places, class_names)
    skipped = {each.name: each.reason for each in index.skipped}
    if not pattern:
        check_folders(layout.find_empty(folders, class_names), skipped)
    if len(class_names) < 2:
        raise explain_few_classes(images.source, index.names, places.kinds, skipped)
    return index


def _index_table(images: _Images, columns: Columns, is_image: NDArray[np.bool_]) -> ImageIndex:
    """Index the images that a table names."""
    rows = map(ClassAndPart, columns.labels, columns.parts or repeat(-1))
    places = number_places(compress(rows, is_image))
    class_names = sort_classes(place.class_name for place in places.kinds)
    if len(class_names) < 2:
        raise explain_one_label(images.source, class_names[0], dict(sorted(images.refused.items())))
    index = _build_index(images, places, class_names)
    return (
        index if columns.groups is None else replace(index, groups=_pick(columns.groups, is_image))
    )


def index_images(
    images: Iterable[ImageLike] | NDArray[np.uint8],
    labels: Sequence[Hashable] | NDArray[Any],
    *,
    executor: Executor,
    listen: Listener = ignore_event,
) -> ImageIndex:
    """Index images in memory, or files anywhere, with a label for each.

    The names are the positions, padded with zeros. Images that cannot be used are in `skipped`,
    with reasons.

    Raises:
        SourceError: images and labels differ in number, or no image can be used.
        ClassesError: there are fewer than two classes, a label is missing or cannot be one, or two
            labels look the same, as 1 and "1" do.

    """
    images = hold_images(images)
    if len(images) != len(labels):
        raise SourceError(
            f"{len(images):,} images and {len(labels):,} labels were given; needed is one for each",
            "Give as many labels as images, in the same order.",
        )
    labelled = name_labels(labels)
    source = MemorySource(images)
    names = source.names
    digests = read_digests(source, names, executor, listen)
    skipped = {names[at]: reason for at, reason in digests.reasons.items()}
    if len(skipped) == len(names):
        raise SourceError(
            f"none of {len(images):,} images can be used{explain_skipped(skipped)}",
            f"Give paths or bytes of {FORMATS}, Pillow images, or arrays of uint8.",
        )
    positions = np.flatnonzero(digests.is_image).tolist()
    class_names = sort_classes(labelled[at] for at in positions)
    if len(class_names) < 2:
        raise ClassesError(
            f"all images are of one class, {quote_name(*class_names)}; needed are two classes or "
            f"more{explain_skipped(skipped)}",
            "Give images of the other classes too.",
        )
    found = _Images(
        source, _pick(names, digests.is_image), digests.values[digests.is_image], skipped
    )
    return _build_index(
        found, number_places(ClassAndPart(labelled[at]) for at in positions), class_names
    )


def _build_index(images: _Images, places: Places, class_names: Sequence[str]) -> ImageIndex:
    """Put columns together; images without a place are skipped."""
    positions = {class_name: position for position, class_name in enumerate(class_names)}
    class_of_kind = np.array([positions[place.class_name] for place in places.kinds], np.int64)
    part_of_kind = np.array([place.part for place in places.kinds], np.int8)
    keep = places.is_known
    numbers = places.numbers[keep]
    skipped = dict(images.refused) | {
        images.names[at]: reason for at, reason in places.reasons.items()
    }
    return ImageIndex(
        source=images.source,
        names=_pick(images.names, keep),
        labels=class_of_kind[numbers],
        class_names=tuple(class_names),
        digests=images.digests[keep],
        parts=part_of_kind[numbers] if part_of_kind.max(initial=-1) >= 0 else None,
        skipped=tuple(Skipped(name, reason) for name, reason in sorted(skipped.items())),
    )


def _pick(items: tuple[str, ...], is_wanted: NDArray[np.bool_]) -> tuple[str, ...]:
    """Return the wanted items; the same tuple where all are."""
    return items if is_wanted.all() else tuple(compress(items, is_wanted))
