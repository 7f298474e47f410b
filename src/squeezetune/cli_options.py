"""What the commands of the command line share: their errors, and options that more than one of them has."""

import functools
import os
import sys
from collections.abc import Callable, Collection
from dataclasses import fields
from typing import Any, NoReturn

import click

from squeezetune.errors import OutputError, SqueezeTuneError
from squeezetune.settings import Settings
from squeezetune.terminal import abandon_output, write_remark

INTERRUPTED = 130
STOPPED = (
    "Stopped. Nothing half-written is left, an earlier model is unchanged, and finished work is kept in the cache: "
    "the same command goes on from there."
)


def guard_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Turn our errors into two lines and an exit status, and Ctrl-C into a word on what was kept."""

    @functools.wraps(command)
    def guarded(**options: Any) -> None:
        try:
            command(**options)
        except SqueezeTuneError as error:
            _leave(error, as_json=bool(options.get("as_json")))
        except KeyboardInterrupt:
            write_remark("")
            write_remark(STOPPED)
            sys.exit(INTERRUPTED)
        except BrokenPipeError:  # the reader, e.g. `head`, has seen enough
            abandon_output()
            sys.exit(0)
        except OSError as error:  # of what has no words of its own
            reason = error.strerror or str(error)
            found = f"{os.fsdecode(error.filename)}: {reason}" if error.filename else reason
            _leave(SqueezeTuneError(f"the system refuses: {found}", "Check the disk's space and permissions."))

    return guarded


def _leave(error: SqueezeTuneError, *, as_json: bool = False) -> NoReturn:
    """Print an error and end with its status."""
    from squeezetune.console import print_error

    print_error(error, as_json=as_json and not isinstance(error, OutputError))
    sys.exit(error.exit_status)


def settings_options(command: Callable[..., None], names: Collection[str] = ()) -> Callable[..., None]:
    """Add one option for each setting, or for those of some names, with its help text, choices and default."""
    for item in reversed([item for item in fields(Settings) if not names or item.name in names]):
        choices: tuple[str, ...] = item.metadata["choices"]
        kind: Any = click.Choice(choices) if choices else type(item.default)
        flag = f"--{item.name.replace('_', '-')}"
        shown = item.default != ""
        text = item.metadata["text"]
        command = click.option(flag, item.name, type=kind, default=item.default, show_default=shown, help=text)(command)
    return command


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
class_option = click.option(
    "--class-pattern",
    default="",
    metavar="REGEX",
    help="Find the class in an image's path: the expression's first group, or the whole match. "
    "Without it, the photos' subfolders are the classes.",
)
columns_option = click.option(
    "--columns",
    default="",
    metavar="ROLE=NAME,...",
    help="Which column of a table (CSV, TSV) is the path, label, split and group of a photo, where that is guessed "
    "wrong: path=file,label=species.",
)
