"""Many predictions: which images are meant, and what becomes of each, in order."""

import codecs
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, groupby, repeat
from pathlib import Path
from typing import BinaryIO, Protocol

from squeezetune.data.reading import measure_image
from squeezetune.data.sources.catalog import locate_photos
from squeezetune.data.sources.content import HEAD_BYTES, RawImage, recognise_format
from squeezetune.data.sources.folder import MOST_BYTES, FileSource
from squeezetune.data.sources.image_formats import NEEDS_HEIF, tell_missing
from squeezetune.data.sources.registry import (
    Lister,
    MemorySource,
    find_ending,
    open_folder,
    open_members,
)
from squeezetune.data.sources.source import ImageSource
from squeezetune.data.sources.table import parse_columns
from squeezetune.errors import CheckpointError, ImageError, SourceError
from squeezetune.events import Listener, StageAdvanced, StageStarted, ignore_event
from squeezetune.model.artifact import MODEL
from squeezetune.model.classifier import Classifier
from squeezetune.model.output import LineFile, Outcome, Row
from squeezetune.system.executor import ThreadExecutor

MOST_LINE_BYTES = 1 << 16  # of a path on standard input
STAGE = "predicting"
TOLD_EVERY = 64
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_CONTROLS = re.compile(rb"[\0-\x08\x0e-\x1f]")  # no list of paths begins with any


@dataclass(frozen=True)
class ImageBatch:
    """Images of one source: `names` to read them by, perhaps found only as they are asked for, and
    how to show one.

    A name that is no text is shown with escapes.
    """

    source: ImageSource
    names: Iterable[str]
    show: Callable[[str], str] = str

    def name_title(self, name: str) -> str:
        """Return what is shown for an image."""
        return self.show(name).encode(errors="backslashreplace").decode()


class Pictures(Protocol):
    """Where a picture of every image goes: `explanation.PictureFolder`.

    It is named by what it does: its module needs scipy and onnx, which prediction does without.
    """

    def add(self, image: RawImage, title: str, label: str) -> object:
        """Keep a picture of where a class is seen in an image."""
        ...


@dataclass(frozen=True)
class Members:
    """What is in a folder or a file, found as it is needed; what is not read there is an error in
    its place.

    `found` are names, each with the reason why it is not read, or "".
    """

    source: ImageSource
    found: Iterable[tuple[str, str]]
    refused: dict[str, str] = field(default_factory=dict)

    def list_names(self) -> Iterator[str]:
        """Yield the names of all members, in order."""
        for name, refusal in self.found:
            if refusal:
                self.refused[name] = refusal
            yield name

    def read(self, name: str) -> RawImage:
        """Return the image of this name; ImageError where it cannot or must not be read."""
        if refusal := self.refused.pop(name, ""):
            raise ImageError(refusal)
        return self.source.read(name)

    def measure(self, name: str) -> int:
        """Return how many bytes the file has; 0 where it must not be read."""
        return 0 if name in self.refused else measure_image(self.source, name)

    def digest(self, name: str) -> bytes:
        """Return the digest of the image's content; ImageError where it is none."""
        return self.source.digest(name)

    def describe(self) -> str:
        """Return what a person calls the source."""
        return self.source.describe()


def read_arguments(arguments: Sequence[str], columns: str = "") -> Iterator[ImageBatch]:
    """Turn arguments into images: files, folders with everything below them, archives and tables,
    data sets by name.

    A - is standard input, with a photo or a list of paths. Nothing is listed before it is needed,
    but what is in an archive. `columns` say which column of a table is the path, where that is
    guessed wrong: "path=file".

    Raises:
        SourceError: standard input is empty, or a folder or an archive cannot be read.
        SettingsError: a table has no such column.

    """
    openers: dict[str, Callable[[list[str]], Iterable[ImageBatch]]] = {
        "input": _read_standard_input,
        "folder": partial(_open_sources, open_folder, parse_columns(columns)),
        "source": partial(_open_sources, open_members, parse_columns(columns)),
        "file": _open_files,
    }
    for kind, words in groupby(arguments, _find_kind):
        yield from openers[kind](list(words))


def predict_files(
    classifier: Classifier,
    batches: Iterable[ImageBatch],
    none_of_these: float | None = None,
    pictures: Pictures | None = None,
) -> Iterator[tuple[str, Outcome]]:
    """Yield the title of each image with its prediction, or the error of one that cannot be read,
    in order.

    Into the folder of pictures comes one of each image: where its class is seen.
    """
    executor = ThreadExecutor()
    threshold = classifier.find_threshold(none_of_these)
    for batch in batches:
        for name, outcome in classifier.stream(batch.source, batch.names, executor):
            title = batch.name_title(name)
            if isinstance(outcome, ImageError):
                yield title, outcome
                continue
            prediction = classifier.judge(outcome, threshold)
            if pictures:
                pictures.add(batch.source.read(name), title, prediction.label)
            yield title, prediction


def predict_to_file(
    classifier: Classifier,
    batches: Iterable[ImageBatch],
    file: LineFile,
    none_of_these: float | None = None,
    pictures: Pictures | None = None,
    listen: Listener = ignore_event,
) -> tuple[int, int]:
    """Write a line for every image, behind those that are there already; return how many there are,
    and bad ones.

    Raises:
        CheckpointError: the lines that are there are of other images.

    """
    counts = [0, 0]

    def count(row: Row) -> str:
        counts[0], counts[1] = counts[0] + 1, counts[1] + row.is_error
        return row.title

    needing_heif = 0
    listen(StageStarted(STAGE, None))
    left = skip_images(batches, (count(row) for row in file.read_back()), file.path)
    for title, outcome in predict_files(classifier, left, none_of_these, pictures):
        file.append(file.lines.write(title, outcome))
        if count(Row(title, isinstance(outcome, ImageError))) and counts[0] % TOLD_EVERY == 0:
            listen(StageAdvanced(STAGE, counts[0]))
        needing_heif += isinstance(outcome, ImageError) and outcome.message == NEEDS_HEIF
    file.finish()
    tell_missing(repeat(NEEDS_HEIF, needing_heif), listen)
    return counts[0], counts[1]


def skip_images(
    batches: Iterable[ImageBatch], titles: Iterator[str], path: Path
) -> Iterator[ImageBatch]:
    """Leave out the first images, whose titles have to be these in this order; `path` is where
    these are from.

    Raises:
        CheckpointError: there is another image, or there are fewer.

    """
    number, title = 1, next(titles, None)
    for batch in batches:
        names = iter(batch.names)
        while title is not None and (name := next(names, None)) is not None:
            found = batch.name_title(name)
            if found != title:
                raise _explain_change(path, number, title, found)
            number, title = number + 1, next(titles, None)
        yield replace(batch, names=names)
    if title is not None:
        raise _explain_change(path, number, title, "no more images")


def identify_lines(
    classifier: Classifier, kind: str, none_of_these: float | None
) -> dict[str, object]:
    """Name all that lines depend on besides the images, in plain values."""
    return {
        "model": classifier.manifest.files[MODEL],
        "format": kind,
        "rate of none of these": none_of_these,
    }


def _explain_change(path: Path, number: int, title: str, found: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is of other images: its line {number:,} is of {title}; now there is {found}",
        "Go on with the same arguments and photos, or give another name for a new file.",
    )


def _find_kind(word: str) -> str:
    """Find out what an argument is."""
    path = Path(word)
    if word == "-":
        return "input"
    if path.is_dir():
        return "folder"
    return "source" if find_ending(locate_photos(path)) else "file"


def _open_files(paths: list[str]) -> Iterator[ImageBatch]:
    yield ImageBatch(FileSource(), paths)


def _open_sources(
    opener: Lister, columns: Mapping[str, str], words: list[str]
) -> Iterator[ImageBatch]:
    for word in words:
        source, found = opener(Path(word), columns)
        members = Members(source, found)
        is_table = opener is open_members and word.lower().endswith(".parquet")
        root = Path(word).parent if is_table else word  # the names in a table begin with its own
        yield ImageBatch(members, members.list_names(), _show_below(root))


def _show_below(root: str | Path) -> Callable[[str], str]:
    start = str(Path(root, "_"))[:-1]
    return lambda name: f"{start}{name}"


def _read_standard_input(words: list[str]) -> Iterator[ImageBatch]:
    """Read a photo, or a list of paths, one a line."""
    head = sys.stdin.buffer.read(HEAD_BYTES)
    try:
        recognise_format(head)
    except ImageError:
        if not _CONTROLS.search(head) or head.startswith(_WIDE):
            yield ImageBatch(FileSource(), _read_paths(head))
            return
        photo = head  # which says what it is instead
    else:
        photo = head + sys.stdin.buffer.read(MOST_BYTES)
    source = MemorySource([photo])
    yield ImageBatch(source, source.names, lambda _: "-")


def _read_paths(head: bytes) -> Iterator[str]:
    """Yield the paths on standard input, of which the head has been read already.

    A byte-order mark, as Windows writes it, is none of them; the one of UTF-16 says how they are
    written.

    Raises:
        SourceError: there are none.

    """
    is_empty = True
    head = (head + sys.stdin.buffer.readline(MOST_LINE_BYTES)).removeprefix(codecs.BOM_UTF8)
    is_wide = head.startswith(_WIDE)
    wide = (
        (head + sys.stdin.buffer.read()).decode("utf-16", "replace").splitlines() if is_wide else ()
    )
    for path in wide or map(os.fsdecode, chain(head.splitlines(), _read_lines(sys.stdin.buffer))):
        if path.strip():
            is_empty = False
            yield path.rstrip("\r\n")
    if is_empty:
        raise SourceError("standard input is empty", "Pipe a photo or a list of paths, one a line.")


def _read_lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a file; one without an end is an error."""
    while line := file.readline(MOST_LINE_BYTES):
        if len(line) == MOST_LINE_BYTES:
            raise SourceError(
                f"a line on standard input has more than {MOST_LINE_BYTES:,} bytes; needed is a "
                f"photo, or paths",
                "Pipe a photo or a list of paths, one a line.",
            )
        yield line
