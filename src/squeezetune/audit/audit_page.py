"""The audit as one HTML page to act on: a summary, then every kind of finding with its photos."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from squeezetune.audit.findings import KINDS, Kind, describe_kind
from squeezetune.data.pixels import make_thumbnails
from squeezetune.data.sources.source import ImageSource
from squeezetune.report.rendering import Json, embed_picture, render_page
from squeezetune.system.executor import ThreadExecutor

# A thumbnail is some 5 kB; all findings are in check.csv.
SHOWN_SERIOUS, SHOWN_OTHERS = 200, 60
SHOWN_COPIES = 6  # of one picture
THUMBNAIL_PX = 160


@dataclass(frozen=True)
class FindingPicture:
    """An image of a finding; `uri` is empty where there is no thumbnail."""

    name: str
    class_name: str
    part: str
    uri: str


@dataclass(frozen=True)
class FindingImage:
    """A finding with its pictures; `more` are not shown."""

    record: Json
    pictures: tuple[FindingPicture, ...]
    more: int


@dataclass(frozen=True)
class Section:
    """All findings of a kind, of which `items` are shown."""

    key: str
    kind: Kind
    sentence: str
    count: int
    items: tuple[FindingImage, ...]


def render_audit(audit: Json, source: ImageSource) -> str:
    """Render an audit as one HTML page that needs no network; `audit` is the content of
    `check.json`.
    """
    chosen = {key: _choose_shown(audit["findings"], key) for key in KINDS}
    names = {
        name
        for records in chosen.values()
        for record in records
        if record["kind"] != "unreadable"
        for name in record["images"][:SHOWN_COPIES]
    }
    thumbnails = make_thumbnails(source, sorted(names), THUMBNAIL_PX, ThreadExecutor())
    sections = [
        _make_section(audit["findings"], key, records, thumbnails)
        for key, records in chosen.items()
        if records
    ]
    return render_page(
        "audit/check.html.jinja", {"percent": _format_percent}, audit=audit, sections=sections
    )


def _choose_shown(findings: Sequence[Json], key: str) -> list[Json]:
    limit = SHOWN_SERIOUS if KINDS[key].is_serious else SHOWN_OTHERS
    return [record for record in findings if record["kind"] == key][:limit]


def _make_section(
    findings: Sequence[Json], key: str, shown: Sequence[Json], thumbnails: Mapping[str, bytes]
) -> Section:
    found = [record for record in findings if record["kind"] == key]
    mistakes = sum(record["confidence"] or 0.0 for record in found)
    items = tuple(_make_item(record, thumbnails) for record in shown)
    return Section(key, KINDS[key], describe_kind(key, len(found), mistakes), len(found), items)


def _make_item(record: Json, thumbnails: Mapping[str, bytes]) -> FindingImage:
    count = len(record["images"])
    # a file that is not used has no class, and only a source that is split has parts
    classes, parts = (record[column] or ("",) * count for column in ("classes", "parts"))
    columns = zip(record["images"][:SHOWN_COPIES], classes, parts, strict=False)
    pictures = tuple(
        FindingPicture(name, label, part, embed_picture(thumbnails.get(name)))
        for name, label, part in columns
    )
    return FindingImage(record, pictures, count - len(pictures))


def _format_percent(share: float) -> str:
    """Write a share as a percentage; only what is really all reads 100 %."""
    return f"{min(100 * share, 99.9 if share < 1 else 100):.1f}\u00a0%"
