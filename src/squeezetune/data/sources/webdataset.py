"""WebDataset shards as a source: tar archives in which `key.jpg` and `key.cls`, or `key.json`, are
one sample.

Format: https://github.com/webdataset/webdataset, "The WebDataset Format".
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, starmap
from pathlib import Path

from squeezetune.data.sources.archive import ArchiveSource, open_tar
from squeezetune.data.sources.paths import find_shard_parts
from squeezetune.data.sources.source import Entry, Listing, Stamp, is_image_name, list_entries
from squeezetune.errors import ImageError

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
# What a sample has beside its image: `.cls` is the class itself, the key of an object in `.json`
# names it.
CLASS, OBJECT = ".cls", ".json"
NO_CLASS = "its sample does not say its class"
KEYS = ("label", "class", "cls", "class_name", "category")


@dataclass(frozen=True)
class ShardedSource:
    """The files in several tar archives; a name is that of the archive and the path in it."""

    folder: Path
    shards: Mapping[str, ArchiveSource] = field(repr=False)

    def read(self, name: str) -> bytes:
        """Return the bytes of an image; ImageError where they cannot be read, or it is none."""
        shard, inner = self._locate(name)
        return shard.read(inner)

    def measure(self, name: str) -> int:
        """Return how many bytes the archive says that the file has."""
        shard, inner = self._locate(name)
        return shard.measure(inner)

    def digest(self, name: str) -> bytes:
        """Return the digest of a file's bytes; ImageError where it is no image."""
        shard, inner = self._locate(name)
        return shard.digest(inner)

    def stamp(self, name: str) -> Stamp | None:
        """Return the archive's stamp, with the name in it."""
        shard, inner = self._locate(name)
        return shard.stamp(inner)

    def describe(self) -> str:
        """Return the folder's path."""
        return str(self.folder)

    def _locate(self, name: str) -> tuple[ArchiveSource, str]:
        ends = (at for at, letter in enumerate(name) if letter == "/")
        end = next(at for at in ends if name[:at] in self.shards)
        return self.shards[name[:end]], name[end + 1 :]


def open_shard(path: Path, columns: Mapping[str, str]) -> tuple[ArchiveSource, Listing]:
    """Open a tar archive; where it is a shard, what it says of the classes counts, and not its
    folders.

    Raises:
        SourceError: it cannot be opened, or is no tar archive.

    """
    source, listing = open_tar(path, columns)
    return source, read_samples(source, listing) or listing


def open_shards(
    folder: Path, files: Sequence[Path], columns: Mapping[str, str]
) -> tuple[ShardedSource, Listing] | None:
    """Open all tar archives of a folder as one source; None where they are no shards.

    Shards called like a part, `train-0001.tar` and `val-0001.tar`, are the parts of a split.

    Raises:
        SourceError: one of them cannot be opened.

    """
    opened = {file.relative_to(folder).as_posix(): open_shard(file, columns) for file in files}
    listings = {name: listing for name, (_, listing) in opened.items()}
    if not all(listing.columns for listing in listings.values()):
        return None
    parts = find_shard_parts([file.name for file in files])
    entries = (
        Entry(f"{name}/{file}", label, parts.get(Path(name).name, -1))
        for name, listing in listings.items()
        for file, label in zip(
            listing.files, listing.columns.labels if listing.columns else (), strict=True
        )
    )
    unlabelled = (
        Entry(f"{name}/{file}", "") for name, each in listings.items() for file in each.unlabelled
    )
    refused = {
        f"{name}/{file}": reason
        for name, each in listings.items()
        for file, reason in each.refused.items()
    }
    source = ShardedSource(folder, {name: source for name, (source, _) in opened.items()})
    return source, list_entries(chain(entries, unlabelled), refused, unlabelled=NO_CLASS)


def read_samples(source: ArchiveSource, listing: Listing) -> Listing | None:
    """Read the class of every sample of a shard; None where none says any."""
    samples: dict[str, dict[str, str]] = {}
    for name in listing.files:
        key, ending = _split_name(name)
        samples.setdefault(key, {})[ending] = name
    classes = {key: _read_class(source, files) for key, files in samples.items()}
    if not any(classes.values()):
        return None
    images = [
        (name, classes[key])
        for key, files in samples.items()
        for name in files.values()
        if is_image_name(name)
    ]
    return list_entries(starmap(Entry, images), listing.refused, listing.notes, NO_CLASS)


def _split_name(name: str) -> tuple[str, str]:
    """Split a name into the sample's key and the rest, which begins at the first dot of the last
    part.
    """
    folder, slash, base = name.rpartition("/")
    stem, dot, ending = base.partition(".")
    return folder + slash + stem, (dot + ending).lower()


def _read_class(source: ArchiveSource, files: Mapping[str, str]) -> str:
    """Read what a sample says of its class; nothing where it does not."""
    if text := _read_text(source, files.get(CLASS)):
        return text
    try:
        about = json.loads(_read_text(source, files.get(OBJECT)) or "{}")
    except (ValueError, RecursionError):
        return ""
    found = (
        [about[key] for key in KEYS if isinstance(about.get(key), (str, int))]
        if isinstance(about, dict)
        else []
    )
    return str(found[0]).strip() if found else ""


def _read_text(source: ArchiveSource, name: str | None) -> str:
    """Read the text of a file; nothing where there is none, or it cannot be read."""
    try:
        return "" if name is None else source.read_bytes(name).decode("utf-8", "replace").strip()
    except ImageError:
        return ""
