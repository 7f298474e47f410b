"""A table of images as a source: a CSV or TSV file with the path and the class of each, perhaps its part and group."""

import codecs
import csv
import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TextIO

from squeezetune.data.cells import free_cell
from squeezetune.data.columns import GUESSES, NEEDED, check_places, describe_places, find_named, guess_places
from squeezetune.data.folders import FolderSource, explain_os_error
from squeezetune.data.layout import PARTS
from squeezetune.data.listing import Entry, Listing, is_image_name, list_entries, quote_name
from squeezetune.errors import SourceError

DELIMITERS = ",;\t|"
SAMPLE_LINES = 100
NO_PATH = "no path"


@dataclass(frozen=True)
class Table:
    """The form of a table: what separates its columns, their names, and the place of each that says something."""

    delimiter: str
    names: tuple[str, ...]
    places: Mapping[str, int]
    has_header: bool

    def read(self, role: str, row: Sequence[str]) -> str:
        """Return what a row says of an image's path, label, split or group; nothing where it does not."""
        at = self.places.get(role, len(row))
        return row[at].strip() if at < len(row) else ""


def open_manifest(path: Path, columns: Mapping[str, str]) -> tuple[FolderSource, Listing]:
    """Read a table of images; what each column is, is guessed from its name unless `columns` says so.

    Paths are relative to the table's folder, or absolute.

    Raises:
        SourceError: the table cannot be read, or does not say which column is what.
        SettingsError: a column that was named is not there.

    """
    with _open_table(path) as file:
        table = find_columns(path, file, columns)
        file.seek(0)
        return FolderSource(path.parent, table=path), _list_rows(path, table, file)


def open_rows(path: Path, columns: Mapping[str, str]) -> tuple[FolderSource, Iterator[tuple[str, str]]]:
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
    """Open a table in UTF-8, with or without a byte-order mark, or in UTF-16 with one; its errors become ours."""
    try:
        with path.open("rb") as file:
            is_wide = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        encoding, errors = ("utf-16", "replace") if is_wide else ("utf-8-sig", "surrogateescape")
        with path.open(newline="", encoding=encoding, errors=errors) as text:
            yield text
    except OSError as error:
        reason = explain_os_error(error)
        raise SourceError(f"{quote_name(str(path))} cannot be read: {reason}", "Check its permissions.") from error
    except csv.Error as error:
        raise SourceError(f"{quote_name(str(path))} is not a table: {error}", "Save it as CSV in UTF-8.") from error


def find_columns(path: Path, lines: Iterable[str], columns: Mapping[str, str], needed: Sequence[str] = NEEDED) -> Table:
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
        raise SourceError(f"{quote_name(str(path))} is empty", "It needs a line for each photo: path,label.")
    has_header = not any(map(is_image_name, rows[0]))
    names = tuple(cell.strip() for cell in rows[0]) if has_header else tuple(str(at + 1) for at in range(len(rows[0])))
    places = find_named(path, names, columns)
    for role in GUESSES:
        if role not in columns:
            places |= _guess_column(role, names, rows[has_header:], places)
    return Table(delimiter, names, check_places(path, names, places, needed), has_header)


def _guess_column(
    role: str, names: Sequence[str], rows: Sequence[Sequence[str]], taken: Mapping[str, int]
) -> dict[str, int]:
    """Guess which column plays a role: by its name, and where that says nothing, by what is in it."""
    free = [at for at in range(len(names)) if at not in taken.values()]
    found = guess_places(role, names, free)
    if role == "path":
        found += [at for at in free if sum(_is_image(row, at) for row in rows) > len(rows) / 2]
        found.sort(key=lambda at: -sum(_is_image(row, at) for row in rows))  # stable: names come first
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
            refused[f"{name} ({place})"] = "named before" + ("" if found[name] == label else " as another class")
        else:
            found[name] = sys.intern(label)
            parts.append(PARTS.get(part.lower(), -1))
            groups.append(sys.intern(free_cell(table.read("group", row))))
    entries = map(Entry, found, found.values(), parts, groups)
    return list_entries(entries, refused, (describe_places(path, table.names, table.places),))


def _read_rows(table: Table, lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows behind the header, each with the number of its line; an empty line is no row."""
    rows = csv.reader(lines, delimiter=table.delimiter)
    yield from ((rows.line_num, row) for row in islice(filter(None, rows), int(table.has_header), None))


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
