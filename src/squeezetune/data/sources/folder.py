"""Files and folders as a source of images: listed, or walked in little memory, without following
links.
"""

import errno
import heapq
import json
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from io import FileIO
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, NamedTuple

from squeezetune.data.sources.source import (
    WEB_ADDRESS,
    Listing,
    Stamp,
    hash_parts,
    is_clutter,
    is_web_address,
    join_parts,
    quote_name,
    stamp_file,
)
from squeezetune.errors import ImageError, SettingsError, SourceError
from squeezetune.system.disk import find_large_temporary_folder

# No photo is larger.
MOST_BYTES = 1 << 29
READ_BYTES = 1 << 17  # of one read: most small photos in one, large ones without much memory
NO_FILE = "there is no such file"  # that anybody has seen; one that was listed before is gone
_OS_REASONS = {
    errno.ENOENT: "the file is gone",
    errno.EACCES: "no permission to read it",
    errno.EPERM: "no permission to read it",
    errno.EISDIR: "a folder, not a file",
    errno.EIO: "the disk cannot read it",
    errno.ELOOP: "a symbolic link in a circle",
    errno.ENAMETOOLONG: "its path is too long",
}
# What is neither file nor folder, and why none of it is read: it may never end, or waits for ever.
_KINDS = (
    (stat.S_ISDIR, _OS_REASONS[errno.EISDIR]),
    (stat.S_ISFIFO, "a pipe, not a file; a photo from a program is given as -, on standard input"),
    (stat.S_ISSOCK, "a socket, not a file"),
    (stat.S_ISCHR, "a device, not a file"),
    (stat.S_ISBLK, "a device, not a file"),
)


@dataclass(frozen=True)
class FolderSource:
    """The files below a folder; a name is the path from the folder, with `/` on every system.

    With a `table` they are those that it names, wherever they are: a name may lead out of the
    folder.
    """

    root: Path
    table: Path | None = None

    def read(self, name: str) -> bytes:
        """Return the bytes of the file; ImageError where it cannot be read or lies outside the
        folder.
        """
        return join_parts(self._read_parts(name))

    def read_bytes(self, name: str) -> bytes:
        """Return the bytes of a file that need be no image; ImageError where it cannot be read."""
        return b"".join(self._read_parts(name))

    def measure(self, name: str) -> int:
        """Return how many bytes the file has; 0 where the system does not tell."""
        return measure_file(self._locate(name))

    def digest(self, name: str) -> bytes:
        """Return the digest of the file's bytes; ImageError where it is no image."""
        return hash_file(self._locate(name), is_listed=self.table is None)

    def stamp(self, name: str) -> Stamp | None:
        """Return the file's stamp."""
        return stamp_file(self._locate(name))

    def describe(self) -> str:
        """Return the folder's path, or the table's."""
        return str(self.table or self.root)

    def _read_parts(self, name: str) -> Iterator[bytes]:
        return read_file(self._locate(name), is_listed=self.table is None)

    def _locate(self, name: str) -> str:
        if self.table is None and (name.startswith("/") or ".." in name.split("/")):
            raise ImageError("it lies outside the folder")
        return os.path.join(self.root, name)  # noqa: PTH118  # pathlib would cost as much as reading a small file


@dataclass(frozen=True)
class FileSource:
    """Files anywhere; a name is a path."""

    def read(self, name: str) -> bytes:
        """Return the bytes of the file; ImageError where it cannot be read."""
        return join_parts(read_file(name))

    def measure(self, name: str) -> int:
        """Return how many bytes the file has; 0 where the system does not tell."""
        return measure_file(name)

    def digest(self, name: str) -> bytes:
        """Return the digest of the file's bytes; ImageError where it is no image."""
        return hash_file(name)

    def describe(self) -> str:
        """Say that they are files."""
        return "files"


class Found(NamedTuple):
    """What lies in a folder: its path from the root, whether it is a folder, and why it must not be
    read, if so.
    """

    name: str
    is_folder: bool = False
    refusal: str = ""


def check_outside(target: Path, root: Path, what: str, advice: str) -> None:
    """Make sure that what is to be written does not come to lie among the photos.

    Raises:
        SettingsError: it would; `what` names it, and `advice` says what to do.
    """
    if target.resolve().is_relative_to(root.resolve()):
        raise SettingsError(
            f"{what} {target} lies inside the photos' folder {root}",
            f"SqueezeTune writes nothing among the photos; {advice}.",
        )


def list_files(root: str | Path) -> Listing:
    """List everything below a folder without reading or following anything.

    No symbolic link is followed and no linked file is used, wherever it leads: that is the one rule
    under which a tree has no circles, nothing outside the folder is read, and no image is counted
    twice. Hidden files and the clutter of desktop systems are left out without a word.

    Raises:
        SourceError: the folder is missing, is a file, or cannot be opened.

    """
    files: list[str] = []
    folders: list[str] = []
    refused: dict[str, str] = {}
    for found in _walk(root, None):
        if found.refusal:
            refused[found.name] = found.refusal
        else:
            (folders if found.is_folder else files).append(found.name)
    return Listing(tuple(files), tuple(sorted(folders)), refused)


def scan_folder(root: str | Path, folder: str) -> Iterator[Found]:
    """Yield what lies immediately in a folder, in no certain order, by path from the root; clutter
    is left out.

    Raises:
        OSError: it cannot be opened.

    """
    with os.scandir(f"{root}{os.sep}{folder}") as entries:
        for entry in entries:
            if is_clutter(entry.name):
                continue
            name = f"{folder}/{entry.name}" if folder else entry.name
            is_folder = entry.is_dir(follow_symlinks=False)
            if entry.is_symlink() or (is_folder and _is_junction(entry)):
                yield Found(name, refusal="a symbolic link, which is not followed")
            elif is_folder or entry.is_file(follow_symlinks=False):
                yield Found(name, is_folder)
            else:
                yield Found(name, refusal="not a regular file")


def _is_junction(entry: "os.DirEntry[str]") -> bool:
    """Say whether a folder is a junction, a link on Windows that `is_symlink` does not see."""
    mount_point = getattr(stat, "IO_REPARSE_TAG_MOUNT_POINT", -1)
    return (
        os.name == "nt"
        and getattr(entry.stat(follow_symlinks=False), "st_reparse_tag", 0) == mount_point
    )


def explain_root(root: Path, error: OSError) -> SourceError:
    """Say why the folder of the photos itself cannot be listed."""
    path = quote_name(str(root))
    if is_web_address(str(root)):
        return SourceError(
            f"{path} is {WEB_ADDRESS}", "Download it first, and give the folder or archive."
        )
    if isinstance(error, FileNotFoundError):
        return SourceError(
            f"there is no folder or file {path}", "Check the spelling, or give the full path."
        )
    if isinstance(error, NotADirectoryError):
        return SourceError(
            f"{path} is a file; needed is a folder of photos",
            "Give the folder that holds one folder for each class: photos/<class>/<image>.",
        )
    return SourceError(
        f"{path} cannot be opened: {explain_os_error(error)}",
        "Check the permissions of the folder.",
    )


def explain_os_error(error: OSError, *, is_listed: bool = True) -> str:
    """Say in words why a file cannot be read; one that `is_listed` was there a moment ago."""
    if error.errno == errno.ENOENT and not is_listed:
        return NO_FILE
    return (
        _OS_REASONS.get(error.errno or 0)
        or (error.strerror or str(error) or type(error).__name__).lower()
    )


def read_file(path: str, *, is_listed: bool = False) -> Iterator[bytes]:
    """Yield the bytes of a file, at most 128 kB at once.

    Raises:
        ImageError: it cannot be read, is no regular file, or is larger than any photo.

    """
    try:
        # asked before it is opened: some devices do something then, and a pipe waits
        _check_kind(os.stat(path))  # noqa: PTH116  # pathlib would cost as much again
        with FileIO(path) as file:
            _check_kind(os.fstat(file.fileno()))
            left = MOST_BYTES
            while part := file.read(READ_BYTES):
                left -= len(part)
                if left < 0:  # it grows, or the system did not know its size
                    raise ImageError(explain_size(MOST_BYTES))
                yield part
    except ImageError:  # which is a ValueError, too
        raise
    except OSError as error:
        if is_web_address(path):
            raise ImageError(f"{WEB_ADDRESS}; download it first") from error
        raise ImageError(explain_os_error(error, is_listed=is_listed)) from error
    except ValueError as error:  # a table may hold anything as a path, also zero bytes
        raise ImageError(f"its path is none: {error}") from error


def explain_size(most_bytes: int) -> str:
    """Say that a file is too large."""
    return f"larger than {most_bytes >> 20:,} MB"


def _check_kind(status: os.stat_result) -> None:
    """Refuse what is no regular file, which may never end, and one that is too large."""
    if not stat.S_ISREG(status.st_mode):
        kind = next(
            (word for is_kind, word in _KINDS if is_kind(status.st_mode)), "not a regular file"
        )
        raise ImageError(kind)
    if status.st_size > MOST_BYTES:
        raise ImageError(explain_size(MOST_BYTES))


def measure_file(path: str) -> int:
    """Return how many bytes a file has; 0 where the system does not tell."""
    try:
        return os.stat(path).st_size  # noqa: PTH116
    except (OSError, ValueError):
        return 0


def hash_file(path: str, *, is_listed: bool = False) -> bytes:
    """Hash a file in small parts; what is no image is left after its first bytes."""
    return hash_parts(read_file(path, is_listed=is_listed))


# The entries of one folder are sorted in parts of so many, 20 MB each; all but the last wait in
# temporary files.
SORTED_AT_ONCE = 100_000


def walk_files(root: str | Path) -> Iterator[tuple[str, str]]:
    """Yield the path of everything below a folder that is no folder, sorted by path, and why it
    must not be read.

    The reason is "" for a file. Rules and order are those of `list_files`, with what that refuses
    in its place. Memory does not grow with the number of files.

    Raises:
        SourceError: the folder is missing, is a file, or cannot be opened.

    """
    for found in _walk(root, SORTED_AT_ONCE):
        if found.refusal or not found.is_folder:
            yield found.name, found.refusal


def _walk(root: str | Path, at_once: int | None) -> Iterator[Found]:
    """Yield everything below a folder, files sorted by path; a folder comes before what is in it,
    and once more if it cannot be opened.
    """
    waiting = [("", _sort_entries(scan_folder(root, ""), at_once))]
    while waiting:
        folder, entries = waiting[-1]
        try:
            found = next(entries, None)
        except OSError as error:
            if not folder:
                raise explain_root(Path(root), error) from error
            waiting.pop()
            yield Found(folder, is_folder=True, refusal=explain_os_error(error))
            continue
        if found is None:
            waiting.pop()
            continue
        yield found
        if found.is_folder:
            waiting.append((found.name, _sort_entries(scan_folder(root, found.name), at_once)))


def _sort_entries(entries: Iterator[Found], at_once: int | None) -> Iterator[Found]:
    """Yield the entries of one folder so that the paths of all files below come sorted; with
    `at_once` no more than so many are in memory.
    """
    with ExitStack() as stack:
        parts: list[Iterable[Found]] = []
        while len(block := sorted(islice(entries, at_once), key=_order)) == at_once:
            file = stack.enter_context(TemporaryFile("w+", dir=find_large_temporary_folder()))
            file.writelines(f"{json.dumps(found)}\n" for found in block)
            file.seek(0)
            parts.append(_read_back(file))
        yield from heapq.merge(block, *parts, key=_order)


def _order(found: Found) -> str:
    """Order a folder as the paths below it: "a-b" comes before "a/c"."""
    return f"{found.name}/" if found.is_folder else found.name


def _read_back(file: IO[str]) -> Iterator[Found]:
    return (Found(*json.loads(line)) for line in file)
