"""The command `predict`: what is on photos, however many they are."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from squeezetune.cli.options import (
    INTERRUPTED,
    columns_option,
    explain_order,
    guard_errors,
    quiet_option,
)
from squeezetune.cli.terminal import write_data, write_line, write_remark
from squeezetune.errors import SettingsError, SqueezeTuneError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from squeezetune.model.batch import ImageBatch
    from squeezetune.model.classifier import Classifier
    from squeezetune.model.explanation import PictureFolder

# By the end of an output file's name.
ENDINGS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".ndjson": "json"}
BAD_IMAGES = 1


@click.command()
@click.argument("places", nargs=-1, metavar="MODEL IMAGES...")
@click.option(
    "--imagenet",
    is_flag=True,
    help="Take no MODEL, but a network as it was published, with ImageNet's 1,000 classes.",
)
@click.option(
    "--backbone",
    default="",
    metavar="NAME",
    help="Which network, with --imagenet; see squeezetune backbones.  [default: "
    "efficientnet_lite0]",
)
@click.option(
    "--top", default=1, show_default=True, type=click.IntRange(1), help="How many classes to name."
)
@click.option(
    "--csv", "as_csv", is_flag=True, help="Print CSV with the probability of every class."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.option(
    "--none-of-these",
    "rate",
    default="",
    metavar="RATE",
    help="Say which images are of none of the classes; of images that are, at most this share, "
    "such as 5%, may be taken for such.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE",
              help="Write a new file, .csv or .jsonl, with a line for every image.")  # fmt: skip
@click.option(
    "--resume", is_flag=True, help="Go on with the unfinished file of an interrupted run."
)
@click.option("--explain", "folder", type=click.Path(path_type=Path), metavar="DIR",
              help="Write a picture of each image that shows where its class is seen.")  # fmt: skip
@columns_option
@quiet_option
@guard_errors
# click hands every option over by its name, so that they cannot be one record
def predict(
    places: tuple[str, ...],
    imagenet: bool,
    backbone: str,
    top: int,
    as_csv: bool,
    as_json: bool,
    rate: str,
    output: Path | None,
    resume: bool,
    folder: Path | None,
    columns: str,
    quiet: bool,
) -> None:
    """Say what is on IMAGES: files, folders with everything below them, archives
    and tables as for train but without classes, or - for a photo or a list of paths on standard
    input.

    \b
      squeezetune predict flowers-model a.jpg        by a model that you have trained
      squeezetune predict --imagenet a.jpg --top 3   by a network as it was published

    The exit status is 1 if an image could not be read; the others are predicted all the same.
    """  # noqa: D301  # click wants the character itself
    from squeezetune.model.rejection import parse_rate

    chosen = "csv" if as_csv else "json" if as_json else ""
    share = parse_rate(rate) if rate else None
    if resume and not output:
        raise SettingsError("--resume goes on with a file", "Name it: --output FILE.")
    needed = ["IMAGES..."] if imagenet else ["MODEL", "IMAGES..."]
    if len(places) < len(needed):
        raise click.UsageError(f"Missing argument {needed[len(places)]!r}.")
    images = places[len(needed) - 1 :]
    if imagenet:
        classifier = _load_imagenet(backbone, folder, quiet)
    else:
        classifier = _load_model(places[0], images, backbone)
    job = _open_job(classifier, Images(images, columns), share, folder)
    if output:
        failed = _write(job, output, chosen or _choose_format(output), resume, quiet)
    else:
        failed = _print(job, chosen or "table", top)
    if failed:
        sys.exit(BAD_IMAGES)


def _load_model(model: str, images: tuple[str, ...], backbone: str) -> "Classifier":
    """Load a trained model."""
    from squeezetune.model.classifier import load

    if backbone:
        raise SettingsError(
            "--backbone goes with --imagenet; a model knows its own", "Leave one of them out."
        )
    with explain_order("predict", Path(model), images):
        return load(model)


def _load_imagenet(backbone: str, folder: Path | None, quiet: bool) -> "Classifier":
    """Load a network as it was published; the first time it is told what is fetched."""
    from squeezetune.cli.console import ProgressListener
    from squeezetune.model.imagenet import DEFAULT, load_imagenet

    if folder:
        raise SettingsError(
            "--explain needs a model that was trained", "Leave out --explain or --imagenet."
        )
    with ProgressListener(is_quiet=quiet) as listen:
        return load_imagenet(backbone or DEFAULT, listen=listen)


def _choose_format(output: Path) -> str:
    """Choose how lines are written by the end of the file's name."""
    if output.suffix.lower() not in ENDINGS:
        raise SettingsError(
            f"{output} ends in none of {', '.join(ENDINGS)}",
            "Choose how it is written by --csv or --json.",
        )
    return ENDINGS[output.suffix.lower()]


class Images(NamedTuple):
    """Where the images are, and which column of a table is their path, where that is guessed
    wrong.
    """

    places: tuple[str, ...]
    columns: str

    def read(self) -> "Iterator[ImageBatch]":
        """Find them as they are needed."""
        from squeezetune.model.batch import read_arguments

        return read_arguments(self.places, self.columns)


class PredictionJob(NamedTuple):
    """What is predicted, and how: with a rate of images that are none of the classes, or pictures
    of each, or not.
    """

    classifier: "Classifier"
    images: Images
    rate: float | None
    pictures: "PictureFolder | None"

    def keep_out(self, target: Path, what: str, option: str) -> None:
        """Make sure that nothing is written into the folders of images."""
        from squeezetune.data.sources.folder import check_outside

        for folder in filter(Path.is_dir, map(Path, self.images.places)):
            check_outside(target, folder, what, f"give another one with {option}")


def _open_job(
    classifier: "Classifier", images: Images, rate: float | None, folder: Path | None
) -> PredictionJob:
    """Check where pictures would go."""
    if folder is None:
        return PredictionJob(classifier, images, rate, None)
    from squeezetune.model.explanation import Explainer, PictureFolder

    pictures = PictureFolder(folder, Explainer(classifier))
    job = PredictionJob(classifier, images, rate, pictures)
    job.keep_out(folder, "the folder of pictures", "--explain")
    pictures.check()
    return job


def _print(job: PredictionJob, kind: str, top: int) -> int:
    """Print a line for each image as soon as it is known; return how many could not be read."""
    from squeezetune.model.batch import predict_files
    from squeezetune.model.output import FORMATS, LineOptions

    lines = FORMATS[kind](LineOptions(job.classifier.class_names, top, job.rate is not None))
    failed, header = 0, lines.header
    write = write_line if kind == "table" else write_data
    for title, outcome in predict_files(job.classifier, job.images.read(), job.rate, job.pictures):
        if header:
            write_data(header)
            header = ""
        if isinstance(outcome, SqueezeTuneError):
            failed += 1
            write_remark(f"Error: {title}: {outcome.message}")
        if line := lines.write(title, outcome):
            write(line)
    return failed


def _write(job: PredictionJob, output: Path, kind: str, resume: bool, quiet: bool) -> int:
    """Write a line for each image to a file; return how many could not be read."""
    from squeezetune.cli.console import ProgressListener, print_lines
    from squeezetune.model.batch import identify_lines, predict_to_file
    from squeezetune.model.output import READABLE, LineFile, LineOptions

    job.keep_out(output, "the file", "--output")
    lines = READABLE[kind](
        LineOptions(job.classifier.class_names, has_unknown=job.rate is not None)
    )
    file = LineFile(output, lines, identify_lines(job.classifier, kind, job.rate))
    try:
        with file, ProgressListener(is_quiet=quiet) as listen:
            file.check(resume)
            count, failed = predict_to_file(
                job.classifier, job.images.read(), file, job.rate, job.pictures, listen
            )
    except KeyboardInterrupt:
        write_remark("")
        write_remark(
            f"Stopped. {output} holds what was predicted; the same with --resume goes on from "
            f"there."
        )
        sys.exit(INTERRUPTED)
    print_lines(f"{count:,} images, {failed:,} of which could not be read: {output}")
    return failed
