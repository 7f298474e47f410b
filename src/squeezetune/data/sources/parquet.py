"""Parquet files with the bytes of images in them as a source, as the `datasets` library of Hugging
Face writes them.

What classes are called is in the file's own metadata there: https://huggingface.co/docs/datasets,
`ClassLabel`.
"""

import json
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from squeezetune.data.sources.class_names import read_labels
from squeezetune.data.sources.content import hash_image
from squeezetune.data.sources.paths import find_shard_parts
from squeezetune.data.sources.source import (
    Entry,
    Listing,
    Stamp,
    list_entries,
    quote_name,
    stamp_file,
    stamp_inner,
)
from squeezetune.data.sources.table import (
    NEEDED,
    check_places,
    describe_places,
    find_named,
    guess_places,
)
from squeezetune.errors import DataError, ImageError, MissingExtraError, SettingsError, SourceError

# Groups of rows whose images are held in memory at once: those that the threads are reading.
HELD_GROUPS = 4


@dataclass(frozen=True)
class ParquetTable:
    """One file: how many rows its groups end behind, and the column of its images, as `image.bytes`
    if it is nested.
    """

    path: Path
    ends: tuple[int, ...]
    column: str
    stamped: Stamp | None = None

    def read_group(self, number: int) -> Any:
        """Read the images of one group of rows.

        Raises:
            ImageError: the file is damaged there, or gone.

        """
        import pyarrow.parquet

        try:
            with pyarrow.parquet.ParquetFile(self.path) as file:
                column = (
                    file.read_row_group(number, columns=[self.column]).column(0).combine_chunks()
                )
                return column.field("bytes") if "." in self.column else column
        except Exception as error:  # a damaged file: pyarrow's own errors, and some of Python's
            raise ImageError(f"the file cannot be read there: {error}") from error


@dataclass(frozen=True)
class ParquetSource:
    """The images in Parquet files; a name is that of the file and the number of the row, from 0
    on.
    """

    path: Path
    tables: Mapping[str, ParquetTable] = field(repr=False)
    _held: "OrderedDict[tuple[str, int], Any]" = field(default_factory=OrderedDict, repr=False)
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def read(self, name: str) -> bytes:
        """Return the bytes of an image; ImageError where there are none."""
        file, _, row = name.rpartition("/")
        table = self.tables[file]
        group = bisect_right(table.ends, int(row))
        first = table.ends[group - 1] if group else 0
        rows = self._find_group(file, group)
        value = rows[int(row) - first].as_py() if int(row) - first < len(rows) else None
        if not isinstance(value, bytes):
            raise ImageError("no image in this row")
        return value

    def digest(self, name: str) -> bytes:
        """Return the digest of an image's bytes; ImageError where it is none."""
        return hash_image(self.read(name))

    def stamp(self, name: str) -> Stamp | None:
        """Return the file's stamp, from before it was opened, with the column and the number of the
        row.
        """
        file, _, row = name.rpartition("/")
        table = self.tables[file]
        return stamp_inner(table.stamped, f"{table.column}/{row}")

    def describe(self) -> str:
        """Return the path of the file, or of the folder of several."""
        return str(self.path)

    def _find_group(self, file: str, group: int) -> Any:
        """Return the images of a group of rows, read now or held since it was read for others."""
        key = file, group
        with self._lock:
            if key not in self._held:
                self._held[key] = self.tables[file].read_group(group)
                while len(self._held) > HELD_GROUPS:
                    self._held.popitem(last=False)
            self._held.move_to_end(key)
            return self._held[key]


def open_parquet(
    path: Path, columns: Mapping[str, str], needed: Sequence[str] = NEEDED
) -> tuple[ParquetSource, Listing]:
    """Open a Parquet file of images.

    Raises:
        MissingExtraError: pyarrow is not installed.
        SourceError: it cannot be read, or has no column of images or of classes, where that is
            needed.
        SettingsError: a column that was named is not there.

    """
    return open_parquets(path, [path], columns, needed)


def open_parquets(
    path: Path, files: Sequence[Path], columns: Mapping[str, str], needed: Sequence[str] = NEEDED
) -> tuple[ParquetSource, Listing]:
    """Open Parquet files as one source; files called like a part, `train-00000-of-00002`, are the
    parts of a split.
    """
    folder = path if path.is_dir() else path.parent
    read = {
        file.relative_to(folder).as_posix(): _read_rows(file, columns, needed) for file in files
    }
    parts = find_shard_parts([file.name for file in files])
    entries = (
        Entry(
            f"{name}/{at:0{len(str(len(rows.labels) - 1))}d}",
            label,
            parts.get(Path(name).name, -1),
            group,
        )
        for name, rows in read.items()
        for at, (label, group) in enumerate(zip(rows.labels, rows.groups, strict=True))
    )
    notes = tuple(dict.fromkeys(rows.note for rows in read.values()))
    source = ParquetSource(path, {name: rows.table for name, rows in read.items()})
    return source, list_entries(entries, {}, notes)


@dataclass(frozen=True)
class ParquetRows:
    """What a file says of all its images but the images themselves; `note` is what was made of its
    columns.
    """

    table: ParquetTable
    labels: Sequence[str]
    groups: Sequence[str]
    note: str


def _read_rows(path: Path, columns: Mapping[str, str], needed: Sequence[str]) -> ParquetRows:
    """Read the classes and groups of all rows of a file."""
    pyarrow, stamped = _import_pyarrow(), stamp_file(str(path))
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            schema, metadata = file.schema_arrow, file.metadata
            places = find_columns(path, schema, columns, needed)
            said = {role: schema.names[at] for role, at in places.items()}
            table = file.read(columns=[name for role, name in said.items() if role != "path"])
            sizes = [metadata.row_group(at).num_rows for at in range(metadata.num_row_groups)]
            count = metadata.num_rows
            classes = read_class_names(schema, said["label"]) if "label" in said else None
            columns_of = {
                role: table.column(name).to_pylist()
                for role, name in said.items()
                if role != "path"
            }
            labels, _ = read_labels(
                _find_class(value, classes) for value in columns_of.get("label", [None] * count)
            )
            groups, _ = read_labels(columns_of.get("group", [None] * count))
    except (DataError, SettingsError):
        raise
    except Exception as error:
        # a damaged file: pyarrow's own errors, and those over text that is none
        raise SourceError(
            f"{quote_name(str(path))} cannot be read as Parquet: {error}", "Fetch it again."
        ) from error
    is_nested = pyarrow.types.is_struct(schema.field(said["path"]).type)
    column = f"{said['path']}.bytes" if is_nested else said["path"]
    held = ParquetTable(path, tuple(accumulate(sizes)), column, stamped)
    stripped = [label.strip() for label in labels]
    return ParquetRows(held, stripped, groups, describe_places(path, schema.names, places))


def find_columns(
    path: Path, schema: Any, columns: Mapping[str, str], needed: Sequence[str] = NEEDED
) -> dict[str, int]:
    """Find the columns of the images, whose role is "path" here, of the classes and perhaps of
    groups.

    Raises:
        SourceError: there is no such column.
        SettingsError: a column that was named is not there.

    """
    names, places = tuple(schema.names), find_named(path, tuple(schema.names), columns)
    images = [at for at, name in enumerate(names) if _holds_images(schema.field(name).type)]
    others = [at for at in range(len(names)) if at not in images]
    guesses = {
        "path": [*guess_places("path", names, images), *images],
        "label": guess_places("label", names, others),
        "group": guess_places("group", names, others),
    }
    guessed = {role: found[0] for role, found in guesses.items() if found and role not in columns}
    return check_places(path, names, guessed | places, needed)


def _holds_images(kind: Any) -> bool:
    """Say whether values of this type may be images: bytes, or bytes beside a path."""
    pyarrow = _import_pyarrow()
    if pyarrow.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))


def read_class_names(schema: Any, column: str) -> Sequence[str] | None:
    """Read what the numbers of a column are called, where the file says so."""
    try:
        about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        names = about["info"]["features"][column]["names"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return (
        names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None
    )


def _find_class(value: object, names: Sequence[str] | None) -> object:
    """Return what a row says of its class; None where it has none, as -1 says in test parts that
    are kept secret.
    """
    if names is None or not isinstance(value, int):
        return value
    return names[value] if 0 <= value < len(names) else None if value == -1 else value


def _import_pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError(
            "pyarrow is not installed; Parquet files are read with it",
            "Install it: pip install 'squeezetune[parquet]'",
        ) from error
    return pyarrow
