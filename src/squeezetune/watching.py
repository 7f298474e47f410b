"""A model that is kept current with its photos: trained again whenever they have changed and are
left alone.
"""

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from squeezetune.data.index import ImageIndex
from squeezetune.data.inputs import parse_input
from squeezetune.data.sources.folder import FolderSource, list_files
from squeezetune.data.sources.registry import READERS, find_ending
from squeezetune.data.sources.source import StampedSource, stamp_file
from squeezetune.data.sources.table import open_manifest, parse_columns
from squeezetune.errors import DataError, SettingsError, SqueezeTuneError
from squeezetune.events import Event, Listener, Notice, ignore_event
from squeezetune.model.classifier import Classifier
from squeezetune.quantities import judge_number
from squeezetune.system.disk import open_cache
from squeezetune.system.executor import ThreadExecutor
from squeezetune.system.interrupts import STOPPING
from squeezetune.training import train

LONGEST_S = 31 * 24 * 3600  # between two looks
UNCHANGED = (
    "files were renamed or written again, but the photos and their classes are the same; "
    "the model stays"
)


@dataclass(frozen=True)
class PollInterval:
    """How often the photos are looked at, and how long they must be left alone before they are
    read.

    Someone may be copying a thousand photos; and a file that was written a moment ago is not
    remembered as read.

    Raises:
        SettingsError: a number is out of its limits.

    """

    every_s: float = 10
    quiet_s: float = 4
    pause: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        problem = judge_number("watch", self.every_s, 0, LONGEST_S, is_open=True) or judge_number(
            "quiet_s", self.quiet_s, 0, LONGEST_S
        )
        if problem:
            raise SettingsError(problem, "It is in seconds.")


@dataclass(frozen=True)
class SourceChange:
    """How many photos are new, removed, or the same in another class."""

    new: int
    removed: int
    moved: int

    def __bool__(self) -> bool:
        return bool(self.new or self.removed or self.moved)

    def __str__(self) -> str:
        parts = [f"{count:,} {name}" for name, count in vars(self).items() if count]
        return ", ".join(parts) or "nothing new"


@dataclass(frozen=True)
class Update:
    """What came of one training: a classifier and its accuracy on its test photos, or the `error`
    that prevented it.

    `change` is what had happened to the photos since the last training, `accuracy_before` what that
    one reached; both are None the first time.
    """

    change: SourceChange | None = None
    classifier: Classifier | None = None
    accuracy: float | None = None
    accuracy_before: float | None = None
    error: SqueezeTuneError | None = None


def watch(
    photos: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    pace: PollInterval = PollInterval(),
    listen: Listener = ignore_event,
    resume: bool = False,
    **options: Any,
) -> Iterator[Update]:
    """Train a classifier, and train it again whenever its photos have changed; yield an update
    after each training.

    Further arguments are those of `train`; `photos` is a path. A new model takes the old one's
    place at once. When the photos cannot be used for a while, the old model stays, and the update
    holds the error. Ends when Ctrl-C has stopped a training early; at any other moment Ctrl-C
    raises KeyboardInterrupt, as everywhere.

    Raises:
        SqueezeTuneError: the first training failed, with any of the errors of `train`.

    >>> import squeezetune                                                    # doctest: +SKIP
    >>> for update in squeezetune.watch("flowers", effort="quick"):           # doctest: +SKIP
    ...     print(update.change, update.accuracy, update.error)
    None 0.93 None
    3 new, 1 moved 0.95 None

    """
    watched = Watched(Path(photos), options)
    seen = watched.look()
    index = watched.scan()
    ear = StopListener(listen)
    update = Update(
        classifier=(first := train(photos, output, listen=ear, resume=resume, **options)),
        accuracy=first.report["test"]["accuracy"],
    )
    yield update
    while not ear.has_heard_stop:
        seen = wait_for_change(watched.look, seen, pace)
        try:
            fresh = watched.scan()
            change = compare_indexes(index, fresh)
            if not change:
                listen(Notice(UNCHANGED))
                continue
            classifier = train(photos, output, listen=ear, **options)
        except SqueezeTuneError as error:
            yield Update(error=error, accuracy_before=update.accuracy)
            continue
        index = fresh
        update = Update(change, classifier, classifier.report["test"]["accuracy"], update.accuracy)
        yield update


@dataclass(frozen=True)
class Watched:
    """The photos at a path, and the options of `train` that say how they are read."""

    photos: Path
    options: dict[str, Any]

    def scan(self) -> ImageIndex:
        """Find the photos; those that were read before are not read."""
        origin = parse_input(
            self.photos, self.options.get("class_pattern", ""), self.options.get("columns", "")
        )
        cache = open_cache(ignore_event) if self.options.get("use_cache", True) else None
        return origin.scan(ThreadExecutor(), ignore_event, cache)

    def look(self) -> bytes:
        """Return bytes that are others once a file was added, removed, renamed or written; nothing
        is read.
        """
        state = hashlib.blake2b(digest_size=16)
        try:
            for name, mark in self._list_marks():
                state.update(b"%d %b%d %b" % (len(name), name, len(mark), mark))
        except DataError as error:  # the folder is gone for a while
            state.update(error.message.encode(errors="backslashreplace"))
        return state.digest()

    def _list_marks(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield the name and the mark of every file; a table names others, any other file stands
        for all in it.
        """
        source: StampedSource = FolderSource(self.photos)
        if not self.photos.is_file():
            names = list_files(self.photos).files
        else:
            own = stamp_file(str(self.photos))
            yield b"", own.mark if own else b""
            if READERS.get(find_ending(self.photos)) is not open_manifest:
                return
            source, listing = open_manifest(
                self.photos, parse_columns(self.options.get("columns", ""))
            )
            names = listing.files
        for name in names:
            stamp = source.stamp(name)
            yield name.encode(errors="surrogateescape"), stamp.mark if stamp else b""


class StopListener:
    """Passes events on, and notes when somebody has asked to stop."""

    def __init__(self, listen: Listener) -> None:
        self._listen = listen
        self.has_heard_stop = False

    def __call__(self, event: Event) -> None:
        """Hear one event."""
        self.has_heard_stop = self.has_heard_stop or event == Notice(STOPPING)
        self._listen(event)


def wait_for_change(look: Callable[[], bytes], seen: bytes, pace: PollInterval) -> bytes:
    """Wait until what is seen is something else and stays so for a moment; return it."""
    now = seen
    while now == seen:
        pace.pause(pace.every_s)
        now = look()
    while True:
        pace.pause(pace.quiet_s)
        later = look()
        if later == now:
            return now
        now = later


def compare_indexes(before: ImageIndex, after: ImageIndex) -> SourceChange:
    """Count the photos that are new, removed, or in another class, by their content: names do not
    matter.
    """
    old, new = (_count_photos(index) for index in (before, after))
    added, gone = Counter[bytes](), Counter[bytes]()
    for (digest, _), count in (new - old).items():
        added[digest] += count
    for (digest, _), count in (old - new).items():
        gone[digest] += count
    moved = (added & gone).total()
    return SourceChange(added.total() - moved, gone.total() - moved, moved)


def _count_photos(index: ImageIndex) -> Counter[tuple[bytes, str]]:
    """Count the photos of each content in each class."""
    rows = zip(index.digests, index.labels.tolist(), strict=True)
    return Counter((digest.tobytes(), index.class_names[label]) for digest, label in rows)
