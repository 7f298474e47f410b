"""Compressed tar archives: unpacked once, into a file that nobody sees and that is gone with the process.

They are compressed as a whole, so that no photo in one can be read by itself.
"""

import bz2
import gzip
import lzma
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from threading import Lock
from typing import Any, BinaryIO

from squeezetune.data.listing import quote_name
from squeezetune.disk import find_roomy_folder, measure_room
from squeezetune.errors import DataError, SourceError

# By the first bytes of a file: names are not to be trusted, since browsers unpack on the way and keep the name.
OPENERS: Mapping[bytes, Callable[[Path], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
BLOCK_BYTES = 1 << 20
# Photos hardly shrink, bitmaps and small text files to a twentieth at most; a bomb to a thousandth.
MOST_RATIO = 200
UNSUSPICIOUS_BYTES = 256 << 20
SPARED_BYTES = 256 << 20  # of the disk, for everybody else on it


@dataclass(frozen=True)
class Unpacked:
    """The bytes of a compressed file, and why there are no more of them, if it is damaged; any thread may read."""

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
    """Unpack a file where large temporary files may be; of a damaged one, what comes before the damage.

    Raises:
        SourceError: it unpacks to absurdly much.
        DataError: it unpacks to more than the disk has room for.

    """
    folder, size, damage = find_roomy_folder(), 0, ""
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
    """Yield what a compressed file unpacks to; last of all, where it is damaged, the reason in words."""
    try:
        with opener(path) as packed:
            # read1: what was unpacked just before a damaged place comes out of it too
            while block := packed.read1(BLOCK_BYTES):
                yield block
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        yield str(error) or type(error).__name__


def _explain_bomb(path: Path) -> SourceError:
    return SourceError(
        f"{quote_name(str(path))} unpacks to more than {MOST_RATIO} times its size, as no archive of photos does",
        "If you trust it, unpack it by hand and give the folder.",
    )


def _explain_full(path: Path, folder: Path, size: int) -> DataError:
    return DataError(
        f"{quote_name(str(path))} has to be unpacked as a whole to be read, and {folder} has no room for more than "
        f"{size / 1e6:,.0f} MB of it",
        "Name a folder on a larger disk in the variable TMPDIR, or pack the photos as .zip or .tar.",
    )
