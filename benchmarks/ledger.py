"""What long benchmarks have measured so far: a line of JSON for each finished run, so that none is
made twice.
"""

import argparse
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import squeezetune


@dataclass(frozen=True)
class Ledger:
    """The file of one benchmark; a run is known by its `key`, plain values that say all it depends
    on.
    """

    path: Path

    def recall(
        self, key: Mapping[str, Any], measure: Callable[[], Mapping[str, Any]]
    ) -> dict[str, Any]:
        """Take what a finished run has measured, or make the run now and write it down."""
        print(
            f"{', '.join(f'{name} {value}' for name, value in key.items())}: ", end="", flush=True
        )
        line = self._find_line(key)
        if line is None:
            self._append({"key": key, "program": hash_program(), "measured": dict(measure())})
            line = self.read()[-1]
            print("done", flush=True)
        else:
            is_same = line["program"] == hash_program()
            print(
                f"measured earlier{'' if is_same else ', by another state of the program'}",
                flush=True,
            )
        measured: dict[str, Any] = line["measured"]
        return measured

    def find(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """Find what a finished run has measured."""
        line = self._find_line(key)
        return line and line["measured"]

    def read(self) -> list[dict[str, Any]]:
        """Read all lines, oldest first; one that a kill has torn counts as a run that is not
        finished.
        """
        try:
            text = self.path.read_text()
        except FileNotFoundError:
            return []
        return [line for line in map(_parse_line, text.splitlines()) if line]

    def _find_line(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        plain = json.loads(json.dumps(key))  # tuples are lists there
        return next((line for line in reversed(self.read()) if line["key"] == plain), None)

    def _append(self, line: Mapping[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(
                f"\n{json.dumps(line)}\n"
            )  # the first newline ends a line that a kill has torn
            file.flush()
            os.fsync(file.fileno())


def add_ledger_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every program that keeps its finished runs."""
    parser.add_argument(
        "--ledger", type=Path, help="the file of finished runs (default: one in the work folder)"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="measure again what earlier calls have finished"
    )


def open_ledger(name: str, options: argparse.Namespace) -> Ledger:
    """Open a benchmark's ledger; with `--fresh` what it knew is kept under another name."""
    path: Path = options.ledger or options.work / f"{name}.jsonl"
    if options.fresh and path.exists():
        path.replace(path.with_suffix(".old.jsonl"))
    return Ledger(path)


def hash_program() -> str:
    """Name the state of the program that is measured by a digest of its source."""
    root = Path(squeezetune.__file__).parent
    sources = (path.read_bytes() for path in sorted(root.rglob("*.py")))
    return hashlib.blake2b(b"\0".join(sources), digest_size=8).hexdigest()


def _parse_line(line: str) -> dict[str, Any] | None:
    try:
        content = json.loads(line)
    except ValueError:
        return None
    return (
        content
        if isinstance(content, dict) and content.keys() == {"key", "program", "measured"}
        else None
    )
