"""The command `export`: a model in other formats, each measured."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from squeezetune.cli.options import (
    class_option,
    columns_option,
    guard_errors,
    json_option,
    quiet_option,
)
from squeezetune.errors import ExportError

if TYPE_CHECKING:
    from squeezetune.exporting.export_index import Exports


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-f", "--format", "formats", multiple=True, metavar="NAME",
              help="May be given several times; `all` for all that this computer can write.  "
                   "[default: onnx, onnx-int8, onnx-tiny; of a graph alone onnx, "
                   "onnx-fp16]")  # fmt: skip
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The exports' folder.  [default: MODEL-export]",
)
@click.option(
    "--photos",
    type=click.Path(path_type=Path),
    help="Where the photos are that the model was trained on, if not where they were.",
)
@click.option("--max-loss", type=float, metavar="POINTS",
              help="Fail rather than lose more points of accuracy on the test photos.")  # fmt: skip
@click.option(
    "--teacher",
    is_flag=True,
    help="Let SqueezeNet 1.1 learn what MODEL, a larger network, says of its training photos, and "
    "write that too, in half a megabyte: student (with torch).",
)
@click.option("--budget", default="", metavar="TIME",
              help="The student learns for at most so long, such as 10m.")  # fmt: skip
@click.option("--epochs", type=float, default=0.0,
              help="Passes of the student over the photos; 0 goes by their number.")  # fmt: skip
@click.option("--max-ram", default="", metavar="SIZE",
              help="The student's training takes at most so much memory, such as 1GB.")  # fmt: skip
@click.option(
    "--no-measure",
    is_flag=True,
    help="Write without the photos; onnx-int8 and onnx-tiny need some.",
)
@click.option(
    "--runtime",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where ONNX Runtime's build for browsers lies; else `web` fetches it once.",
)
@class_option
@columns_option
@json_option
@quiet_option
@guard_errors
# click hands every option over by its name, so that they cannot be one record
def export(
    model: Path,
    formats: tuple[str, ...],
    output: Path | None,
    photos: Path | None,
    max_loss: float | None,
    teacher: bool,
    budget: str,
    epochs: float,
    max_ram: str,
    no_measure: bool,
    runtime: Path | None,
    class_pattern: str,
    columns: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write MODEL in other formats, and measure each file by its own runtime.

    The test photos are those that have measured the model; they are found
    again by their content.
    """
    from squeezetune.cli.console import ProgressListener, print_json
    from squeezetune.exporting.export_index import describe_exports
    from squeezetune.exporting.exports import export as export_model
    from squeezetune.exporting.formats import list_formats

    chosen = list_formats() if "all" in formats else formats
    with ProgressListener(is_quiet=quiet or as_json) as listen:
        exports = export_model(
            model,
            chosen,
            output,
            photos=photos,
            class_pattern=class_pattern,
            columns=columns,
            max_loss=max_loss,
            measure=not no_measure,
            teacher=teacher,
            budget=budget,
            epochs=epochs,
            max_ram=max_ram,
            runtime=runtime,
            listen=listen,
        )
    if as_json:
        print_json({"folder": str(exports.folder)} | describe_exports(exports))
    else:
        print_exports(exports)
    if exports.failures:
        sys.exit(ExportError.exit_status)


def print_exports(exports: "Exports") -> None:
    """Print a row for every export, and in words what is missing."""
    from squeezetune.cli.console import print_lines, print_table
    from squeezetune.exporting.model_card import describe_accuracy, describe_export

    columns = {
        "format": "left",
        "MB": "right",
        "accuracy": "right",
        "change in points\n(95 % interval)": "right",
        "agrees\n%": "right",
        "images/s\n1/32": "right",
        "start\ns": "right",
        "RAM\nMB": "right",
    }
    rows = []
    for item in exports.items:
        # short, so that a row fits into 80 columns
        row = {name: str(value).replace(",", "") for name, value in describe_export(item).items()}
        change, speed = row["change"].replace(" to ", "…"), row["speed"].replace(" / ", "/")
        figures = [
            row["format"],
            row["megabytes"][:4],
            describe_accuracy(item),
            change,
            row["agreement"].rstrip(" %"),
        ]
        rows.append([*figures, speed, row["cold_start"], row["memory"]])
    print_table(columns, rows)
    for item in exports.items:
        if item.unmeasured:
            print_lines(f"{item.format} was not measured: {item.unmeasured}.")
    for failure in exports.failures:
        print_lines(f"{failure.format} was not written: {failure.message}.", f"  {failure.hint}")
    print_lines(f"Exports {exports.folder}", f"Card    {exports.folder / 'README.md'}")
