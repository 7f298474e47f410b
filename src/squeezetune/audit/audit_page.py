"""The audit as one HTML page to act on: a summary, then every kind of finding with its photos."""

from collections.abc import Sequence
from typing import Any

from squeezetune.audit.findings import KINDS, describe_kind
from squeezetune.data.pixels import make_thumbnails
from squeezetune.data.sources.source import ImageSource
from squeezetune.report.rendering import Json, render_page
from squeezetune.system.executor import ThreadExecutor

# A thumbnail is some 5 kB; all findings are in check.csv.
SHOWN_SERIOUS, SHOWN_OTHERS = 200, 60
SHOWN_COPIES = 6  # of one picture
THUMBNAIL_PX = 160


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
