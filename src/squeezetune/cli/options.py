"""What the commands of the command line share: their errors, and options that more than one of them
has.
"""

import functools
import math
import os
import shlex
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, NoReturn

import click

from squeezetune.cli.terminal import abandon_output, write_remark
from squeezetune.errors import ArtifactError, OutputError, SqueezeTuneError
from squeezetune.quantities import SIZE, TIME, Quantity, judge_number
from squeezetune.settings import Settings
from squeezetune.system.out_of_memory import check_limit, explain_shortage

INTERRUPTED = 130
FONTS = "MPLCONFIGDIR"  # where matplotlib keeps its list of fonts
STOPPED = "Stopped. Nothing half-written is left{kept}"
# What is to be said besides, of commands that know the option.
KEPT = {
    "resume": ", and an earlier model is unchanged. The same command with --resume goes on with "
    "layers that were being trained; without it, training begins anew.",
    "no_cache": ", and what was finished is in the cache, which the same command takes.",
}


def keep_fonts_in_cache() -> None:
    """Have matplotlib keep its list of fonts in our cache: of commands that draw our own plots."""
    from squeezetune.system.disk import find_cache_folder

    with suppress(RuntimeError):  # nobody's home is known
        os.environ.setdefault(FONTS, str(find_cache_folder() / "matplotlib"))


def guard_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Turn our errors into two lines and an exit status, and Ctrl-C into a word on what was
    kept.
    """

    @functools.wraps(command)
    def guarded(**options: Any) -> None:
        try:
            check_limit(command.__name__)
            command(**options)
        except SqueezeTuneError as error:
            _leave(error, as_json=bool(options.get("as_json")))
        except KeyboardInterrupt:
            _stop(options)
        except BrokenPipeError:  # the reader, e.g. `head`, has seen enough
            abandon_output()
            sys.exit(0)
        except Exception as error:  # of what has no words of its own
            if _is_interrupt(error):
                _stop(options)
            explained = explain_shortage(error) or _explain_refusal(error)
            if explained is None:
                raise
            _leave(explained)

    return guarded


def _is_interrupt(error: Exception) -> bool:
    """Say whether Ctrl-C has come while a library was loaded, which makes an ImportError of it."""
    causes = (error.__cause__, error.__context__)
    is_caused = any(isinstance(cause, KeyboardInterrupt) for cause in causes)
    return isinstance(error, ImportError) and (is_caused or "KeyboardInterrupt" in str(error))


def _stop(options: Mapping[str, Any]) -> NoReturn:
    write_remark("")
    write_remark(STOPPED.format(kept=next((KEPT[name] for name in KEPT if name in options), ".")))
    sys.exit(INTERRUPTED)


def _explain_refusal(error: Exception) -> SqueezeTuneError | None:
    """Explain what the system says of files; None for any other exception."""
    if not isinstance(error, OSError):
        return None
    reason = error.strerror or str(error)
    found = f"{os.fsdecode(error.filename)}: {reason}" if error.filename else reason
    return SqueezeTuneError(
        f"the system refuses: {found}", "Check the disk's space and permissions."
    )


@contextmanager
def explain_order(command: str, model: Path, photos: Sequence[str | Path]) -> Iterator[None]:
    """Tell of arguments in the wrong order where what was given as photos is a model.

    Raises:
        ArtifactError: what was given as the model is none.

    """
    try:
        yield
    except ArtifactError as error:
        swapped = next(
            (path for path in map(Path, photos) if path.suffix == ".onnx" or is_model(path)), None
        )
        if swapped is None or is_model(model):
            raise
        right = shlex.join(["squeezetune", command, str(swapped), str(model)])
        raise ArtifactError(
            f"{model} is no model, but {swapped} is", f"The model comes first: {right}"
        ) from error


def is_model(path: Path) -> bool:
    """Say whether a folder looks like one of a model, whole or not."""
    return (path / "model.json").is_file()


def _leave(error: SqueezeTuneError, *, as_json: bool = False) -> NoReturn:
    """Print an error and end with its status."""
    from squeezetune.cli.console import print_error

    print_error(error, as_json=as_json and not isinstance(error, OutputError))
    sys.exit(error.exit_status)


def settings_options(
    command: Callable[..., None], names: Collection[str] = ()
) -> Callable[..., None]:
    """Add one option for each setting, or for those of some names, with its help text, choices and
    default.
    """
    for item in reversed([item for item in fields(Settings) if not names or item.name in names]):
        choices: tuple[str, ...] = item.metadata["choices"]
        kind: Any = click.Choice(choices) if choices else type(item.default)
        flag = f"--{item.name.replace('_', '-')}"
        shown = item.default != ""
        text = f"{item.metadata['text']}{describe_limits(item)}"
        command = click.option(
            flag, item.name, type=kind, default=item.default, show_default=shown, help=text
        )(command)
    return command


MOST_AMOUNT = 1e9


class Amount(click.ParamType):  # type: ignore[type-arg]  # generic in newer ones only
    """A number above 0, in the unit that its name says, or a quantity with a unit of its own: 30,
    30s or 1m.
    """

    def __init__(self, name: str, quantity: Quantity | None = None, unit: float = 1.0) -> None:
        self.name, self._quantity, self._unit = name, quantity, unit

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read the amount in its unit."""
        text = str(value)
        if self._quantity and (read := self._quantity.read(text)):
            return read / self._unit
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if judge_number(self.name, number, 0, MOST_AMOUNT, is_open=True):
            examples = f", or such as {self._quantity.examples}" if self._quantity else ""
            self.fail(f"{text!r} is no number above 0 of {self.name}{examples}", param, ctx)
        return number


SECONDS, MEGABYTES = Amount("seconds", TIME), Amount("megabytes", SIZE, 1e6)
KILOBYTES, MEGAPIXELS = Amount("kilobytes", SIZE, 1024.0), Amount("megapixels")


def describe_limits(item: Field[Any]) -> str:
    """Write the limits of a setting for its help text; nothing where it has none."""
    low, high = item.metadata["low"], item.metadata["high"]
    return f"  [{low:g} to {high:,.12g}]" if high else ""


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
    help="Which column of a table (CSV, TSV) is the path, label, split and group of a photo, where "
    "that is guessed wrong: path=file,label=species.",
)
