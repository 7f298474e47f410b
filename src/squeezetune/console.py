"""How the command line speaks to people: progress, tables, errors."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from squeezetune.errors import SqueezeTuneError
from squeezetune.events import Event, Notice, StageAdvanced, StageFinished, StageStarted

STAGE_WORDS = {
    "reading": "Reading the photos",
    "features": "Looking at the photos",
    "head": "Learning",
    "measuring": "Measuring",
}


class ProgressListener:
    """Draws events as progress bars on a terminal; elsewhere only notices are printed."""

    def __init__(self, *, is_quiet: bool = False) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._is_quiet = is_quiet
        self._tasks: dict[str, TaskID] = {}
        columns = (
            TextColumn("{task.description:<22}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        disable = is_quiet or not self._console.is_terminal
        self._progress = Progress(*columns, console=self._console, disable=disable)

    def __enter__(self) -> "ProgressListener":
        self._progress.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, StageStarted):
            words = STAGE_WORDS.get(event.stage, event.stage)
            self._tasks[event.stage] = self._progress.add_task(words, total=event.total or None, unit=event.unit)
        elif isinstance(event, StageAdvanced) and event.stage in self._tasks:
            self._progress.update(self._tasks[event.stage], completed=event.done)
        elif isinstance(event, StageFinished) and event.stage in self._tasks:
            task = self._tasks[event.stage]
            total = next(item.total for item in self._progress.tasks if item.id == task)
            self._progress.update(task, completed=total or 1, total=total or 1)
        elif isinstance(event, Notice) and not self._is_quiet:
            self._console.print(f"Note: {event.message}", markup=False)


def print_json(content: Any) -> None:
    """Print plain values as JSON."""
    print(json.dumps(content, indent=1, ensure_ascii=True, default=str))


def print_lines(*lines: str) -> None:
    """Print lines for people on standard output."""
    console = Console(highlight=False, soft_wrap=True)
    for line in lines:
        console.print(line, markup=False)


def print_table(columns: Mapping[str, str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """Print a table; `columns` maps titles to how they are justified."""
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for name, justify in columns.items():
        table.add_column(name, justify=justify)  # type: ignore[arg-type]  # left, right or center
    for row in rows:
        table.add_row(*row)
    Console(highlight=False).print(table, markup=False)


def print_error(error: SqueezeTuneError, *, as_json: bool = False) -> None:
    """Print an error as two lines on standard error, or as one JSON object on standard output."""
    if as_json:
        print_json({"error": {"code": error.code, "message": error.message, "hint": error.hint}})
        return
    print(f"Error: {_in_one_line(error.message)}", file=sys.stderr)
    if error.hint:
        print(f"Hint: {_in_one_line(error.hint)}", file=sys.stderr)


def format_share(share: float | None, digits: int = 1) -> str:
    """Write a share as per cent; only all or nothing is written as 100 or 0."""
    if share is None:
        return "–"
    text = f"{100 * share:.{digits}f}"
    if share < 1 and float(text) == 100:
        text = f"{100 - 10**-digits:.{digits}f}"
    return f"{text} %"


def _in_one_line(text: str) -> str:
    """Keep an error to its line whatever stands in a file's name."""
    return text.encode(errors="backslashreplace").decode().replace("\n", "\\n").replace("\r", "\\r")
