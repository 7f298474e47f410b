"""Archives as a source of images: zip and tar, read in place; a compressed tar becomes one
temporary file.

They are compressed as a whole, so that no photo in one can be read by itself.

No file of an archive is written anywhere by itself, so that no name in one is a path here.
"""

import bz2
import gzip
import lzma
import os
import re
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from io import FileIO
from pathlib import Path
from tempfile import TemporaryFile
from threading import Lock
from typing import Any, BinaryIO, TypeVar, cast

from squeezetune.data.sources.folder import MOST_BYTES, READ_BYTES, explain_os_error, explain_size
from squeezetune.data.sources.source import (
    Listing,
    Stamp,
    hash_parts,
    is_clutter,
    join_parts,
    quote_name,
    stamp_file,
    stamp_inner,
)
from squeezetune.errors import DataError, ImageError, SourceError
from squeezetune.system.disk import find_large_temporary_folder, measure_room

# By the first bytes of a file: names are not to be trusted, since browsers unpack on the way and
# keep the name.
OPENERS: Mapping[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
BLOCK_BYTES = 1 << 20
# Photos hardly shrink, bitmaps and small text files to a twentieth at most; a bomb to a thousandth.
MOST_RATIO = 200
UNSUSPICIOUS_BYTES = 256 << 20
SPARED_BYTES = 256 << 20  # of the disk, for everybody else on it


@dataclass(frozen=True)
class Unpacked:
    """The bytes of a compressed file, and why there are no more of them, if it is damaged; any
    thread may read.
    """

    file: BinaryIO
    size: int
    damage: str = ""
    _lock: Lock = field(default_factory=Lock, repr=False)

    def read_at(self, start: int, size: int) -> bytes:
        """Return so many bytes from there on, or what there is of them."""
        if hasattr(os, "pread"):
            return os.pread(self.file.fileno(), size, start)
        with self._lock:
            self.file.seek(start)
            return self.file.read(size)


def find_opener(path: Path) -> Callable[[Path], Any] | None:
    """Find what opens a compressed file, by its first bytes; None where it is not compressed."""
    with path.open("rb") as file:
        head = file.read(max(map(len, OPENERS)))
    return next((opener for magic, opener in OPENERS.items() if head.startswith(magic)), None)


def unpack_file(path: Path, opener: Callable[[Path], Any]) -> Unpacked:
    """Unpack a file where large temporary files may be; of a damaged one, what comes before the
    damage.

    Raises:
        SourceError: it unpacks to absurdly much.
        DataError: it unpacks to more than the disk has room for.

    """
    folder, size, damage = find_large_temporary_folder(), 0, ""
    most = max(UNSUSPICIOUS_BYTES, MOST_RATIO * path.stat().st_size)
    file = TemporaryFile(dir=folder)  # noqa: SIM115  # lives as long as what is returned, and no longer
    for block in _read_blocks(path, opener):
        if isinstance(block, str):
            damage = block
            break
        size += len(block)
        if size > most:
            raise _explain_bomb(path)
        if measure_room(folder) < SPARED_BYTES:
            raise _explain_full(path, folder, size)
        try:
            file.write(block)
        except OSError as error:
            raise _explain_full(path, folder, size) from error
    file.flush()
    return Unpacked(file, size, damage)


def _read_blocks(path: Path, opener: Callable[[Path], Any]) -> Iterator[bytes | str]:
    """Yield what a compressed file unpacks to; last of all, where it is damaged, the reason in
    words.
    """
    try:
        with opener(path) as packed:
            # read1: what was unpacked just before a damaged place comes out of it too
            while block := packed.read1(BLOCK_BYTES):
                yield block
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        yield str(error) or type(error).__name__


def _explain_bomb(path: Path) -> SourceError:
    return SourceError(
        f"{quote_name(str(path))} unpacks to more than {MOST_RATIO} times its size, as no archive "
        f"of photos does",
        "If you trust it, unpack it by hand and give the folder.",
    )


def _explain_full(path: Path, folder: Path, size: int) -> DataError:
    return DataError(
        f"{quote_name(str(path))} has to be unpacked as a whole to be read, and {folder} has no "
        f"room for more than {size / 1e6:,.0f} MB of it",
        "Name a folder on a larger disk in the variable TMPDIR, or pack the photos as .zip or "
        ".tar.",
    )


ENCRYPTED = 0x1
_DRIVE = re.compile("[A-Za-z]:")  # of Windows, at the beginning of a whole path
Value = TypeVar("Value")


@dataclass(frozen=True)
class ArchiveSource:
    """The files in an archive, by their paths in it; `read_parts` yields the bytes of one, on any
    thread.
    """

    path: Path
    read_parts: Callable[[str], Iterator[bytes]] = field(repr=False)
    find_size: Callable[[str], int] = field(repr=False)
    stamped: Stamp | None = None

    def read(self, name: str) -> bytes:
        """Return the bytes of an image; ImageError where they are damaged, or it is none."""
        return join_parts(self.read_parts(name))

    def read_bytes(self, name: str) -> bytes:
        """Return the bytes of a file that need be no image; ImageError where they are damaged."""
        return b"".join(self.read_parts(name))

    def measure(self, name: str) -> int:
        """Return how many bytes the archive says that the file has."""
        return self.find_size(name)

    def digest(self, name: str) -> bytes:
        """Return the digest of a file's bytes; ImageError where it is no image."""
        return hash_parts(self.read_parts(name))

    def stamp(self, name: str) -> Stamp | None:
        """Return the archive's stamp, from before it was opened, with the name in it."""
        return stamp_inner(self.stamped, name)

    def describe(self) -> str:
        """Return the archive's path."""
        return str(self.path)


def open_zip(path: Path, columns: Mapping[str, str]) -> tuple[ArchiveSource, Listing]:
    """Open a zip archive and list the files in it.

    Raises:
        SourceError: it cannot be opened, or is no zip archive.

    """
    stamped = stamp_file(str(path))
    try:
        archive = zipfile.ZipFile(path)
    except OSError as error:
        raise _explain_archive(path, explain_os_error(error)) from error
    except Exception as error:  # zipfile raises nearly anything over a damaged archive
        raise _explain_archive(path, str(error)) from error
    files = [info for info in archive.infolist() if not info.filename.endswith("/")]
    found, hidden = {_clean_name(info.filename): info for info in files}, Counter[str]()
    if len(found) < len(files):
        hidden = Counter(_clean_name(info.filename) for info in files) - Counter(found.keys())
    entries, listing = _list_entries(found, _refuse_zipped, hidden)
    read, measure = partial(_read_zipped, archive, entries), lambda name: entries[name].file_size
    return ArchiveSource(path, read, measure, stamped), listing


def _read_zipped(
    archive: zipfile.ZipFile, entries: Mapping[str, zipfile.ZipInfo], name: str
) -> Iterator[bytes]:
    """Yield the bytes of a file in a zip archive."""
    try:
        with archive.open(entries[name]) as file:
            while part := file.read(READ_BYTES):
                yield part
    except Exception as error:
        # zipfile and its decompressors raise nearly anything over damaged data
        if isinstance(error, OSError) and error.errno:
            raise ImageError(explain_os_error(error)) from error
        raise ImageError(f"damaged in the archive: {error}") from error


def _refuse_zipped(info: zipfile.ZipInfo) -> str:
    """Say why a file of a zip archive is not read; nothing where it is."""
    if info.flag_bits & ENCRYPTED:
        return "encrypted with a password"
    return _refuse_size(info.file_size)


@dataclass(frozen=True, slots=True)
class Extent:
    """Where the bytes of a file in a tar archive are; `refusal` says why it is not read."""

    start: int
    size: int
    refusal: str = ""


def open_tar(path: Path, columns: Mapping[str, str]) -> tuple[ArchiveSource, Listing]:
    """Open a tar archive, also a compressed one, and list its files; what is whole before a damaged
    place is used.

    Raises:
        SourceError: it cannot be opened, or is no tar archive.
        DataError: the disk has no room for it unpacked.

    """
    unpacked, stamped = None, stamp_file(str(path))
    try:
        if opener := find_opener(path):
            unpacked = unpack_file(path, opener)
            found, hidden, damage = _scan_tar(unpacked.file, unpacked.size)
        else:
            with path.open("rb") as file:
                found, hidden, damage = _scan_tar(file, path.stat().st_size)
    except OSError as error:
        raise _explain_archive(path, explain_os_error(error)) from error
    except DataError:
        raise
    except Exception as error:  # tarfile raises nearly anything over a damaged archive
        raise _explain_archive(
            path, unpacked.damage if unpacked and unpacked.damage else str(error)
        ) from error
    if unpacked and unpacked.damage:
        damage = f"damaged behind {len(found):,} files: {unpacked.damage}"
    entries, listing = _list_entries(found, lambda extent: extent.refusal, hidden)
    read_at = unpacked.read_at if unpacked else partial(_read_at, path)
    refused = {**listing.refused, **({path.name: f"the archive is {damage}"} if damage else {})}
    listing = Listing(
        listing.files, listing.folders, refused, notes=_note_unpacking(path, unpacked)
    )
    read, measure = partial(_read_extent, read_at, entries), lambda name: entries[name].size
    return ArchiveSource(path, read, measure, stamped), listing


def _scan_tar(file: BinaryIO, size: int) -> tuple[dict[str, Extent], Counter[str], str]:
    """Find all files in a plain tar archive, how many more have the same name, and what is wrong
    with the archive.
    """
    found: dict[str, Extent] = {}
    hidden: Counter[str] = Counter()
    damage = ""
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:") as archive:
        try:
            while member := archive.next():
                archive.members.clear()  # type: ignore[attr-defined]  # else a kilobyte stays for every file
                if not member.isdir():
                    name = _clean_name(member.name)
                    hidden.update([name] if name in found else [])
                    found[name] = _locate(member)
                if member.size < 0:
                    raise tarfile.ReadError("a header leads back")
            _check_end(archive)
        except OSError:
            raise
        except Exception as error:  # tarfile raises nearly anything over a damaged header
            damage = f"damaged behind {len(found):,} files: {error}"
    return (
        found,
        hidden,
        f"torn behind {len(found):,} files" if size % tarfile.BLOCKSIZE else damage,
    )


def _check_end(archive: tarfile.TarFile) -> None:
    """Make sure that an archive ends with zeros where its reader has stopped, and not with a header
    that is none.
    """
    file = cast(BinaryIO, archive.fileobj)
    file.seek(archive.offset)
    if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError("a header is damaged")


def _note_unpacking(path: Path, unpacked: Unpacked | None) -> tuple[str, ...]:
    if not unpacked:
        return ()
    return (f"{path.name} is compressed as a whole and was unpacked into a temporary file of "
            f"{unpacked.size / 1e6:,.0f} MB; a .zip or .tar is read in place",)  # fmt: skip


def _read_at(path: Path, start: int, size: int) -> bytes:
    """Read so many bytes of a file from there on; it is opened each time, so that any thread may do
    so.
    """
    with FileIO(path) as file:
        file.seek(start)
        return file.read(size)


def _read_extent(
    read_at: Callable[[int, int], bytes], entries: Mapping[str, Extent], name: str
) -> Iterator[bytes]:
    """Yield the bytes of a file in a tar archive."""
    extent = entries[name]
    done = 0
    try:
        while done < extent.size:
            part = read_at(extent.start + done, min(extent.size - done, READ_BYTES))
            if not part:
                raise ImageError("the archive ends before it does")
            done += len(part)
            yield part
    except ImageError:
        raise
    except OSError as error:
        raise ImageError(explain_os_error(error)) from error
    except (ValueError, OverflowError) as error:
        raise ImageError(f"the archive says that it lies nowhere: {error}") from error


def _locate(member: tarfile.TarInfo) -> Extent:
    """Note where the bytes of a file are, or why it is not read."""
    refusal = (
        _refuse_size(member.size)
        if member.isreg() and not member.issparse()
        else "not a regular file"
    )
    return Extent(member.offset_data, member.size, refusal)


def _refuse_size(size: int) -> str:
    if size < 0:
        return "its size is damaged"
    return explain_size(MOST_BYTES) if size > MOST_BYTES else ""


def _clean_name(name: str) -> str:
    """Write a path in an archive with `/`, as Windows' own archives do not, and without `./`."""
    return "/".join(
        part
        for part in (name if "/" in name else name.replace("\\", "/")).split("/")
        if part != "."
    )


def _list_entries(
    found: Mapping[str, Value], refuse: Callable[[Value], str], hidden: Mapping[str, int]
) -> tuple[dict[str, Value], Listing]:
    """List the files of an archive as they would be listed below a folder; the one folder around
    all goes away.

    `hidden` is how many more files have the same name; the last one counts, as where all are
    unpacked.
    """
    # no more than one dictionary of all entries besides what was found: an archive may hold a
    # million
    visible = [name for name in found if not _is_hidden(name)]
    reasons = {
        name: reason for name in visible if (reason := _refuse_name(name) or refuse(found[name]))
    }
    used = sorted(name for name in visible if name not in reasons)
    start = _measure_wrapping(used)
    entries = {name[start:]: found[name] for name in used}
    around = used[0][:start] if used else ""
    refused = {name.removeprefix(around) or name: reason for name, reason in reasons.items()}
    for name, count in hidden.items():
        if name in found and not _is_hidden(name):
            again = f"{name.removeprefix(around)} ({count} more of this name)"
            refused[again] = (
                "its name stands in the archive more than once; the last file of it is used"
            )
    return entries, Listing(tuple(entries), _list_folders(entries), refused)


def _is_hidden(name: str) -> bool:
    return any(is_clutter(part) for part in name.split("/") if part != "..")


def _refuse_name(name: str) -> str:
    folders = name.split("/")
    is_inside = (
        name
        and not name.startswith("/")
        and ".." not in folders
        and not _DRIVE.fullmatch(folders[0])
    )
    return "" if is_inside else "its path leads out of the archive"


def _measure_wrapping(names: Sequence[str]) -> int:
    """Measure how many letters of every path are folders around all others, as in
    `photos/cat/1.jpg`.
    """
    start = 0
    while names and any(name.count("/", start) > 1 for name in names):
        tops = {name[start:].partition("/")[0] for name in names}
        if len(tops) > 1 or any("/" not in name[start:] for name in names):
            break
        start += len(tops.pop()) + 1
    return start


def _list_folders(names: Iterable[str]) -> tuple[str, ...]:
    """List all folders that files lie in."""
    folders = {name.rpartition("/")[0] for name in names} - {""}
    for folder in list(folders):
        while folder := folder.rpartition("/")[0]:
            folders.add(folder)
    return tuple(sorted(folders))


def _explain_archive(path: Path, reason: str) -> SourceError:
    return SourceError(
        f"{quote_name(str(path))} cannot be read as an archive: {reason}",
        "Fetch or pack it again, or unpack it.",
    )
