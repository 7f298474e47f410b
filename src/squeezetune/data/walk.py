"""The files below a folder one after another, in a stable order and in little memory, however many they are."""

import heapq
import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from squeezetune.data.folders import Found, explain_os_error, explain_root, scan_folder
from squeezetune.disk import find_roomy_folder

# The entries of one folder are sorted in parts of so many, 20 MB each; all but the last wait in temporary files.
SORTED_AT_ONCE = 100_000


def walk_files(root: str | Path) -> Iterator[tuple[str, str]]:
    """Yield the path of everything below a folder that is no folder, sorted by path, and why it must not be read.

    The reason is "" for a file. Rules and order are those of `list_files`, with what that refuses in its place.
    Memory does not grow with the number of files.

    Raises:
        SourceError: the folder is missing, is a file, or cannot be opened.

    """
    waiting = [("", _sort_entries(scan_folder(root, "")))]
    while waiting:
        folder, entries = waiting[-1]
        try:
            found = next(entries, None)
        except OSError as error:
            if not folder:
                raise explain_root(Path(root), error) from error
            waiting.pop()
            yield folder, explain_os_error(error)
            continue
        if found is None:
            waiting.pop()
        elif found.is_folder:
            waiting.append((found.name, _sort_entries(scan_folder(root, found.name))))
        else:
            yield found.name, found.refusal


def _sort_entries(entries: Iterator[Found]) -> Iterator[Found]:
    """Yield the entries of one folder so that the paths of all files below come sorted."""
    with ExitStack() as stack:
        parts: list[Iterable[Found]] = []
        while len(block := sorted(islice(entries, SORTED_AT_ONCE), key=_order)) == SORTED_AT_ONCE:
            file = stack.enter_context(TemporaryFile("w+", dir=find_roomy_folder()))
            file.writelines(f"{json.dumps(found)}\n" for found in block)
            file.seek(0)
            parts.append(_read_back(file))
        yield from heapq.merge(block, *parts, key=_order)


def _order(found: Found) -> str:
    """Order a folder as the paths below it: "a-b" comes before "a/c"."""
    return f"{found.name}/" if found.is_folder else found.name


def _read_back(file: IO[str]) -> Iterator[Found]:
    return (Found(*json.loads(line)) for line in file)
