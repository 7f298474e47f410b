"""The command `info`: what a model is, what it was trained on, and what it is worth."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from squeezetune.cli.options import guard_errors, json_option, keep_fonts_in_cache
from squeezetune.errors import ArtifactError, OutputError, SettingsError
from squeezetune.quantities import format_size

if TYPE_CHECKING:
    from squeezetune.model.artifact import Manifest


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--plots",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Draw the report's plots for papers into a folder; this needs the extra plots.",
)
@json_option
@guard_errors
def info(model: Path, plots: Path | None, as_json: bool) -> None:
    """Show what MODEL, a folder or an exported .onnx file, is, what it was trained
    on, and what it is worth.
    """  # a sentence of two lines
    from squeezetune.cli.console import print_json, print_lines
    from squeezetune.model.artifact import MANIFEST, REPORT, read_manifest, read_report
    from squeezetune.model.onnx_file import read_model_file

    if model.is_file():
        if plots:
            raise SettingsError(
                f"{model} is a file, and has no report to be drawn", "Give the model's folder."
            )
        payload, manifest = read_model_file(model)
        measure = f"squeezetune evaluate {shlex.quote(str(model))} PHOTOS"
        found = dict(vars(manifest))
        lines = [
            *describe_file(manifest, len(payload)),
            "What it is worth, the folder says that it was exported from; or measure it: "
            f"{measure}",
        ]
    else:
        manifest, report = read_manifest(model), read_report(model)
        try:
            found = vars(manifest) | {"test": report["test"]}
            lines = describe_folder(manifest, report)
            if plots:
                _write_plots(report, plots)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            # edited by hand
            raise ArtifactError(
                f"{model} does not say what it was trained on and what it is worth: {REPORT} or "
                f"{MANIFEST} is damaged",
                "Train the model again, or copy the whole folder again from where it came.",
            ) from error
    if as_json:
        print_json(found)
        return
    print_lines(*lines)


def describe_folder(manifest: "Manifest", report: Mapping[str, Any]) -> list[str]:
    """Say in a few lines what a model's folder says."""
    from squeezetune.cli.console import describe_test

    data, network, weights = manifest.data, report["model"], manifest.weights
    return [
        _describe_classes(manifest),
        *describe_test(report["test"]),
        f"Trained on {data['train']:,} photos and chosen on {data['validation']:,}, by SqueezeTune "
        f"{manifest.version}, {manifest.created}",
        f"{network['network']}; {network['head']}, on {network['views']}, at "
        f"{manifest.image_side} px ({manifest.resize}); {format_size(network['file_bytes'])}",
        *(
            [f"Pretrained weights: {weights['origin']}; licence: {weights['license']}"]
            if weights
            else []
        ),
        f"Repeat  {report['command']}",
    ]


def describe_file(manifest: "Manifest", size: int) -> list[str]:
    """Say in a few lines what an exported file says of itself."""
    weights = manifest.weights
    made = (
        f"SqueezeTune {manifest.version}, {manifest.created}" if manifest.version else "SqueezeTune"
    )
    return [
        _describe_classes(manifest),
        f"{weights['network']}, computed in {manifest.arithmetic}, at {manifest.image_side} px "
        f"({manifest.resize}); {format_size(size)}; by {made}",
        f"Pretrained weights: {weights['origin']}",
    ]


def _write_plots(report: Mapping[str, Any], folder: Path) -> None:
    """Draw the plots of a report into a folder."""
    keep_fonts_in_cache()  # before matplotlib is loaded
    from squeezetune.report.plots import draw_plots
    from squeezetune.system.disk import write_file

    plots = draw_plots(report)
    try:
        for name, payload in plots.items():
            write_file(folder / name, payload)
    except OSError as error:
        raise OutputError(
            f"the plots cannot be written to {folder}: {error.strerror}",
            "Give another folder with --plots.",
        ) from error


def _describe_classes(manifest: "Manifest") -> str:
    return f"{len(manifest.class_names)} classes: {', '.join(manifest.class_names)}"
