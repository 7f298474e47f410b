"""One damaged file after the other: what it is, and what came of reading it."""

import os
import random
import shutil
import sys
import tempfile
import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from readers import list_targets

from squeezetune.errors import SqueezeTuneError

REPAIRED_SHARE = 0.5
# Kinds whose other files need not be written again for each case.
KEPT = ("manifest", "report", "state", "checkpoint", "csv", "tsv")
# Events of `sys.addaudithook` that change files, or start or call something, with the place of
# their paths.
CHANGES = {
    "os.rename": (0, 1),
    "os.remove": (0,),
    "os.mkdir": (0,),
    "os.rmdir": (0,),
    "os.link": (0, 1),
    "os.symlink": (0, 1),
    "os.truncate": (0,),
    "os.chmod": (0,),
    "os.utime": (0,),
    "shutil.rmtree": (0,),
    "shutil.move": (0, 1),
}
NEVER = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "socket.connect",
    "pickle.find_class",
)
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass
class Guard:
    """Notes what is written outside of a folder while it is on; it cannot be taken away, only
    turned off.
    """

    folder: str
    is_on: bool = False
    seen: list[str] = field(default_factory=list)

    def __call__(self, event, arguments):
        if not self.is_on:
            return
        if event == "open":
            path, mode, flags = arguments
            if isinstance(path, str) and Path(path).is_dir():
                return  # a temporary file without a name, which leaves nothing
            if (isinstance(mode, str) and set(mode) & set("wax+")) or (
                isinstance(flags, int) and flags & WRITES
            ):
                self.check(event, path)
        elif event in CHANGES:
            for at in CHANGES[event]:
                self.check(event, arguments[at])
        elif event in NEVER:
            self.seen.append(f"{event} {arguments!r}"[:200])

    def check(self, event, path):
        if isinstance(path, (str, bytes, os.PathLike)):
            place = os.path.realpath(os.fsdecode(path))
            if not place.startswith(self.folder + os.sep):
                self.seen.append(f"{event} of {place}")


class Bench:
    """A folder in which damaged files are read, one after the other."""

    def __init__(self, seed, data=None):
        self.seed = seed
        self.root = Path(tempfile.mkdtemp(prefix="fuzz-")).resolve()
        (self.root / "target").mkdir()
        self.targets = list_targets(self.root / "scratch", data)
        self.guard = Guard(str(self.root / "target"))
        sys.addaudithook(self.guard)
        warnings.simplefilter("ignore")

    def close(self):
        self.guard.is_on = False
        shutil.rmtree(self.root, ignore_errors=True)

    def make(self, name, number):
        """Make the damaged file of a case, always the same."""
        target = self.targets[name]
        rng = random.Random(f"{self.seed}/{name}/{number}")
        data = target.mutate(rng.choice(target.seeds), rng, target.seeds)
        return target.repair(data) if target.repair and rng.random() < REPAIRED_SHARE else data

    def run(self, name, data):
        """Read a damaged file; return "read", "refused", or what went wrong."""
        target, before = self.root / "target" / name, sorted(self.root.iterdir())
        target.mkdir(exist_ok=True)
        self.guard.seen, self.guard.is_on = [], True
        try:
            self.targets[name].read(data, target)
            outcome = "read"
        except SqueezeTuneError as error:
            outcome = "refused" if error.message else "an error without a word"
        except Exception:
            outcome = traceback.format_exc(limit=-6)
        finally:
            self.guard.is_on = False
        for entry in target.iterdir() if name not in KEPT else ():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        if self.guard.seen:
            return f"outside: {self.guard.seen[:3]}"
        return (
            outcome
            if sorted(self.root.iterdir()) == before
            else "a file appeared beside the target"
        )
