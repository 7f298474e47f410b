"""A disk whose power may fail: what a program asked of it is recorded, and what it may hold
afterwards is listed.

The rules are those of POSIX, harder than any real file system: the content of a file is sure only
after its fsync; that a name was made, moved or removed is sure only after the fsync of its folder,
and until then each such change is kept or lost on its own."""

import os
import stat
from dataclasses import dataclass
from itertools import product
from pathlib import Path

# what becomes of content that was not synced
TEARS = {
    "written": lambda new, old: new,
    "lost": lambda new, old: old,
    "torn": lambda new, old: new[: len(new) // 2],
    "zeroed": lambda new, old: bytes(len(new)),
    "half zeroed": lambda new, old: new[: len(new) // 2] + bytes(len(new) - len(new) // 2),
}


@dataclass(frozen=True)
class Change:
    """One request: `content` fills the file `inode`; `link` and `unlink` are changes of the names
    in a folder.
    """

    kind: str
    inode: int = 0
    path: Path = Path()
    content: bytes = b""
    removed: Path | None = None  # a rename removes one name as it makes the other

    @property
    def folder(self):
        return self.path.parent


class RecordedDisk:
    """Records all that is done below a folder while it is installed."""

    def __init__(self, root, monkeypatch):
        self.root = root
        self.changes = []
        self._contents = {}
        self._open = {}
        for name in ("replace", "rename"):
            monkeypatch.setattr(Path, name, self._wrap_rename(getattr(Path, name)))
        monkeypatch.setattr(Path, "unlink", self._wrap_unlink(Path.unlink))
        monkeypatch.setattr(Path, "rmdir", self._wrap_unlink(Path.rmdir))
        monkeypatch.setattr(Path, "mkdir", self._wrap_mkdir(Path.mkdir))
        monkeypatch.setattr(os, "fsync", self._wrap_fsync(os.fsync))

    def close(self):
        """Let go of all that was recorded."""
        for handle in self._open.values():
            os.close(handle)
        self._open = {}

    def _identify(self, path):
        """Return a file's or folder's inode, and hold it open, so that nothing made later is given
        the same one.
        """
        inode = path.stat().st_ino
        if inode not in self._open:
            self._open[inode] = os.open(path, os.O_RDONLY)
        return inode

    def _wrap_rename(self, rename):
        def recorded(path, target):
            self._note_content(path)
            inode = self._identify(path)
            result = rename(path, target)
            self.changes.append(Change("link", inode, Path(target), removed=path))
            return result

        return recorded

    def _wrap_unlink(self, unlink):
        def recorded(path, *arguments, **options):
            existed = path.exists()
            unlink(path, *arguments, **options)
            if existed:
                self.changes.append(Change("unlink", path=path))

        return recorded

    def _wrap_mkdir(self, mkdir):
        def recorded(path, *arguments, **options):
            existed = path.exists()
            mkdir(path, *arguments, **options)
            if not existed:  # the folders above are made by calls of their own
                self.changes.append(Change("link", self._identify(path), path))

        return recorded

    def _wrap_fsync(self, fsync):
        def recorded(handle):
            status = os.fstat(handle)
            path = self._find(status.st_ino)
            self._identify(path)
            if not stat.S_ISDIR(status.st_mode):
                self._note_content(path)
            fsync(handle)
            self.changes.append(Change("fsync", status.st_ino, path))

        return recorded

    def _note_content(self, path):
        """Note that a file was written, in one piece, shortly before."""
        inode, content = self._identify(path), path.read_bytes()
        if path.name.endswith(".tmp") and not self._is_linked(inode, path):
            self.changes.append(Change("link", inode, path))
        if self._contents.get(inode) != content:
            self._contents[inode] = content
            self.changes.append(Change("write", inode, path, content))

    def _is_linked(self, inode, path):
        last = [change for change in self.changes if path in (change.path, change.removed)][-1:]
        return bool(last) and last[0].kind in ("link", "write", "fsync") and last[0].inode == inode

    def _find(self, inode):
        return next(
            path for path in (self.root, *self.root.rglob("*")) if path.stat().st_ino == inode
        )


def read_files(root):
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def list_outcomes(root, changes):
    """List what may stand below `root` after a power cut, each as a dict of files by path, none
    twice.
    """
    sure, pending, synced, newest = [], [], {}, {}
    for change in changes:
        if change.kind == "write":
            newest[change.inode] = change.content
        elif change.kind == "fsync":
            synced |= {change.inode: newest[change.inode]} if change.inode in newest else {}
            sure += [other for other in pending if other.folder == change.path]
            pending = [other for other in pending if other.folder != change.path]
        else:
            pending.append(change)
    seen = set()
    for tear in TEARS.values():
        contents = {
            inode: _tear(tear, new, synced.get(inode, b"")) for inode, new in newest.items()
        }
        for kept in product((True, False), repeat=len(pending)):
            names = _apply(
                root,
                sure + [change for change, is_kept in zip(pending, kept, strict=True) if is_kept],
            )
            files = {path: contents[inode] for path, inode in names.items() if inode in contents}
            key = frozenset(files.items())
            if key not in seen:
                seen.add(key)
                yield files


def _tear(tear, new, old):
    return new if new == old else tear(new, old)


def _apply(root, changes):
    """Return the inode of each name, files and folders; what stands in a folder that is lost is
    lost as well.
    """
    names = {root: 0}
    for change in changes:
        names.pop(change.removed, None)
        if change.kind == "link":
            names[change.path] = change.inode
        else:
            names.pop(change.path, None)
    return {
        path: inode
        for path, inode in names.items()
        if path == root or set(path.parents) - set(root.parents) <= set(names)
    }
