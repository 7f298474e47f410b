"""A classifier and labelled images -> what it is worth on them."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeezetune.data.index import ImageIndex, Skipped
from squeezetune.data.inputs import Photos, parse_input
from squeezetune.data.pixels import PixelSettings
from squeezetune.data.sources.class_names import sort_classes
from squeezetune.data.sources.source import list_some
from squeezetune.data.split import Split
from squeezetune.errors import ArtifactError, ClassesError, ImageError, SourceError
from squeezetune.evaluation.metrics import Evaluation, evaluate_probabilities
from squeezetune.events import MEASURING, Listener, Notice, ignore_event, tell_stage
from squeezetune.model.artifact import Manifest
from squeezetune.model.classifier import Classifier, load
from squeezetune.model.split_record import read_parts
from squeezetune.system.executor import Executor, ThreadExecutor
from squeezetune.system.store import RowStore


@dataclass(frozen=True)
class Measured:
    """The probabilities (n, classes) of some images of an index, at these positions, and who failed
    and why.
    """

    positions: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    failures: Mapping[int, str]

    def evaluate(self, index: ImageIndex, split: Split) -> Evaluation:
        """Say what the probabilities are worth; groups that the split keeps together count as
        such.
        """
        repeats = len(self.positions) / len(np.unique(self.positions))
        units = split.find_units(self.positions)
        labels = index.labels[self.positions]
        return evaluate_probabilities(
            self.probabilities, labels, index.class_names, units=units, repeats=repeats
        )


@dataclass(frozen=True)
class Seen:
    """How many of the photos a model was trained and chosen on, by their bytes, and what it is
    worth on the `others`.

    `others` is None where there are none.
    """

    train: int
    validation: int
    others: Evaluation | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return vars(self) | {"others": self.others and self.others.to_dict()}


@dataclass(frozen=True)
class FolderEvaluation:
    """The evaluation of a classifier on a folder of labelled photos, and the files that were not
    used.

    `seen` says how many of the photos the model knows already; None where it knows none, or does
    not say.
    """

    evaluation: Evaluation
    skipped: tuple[Skipped, ...]
    seen: Seen | None = None


def evaluate(
    model: str | os.PathLike[str] | Classifier,
    photos: Photos,
    *,
    class_pattern: str = "",
    columns: str = "",
    listen: Listener = ignore_event,
) -> FolderEvaluation:
    """Measure a classifier on photos: a folder with a subfolder for each class, an archive of one,
    a table, or pairs.

    Raises:
        ArtifactError: the model cannot be used.
        DataError: the photos cannot be used, or have a class that the model does not know.

    """
    classifier = model if isinstance(model, Classifier) else load(model)
    executor = ThreadExecutor()
    index = parse_input(photos, class_pattern, columns).scan(executor, listen, None)
    hint = (
        "Rename the folders as the model's classes, or take those away that it was not trained on."
    )
    places = place_classes(index, classifier.class_names, hint)
    measured = run_classifier(classifier, index, np.arange(len(index)), executor, listen)
    labels = places[index.labels[measured.positions]]
    failed = tuple(Skipped(index.names[at], reason) for at, reason in measured.failures.items())
    result = evaluate_probabilities(measured.probabilities, labels, classifier.class_names)
    return FolderEvaluation(
        result, index.skipped + failed, find_seen(classifier, index, measured, labels)
    )


def open_measurements(cache: Path, sha256: str, manifest: Manifest) -> RowStore:
    """Open the store of the probabilities (classes,) that a model's file, known by its checksum,
    has given.
    """
    pixels = PixelSettings(manifest.image_side, manifest.resize)
    return RowStore(
        cache / "measurements" / f"{sha256[:32]}-{pixels.key}", (len(manifest.class_names),), "<f4"
    )


def find_seen(
    classifier: Classifier, index: ImageIndex, measured: Measured, labels: NDArray[np.int64]
) -> Seen | None:
    """Find the photos that a model was trained or chosen on; None where there are none, or the
    model does not say.
    """
    try:
        parts = read_parts(classifier.folder) if classifier.folder else None
    except ArtifactError:  # an earlier model, or a damaged list: the figure can be had all the same
        parts = None
    if parts is None:
        return None
    known = [
        np.isin(measured.positions, parts.find(index, part)) for part in ("train", "validation")
    ]
    is_known = known[0] | known[1]
    if not is_known.any():
        return None
    others, rest = None, ~is_known
    if rest.any():
        others = evaluate_probabilities(
            measured.probabilities[rest], labels[rest], classifier.class_names
        )
    return Seen(int(known[0].sum()), int((known[1] & ~known[0]).sum()), others)


def place_classes(index: ImageIndex, known: Sequence[str], hint: str) -> NDArray[np.int64]:
    """Tell the place among the classes that a model knows of each of the photos' classes; `hint`
    says what to do about others.

    Raises:
        ClassesError: the model does not know a class.

    """
    unknown = sort_classes(set(index.class_names) - set(known))
    if unknown:
        raise ClassesError(
            f"the model does not know the class {list_some(unknown)}; it knows "
            f"{list_some(known, 20)}",
            hint,
        )
    return np.array([known.index(name) for name in index.class_names])


def run_classifier(
    classifier: Classifier,
    index: ImageIndex,
    positions: NDArray[np.int64],
    executor: Executor,
    listen: Listener,
    store: RowStore | None = None,
) -> Measured:
    """Run a classifier on the images at these positions; what the store knows of this very model is
    not run again.

    Raises:
        SourceError: none of the images can be read.

    """
    probabilities = np.zeros((len(positions), len(classifier.class_names)), np.float32)
    sizes = np.zeros((len(positions), 2), np.int32)
    digests, failures = index.digests[positions], dict[int, str]()
    with tell_stage(MEASURING, listen, len(positions)) as advance:
        none = np.zeros(len(positions), np.bool_)
        known = store.load(digests, probabilities, sizes) if store else none
        missing = np.flatnonzero(~known)
        names = [index.names[positions[row]] for row in missing]
        outcomes = classifier.stream(index.source, names, executor)
        for done, (row, (_, outcome)) in enumerate(zip(missing, outcomes, strict=True)):
            if isinstance(outcome, ImageError):
                failures[int(positions[row])] = outcome.message
            else:
                probabilities[row], known[row] = outcome.probabilities, True
            if done % 64 == 0:
                advance(len(positions) - len(missing) + done + 1)
        if failures and not known.any():
            example = f"{names[0]}: {failures[int(positions[0])]}"
            raise SourceError(
                f"none of {len(positions):,} images can be read, e.g. {example}",
                "Replace the damaged files.",
            )
        if store and known[missing].any():
            fresh = missing[known[missing]]
            try:
                store.save(digests[fresh], probabilities[fresh], sizes[fresh])
            except OSError as error:
                listen(
                    Notice(
                        f"predictions cannot be kept in {store.folder}: {error.strerror}; the run "
                        f"goes on without"
                    )
                )
    return Measured(positions[known], probabilities[known], failures)
