"""The chapter on exports in the report of the model's folder: in its page, and in `report.json`,
which has its figures.

The page is not rendered anew, since the photos that it shows may be gone: the chapter is put into
it, or in the place of an earlier one. The rest of the folder stays as it is; its manifest, written
last, names the new checksums.
"""

import json
from pathlib import Path

from squeezetune.errors import ArtifactError
from squeezetune.exporting.export_index import Exports, describe_exports
from squeezetune.model.artifact import (
    MODEL,
    REPORT,
    REPORT_PAGE,
    Staging,
    read_manifest,
    read_report,
    to_json,
)
from squeezetune.report.rendering import render_page
from squeezetune.system.machine import name_processor

TEMPLATE = "exporting/exports.html.jinja"
# What the chapter, and its line in the contents, come before: no text of a user can hold a tag.
ANCHORS = {"exports": '<section id="run">', "exports-link": '<a href="#run">'}
LINK = '<a href="#exports">Exports</a>'


def update_report(folder: Path, exports: Exports) -> None:
    """Put a chapter on exports into the report of a model's folder.

    Raises:
        ArtifactError: the report cannot be read or written, or another model is in the folder by
            now.
    """
    try:
        manifest, record = read_manifest(folder), read_report(folder)
        if manifest.files[MODEL] != exports.model_sha256:
            raise ArtifactError(f"another model is in {folder} by now", "Export that one.")
        page = (folder / REPORT_PAGE).read_text(encoding="utf-8")
        for name, content in (("exports", render_chapter(exports)), ("exports-link", LINK)):
            page = put_part(page, name, content)
        record["exports"] = json.loads(to_json(describe_exports(exports)))["exports"]
        staging = Staging(folder, dict(manifest.files))
        staging.write(REPORT, to_json(record))
        staging.write(REPORT_PAGE, page.encode())
        staging.finish(manifest)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ArtifactError(
            f"the report in {folder} cannot be updated: {reason}", "Make the folder writable."
        ) from error


def render_chapter(exports: Exports) -> str:
    """Render the chapter as a part of the report's page."""
    scores = [item.score for item in exports.items if item.score]
    return render_page(
        TEMPLATE,
        items=exports.items,
        unmeasured=[item for item in exports.items if item.unmeasured],
        failures=exports.failures,
        folder=exports.folder.resolve().name,
        measured=bool(scores),
        honest=all(score.is_honest for score in scores),
        processor=name_processor(),
    )


def put_part(page: str, name: str, content: str) -> str:
    """Put a part before its anchor, in the place of an earlier one.

    Raises:
        ArtifactError: the page has no such place.
    """
    begin, end, anchor = f"<!-- {name} -->", f"<!-- end of {name} -->", ANCHORS[name]
    if begin in page and end in page:
        before, after = page.split(begin, 1)[0], page.split(end, 1)[1].lstrip("\n")
    elif anchor in page:
        before, _, rest = page.partition(anchor)
        after = anchor + rest
    else:
        raise ArtifactError(f"{REPORT_PAGE} has no place for exports", "Train the model again.")
    return f"{before}{begin}{content}{end}\n{after}"
