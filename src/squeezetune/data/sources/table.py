"""A table of images as a source: which column says what, and the path and class of each image.

A spreadsheet takes a cell that begins with `=`, `+`, `-` or `@` for a formula, and what people call
their photos and classes is not always their own. Such a cell gets an apostrophe in front, which a
spreadsheet takes for "this is text" (OWASP, "CSV Injection"); numbers stay as they are. Programs
take one apostrophe off again.
"""

import codecs
import csv
import re
import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TextIO

from squeezetune.data.sources.folder import FolderSource, explain_os_error
from squeezetune.data.sources.paths import PARTS
from squeezetune.data.sources.source import Entry, Listing, is_image_name, list_entries, quote_name
from squeezetune.errors import SettingsError, SourceError

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?")


def guard_cell(text: str) -> str:
    """Return a cell that no spreadsheet runs.

    >>> guard_cell("=1+1"), guard_cell("-12.5"), guard_cell("rose")
    ("'=1+1", '-12.5', 'rose')
    """
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def free_cell(cell: str) -> str:
    """Return what a cell was made of.

    >>> free_cell("'=1+1")
    '=1+1'
    """
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


# What a column may be called, without all but its letters, the likeliest first.
GUESSES = {
    "path": (
        "path",
        "filepath",
        "imagepath",
        "file",
        "filename",
        "image",
        "imagefile",
        "img",
        "photo",
        "name",
    ),
    "label": (
        "label",
        "class",
        "classname",
        "labelname",
        "category",
        "target",
        "species",
        "diagnosis",
        "y",
    ),
    "split": ("split", "part", "subset", "partition", "set"),
    "group": (
        "group",
        "groupid",
        "object",
        "objectid",
        "patient",
        "patientid",
        "subject",
        "subjectid",
        "session",
    ),
}
NEEDED = ("path", "label")


def parse_columns(text: str) -> dict[str, str]:
    """Read which column says what: "path=file,label=species" gives {"path": "file", "label":
    "species"}.

    Raises:
        SettingsError: it is written in another way.

    """
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    wrong = [role.strip() for role, sign, _ in pairs if not sign or role.strip() not in GUESSES]
    if wrong:
        raise SettingsError(
            f"columns is {text!r}; {quote_name(wrong[0])} is none of {', '.join(GUESSES)}",
            "Write, for example, path=file,label=species,split=part,group=plant; leave out what "
            "is not there.",
        )
    return {role.strip(): name.strip() for role, _, name in pairs}


def find_named(path: Path, names: Sequence[str], columns: Mapping[str, str]) -> dict[str, int]:
    """Find the places of the columns that the user has named, or numbered from 1 on, by their
    roles.

    Raises:
        SettingsError: one is not there.

    """
    return {role: _find_name(path, names, name) for role, name in columns.items() if name}


def _find_name(path: Path, names: Sequence[str], wanted: str) -> int:
    if wanted in names:
        return names.index(wanted)
    if wanted.isdecimal() and 1 <= int(wanted) <= len(names):
        return int(wanted) - 1
    raise SettingsError(
        f"{quote_name(str(path))} has no column {quote_name(wanted)}; it has {', '.join(names)}",
        "Give the name of one of them.",
    )


def guess_places(role: str, names: Sequence[str], free: Sequence[int]) -> list[int]:
    """List the places of the columns whose names suit a role, the likeliest first."""
    words = {re.sub("[^a-z]", "", names[at].lower()): at for at in reversed(free)}
    return [words[guess] for guess in GUESSES[role] if guess in words]


def check_places(
    path: Path, names: Sequence[str], places: Mapping[str, int], needed: Sequence[str] = NEEDED
) -> dict[str, int]:
    """Return the places in the order of the roles.

    Raises:
        SourceError: no column is surely one of those that are needed.

    """
    missing = [role for role in needed if role not in places]
    if missing:
        example = ",".join(
            f"{role}={name}" for role, name in zip(needed, (names[0], names[-1]), strict=False)
        )
        raise SourceError(
            f"{quote_name(str(path))} has no column that is surely the {missing[0]}; it has "
            f"{', '.join(names)}",
            f'Say which columns they are, for example --columns "{example}".',
        )
    return {role: places[role] for role in GUESSES if role in places}


def describe_places(path: Path, names: Sequence[str], places: Mapping[str, int]) -> str:
    """Say what was made of the columns, and how to say it otherwise."""
    told = [f"{role}={names[at]}" for role, at in places.items()]
    return f'{path.name}: {", ".join(told)}; --columns "{",".join(told)}" would say so'


DELIMITERS = ",;\t|"
SAMPLE_LINES = 100
NO_PATH = "no path"


@dataclass(frozen=True)
class Table:
    """The form of a table: what separates its columns, their names, and the place of each that says
    something.
    """

    delimiter: str
    names: tuple[str, ...]
    places: Mapping[str, int]
    has_header: bool

    def read(self, role: str, row: Sequence[str]) -> str:
        """Return what a row says of an image's path, label, split or group; nothing where it does
        not.
        """
        at = self.places.get(role, len(row))
        return row[at].strip() if at < len(row) else ""


def open_manifest(path: Path, columns: Mapping[str, str]) -> tuple[FolderSource, Listing]:
    """Read a table of images; what each column is, is guessed from its name unless `columns` says
    so.

    Paths are relative to the table's folder, or absolute.

    Raises:
        SourceError: the table cannot be read, or does not say which column is what.
        SettingsError: a column that was named is not there.

    """
    with _open_table(path) as file:
        table = find_columns(path, file, columns)
        file.seek(0)
        return FolderSource(path.parent, table=path), _list_rows(path, table, file)


def open_rows(
    path: Path, columns: Mapping[str, str]
) -> tuple[FolderSource, Iterator[tuple[str, str]]]:
    """Read the paths of a table row by row, in its own order, with the reason where a row has none.

    What rows say of classes, if anything, does not matter, nor whether a path stands in several.

    Raises:
        SourceError: the table cannot be read, or does not say which column is the path.
        SettingsError: a column that was named is not there.

    """
    with _open_table(path) as file:
        table = find_columns(path, file, columns, needed=("path",))
    return FolderSource(path.parent, table=path), _list_paths(path, table)


def _list_paths(path: Path, table: Table) -> Iterator[tuple[str, str]]:
    with _open_table(path) as file:
        for line, row in _read_rows(table, file):
            name = _read_path(table, row)
            yield (name, "") if name else (f"line {line}", NO_PATH)


@contextmanager
def _open_table(path: Path) -> Iterator[TextIO]:
    """Open a table in UTF-8, with or without a byte-order mark, or in UTF-16 with one; its errors
    become ours.
    """
    try:
        with path.open("rb") as file:
            is_wide = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        encoding, errors = ("utf-16", "replace") if is_wide else ("utf-8-sig", "surrogateescape")
        with path.open(newline="", encoding=encoding, errors=errors) as text:
            yield text
    except OSError as error:
        reason = explain_os_error(error)
        raise SourceError(
            f"{quote_name(str(path))} cannot be read: {reason}", "Check its permissions."
        ) from error
    except csv.Error as error:
        raise SourceError(
            f"{quote_name(str(path))} is not a table: {error}", "Save it as CSV in UTF-8."
        ) from error


def find_columns(
    path: Path, lines: Iterable[str], columns: Mapping[str, str], needed: Sequence[str] = NEEDED
) -> Table:
    """Find out from the first lines of a table which column says what.

    Raises:
        SourceError: it is empty, or what is needed stands in no column that is known.
        SettingsError: a column that was named is not there.

    """
    sample = list(islice(lines, SAMPLE_LINES))
    first = next((line for line in sample if line.strip()), "")
    delimiter = max(DELIMITERS, key=first.count)
    rows = [row for row in csv.reader(sample, delimiter=delimiter) if row]
    if not first or not rows:
        raise SourceError(
            f"{quote_name(str(path))} is empty", "It needs a line for each photo: path,label."
        )
    has_header = not any(map(is_image_name, rows[0]))
    names = (
        tuple(cell.strip() for cell in rows[0])
        if has_header
        else tuple(str(at + 1) for at in range(len(rows[0])))
    )
    places = find_named(path, names, columns)
    for role in GUESSES:
        if role not in columns:
            places |= _guess_column(role, names, rows[has_header:], places)
    return Table(delimiter, names, check_places(path, names, places, needed), has_header)


def _guess_column(
    role: str, names: Sequence[str], rows: Sequence[Sequence[str]], taken: Mapping[str, int]
) -> dict[str, int]:
    """Guess which column plays a role: by its name, and where that says nothing, by what is in
    it.
    """
    free = [at for at in range(len(names)) if at not in taken.values()]
    found = guess_places(role, names, free)
    if role == "path":
        found += [at for at in free if sum(_is_image(row, at) for row in rows) > len(rows) / 2]
        # stable: names come first
        found.sort(key=lambda at: -sum(_is_image(row, at) for row in rows))
    if role == "label" and len(free) == 1:
        found += free
    return {role: found[0]} if found else {}


def _is_image(row: Sequence[str], at: int) -> bool:
    return at < len(row) and is_image_name(row[at])


def _list_rows(path: Path, table: Table, lines: Iterable[str]) -> Listing:
    """Read all rows of a table."""
    found: dict[str, str] = {}  # path -> class
    parts, groups = array("b"), []
    refused: dict[str, str] = {}
    for line, row in _read_rows(table, lines):
        place, name = f"{path.name}, line {line}", _read_path(table, row)
        label, part = free_cell(table.read("label", row)), table.read("split", row)
        if reason := _refuse_row(name, label, part, table):
            refused[name or place] = reason
        elif name in found:
            refused[f"{name} ({place})"] = "named before" + (
                "" if found[name] == label else " as another class"
            )
        else:
            found[name] = sys.intern(label)
            parts.append(PARTS.get(part.lower(), -1))
            groups.append(sys.intern(free_cell(table.read("group", row))))
    entries = map(Entry, found, found.values(), parts, groups)
    return list_entries(entries, refused, (describe_places(path, table.names, table.places),))


def _read_rows(table: Table, lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows behind the header, each with the number of its line; an empty line is no
    row.
    """
    rows = csv.reader(lines, delimiter=table.delimiter)
    yield from (
        (rows.line_num, row) for row in islice(filter(None, rows), int(table.has_header), None)
    )


def _read_path(table: Table, row: Sequence[str]) -> str:
    """Read the path of a row, with `/`, as tables from Windows do not have it."""
    path = free_cell(table.read("path", row))
    return path if "/" in path else path.replace("\\", "/")


def _refuse_row(name: str, label: str, part: str, table: Table) -> str:
    """Say why a row is not used; nothing where it is."""
    if not name:
        return NO_PATH
    if not label:
        return "no class"
    if "split" in table.places and part.lower() not in PARTS:
        return f"its part is {part!r}; needed is train, validation or test"
    return ""
