"""The command line: thin doors to the public functions. Heavy modules are imported by the command
that needs them.
"""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from squeezetune.cli.backbones import backbones
from squeezetune.cli.check import check
from squeezetune.cli.data import data
from squeezetune.cli.export import export
from squeezetune.cli.info import info
from squeezetune.cli.options import (
    SECONDS,
    class_option,
    columns_option,
    explain_order,
    guard_errors,
    json_option,
    keep_fonts_in_cache,
    quiet_option,
    settings_options,
)
from squeezetune.cli.predict import predict
from squeezetune.cli.serve import serve
from squeezetune.cli.terminal import write_remark
from squeezetune.errors import SettingsError, SourceError
from squeezetune.quantities import format_duration, format_share, format_size
from squeezetune.settings import Settings, parse_settings

NO_TRACKERS: Mapping[str, Any] = {}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="squeezetune")
def main() -> None:
    """Turn a folder of photos into a measured image classifier, on a computer without a GPU.

    \b
      squeezetune demo                          see it work on handwritten digits
      squeezetune train PHOTOS                  one subfolder of PHOTOS for each class
      squeezetune predict PHOTOS-model a.jpg    say what is on a photo
      squeezetune export PHOTOS-model           other formats, each measured, down to 0.4 MB
      squeezetune check PHOTOS                  find wrong labels, copies and poor photos
    """  # noqa: D301  # click wants the character itself


main.add_command(backbones)
main.add_command(data)
main.add_command(check)
main.add_command(export)
main.add_command(info)
main.add_command(predict)
main.add_command(serve)


@main.command()
@click.argument("photos", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The model's folder.  [default: PHOTOS-model]",
)
@class_option
@columns_option
@settings_options
@click.option("--no-cache", is_flag=True, help="Neither use nor keep features of the photos.")
@click.option(
    "--plan",
    "only_plan",
    is_flag=True,
    help="Print what would be done and how long it takes, and stop.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Go on with the unfinished training of the same photos and settings.",
)
@click.option(
    "--tensorboard",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Keep the curves for TensorBoard.",
)
@click.option("--mlflow", metavar="URI", help="Send settings and curves to an MLflow server.")
@click.option(
    "--watch",
    "watch_s",
    type=SECONDS,
    is_flag=False,
    flag_value=10.0,
    metavar="[SECONDS]",
    help="Train again whenever the photos have changed; look every 10 seconds, or so many.",
)
@json_option
@quiet_option
@guard_errors
# click hands every option over by its name, so that they cannot be one record; the settings come
# together
def train(
    photos: Path,
    output: Path | None,
    class_pattern: str,
    columns: str,
    no_cache: bool,
    only_plan: bool,
    resume: bool,
    tensorboard: Path | None,
    mlflow: str | None,
    watch_s: float | None,
    as_json: bool,
    quiet: bool,
    **knobs: Any,
) -> None:
    """Train a classifier on PHOTOS and measure it.

    PHOTOS is a folder with one subfolder for each class, a .zip or .tar of one,
    a table (.csv, .tsv) of paths and classes, or the name of a data set (see
    squeezetune data).
    """
    keep_fonts_in_cache()
    trackers = {"tensorboard": tensorboard, "mlflow": mlflow}
    options = {"class_pattern": class_pattern, "columns": columns, "use_cache": not no_cache}
    if only_plan:
        _print_plan(photos, parse_settings(knobs), as_json, quiet, **options)
        return
    if watch_s is not None:
        from squeezetune.cli.watch import follow

        if any(trackers.values()):
            raise SettingsError(
                "curves are kept of one training, and --watch makes many", "Leave one of them out."
            )
        follow(
            photos,
            output,
            watch_s,
            as_json,
            quiet,
            settings=parse_settings(knobs),
            resume=resume,
            **options,
        )
        return
    _train(
        photos,
        output,
        parse_settings(knobs),
        as_json,
        quiet,
        options | {"resume": resume},
        trackers,
    )


@main.command()
@click.argument("folder", type=click.Path(path_type=Path), default="squeezetune-demo")
@click.option("--open", "open_report", is_flag=True, help="Open the report in the browser.")
@json_option
@quiet_option
@guard_errors
def demo(folder: Path, open_report: bool, as_json: bool, quiet: bool) -> None:
    """Train on 1,797 real handwritten digits; needs no network. Digits and model go into FOLDER."""
    from squeezetune.data.datasets.digits import write_digits

    keep_fonts_in_cache()
    try:
        write_digits(folder / "digits")
    except OSError as error:
        raise SourceError(
            f"the digits cannot be written to {folder}: {error.strerror}",
            "Give another folder: squeezetune demo FOLDER",
        ) from error
    _train(folder / "digits", folder / "digits-model", Settings(), as_json, quiet, {})
    if open_report:
        click.launch(str(folder / "digits-model" / "report.html"))


def _print_plan(
    photos: Path, settings: Settings, as_json: bool, quiet: bool, **options: Any
) -> None:
    """Print the plan of a run that is not made."""
    from squeezetune.cli.console import ProgressListener, print_json, print_lines
    from squeezetune.planning.shortage import find_shortage
    from squeezetune.training import forecast

    with ProgressListener(is_quiet=quiet or as_json) as progress:
        plan = forecast(photos, settings, listen=progress, **options)
    if as_json:
        print_json(plan.to_dict())
        return
    shortage = find_shortage(plan, settings)
    print_lines(*([shortage.words] if shortage else []),
                *(f"{item.network}: features {format_duration(item.features_s)}, training "
                  f"{format_duration(item.training_s)}, in all {format_duration(item.total_s)}"
                  for item in plan.networks),
                *(f"{item.part:<32} {format_duration(item.seconds)}" for item in plan.forecasts),
                f"{'in all':<32} {format_duration(plan.total_s)}",
                f"{'memory at most':<32} {plan.peak_memory / 1e6:,.0f} MB")  # fmt: skip


def _train(
    photos: Path,
    output: Path | None,
    settings: Settings,
    as_json: bool,
    quiet: bool,
    options: Mapping[str, Any],
    trackers: Mapping[str, Any] = NO_TRACKERS,
) -> None:
    """Train with progress bars and print the result: what `train` and `demo` share."""
    from squeezetune.cli.console import ProgressListener, print_json
    from squeezetune.integrations.tracking import track_run
    from squeezetune.training import train as train_classifier

    experiment = photos.resolve().name or "squeezetune"
    with (
        ProgressListener(is_quiet=quiet or as_json) as progress,
        track_run(
            progress, experiment=experiment, settings=settings.to_dict(), **trackers
        ) as listen,
    ):
        classifier = train_classifier(photos, output, settings, listen=listen, **options)
    if as_json:
        print_json({"folder": str(classifier.folder)} | classifier.report)
        return
    _print_training(classifier.folder or Path(), classifier.report)


def _print_training(folder: Path, report: dict[str, Any]) -> None:
    from squeezetune.cli.console import describe_split, describe_test, print_lines

    test, data, shortage = report["test"], report["data"], (report["plan"] or {}).get("shortage")
    skipped, leaks = data["skipped"], data["leaks"]
    print_lines(
        *([shortage["words"]] if shortage else []),
        *describe_test(test),
        *(f"Note: {warning}" for warning in test["warnings"]),
        *(
            _describe_loser(item, report["model"])
            for item in report["model"]["candidates"]
            if item.get("note")
        ),
        *(
            [f"Note: {len(skipped):,} files were not used; the report names them."]
            if skipped
            else []
        ),
        *(
            [
                f"Note: {leaks['test']:,} test photos have a copy or near-duplicate in an earlier "
                f"part{_describe_rest(leaks['test_without'])}."
            ]
            if leaks["test"]
            else []
        ),
        *([] if test["cross_validation"] else [f"Split   {describe_split(data)}"]),
        f"Model   {folder}  ({format_size(report['model']['file_bytes'])}, "
        f"{report['total_seconds']:.1f} s)",
        f"Report  {folder / 'report.html'}",
        f"Try it  squeezetune predict {shlex.quote(str(folder))} PHOTO.jpg",
    )


def _describe_loser(candidate: dict[str, Any], model: dict[str, Any]) -> str:
    """Say why what had a higher validation figure was not taken."""
    share = format_share(candidate["validation_accuracy"])
    kept = "the linear head" if model["head"] == "linear" else model["head"]
    return (
        f"Note: {candidate['name']}: {share} on the validation photos, {candidate['note']}; "
        f"{kept} was kept."
    )


def _describe_rest(share: dict[str, Any] | None) -> str:
    return (
        f"; on the other {share['images']:,} it is {format_share(share['accuracy'])}"
        if share
        else ""
    )


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("photos", type=click.Path(path_type=Path))
@class_option
@columns_option
@json_option
@quiet_option
@guard_errors
def evaluate(
    model: Path, photos: Path, class_pattern: str, columns: str, as_json: bool, quiet: bool
) -> None:
    """Measure MODEL on PHOTOS, one subfolder for each class."""
    from squeezetune.cli.console import (
        ProgressListener,
        describe_balance,
        describe_seen,
        print_json,
        print_lines,
        print_table,
    )
    from squeezetune.evaluation.measurement import evaluate as evaluate_classifier

    with (
        explain_order("evaluate", model, [photos]),
        ProgressListener(is_quiet=quiet or as_json) as listen,
    ):
        found = evaluate_classifier(
            model, photos, class_pattern=class_pattern, columns=columns, listen=listen
        )
    result = found.evaluation
    if as_json:
        seen = found.seen and found.seen.to_dict()
        print_json(
            result.to_dict() | {"seen": seen, "skipped": [vars(item) for item in found.skipped]}
        )
        return
    low, high = (format_share(end) for end in result.interval)
    accuracy = f"{format_share(result.accuracy)} of {result.count:,} photos are recognised"
    print_lines(f"{accuracy} (95 % interval {low} to {high}).", *describe_balance(result.to_dict()))
    if found.seen:
        print_lines(*describe_seen(found.seen.to_dict()))
    rows = [
        (
            item.name,
            f"{item.test:,}",
            format_share(item.precision),
            format_share(item.recall),
            format_share(item.f1),
        )
        for item in result.per_class
        if item.test
    ]
    print_table(
        {
            "class": "left",
            "photos": "right",
            "precision": "right",
            "recall": "right",
            "F1": "right",
        },
        rows,
    )
    for item in found.skipped:
        write_remark(f"Skipped {item.name}: {item.reason}")
