"""What the system notes of a file, which changes when the file does: had without reading it."""

import os
from typing import NamedTuple

# A file that was written within this time may be written again without a new time in the system's notes, so that what
# is read of it now cannot be known by its stamp: the problem of "racy git", https://git-scm.com/docs/racy-git.
# FAT notes every second second only, other systems every few milliseconds.
RACY_NS = 3_000_000_000


class Stamp(NamedTuple):
    """`mark` is never the same for two contents of a file that is left alone for a moment, last at `changed_ns`."""

    mark: bytes
    changed_ns: int

    def is_settled(self, now_ns: int) -> bool:
        """Say whether the file had been left alone for long enough by this time, so that its mark tells its content."""
        return self.changed_ns < now_ns - RACY_NS


def stamp_file(path: str) -> Stamp | None:
    """Stamp a file by its path, size, times and number on the disk; None where the system does not tell.

    The time of the last change of the notes themselves (ctime; on Windows that of creation) is among them: it cannot be
    set back, as programs do with the time of the last writing when they copy a file or edit its EXIF data.
    """
    try:
        status = os.stat(path)  # noqa: PTH116  # pathlib would cost as much again
        place = os.fsencode(os.path.join(os.getcwd(), path))  # noqa: PTH109, PTH118
    except (OSError, ValueError):
        return None
    numbers = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    return Stamp(b"%s\0%d\0%d\0%d\0%d" % (place, *numbers), max(status.st_mtime_ns, status.st_ctime_ns))


def stamp_inner(outer: Stamp | None, name: str) -> Stamp | None:
    """Stamp a file within another, by the other's stamp."""
    return outer and Stamp(outer.mark + b"\0" + name.encode(errors="surrogateescape"), outer.changed_ns)
