"""The command `data`: data sets by name."""

from pathlib import Path
from typing import Any

import click

from squeezetune.cli.options import guard_errors, json_option, quiet_option
from squeezetune.errors import SettingsError
from squeezetune.quantities import format_size


@click.command()
@click.argument("name", required=False)
@click.option("--from", "source", type=click.Path(path_type=Path), metavar="ARCHIVE_OR_FOLDER",
              help="Take what is here already, instead of fetching it.")  # fmt: skip
@click.option("--url", default="", help="Fetch the archive from this address, such as a mirror's.")
@click.option(
    "--format",
    "archive_format",
    default="",
    metavar="python|binary",
    help="Which of CIFAR-10's archives.  [default: binary, or what the archive holds]",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a .zip file there, instead of the cache, where train NAME finds it.",
)
@json_option
@quiet_option
@guard_errors
def data(
    name: str | None,
    source: Path | None,
    url: str,
    archive_format: str,
    output: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Fetch the data set NAME, to train on it by its name; list all without one.

    \b
      squeezetune data cifar10                    fetch it, check it, and pack it into one file
      squeezetune train cifar10                   train on it
      squeezetune data ar-faces --from AR.zip     which may not be fetched: from your own copy
    """  # noqa: D301  # click wants the character itself
    from squeezetune.data.sources.catalog import DATA_SETS

    if name is None:
        if source or url or archive_format or output:
            raise SettingsError("no data set is named", f"Known data sets: {', '.join(DATA_SETS)}.")
        _list_datasets(list(DATA_SETS.values()), as_json)
        return
    from squeezetune.cli.console import ProgressListener, print_json, print_lines
    from squeezetune.data.datasets.fetching import fetch_dataset

    with ProgressListener(is_quiet=quiet or as_json) as listen:
        path = fetch_dataset(
            name, output, source=source, url=url, archive_format=archive_format, listen=listen
        )
    if as_json:
        print_json({"name": name, "file": str(path)})
        return
    print_lines(
        f"Data    {path}  ({format_size(path.stat().st_size)})",
        f"Train   squeezetune train {output or name}",
    )


def _list_datasets(datasets: list[Any], as_json: bool) -> None:
    """Print what is known of all data sets, and what is here."""
    from squeezetune.cli.console import print_json, print_lines

    if as_json:
        print_json(
            [
                {
                    "name": each.name,
                    "title": each.title,
                    "classes": each.classes,
                    "images": each.images,
                    "images_here": each.count_here(),
                    "file": str(each.path),
                    "conditions": each.conditions,
                    "addresses": {form: archive.address for form, archive in each.archives.items()},
                }
                for each in datasets
            ]
        )
        return
    for each in datasets:
        first = next(iter(each.archives.values()), None)
        megabytes = f" ({first.megabytes} MB)" if first and first.megabytes else ""
        here = each.count_here()
        print_lines(
            f"{each.name:<10}{each.title}",
            f"{'':<10}{each.classes} classes, {each.images:,} images; {each.conditions}",
            f"{'':<10}"
            + (
                f"here: {here:,} images in {each.path}"
                if here
                else f"not here: {each.command}{megabytes}"
            ),
        )
