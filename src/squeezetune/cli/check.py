"""The command `check`: what may be wrong with photos."""

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from squeezetune.cli.options import (
    class_option,
    columns_option,
    guard_errors,
    json_option,
    quiet_option,
    settings_options,
)
from squeezetune.foreign_settings import FOREIGN_ONLY
from squeezetune.settings import parse_settings

if TYPE_CHECKING:
    from squeezetune.audit.audit import Audit
    from squeezetune.audit.cleaning import Cleaned

# The settings that say how photos are looked at.
SETTINGS = (
    "group_by",
    "seed",
    "image_side",
    "resize",
    "backbone",
    *FOREIGN_ONLY,
    "weights",
    "max_ram",
    "engine",
    "precision",
    "threads",
)
SERIOUS = 1


@click.command()
@click.argument("photos", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The audit's folder.  [default: PHOTOS-check]",
)
@click.option(
    "--apply",
    "table",
    type=click.Path(path_type=Path),
    metavar="FILE.csv",
    help="Write a table for train in which what was found is carried out; no photo is touched.",
)
@click.option(
    "--apply-kinds",
    default="copies,wrong-labels",
    show_default=True,
    metavar="KIND,...",
    help="What is carried out: copies, near-copies, wrong-labels, outliers, poor.",
)
@click.option("--apply-confidence", default=0.7, show_default=True, type=float,
              help="Change labels from this confidence on.")  # fmt: skip
@click.option("--strict", is_flag=True, help="Return 1 if anything serious was found.")
@class_option
@columns_option
@partial(settings_options, names=SETTINGS)
@click.option("--no-cache", is_flag=True, help="Neither use nor keep features of the photos.")
@json_option
@quiet_option
@guard_errors
# click hands every option over by its name, so that they cannot be one record
def check(
    photos: Path,
    output: Path | None,
    table: Path | None,
    apply_kinds: str,
    apply_confidence: float,
    strict: bool,
    class_pattern: str,
    columns: str,
    no_cache: bool,
    as_json: bool,
    quiet: bool,
    **knobs: Any,
) -> None:
    """Look over PHOTOS: wrong labels, copies, leaks, poor photos.

    The page to act on is check.html in the folder PHOTOS-check, with check.csv and
    check.json for scripts. The exit status is 0 whatever was found, unless --strict.
    """
    from squeezetune.audit.audit import check as check_photos
    from squeezetune.audit.cleaning import apply_audit
    from squeezetune.cli.console import ProgressListener

    options: dict[str, Any] = {
        "class_pattern": class_pattern,
        "columns": columns,
        "use_cache": not no_cache,
    }
    with ProgressListener(is_quiet=quiet or as_json) as listen:
        audit = check_photos(photos, output, parse_settings(knobs), listen=listen, **options)
    cleaned = None
    if table:
        kinds = [kind.strip() for kind in apply_kinds.split(",") if kind.strip()]
        cleaned = apply_audit(audit, table, kinds=kinds, confidence=apply_confidence)
    (_print_json if as_json else _print_words)(audit, cleaned)
    if strict and audit.has_serious:
        sys.exit(SERIOUS)


def _print_json(audit: "Audit", cleaned: "Cleaned | None") -> None:
    from squeezetune.cli.console import print_json

    table = cleaned and {"path": str(cleaned.path), "images": cleaned.images,
                         "changes": [vars(change) for change in cleaned.changes]}  # fmt: skip
    print_json({"folder": str(audit.folder)} | audit.to_dict() | {"applied": table})


def _print_words(audit: "Audit", cleaned: "Cleaned | None") -> None:
    from squeezetune.cli.console import print_lines

    print_lines(
        f"{audit.images:,} photos in {len(audit.class_names):,} classes, looked over in "
        f"{audit.seconds:.1f} s.",
        *(f"  {sentence}" for sentence in audit.summary or ("nothing was found",)),
        f"Page    {audit.folder / 'check.html'}",
        f"Table   {audit.folder / 'check.csv'}",
    )
    if cleaned:
        changed = sum(bool(change.class_name) for change in cleaned.changes)
        left_out = len(cleaned.changes) - changed
        print_lines(
            *(f"  {change.image}: {change.describe()}" for change in cleaned.changes),
            f"Clean   {cleaned.path}: {cleaned.images:,} photos, {changed:,} labels changed, "
            f"{left_out:,} left out",
        )
