"""`squeezetune train --watch`: trainings one after the other, each told in a line."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from squeezetune.cli.console import ProgressListener, print_lines
from squeezetune.cli.terminal import write_data
from squeezetune.events import Event
from squeezetune.quantities import format_share
from squeezetune.watching import PollInterval, Update, watch


class Display:
    """Shows the progress of one training after the other."""

    def __init__(self, *, is_quiet: bool) -> None:
        self._is_quiet = is_quiet
        self._listener: ProgressListener | None = None

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if self._listener is None:
            self._listener = ProgressListener(is_quiet=self._is_quiet)
            self._listener.__enter__()
        self._listener(event)

    def close(self) -> None:
        """Leave what was shown on the terminal as it is."""
        if self._listener:
            self._listener.__exit__()
        self._listener = None


def follow(
    photos: Path, output: Path | None, seconds: float, as_json: bool, quiet: bool, **options: Any
) -> None:
    """Keep a model current with its photos until Ctrl-C, and print what came of each training."""
    display = Display(is_quiet=quiet or as_json)
    has_model = False
    try:
        for update in watch(
            photos, output, pace=PollInterval(every_s=seconds), listen=display, **options
        ):
            display.close()
            if as_json:
                write_data(json.dumps(describe_update(update)))
            else:
                print_lines(f"{time.strftime('%H:%M:%S')}  {format_update(update)}")
                if not has_model:
                    print_lines(f"Watching {photos}; Ctrl-C ends this.")
            has_model = True
    except KeyboardInterrupt:
        display.close()
        if not has_model:
            raise
    if not as_json:
        print_lines("No longer watching; the model is what the last training made.")


def format_update(update: Update) -> str:
    """Write in a line what came of a training."""
    if update.error:
        return f"The model stays as it was: {update.error.message} {update.error.hint}".rstrip()
    count = update.classifier.report["test"]["count"] if update.classifier else 0
    change = f"{update.change}: " if update.change else ""
    before = (
        "" if update.accuracy_before is None else f", before {format_share(update.accuracy_before)}"
    )
    folder = update.classifier.folder if update.classifier else ""
    return (
        f"{change}{format_share(update.accuracy)} of {count:,} test photos are "
        f"recognised{before}; model {folder}"
    )


def describe_update(update: Update) -> Mapping[str, Any]:
    """Write what came of a training as plain values."""
    error = update.error and {
        "code": update.error.code,
        "message": update.error.message,
        "hint": update.error.hint,
    }
    return {
        "change": update.change and vars(update.change),
        "folder": str(update.classifier.folder) if update.classifier else None,
        "accuracy": update.accuracy,
        "accuracy_before": update.accuracy_before,
        "error": error,
    }
