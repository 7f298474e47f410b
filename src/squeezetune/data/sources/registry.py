"""Where images come from: a table of readers, each for a kind of folder or file, and images in
memory.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from squeezetune.data.sources.archive import open_zip
from squeezetune.data.sources.arrays import list_npy, list_npz, open_npy, open_npz
from squeezetune.data.sources.catalog import locate_photos
from squeezetune.data.sources.content import RawImage, hash_image
from squeezetune.data.sources.folder import (
    MOST_BYTES,
    FolderSource,
    explain_size,
    hash_file,
    list_files,
    measure_file,
    read_file,
    walk_files,
)
from squeezetune.data.sources.parquet import open_parquet, open_parquets
from squeezetune.data.sources.source import ImageSource, Listing, join_parts, quote_name
from squeezetune.data.sources.table import open_manifest, open_rows
from squeezetune.data.sources.webdataset import SUFFIXES, open_shard, open_shards
from squeezetune.errors import ImageError, SourceError

# One image by its file's path, or what was found in it.
HeldImage: TypeAlias = str | os.PathLike[str] | RawImage
# One image as people hand it over: also an open file.
ImageLike: TypeAlias = HeldImage | BinaryIO

SINGLE = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)

# Opens what lies at a path; the mapping says which columns a table has, where its reader would
# guess wrong.
Reader: TypeAlias = Callable[[Path, Mapping[str, str]], tuple[ImageSource, Listing]]

# Opens files that lie in a folder as one source; None where they are none.
Collector: TypeAlias = Callable[
    [Path, Sequence[Path], Mapping[str, str]], tuple[ImageSource, Listing] | None
]

# By the end of a file's name; the longest that fits counts.
READERS: Mapping[str, Reader] = {
    ".csv": open_manifest,
    ".tsv": open_manifest,
    ".zip": open_zip,
    **dict.fromkeys(SUFFIXES, open_shard),
    ".npz": open_npz,
    ".npy": open_npy,
    ".parquet": open_parquet,
}
# The same for what is to be predicted, which needs no class: the paths of all that is there, in its
# own order, with the reason why something is not read, if so.
Lister: TypeAlias = Callable[
    [Path, Mapping[str, str]], tuple[ImageSource, Iterable[tuple[str, str]]]
]
LISTERS: Mapping[str, Lister] = {
    ".csv": open_rows,
    ".tsv": open_rows,
    ".npz": list_npz,
    ".npy": list_npy,
}
# Where all files in a folder end so, they may be one source together.
COLLECTIONS: Mapping[str, Collector] = {
    **dict.fromkeys(SUFFIXES, open_shards),
    ".parquet": open_parquets,
}
UNLABELLED: Mapping[str, Collector] = {
    **COLLECTIONS,
    ".parquet": partial(open_parquets, needed=("path",)),
}


def find_ending(path: Path) -> str:
    """Find the end of a file's name that is in the table; nothing where none is, or for a
    folder.
    """
    endings = [
        ending for ending in READERS if path.name.lower().endswith(ending) and path.is_file()
    ]
    return max(endings, key=len, default="")


def name_source(path: Path) -> str:
    """Name what lies at a path, for readers and for what is made of it: without the end of a file's
    name.
    """
    return path.name[: len(path.name) - len(find_ending(path))]


def find_collector(
    names: Sequence[str], collectors: Mapping[str, Collector] = COLLECTIONS
) -> Collector | None:
    """Find what opens all files of a folder as one source, by the end that all of their names
    have.
    """
    for ending, collect in collectors.items():
        if names and all(name.lower().endswith(ending) for name in names):
            return collect
    return None


def open_source(path: Path, columns: Mapping[str, str]) -> tuple[ImageSource, Listing]:
    """Open a folder, a file of a kind that is in the table, or a data set by its name, and list
    what it holds.

    Raises:
        SourceError: there is nothing, or nothing that can be read.
        SettingsError: a table lacks a column that was named.

    """
    path = locate_photos(path)
    if not path.is_file():  # a folder, or nothing at all
        listing = list_files(path)
        return open_collection(path, listing, columns) or (FolderSource(path), listing)
    ending = find_ending(path)
    if not ending:
        raise SourceError(
            f"{quote_name(str(path))} is a file of no kind that is read; needed is a folder of "
            f"photos, or a file that ends in {', '.join(READERS)}",
            "Give the folder that holds one folder for each class: photos/<class>/<image>.",
        )
    return READERS[ending](path, columns)


def open_collection(
    path: Path,
    listing: Listing,
    columns: Mapping[str, str],
    collectors: Mapping[str, Collector] = COLLECTIONS,
) -> tuple[ImageSource, Listing] | None:
    """Open all files of a folder as one source; None where they are not archives or tables of one
    kind.
    """
    collect = find_collector(listing.files, collectors)
    return collect(path, [path / name for name in listing.files], columns) if collect else None


def open_members(
    path: Path, columns: Mapping[str, str]
) -> tuple[ImageSource, Iterable[tuple[str, str]]]:
    """Open a file of a kind that is in the table, and find all that it holds, in its own order.

    Each member comes with the reason why it is not read, if so. Classes do not matter: of a table
    also the rows without one are members, and each of several rows with the same path.

    Raises:
        SourceError: it cannot be read.
        SettingsError: a table lacks a column that was named.

    """
    path = locate_photos(path)
    ending = find_ending(path)
    if lister := LISTERS.get(ending):
        return lister(path, columns)
    source, listing = (
        open_parquet(path, columns, ("path",))
        if ending == ".parquet"
        else open_source(path, columns)
    )
    return source, listing.list_members()


def open_folder(
    path: Path, columns: Mapping[str, str]
) -> tuple[ImageSource, Iterable[tuple[str, str]]]:
    """Open a folder as `open_members` opens a file: what is in its archives or tables where it
    holds nothing else.

    Raises:
        SourceError: it cannot be read.

    """
    found = walk_files(path)
    # listing a million photos takes memory: only where archives or tables come first
    first = list(islice(found, 1))
    may_be_one = find_collector([name for name, _ in first], UNLABELLED) is not None
    if may_be_one and (collected := open_collection(path, list_files(path), columns, UNLABELLED)):
        return collected[0], collected[1].list_members()
    return FolderSource(path), chain(first, found)


@dataclass(frozen=True)
class MemorySource:
    """Images in memory, or paths of single files; the names are their positions, "00", "01", ...,
    "99".

    Files are read when they are needed, each time anew.
    """

    images: "Sequence[HeldImage] | NDArray[np.uint8]" = field(repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all images, in order."""
        width = len(str(max(0, len(self.images) - 1)))
        return tuple(f"{position:0{width}d}" for position in range(len(self.images)))

    def read(self, name: str) -> RawImage:
        """Return the image at this position; ImageError where its file cannot be read."""
        image = self.images[int(name)]
        return (
            join_parts(read_file(os.fspath(image)))
            if isinstance(image, (str, os.PathLike))
            else image
        )

    def measure(self, name: str) -> int:
        """Return how many bytes the image's file has; 0 for what is in memory already."""
        image = self.images[int(name)]
        return measure_file(os.fspath(image)) if isinstance(image, (str, os.PathLike)) else 0

    def digest(self, name: str) -> bytes:
        """Return the digest of the file's bytes or of the image in memory; ImageError where it is
        none.
        """
        image = self.images[int(name)]
        return (
            hash_file(os.fspath(image))
            if isinstance(image, (str, os.PathLike))
            else hash_image(image)
        )

    def describe(self) -> str:
        """Return how many images there are."""
        return f"{len(self.images):,} images in memory"


def hold_images(images: Any) -> list[HeldImage]:
    """Take any number of images as a list: of a sequence, an array, a generator, or a table's
    single column.

    Open files are read to their ends. What is no image is left as it is, to be told with its
    position.

    Raises:
        SourceError: they have no order, or are none.

    """
    if getattr(images, "ndim", 0) == 2 and getattr(images, "dtype", None) != np.uint8:
        images = np.asarray(images)
        images = images[:, 0] if images.shape[1] == 1 else images
    if isinstance(images, (*SINGLE, Set, Mapping)) or not is_iterable(images):
        raise SourceError(
            f"the images are a {type(images).__name__}; needed is a sequence of paths, bytes, "
            f"Pillow images or arrays",
            "Give a list of them, also of a single one: [image].",
        )
    return [read_open_file(image) for image in images]


def is_iterable(values: object) -> bool:
    """Say whether there are values to go through; an array of no dimension only looks as if there
    were.
    """
    try:
        iter(values)  # type: ignore[call-overload]
    except TypeError:
        return False
    return True


def read_open_file(image: Any) -> Any:
    """Return the bytes of a file that is open, or of a buffer; any other image as it is."""
    if isinstance(image, (bytearray, memoryview)):
        return bytes(image)
    if not hasattr(image, "read") or isinstance(image, os.PathLike):
        return image
    try:
        content = image.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: it is closed, or its text is none
        raise ImageError(
            f"an open file cannot be read: {error}", "Open it for reading bytes."
        ) from error
    if isinstance(content, bytes) and len(content) > MOST_BYTES:
        raise ImageError(explain_size(MOST_BYTES))
    return content


def is_one_image(images: object) -> bool:
    """Say whether this is a single image, and not several."""
    if isinstance(images, SINGLE) or hasattr(images, "read"):
        return True
    kind = getattr(getattr(images, "dtype", None), "kind", "u")
    # arrays of objects and texts hold paths
    return getattr(images, "ndim", 4) < 4 and kind not in "OUT"
