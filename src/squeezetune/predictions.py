"""Many predictions as lines of text: which files are meant, and how each outcome is written."""

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TypeAlias

from squeezetune.data.content import recognise_format
from squeezetune.data.folders import FolderSource, list_files
from squeezetune.data.listing import ImageSource
from squeezetune.data.sources import MemorySource
from squeezetune.engine import ThreadEngine
from squeezetune.errors import ImageError, SourceError
from squeezetune.prediction import Classifier, Prediction

HEAD_BYTES = 64

# Writes one prediction as a line; the first argument is the image's title.
WriteLine: TypeAlias = Callable[[str, Prediction], str]


@dataclass(frozen=True)
class Batch:
    """Images of one source: `names` to read them by, `titles` to show for them."""

    source: ImageSource
    names: Sequence[str]
    titles: Sequence[str]


def read_arguments(arguments: Sequence[str]) -> Iterator[Batch]:
    """Turn arguments into images: files, folders with everything below them, - for standard input.

    Raises:
        SourceError: standard input is empty, or a folder cannot be read.

    """
    for is_file, group in groupby(arguments, lambda word: word != "-" and not Path(word).is_dir()):
        words = list(group)
        if is_file:
            yield _list_files(words)
        else:
            yield from (_read_standard_input() if word == "-" else _list_folder(word) for word in words)


def predict_files(classifier: Classifier, batches: Iterable[Batch]) -> Iterator[tuple[str, Prediction | ImageError]]:
    """Yield the title of each image with its prediction, or the error of one that cannot be read, in order."""
    engine = ThreadEngine()
    for batch in batches:
        outcomes = classifier.stream(batch.source, batch.names, engine)
        for title, (_, outcome) in zip(batch.titles, outcomes, strict=True):
            yield title, outcome if isinstance(outcome, ImageError) else classifier.describe(outcome)


def write_table(class_names: Sequence[str], top: int) -> WriteLine:
    """Write the label and its probability, then the next likely ones, and the file."""

    def write(title: str, prediction: Prediction) -> str:
        best = list(prediction.probabilities.items())[:top]
        return "  ".join([*(f"{share:6.1%} {label:<{width}}" for label, share in best), title])

    width = min(24, max(len(name) for name in class_names))
    return write


def write_csv(class_names: Sequence[str], top: int) -> WriteLine:
    """Write a header first, then file, label, confidence and the probability of every class."""

    def write(title: str, prediction: Prediction) -> str:
        shares = [f"{prediction.probabilities[name]:.6f}" for name in class_names]
        row = _join_csv([title, prediction.label, f"{prediction.confidence:.6f}", *shares])
        return f"{headers.pop()}\n{row}" if headers else row

    headers = [_join_csv(["file", "label", "confidence", *class_names])]
    return write


def write_json(class_names: Sequence[str], top: int) -> WriteLine:
    """Write one JSON object a line."""

    def write(title: str, prediction: Prediction) -> str:
        return json.dumps({"file": title, **vars(prediction)})

    return write


WRITERS: dict[str, Callable[[Sequence[str], int], WriteLine]] = {
    "table": write_table,
    "csv": write_csv,
    "json": write_json,
}


def _list_files(paths: Sequence[str]) -> Batch:
    source = MemorySource(paths)
    return Batch(source, source.names, paths)


def _list_folder(folder: str) -> Batch:
    names = list_files(folder).files
    return Batch(FolderSource(Path(folder)), names, [str(Path(folder, name)) for name in names])


def _read_standard_input() -> Batch:
    """Read a photo, or a list of paths, one a line."""
    content = sys.stdin.buffer.read()
    if not content.strip():
        raise SourceError("standard input is empty", "Pipe a photo or a list of paths, one a line.")
    try:
        recognise_format(content[:HEAD_BYTES])
    except ImageError:
        return _list_files([os.fsdecode(line) for line in content.splitlines() if line.strip()])
    source = MemorySource([content])
    return Batch(source, source.names, ["-"])


def _join_csv(values: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(values)
    return line.getvalue()
