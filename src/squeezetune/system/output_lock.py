"""One run at a time writes to an output: a lock beside it, which says who holds it.

::

    flowers-model
    .flowers-model.lock     JSON: process, computer, time; removed at the end, free after a kill

Own code, since what libraries offer leaves its file behind or does not say who holds it.
"""

import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from squeezetune.errors import OutputError

# A name may have 255 bytes, and the hidden names beside an output are made of its own.
MOST_NAME_BYTES = 200


def follow_link(path: Path) -> Path:
    """Return where a path leads if it is a symbolic link: that is what is replaced, and the link
    stays.
    """
    return Path(os.path.realpath(path)) if path.is_symlink() else path


@contextmanager
def hold_output(target: Path) -> Iterator[None]:
    """Keep other runs from writing to the file or folder `target`; made are the folders above it.

    Raises:
        OutputError: another run is writing to it, or nothing can be written there.

    """
    check_name(target)
    path = name_lock(target)
    handle = _open_lock(path, target)
    try:
        with suppress(OSError):  # on a full disk, the lock holds without a word
            os.write(handle, json.dumps(_describe_holder()).encode())
        yield
    finally:
        _release(handle, path)


def name_lock(target: Path) -> Path:
    """Name the lock of an output, which may be given as `.`."""
    whole = target.absolute()
    return whole.with_name(f".{whole.name}.lock")


def check_name(target: Path) -> None:
    """Make sure that hidden names can be made of the output's.

    Raises:
        OutputError: it is too long.

    """
    size = len(os.fsencode(target.absolute().name))
    if size > MOST_NAME_BYTES:
        raise OutputError(
            f"the output's name has {size} bytes; it may have {MOST_NAME_BYTES}: "
            f"{target.name[:40]}...",
            "Give a shorter name with --output.",
        )


def _open_lock(path: Path, target: Path) -> int:
    """Open and lock the file; one that its holder has removed meanwhile is no lock."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise OutputError(
                f"{target} cannot be written: {error.strerror or error}",
                "Check the permissions and the disk, or give another name with --output.",
            ) from error
        if not _try_lock(handle):
            words = _name_holder(path)
            os.close(handle)
            raise OutputError(
                f"another run is writing to {target}: {words}",
                "Wait until it has finished, or give another name with --output.",
            )
        if _is_same_file(handle, path):
            os.ftruncate(handle, 0)
            return handle
        os.close(handle)


def _describe_holder() -> dict[str, str | int]:
    now = datetime.now().astimezone().isoformat(" ", "seconds")
    return {"process": os.getpid(), "computer": platform.node(), "since": now}


def _name_holder(path: Path) -> str:
    """Say in words who holds a lock; it may just be about to say so itself."""
    try:
        holder = json.loads(path.read_bytes())
        return (
            f"process {holder['process']} on {holder['computer']}, since {holder['since']} ({path})"
        )
    except (OSError, ValueError, KeyError, TypeError):
        return f"{path} is locked"


def _is_same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


if sys.platform == "win32":
    import msvcrt

    # what is locked cannot be read: a byte far behind the words
    LOCKED_BYTE = 1 << 20

    def _try_lock(handle: int) -> bool:
        os.lseek(handle, LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        os.lseek(handle, 0, os.SEEK_SET)
        return True

    def _release(handle: int, path: Path) -> None:
        os.close(handle)
        with suppress(OSError):  # another run has it open already
            path.unlink()

else:
    import fcntl

    def _try_lock(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a disk on the network that knows no locks: the run goes on without
            return True
        return True

    def _release(handle: int, path: Path) -> None:
        # removed while it is held, so that nobody locks a file without a name
        with suppress(OSError):
            path.unlink()
        os.close(handle)
