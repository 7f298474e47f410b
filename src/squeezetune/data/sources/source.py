"""What a source of images is: the names in it, what is behind each, and the stamps of its files."""

import hashlib
import os
import re
import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import merge
from io import BytesIO
from itertools import chain, repeat
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from squeezetune.data.sources.content import (
    DIGEST_BYTES,
    ENDINGS,
    HEAD_BYTES,
    RawImage,
    recognise_format,
)

# A file that was written within this time may be written again without a new time in the system's
# notes, so that what is read of it now cannot be known by its stamp: the problem of "racy git",
# https://git-scm.com/docs/racy-git. FAT notes every second second only, other systems every few
# milliseconds.
RACY_NS = 3_000_000_000


class Stamp(NamedTuple):
    """`mark` is never the same for two contents of a file that is left alone for a moment, last at
    `changed_ns`.
    """

    mark: bytes
    changed_ns: int

    def is_settled(self, now_ns: int) -> bool:
        """Say whether the file had been left alone for long enough by this time, so that its mark
        tells its content.
        """
        return self.changed_ns < now_ns - RACY_NS


def stamp_file(path: str) -> Stamp | None:
    """Stamp a file by its path, size, times and number on the disk; None where the system does not
    tell.

    The time of the last change of the notes themselves (ctime; on Windows that of creation) is
    among them: it cannot be set back, as programs do with the time of the last writing when they
    copy a file or edit its EXIF data.
    """
    try:
        status = os.stat(path)  # noqa: PTH116  # pathlib would cost as much again
        place = os.fsencode(os.path.join(os.getcwd(), path))  # noqa: PTH109, PTH118
    except (OSError, ValueError):
        return None
    numbers = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    return Stamp(
        b"%s\0%d\0%d\0%d\0%d" % (place, *numbers), max(status.st_mtime_ns, status.st_ctime_ns)
    )


def stamp_inner(outer: Stamp | None, name: str) -> Stamp | None:
    """Stamp a file within another, by the other's stamp."""
    return outer and Stamp(
        outer.mark + b"\0" + name.encode(errors="surrogateescape"), outer.changed_ns
    )


_IMAGE_NAME = re.compile(rf"\.({'|'.join(ENDINGS)})$", re.IGNORECASE)
# a path object has one slash left
_WEB_ADDRESS = re.compile(r"(https?|ftps?|s3|gs|file|data):/*[^/]", re.IGNORECASE)
WEB_ADDRESS = "an address of the web, and only what is on this computer is read"
_CLUTTER = ("thumbs.db", "desktop.ini", "__macosx")  # in lower case; hidden files are clutter too


class ImageSource(Protocol):
    """Reads images by name; names are unique and stable."""

    def read(self, name: str) -> RawImage:
        """Return the image of this name.

        Raises:
            ImageError: it cannot be read (any more); the message is the reason alone, without the
                name.

        """
        ...

    def digest(self, name: str) -> bytes:
        """Return the 16 bytes of BLAKE2b of the image's content.

        Raises:
            ImageError: it cannot be read, or is no image of a known format.

        """
        ...

    def describe(self) -> str:
        """Return what a person calls this source, e.g. the folder's path."""
        ...


@runtime_checkable
class FilesSource(ImageSource, Protocol):
    """A source of files, of which some need be no images."""

    def read_bytes(self, name: str) -> bytes:
        """Return the bytes of any file; ImageError where it cannot be read."""
        ...


@runtime_checkable
class StampedSource(ImageSource, Protocol):
    """A source whose images come from files, so that a change of one shows before it is read."""

    def stamp(self, name: str) -> Stamp | None:
        """Return the stamp of the file that the image is in; None where the system does not
        tell.
        """
        ...


@dataclass(frozen=True)
class Columns:
    """What a table says of each image besides its path, in the order of the files; None where it
    has no such column.

    `labels` are the names of the classes, `parts` 0, 1, 2 for train, validation and test, or -1
    where none is named, `groups` the names of what stays together, or "" where there is none.
    """

    labels: tuple[str, ...]
    parts: tuple[int, ...] | None = None
    groups: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Listing:
    """What a source holds: sorted paths of `files` and `folders`, and `refused` paths with reasons.

    `columns` are what a table says of the files; `notes` are what the user should know of how it
    was read. `unlabelled` are images without a class, with reasons: nothing can be learnt from
    them, but they can be predicted.
    """

    files: tuple[str, ...]
    folders: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    columns: Columns | None = None
    notes: tuple[str, ...] = ()
    unlabelled: Mapping[str, str] = field(default_factory=dict)

    def list_members(self) -> Iterator[tuple[str, str]]:
        """Yield all that is there, sorted, with the reason why it is not read, if so; classes do
        not matter.
        """
        others = [*zip(self.unlabelled, repeat("")), *self.refused.items()]
        yield from merge(zip(self.files, repeat("")), sorted(others))


class Entry(NamedTuple):
    """An image, by its name in a source, and what a table says of it: see `Columns`."""

    name: str
    label: str
    part: int = -1
    group: str = ""


def list_entries(
    entries: Iterable[Entry],
    refused: Mapping[str, str],
    notes: tuple[str, ...] = (),
    unlabelled: str = "no class",
) -> Listing:
    """Make a listing of what a table says of each image; `unlabelled` says what is amiss where it
    says no class.
    """
    names, labels, parts, groups, others = [], [], array("b"), [], {}
    # by column: a million entries at once would take 100 MB more
    for name, label, part, group in entries:
        if not label:
            others[name] = unlabelled
            continue
        names.append(name)
        labels.append(sys.intern(label))
        parts.append(part)
        groups.append(sys.intern(group))
    order = np.argsort(np.array(names, object), kind="stable").tolist()
    columns = Columns(
        tuple(labels[at] for at in order),
        tuple(parts[at] for at in order) if max(parts, default=-1) >= 0 else None,
        tuple(groups[at] for at in order) if any(groups) else None,
    )
    return Listing(tuple(names[at] for at in order), (), refused, columns, notes, others)


def is_clutter(name: str) -> bool:
    """Say whether a file or folder is hidden, or what desktop systems leave everywhere."""
    return name.startswith(".") or name.lower() in _CLUTTER


def is_image_name(name: str) -> bool:
    """Say whether a name ends as those of images do; what is an image is told by the content
    alone.
    """
    return _IMAGE_NAME.search(name.strip()) is not None


def is_web_address(path: str) -> bool:
    """Say whether a path is none, but where something is in the web."""
    return _WEB_ADDRESS.match(path) is not None


def quote_name(name: str) -> str:
    """Quote a name so that it can be printed anywhere: newlines and undecodable bytes are
    escaped.
    """
    return f"'{name}'" if name.isprintable() else repr(name)


def list_some(items: Sequence[str], limit: int = 5) -> str:
    """Join a few items for a message: "a, b, c, d, e and 9,995 more"."""
    rest = f" and {len(items) - limit:,} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + rest


def join_parts(parts: Iterable[bytes]) -> bytes:
    """Join an image's file that comes in parts; a large one that is no image is left after its
    first part.

    Raises:
        ImageError: it is no image of a known format.

    """
    parts = iter(parts)
    first = next(parts, b"")
    recognise_format(first[:HEAD_BYTES])
    if (second := next(parts, None)) is None:
        return first
    whole = BytesIO()  # which gives its bytes away without a copy
    whole.writelines(chain((first, second), parts))
    return whole.getvalue()


def hash_parts(parts: Iterable[bytes]) -> bytes:
    """Hash a file that comes in parts; a large one that is no image is left after its first part.

    Raises:
        ImageError: it is no image of a known format.

    """
    parts = iter(parts)
    first = next(parts, b"")
    recognise_format(first[:HEAD_BYTES])
    state = hashlib.blake2b(first, digest_size=DIGEST_BYTES)
    for part in parts:
        state.update(part)
    return state.digest()
