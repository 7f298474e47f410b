"""A new table of photos in which what an audit suggests is carried out; no photo is touched."""

import csv
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TypeAlias, cast

from squeezetune.audit.audit import Audit
from squeezetune.audit.findings import Finding
from squeezetune.data.index import ImageIndex
from squeezetune.data.sources.class_names import sort_classes
from squeezetune.data.sources.folder import FolderSource, check_outside
from squeezetune.data.sources.source import ImageSource
from squeezetune.data.sources.table import guard_cell
from squeezetune.data.split import PART_NAMES
from squeezetune.errors import ArtifactError, SettingsError, SourceError
from squeezetune.quantities import judge_number
from squeezetune.system.disk import write_file

DEFAULT_KINDS = ("copies", "wrong-labels")
# What a training on the cleaned photos gains is largest about here: docs/decisions/0010-audit.md.
CONFIDENCE = 0.7
POOR = ("blurred", "dark", "bright", "blank", "tiny")


@dataclass(frozen=True)
class Change:
    """What becomes of an image in the new table, and why: another class, or none where it is left
    out.
    """

    image: str
    reason: str
    class_name: str = ""

    def describe(self) -> str:
        """Say it in a line."""
        return f"{f'is now {self.class_name}' if self.class_name else 'left out'}: {self.reason}"


@dataclass(frozen=True)
class Cleaned:
    """The new table, how many images it names, and what was changed."""

    path: Path
    images: int
    changes: tuple[Change, ...]


# Turns findings into changes; suggestions are followed from some confidence on.
ListChanges: TypeAlias = Callable[[Sequence[Finding], float], Iterator[Change]]


def apply_audit(
    audit: Audit,
    path: str | os.PathLike[str],
    *,
    kinds: Sequence[str] = DEFAULT_KINDS,
    confidence: float = CONFIDENCE,
) -> Cleaned:
    """Write a table (CSV) of the photos, for `train`, in which what the audit suggests is carried
    out.

    Of `kinds` "copies" keeps one of files with the same bytes, or none where they stand in two
    classes and nothing says which is right; "wrong-labels" changes labels if the audit has at least
    that `confidence`; "near-copies" keeps one version of a picture, "outliers" and "poor" leave
    photos out that are unlike all others, or poor. Paths are relative to the table's place.

    Raises:
        SettingsError: a kind or the confidence is none, or the table would lie among the photos or
            over something.
        SourceError: the photos are no files of their own, so that no table can name them.
        ArtifactError: the table cannot be written.

    """
    target = Path(path)
    check_table(target, audit.index.source, kinds, confidence)
    changes: dict[str, Change] = {}
    for kind, list_changes in APPLIED.items():
        for change in list_changes(audit.findings, confidence) if kind in kinds else ():
            changes.setdefault(change.image, change)  # what is left out needs no other class
    rows = list(_list_rows(audit.index, changes, target))
    try:
        write_file(target, _format_rows(rows, audit.index))
    except OSError as error:
        raise ArtifactError(
            f"{target} cannot be written: {error.strerror or error}", "Give another place."
        ) from error
    return Cleaned(target, len(rows), tuple(changes.values()))


def check_table(
    target: Path, source: ImageSource, kinds: Sequence[str], confidence: float = CONFIDENCE
) -> None:
    """Make sure that a table can be written, before anything is computed.

    Raises:
        SettingsError: a kind or the confidence is none, or the table would lie among the photos or
            over something.
        SourceError: the photos are no files of their own, so that no table can name them.

    """
    if wrong := [kind for kind in kinds if kind not in APPLIED]:
        raise SettingsError(
            f"{wrong[0]!r} cannot be applied; needed are some of {', '.join(APPLIED)}"
        )
    if problem := judge_number("the confidence", confidence, 0.5, 1):
        raise SettingsError(problem)
    if not isinstance(source, FolderSource):
        raise SourceError(
            f"the photos of {source.describe()} are no files of their own, so that no table can "
            f"name them",
            "Unpack them into a folder to apply what was found; check.csv names all of it.",
        )
    if target.suffix.lower() != ".csv":
        raise SettingsError(
            f"the table is called {target.name}; needed is a name that ends in .csv"
        )
    if source.table is None:
        check_outside(target, source.root, "the table", "give another place")
    if target.exists():
        raise SettingsError(f"{target} is there already", "Give another name, or remove it.")


# ---- what becomes of which image


def _drop_copies(findings: Sequence[Finding], confidence: float) -> Iterator[Change]:
    """Keep one of files with the same bytes: of those in two classes the right one, if it is
    known.
    """
    better = {
        finding.images[0]: finding.suggested
        for finding in findings
        if finding.kind == "wrong-label" and (finding.confidence or 0) >= confidence
    }
    for finding in findings:
        if finding.kind in ("copies", "copies-across-parts"):
            yield from _keep_one(finding, _find_last_part(finding), "same bytes as {}")
        elif finding.kind == "copies-across-classes":
            right = {better[name] for name in finding.images if name in better} & set(
                finding.classes
            )
            if len(right) == 1:
                yield from _keep_one(
                    finding,
                    finding.classes.index(right.pop()),
                    "same bytes as {}, in the right class",
                )
            else:
                others = " and ".join(sort_classes(finding.classes))
                yield from (
                    Change(name, f"the same file stands in {others}") for name in finding.images
                )


def _drop_near_copies(findings: Sequence[Finding], _: float) -> Iterator[Change]:
    """Keep one version of each picture; of those in two classes none, since nothing says which is
    right.
    """
    for finding in findings:
        if finding.kind in ("near-copies", "near-copies-across-parts"):
            yield from _keep_one(finding, _find_last_part(finding), "another version of {}")
        elif finding.kind == "near-copies-across-classes":
            others = " and ".join(sort_classes(finding.classes))
            yield from (
                Change(name, f"the same picture stands in {others}") for name in finding.images
            )


def _keep_one(finding: Finding, kept: int, reason: str) -> Iterator[Change]:
    name = finding.images[kept]
    yield from (
        Change(other, reason.format(name)) for at, other in enumerate(finding.images) if at != kept
    )


def _find_last_part(finding: Finding) -> int:
    """Find the image to keep: the first of the part that measures, so that it is not trained on."""
    ranks = [PART_NAMES.index(part) for part in finding.parts] or [0]
    return ranks.index(max(ranks))


def _change_labels(findings: Sequence[Finding], confidence: float) -> Iterator[Change]:
    strange = {
        finding.images[0] for finding in findings if finding.kind in (*POOR, "shape", "outlier")
    }
    for finding in findings:
        if finding.kind != "wrong-label" or (finding.confidence or 0) < confidence:
            continue
        if finding.images[0] not in strange:  # else the photo is to blame, and not its label
            yield Change(
                finding.images[0],
                f"{finding.evidence} ({finding.confidence:.1%})",
                finding.suggested,
            )


def _drop_outliers(findings: Sequence[Finding], _: float) -> Iterator[Change]:
    yield from (
        Change(item.images[0], "unlike all other photos")
        for item in findings
        if item.kind == "outlier"
    )


def _drop_poor(findings: Sequence[Finding], _: float) -> Iterator[Change]:
    yield from (
        Change(item.images[0], f"{item.kind}: {item.evidence}")
        for item in findings
        if item.kind in POOR
    )


# In the order in which they are carried out.
APPLIED: Mapping[str, ListChanges] = {
    "copies": _drop_copies,
    "near-copies": _drop_near_copies,
    "outliers": _drop_outliers,
    "poor": _drop_poor,
    "wrong-labels": _change_labels,
}


# ---- the table


def _list_rows(
    index: ImageIndex, changes: Mapping[str, Change], target: Path
) -> Iterator[tuple[str, ...]]:
    """List path, class, part and group of each image that stays."""
    folder = target.resolve().parent
    for position, name in enumerate(index.names):
        change = changes.get(name)
        if change and not change.class_name:
            continue
        label = change.class_name if change else index.class_names[index.labels[position]]
        part = "" if index.parts is None else PART_NAMES[index.parts[position]]
        group = "" if index.groups is None else index.groups[position]
        yield _write_path(_locate(index.source, name), folder), label, part, group


def _locate(source: ImageSource, name: str) -> Path:
    """Find the file of an image."""
    # no other source passes `check_table`
    return Path(cast(FolderSource, source).root, name).resolve()


def _write_path(path: Path, folder: Path) -> str:
    """Write a path as seen from a folder; it has a slash in any case, else a backslash would be
    taken for one.
    """
    try:
        relative = Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # on another drive of Windows
        return path.as_posix()
    return relative if "/" in relative else f"./{relative}"


def _format_rows(rows: Sequence[tuple[str, ...]], index: ImageIndex) -> bytes:
    """Write a table with those columns of which something is known."""
    used = (True, True, index.parts is not None, index.groups is not None)
    table = StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    for row in (("path", "label", "split", "group"), *rows):
        writer.writerow(
            [guard_cell(cell) for cell, is_used in zip(row, used, strict=True) if is_used]
        )
    return table.getvalue().encode(errors="surrogateescape")
