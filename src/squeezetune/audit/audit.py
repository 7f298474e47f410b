"""The audit of photos: what may be wrong with them, for people (HTML) and for scripts (JSON,
CSV).
"""

import csv
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

from squeezetune.audit.findings import (
    KINDS,
    Finding,
    count_mistakes,
    describe_kind,
    list_findings,
    summarize_findings,
)
from squeezetune.audit.inspection import Inspection, inspect_photos
from squeezetune.audit.label_errors import estimate_mistakes
from squeezetune.data.index import ImageIndex
from squeezetune.data.inputs import Photos
from squeezetune.data.pixels import make_thumbnails
from squeezetune.data.sources.source import ImageSource
from squeezetune.data.sources.table import guard_cell
from squeezetune.events import Listener, ignore_event
from squeezetune.model.artifact import FolderKind, check_target, stage_artifact, to_json
from squeezetune.pipeline.context import name_output, open_context, parse_request
from squeezetune.report.rendering import Json, render_page
from squeezetune.settings import Settings
from squeezetune.system.disk import open_cache
from squeezetune.system.executor import ThreadExecutor
from squeezetune.system.machine import name_version
from squeezetune.system.output_lock import hold_output

AUDIT, AUDIT_PAGE, AUDIT_TABLE = "check.json", "check.html", "check.csv"
AUDIT_FOLDER = FolderKind("an audit", AUDIT, "squeezetune-check", 1)
TABLE_COLUMNS = (
    "kind",
    "is_serious",
    "image",
    "class",
    "part",
    "suggested_class",
    "confidence",
    "other_images",
    "other_classes",
    "evidence",
    "suggestion",
)
SEPARATOR = "|"
# A thumbnail is some 5 kB; all findings are in check.csv.
SHOWN_SERIOUS, SHOWN_OTHERS = 200, 60
SHOWN_COPIES = 6  # of one picture
THUMBNAIL_PX = 160


@dataclass(frozen=True)
class Audit:
    """What an audit found: the findings, the serious kinds first, and where they are written.

    `expected_mistakes` in `to_dict` is how many of the doubted labels are wrong, as their
    confidences add up; `likely_mistakes` is how many of all are, as a model of wrong labels
    estimates it from all photos together, and `confident_mistakes` as confident learning does,
    which also counts photos that are hard to tell.
    """

    source: str
    images: int
    class_names: tuple[str, ...]
    findings: tuple[Finding, ...]
    likely_mistakes: int
    confident_mistakes: int
    seconds: float
    folder: Path
    index: ImageIndex = field(repr=False, compare=False)
    created: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))

    @property
    def summary(self) -> tuple[str, ...]:
        """What was found, one sentence a kind."""
        return summarize_findings(self.findings)

    @property
    def has_serious(self) -> bool:
        """Whether anything was found that harms what is trained or measured."""
        return any(finding.is_serious for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "source": self.source,
            "images": self.images,
            "class_names": list(self.class_names),
            "summary": list(self.summary),
            "expected_mistakes": round(count_mistakes(self.findings), 1),
            "likely_mistakes": self.likely_mistakes,
            "confident_mistakes": self.confident_mistakes,
            "has_serious": self.has_serious,
            "seconds": round(self.seconds, 2),
            "created": self.created,
            "version": name_version(),
            "findings": [finding.to_dict() for finding in self.findings],
        }


def check(
    photos: Photos,
    output: str | os.PathLike[str] | None = None,
    settings: Settings | None = None,
    *,
    class_pattern: str = "",
    columns: str = "",
    use_cache: bool = True,
    listen: Listener = ignore_event,
    **knobs: Any,
) -> Audit:
    """Look over photos and report what may be wrong with them; nothing is ever changed in them.

    `photos` are those that `train` takes. Found are files that are not used, copies and
    near-duplicates, also across classes and the parts of a split, labels that are probably wrong,
    poor photos, photos unlike all others, and small classes. The page `check.html`, `check.json`
    and `check.csv` are written into a new folder `output`; by default `<name of the photos>-check`
    in the current one. Of the settings those count that say how photos are looked at.

    Raises:
        SettingsError: the settings do not fit together or the photos.
        DataError: the photos cannot be used.
        WeightsError: the pretrained weights cannot be used.
        ArtifactError: the folder cannot be written.

    >>> import squeezetune                                                    # doctest: +SKIP
    >>> for sentence in squeezetune.check("flowers").summary:                 # doctest: +SKIP
    ...     print(sentence)
    3 photos probably have a wrong label: about 2 of these 3 do

    """
    started = time.perf_counter()
    reading = {"class_pattern": class_pattern, "columns": columns}
    origin, settings = parse_request(photos, settings, knobs, listen, **reading)
    folder = name_output(origin, output, "check", "the folder of the audit")
    with hold_output(folder):
        check_target(folder, AUDIT_FOLDER)
        context = open_context(settings, open_cache(listen) if use_cache else None, listen)
        inspection = inspect_photos(origin.scan(context.executor, listen, context.cache), context)
        audit = make_audit(inspection, str(origin), folder, started)
        write_audit(audit)
    return audit


def make_audit(inspection: Inspection, source: str, folder: Path, started: float) -> Audit:
    """Turn what was seen into an audit."""
    index = inspection.index
    mistakes = estimate_mistakes(inspection.opinions, index.labels)
    return Audit(
        source=source,
        images=len(index),
        class_names=index.class_names,
        findings=list_findings(inspection),
        likely_mistakes=round(inspection.doubts.mistakes),
        confident_mistakes=round(float(mistakes.sum() - mistakes.trace())),
        seconds=time.perf_counter() - started,
        folder=folder,
        index=index,
    )


def write_audit(audit: Audit) -> None:
    """Write the audit for people and for scripts, whole or not at all."""
    with stage_artifact(audit.folder, AUDIT_FOLDER) as staging:
        staging.write(AUDIT_PAGE, render_audit(audit.to_dict(), audit.index.source).encode())
        staging.write(AUDIT_TABLE, format_table(audit.findings))
        staging.write(AUDIT, to_json(AUDIT_FOLDER.describe() | audit.to_dict()))


def render_audit(audit: Json, source: ImageSource) -> str:
    """Render an audit as one HTML page that needs no network; `audit` is the content of
    `check.json`.
    """
    sections = [
        _make_section(key, found)
        for key in KINDS
        if (found := [record for record in audit["findings"] if record["kind"] == key])
    ]
    names = {
        name
        for section in sections
        for record in section["shown"]
        if section["key"] != "unreadable"
        for name in record["images"][:SHOWN_COPIES]
    }
    return render_page(
        "audit/check.html.jinja",
        audit=audit,
        sections=sections,
        thumbnails=make_thumbnails(source, sorted(names), THUMBNAIL_PX, ThreadExecutor()),
        most_copies=SHOWN_COPIES,
    )


def _make_section(key: str, found: Sequence[Json]) -> dict[str, Any]:
    """Describe all findings of a kind, of which some are `shown`."""
    mistakes = sum(record["confidence"] or 0.0 for record in found)
    return {
        "key": key,
        "kind": KINDS[key],
        "sentence": describe_kind(key, len(found), mistakes),
        "count": len(found),
        "shown": found[: SHOWN_SERIOUS if KINDS[key].is_serious else SHOWN_OTHERS],
    }


def format_table(findings: Sequence[Finding]) -> bytes:
    """Write one row for each finding, as CSV; several images or classes are parted by a bar."""
    table = StringIO(newline="")
    writer = csv.DictWriter(table, TABLE_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {key: guard_cell(cell) for key, cell in _make_row(item).items()} for item in findings
    )
    return table.getvalue().encode(errors="surrogateescape")


def _make_row(finding: Finding) -> Mapping[str, str]:
    return {
        "kind": finding.kind,
        "is_serious": str(finding.is_serious).lower(),
        "image": "".join(finding.images[:1]),
        "class": "".join(finding.classes[:1]),
        "part": "".join(finding.parts[:1]),
        "suggested_class": finding.suggested,
        "confidence": "" if finding.confidence is None else f"{finding.confidence:.4f}",
        "other_images": SEPARATOR.join(finding.images[1:]),
        "other_classes": SEPARATOR.join(finding.classes[1:]),
        "evidence": finding.evidence,
        "suggestion": finding.suggestion,
    }
