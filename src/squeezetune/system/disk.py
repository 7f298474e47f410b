"""The disk: the folder for what is kept between runs, free room, and files that are written whole
or not at all.
"""

import hashlib
import os
import shutil
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile, gettempdir

from squeezetune.errors import DataError
from squeezetune.events import Listener, Notice

SPARE_ROOM = 1.1
# What the user must be allowed in it.
USABLE = os.R_OK | os.W_OK | os.X_OK


def find_cache_folder() -> Path:
    """Return the folder for caches: $SQUEEZETUNE_CACHE, or the usual place of this system."""
    if own := os.environ.get("SQUEEZETUNE_CACHE"):
        return Path(own)
    if sys.platform == "win32":
        return (
            Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "squeezetune"
        )
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "squeezetune"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "squeezetune"


def open_cache(listen: Listener) -> Path | None:
    """Return the folder for caches if it can be used; else say why it cannot, and that the work
    goes on without.
    """
    folder: Path | str = "the home folder"
    try:
        folder = find_cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
        # such as those that were made by another user, or by root
        closed = [
            str(path)
            for path in (*folder.glob("*/"), *folder.glob("*/*/"))
            if not os.access(path, USABLE)
        ]
        if not closed:
            return folder
        reason = f"{closed[0]} may not be written to"
    except OSError as error:
        reason = error.strerror or str(error)
    except RuntimeError as error:  # nobody's home is known
        reason = str(error)
    listen(
        Notice(
            f"the cache in {folder} cannot be used, so nothing is kept for the next time: {reason}"
        )
    )
    return None


@contextmanager
def cache_or_temporary(cache: Path | None) -> Iterator[Path]:
    """Lend the cache's folder, or one that is deleted at the end where nothing may be kept."""
    if cache:
        yield cache
        return
    with TemporaryDirectory(
        prefix="squeezetune-", dir=find_large_temporary_folder(), ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


def find_large_temporary_folder() -> Path:
    """Find where large temporary files may go: many systems keep /tmp in memory, where they must
    not.
    """
    roomy = Path("/var/tmp")
    is_better = sys.platform == "linux" and "TMPDIR" not in os.environ and os.access(roomy, os.W_OK)
    return roomy if is_better else Path(gettempdir())


def check_room(folder: Path, needed: int) -> None:
    """Make sure that so many bytes, and a tenth more, can be written below a folder that need not
    exist yet.

    Raises:
        DataError: the disk has less room.
    """
    free = measure_room(folder)
    if free < needed:
        raise explain_full_disk(
            folder,
            f"needed are {SPARE_ROOM * needed / 1e9:,.1f} GB, and {SPARE_ROOM * free / 1e9:,.1f} "
            f"GB are free",
        )


def measure_room(folder: Path) -> int:
    """Measure how many bytes may be written below a folder that need not exist yet, with a tenth to
    spare.
    """
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    _, _, free = shutil.disk_usage(existing)
    return round(free / SPARE_ROOM)


def explain_full_disk(folder: Path, reason: str) -> DataError:
    """Say that rows cannot be kept, why, and what helps."""
    return DataError(
        f"what training reads again and again cannot be kept in {folder}: {reason}",
        "Free some space, or name a folder on another disk in the variable SQUEEZETUNE_CACHE.",
    )


def write_file(path: Path, *parts: bytes | memoryview, is_durable: bool = True) -> None:
    """Write a file whole or not at all, its parts one behind the other: temporary sibling, fsync,
    rename.

    Without `is_durable` there is no fsync: many small files are faster by far, and a power failure
    may empty them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = name_temporary(path)
    try:
        with temporary.open("wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            if is_durable:
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def name_temporary(path: Path) -> Path:
    """Name a hidden sibling of a file, under which it is written until it is whole."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def remove_partial_writes(path: Path, older_than_s: float = 0.0) -> None:
    """Remove what was left beside a path by those who were killed while they wrote it.

    Where others may be writing it now, only what nobody has written to for so long.
    """
    for left in path.parent.glob(f".{escape(path.name)}.*.tmp"):
        if not older_than_s or time.time() - left.stat().st_mtime > older_than_s:
            left.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make renames and removals in a folder durable; some systems cannot open a folder, and need no
    such thing.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_sealed(path: Path) -> bytes | None:
    """Read what was kept under this name; None where there is nothing, or nothing whole.

    The first line of such a file is a checksum of the names of file and folder and of the content
    that follows. What is damaged, or was written for another name, is as if it were not there.
    """
    try:
        seal, _, content = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    return content if seal == _seal(path, content) else None


def write_sealed(path: Path, content: bytes) -> None:
    """Keep content under this name.

    Raises:
        OSError: it cannot be written.
    """
    write_file(path, _seal(path, content), b"\n", content)


def _seal(path: Path, content: bytes) -> bytes:
    name = "/".join(path.absolute().parts[-2:]).encode(errors="surrogatepass")
    return hashlib.blake2b(b"\0".join((name, content)), digest_size=16).hexdigest().encode()
