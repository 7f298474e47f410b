"""The command `predict`: what is on photos, however many they are."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from squeezetune.cli_options import INTERRUPTED, guard_errors, quiet_option
from squeezetune.errors import SettingsError, SqueezeTuneError

if TYPE_CHECKING:
    from squeezetune.prediction import Classifier

# By the end of an output file's name.
ENDINGS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".ndjson": "json"}
BAD_IMAGES = 1


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True)
@click.option("--top", default=1, show_default=True, type=click.IntRange(1), help="How many classes to name.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV with the probability of every class.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.option("--none-of-these", "rate", default="", metavar="RATE",
              help="Say which images are of none of the classes; of images that are, at most this share, such as 5%, "
                   "may be taken for such.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE",
              help="Write a new file, .csv or .jsonl, with a line for every image.")  # fmt: skip
@click.option("--resume", is_flag=True, help="Go on with the unfinished file of an interrupted run.")
@quiet_option
@guard_errors
# click hands every option over by its name, so that they cannot be one record
def predict(
    model: Path,
    images: tuple[str, ...],
    top: int,
    as_csv: bool,
    as_json: bool,
    rate: str,
    output: Path | None,
    resume: bool,
    quiet: bool,
) -> None:
    """Say what is on IMAGES: files, folders with everything below them, archives
    and tables as for train, or - for a photo or a list of paths on standard input.

    The exit status is 1 if an image could not be read; the others are predicted all the same.
    """  # noqa: D205  # a sentence of two lines
    from squeezetune.prediction import load
    from squeezetune.rejection import parse_rate

    chosen, share = "csv" if as_csv else "json" if as_json else "", parse_rate(rate) if rate else None
    if resume and not output:
        raise SettingsError("--resume goes on with a file", "Name it: --output FILE.")
    classifier = load(model)
    if output:
        failed = _write(classifier, images, output, chosen or _choose_format(output), share, resume, quiet)
    else:
        failed = _print(classifier, images, chosen or "table", top, share)
    if failed:
        sys.exit(BAD_IMAGES)


def _choose_format(output: Path) -> str:
    """Choose how lines are written by the end of the file's name."""
    if output.suffix.lower() not in ENDINGS:
        raise SettingsError(
            f"{output} ends in none of {', '.join(ENDINGS)}", "Choose how it is written by --csv or --json."
        )
    return ENDINGS[output.suffix.lower()]


def _print(classifier: "Classifier", images: tuple[str, ...], kind: str, top: int, rate: float | None) -> int:
    """Print a line for each image as soon as it is known; return how many could not be read."""
    from squeezetune.lines import FORMATS, LineOptions
    from squeezetune.predictions import predict_files, read_arguments

    lines = FORMATS[kind](LineOptions(classifier.class_names, top, rate is not None))
    failed, header = 0, lines.header
    for title, outcome in predict_files(classifier, read_arguments(images), rate):
        if header:
            click.echo(header)
            header = ""
        if isinstance(outcome, SqueezeTuneError):
            failed += 1
            click.echo(f"Error: {title}: {outcome.message}", err=True)
        if line := lines.write(title, outcome):
            click.echo(line)
    return failed


def _write(
    classifier: "Classifier",
    images: tuple[str, ...],
    output: Path,
    kind: str,
    rate: float | None,
    resume: bool,
    quiet: bool,
) -> int:
    """Write a line for each image to a file; return how many could not be read."""
    from squeezetune.console import ProgressListener, print_lines
    from squeezetune.data.folders import check_outside
    from squeezetune.line_file import LineFile
    from squeezetune.lines import READABLE, LineOptions
    from squeezetune.predictions import identify_lines, predict_to_file, read_arguments

    for folder in filter(Path.is_dir, map(Path, images)):
        check_outside(output, folder, "the file", "give another one with --output")
    lines = READABLE[kind](LineOptions(classifier.class_names, has_unknown=rate is not None))
    file = LineFile(output, lines, identify_lines(classifier, kind, rate))
    file.check(resume)
    try:
        with file, ProgressListener(is_quiet=quiet) as listen:
            count, failed = predict_to_file(classifier, read_arguments(images), file, rate, listen)
    except KeyboardInterrupt:
        click.echo(
            f"\nStopped. {output} holds what was predicted; the same with --resume goes on from there.", err=True
        )
        sys.exit(INTERRUPTED)
    print_lines(f"{count:,} images, {failed:,} of which could not be read: {output}")
    return failed
