"""Where images come from: one small protocol, and the two sources there are, a folder and the memory."""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from squeezetune.data.content import DIGEST_BYTES, hash_image, recognise_format
from squeezetune.data.content import RawImage as RawImage
from squeezetune.errors import ImageError, SourceError

READ_BYTES = 1 << 17  # of one read: most small photos in one, large ones without much memory
_CLUTTER = ("thumbs.db", "desktop.ini", "__macosx")  # in lower case; hidden files are clutter too
_OS_REASONS = {
    errno.ENOENT: "the file is gone",
    errno.EACCES: "no permission to read it",
    errno.EPERM: "no permission to read it",
    errno.EISDIR: "a folder, not a file",
    errno.EIO: "the disk cannot read it",
    errno.ELOOP: "a symbolic link in a circle",
    errno.ENAMETOOLONG: "its path is too long",
}


class ImageSource(Protocol):
    """Reads images by name; names are unique and stable."""

    def read(self, name: str) -> RawImage:
        """Return the image of this name.

        Raises:
            ImageError: it cannot be read (any more); the message is the reason alone, without the name.

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


@dataclass(frozen=True)
class FolderSource:
    """The files below a folder; a name is the path from the folder, with `/` on every system."""

    root: Path

    def read(self, name: str) -> bytes:
        """Return the bytes of the file; ImageError where it cannot be read or lies outside the folder."""
        return b"".join(_read_file(self._locate(name)))

    def digest(self, name: str) -> bytes:
        """Return the digest of the file's bytes; ImageError where it is no image."""
        return _hash_file(self._locate(name))

    def describe(self) -> str:
        """Return the folder's path."""
        return str(self.root)

    def _locate(self, name: str) -> str:
        if name.startswith("/") or ".." in name.split("/"):
            raise ImageError("it lies outside the folder")
        return f"{self.root}{os.sep}{name}"  # pathlib would cost as much as reading a small file


@dataclass(frozen=True)
class MemorySource:
    """Images in memory, or paths of single files; the names are their positions, "00", "01", ..., "99".

    Files are read when they are needed, each time anew.
    """

    images: "Sequence[RawImage | str | os.PathLike[str]] | NDArray[np.uint8]" = field(repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all images, in order."""
        width = len(str(max(0, len(self.images) - 1)))
        return tuple(f"{position:0{width}d}" for position in range(len(self.images)))

    def read(self, name: str) -> RawImage:
        """Return the image at this position; ImageError where its file cannot be read."""
        image = self.images[int(name)]
        return b"".join(_read_file(os.fspath(image))) if isinstance(image, (str, os.PathLike)) else image

    def digest(self, name: str) -> bytes:
        """Return the digest of the file's bytes or of the image in memory; ImageError where it is none."""
        image = self.images[int(name)]
        return _hash_file(os.fspath(image)) if isinstance(image, (str, os.PathLike)) else hash_image(image)

    def describe(self) -> str:
        """Return how many images there are."""
        return f"{len(self.images):,} images in memory"


@dataclass(frozen=True)
class Listing:
    """What lies below a folder: sorted paths of `files` and `folders`, and `refused` paths with reasons."""

    files: tuple[str, ...]
    folders: tuple[str, ...]
    refused: dict[str, str]


def list_files(root: str | Path) -> Listing:
    """List everything below a folder without reading or following anything.

    No symbolic link is followed and no linked file is used, wherever it leads: that is the one rule under
    which a tree has no circles, nothing outside the folder is read, and no image is counted twice. Hidden
    files and the clutter of desktop systems are left out without a word.

    Raises:
        SourceError: the folder is missing, is a file, or cannot be opened.

    """
    files: list[str] = []
    folders: list[str] = []
    refused: dict[str, str] = {}
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        listing = _list_folder(root, folder)
        if isinstance(listing, OSError):
            if not folder:
                raise _explain_root(Path(root), listing) from listing
            refused[folder] = explain_os_error(listing)
            continue
        files += listing.files
        folders += listing.folders
        waiting += listing.folders
        refused |= listing.refused
    return Listing(tuple(sorted(files)), tuple(sorted(folders)), refused)


def _list_folder(root: str | Path, folder: str) -> Listing | OSError:
    """List what lies immediately in a folder, by path from the root; the error where it cannot be opened."""
    files, folders, refused = [], [], {}
    try:
        with os.scandir(f"{root}{os.sep}{folder}") as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name.lower() in _CLUTTER:
                    continue
                name = f"{folder}/{entry.name}" if folder else entry.name
                is_folder = entry.is_dir(follow_symlinks=False)
                if entry.is_symlink() or (is_folder and _is_junction(entry)):
                    refused[name] = "a symbolic link, which is not followed"
                elif is_folder:
                    folders.append(name)
                elif entry.is_file(follow_symlinks=False):
                    files.append(name)
                else:
                    refused[name] = "not a regular file"
    except OSError as error:
        return error
    return Listing(tuple(files), tuple(folders), refused)


def _is_junction(entry: "os.DirEntry[str]") -> bool:
    """Say whether a folder is a junction, a link on Windows that `is_symlink` does not see."""
    mount_point = getattr(stat, "IO_REPARSE_TAG_MOUNT_POINT", -1)
    return os.name == "nt" and getattr(entry.stat(follow_symlinks=False), "st_reparse_tag", 0) == mount_point


def _explain_root(root: Path, error: OSError) -> SourceError:
    path = quote_name(str(root))
    if isinstance(error, FileNotFoundError):
        return SourceError(f"there is no folder {path}", "Check the spelling, or give the full path.")
    if isinstance(error, NotADirectoryError):
        return SourceError(
            f"{path} is a file; needed is a folder of photos",
            "Give the folder that holds one folder for each class: photos/<class>/<image>.",
        )
    return SourceError(f"{path} cannot be opened: {explain_os_error(error)}", "Check the permissions of the folder.")


def explain_os_error(error: OSError) -> str:
    """Say in words why a file cannot be read."""
    return _OS_REASONS.get(error.errno or 0) or (error.strerror or str(error) or type(error).__name__).lower()


def quote_name(name: str) -> str:
    """Quote a name so that it can be printed anywhere: newlines and undecodable bytes are escaped."""
    return f"'{name}'" if name.isprintable() else repr(name)


def _read_file(path: str) -> Iterator[bytes]:
    """Yield the file's bytes, at most 128 kB at once."""
    try:
        with FileIO(path) as file:
            while part := file.read(READ_BYTES):
                yield part
    except OSError as error:
        raise ImageError(explain_os_error(error)) from error


def _hash_file(path: str) -> bytes:
    """Hash a file in small parts; a large file that is no image is left after its first part."""
    parts = _read_file(path)
    first = next(parts, b"")
    recognise_format(first[:32])
    state = hashlib.blake2b(first, digest_size=DIGEST_BYTES)
    for part in parts:
        state.update(part)
    return state.digest()
