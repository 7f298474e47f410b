"""The whole story: a model becomes files in other formats, each measured by its own runtime on the
test photos.

::

    model-tiny.onnx     an export; some are a folder
    README.md           the model card
    exports.json        what each export is worth, and the checksums of its files; written last

The model's own report gets a chapter on them.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import onnx

from squeezetune.data.inputs import Photos
from squeezetune.data.sources.folder import check_outside
from squeezetune.errors import ArtifactError, ExportError, SettingsError
from squeezetune.events import Listener, Notice, ignore_event
from squeezetune.exporting.attempt import attempt_export, hash_bytes, open_bench
from squeezetune.exporting.export_index import (
    CARD,
    EXPORT_FOLDER,
    INDEX,
    Export,
    Exports,
    Failure,
    describe_exports,
    read_exports,
)
from squeezetune.exporting.export_inputs import (
    ExportInputs,
    ModelPhotos,
    PhotoLocation,
    StudentLimits,
    make_exam,
    open_material,
)
from squeezetune.exporting.formats import (
    DEFAULT_FORMATS,
    FORMATS,
    GRAPH_FORMATS,
    STUDENT_FORMAT,
    Format,
    find_format,
)
from squeezetune.exporting.model_card import write_card
from squeezetune.exporting.report_chapter import update_report
from squeezetune.exporting.student import check_teacher
from squeezetune.model.artifact import MODEL, NETWORK, read_payload, stage_artifact, to_json
from squeezetune.model.classifier import Classifier, load
from squeezetune.network.trained import TrainedNetwork, read_network
from squeezetune.quantities import judge_number
from squeezetune.system.disk import write_file
from squeezetune.system.output_lock import follow_link, hold_output


def export(
    model: str | os.PathLike[str],
    formats: Sequence[str] = (),
    output: str | os.PathLike[str] | None = None,
    *,
    photos: Photos | None = None,
    class_pattern: str = "",
    columns: str = "",
    max_loss: float | None = None,
    measure: bool = True,
    teacher: bool = False,
    budget: str = "",
    epochs: float = 0.0,
    max_ram: str = "",
    runtime: str | os.PathLike[str] | None = None,
    listen: Listener = ignore_event,
) -> Exports:
    """Export a model to other formats, and measure each file by its own runtime on the model's test
    photos.

    Where none are named, the formats are onnx, onnx-int8 and onnx-tiny; of a model on a network
    that is a graph alone, of which the latter cannot be made, onnx and onnx-fp16.
    The photos are those that the model was trained on: where they lie elsewhere now, or were in
    memory, say so with `photos`. The exports go into the folder `output`, by default
    `<model>-export` beside the model; exports of the same model that are there stay. A format that
    cannot be written, or that its runtime cannot run here, is among the `failures` of what is
    returned; the others are written. With `max_loss`, in points of accuracy, an export that loses
    more is an error and nothing is written; one of 4 bits is trained for a minute before, if torch
    is installed. Without `measure` no photos are needed, but for those formats whose parameters are
    fitted to some.

    With `teacher` the model teaches SqueezeNet 1.1 what it says of the training photos, and that is
    written, too, in half a megabyte: `student`. How long it learns may be limited by a
    `budget`, such as "10m", or by `epochs`, and its memory by `max_ram`; with a budget the bytes
    are not the same each time.

    `runtime` is a folder with ONNX Runtime's build for browsers, which `web` else fetches once.

    Raises:
        SettingsError: there is no such format, it is not known where the photos are, or the model
            is no larger than what it is to teach.
        MissingExtraError: what a format needs is not installed.
        ArtifactError: the model cannot be read, or the folder cannot be written.
        DataError: the photos cannot be used.
        ExportError: an export loses more than it may, or none of them can be had.

    >>> import squeezetune                                                    # doctest: +SKIP
    >>> exports = squeezetune.export("flowers-model", ["onnx-tiny"])          # doctest: +SKIP
    >>> exports["onnx-tiny"].score.accuracy                                   # doctest: +SKIP
    0.953

    """
    if max_loss is not None and (problem := judge_number("max_loss", max_loss, 0, 100)):
        raise SettingsError(problem, "It is in points of accuracy.")
    for name in formats:
        find_format(name)
    folder = Path(model)
    if folder.is_file():
        raise ArtifactError(
            f"{folder} is a file, and exports are made from a model's folder: only that has all "
            "parameters and knows the photos",
            "Give the folder that `squeezetune train` has written.",
        )
    classifier, target = load(folder), follow_link(Path(output)) if output else name_target(folder)
    network = read_parameters(classifier)
    chosen, refused = choose_formats(formats, network, has_student=teacher)
    looks_at_photos = measure or any(found.looks_at_photos for found in chosen.values())
    request = PhotoLocation(photos, class_pattern, columns)
    material = open_material(folder, request, listen) if looks_at_photos else None
    check_target_outside(target, folder, material)
    order = replace(
        make_order(classifier, network, material),
        runtime=Path(runtime) if runtime else None,
        listen=listen,
        limits=StudentLimits(budget, epochs, max_ram),
    )
    if any(found.is_taught for found in chosen.values()):
        check_teacher(order)
    with (
        hold_output(target),
        stage_artifact(target, EXPORT_FOLDER) as staging,
        tempfile.TemporaryDirectory() as scratch,
    ):
        bench = None
        if measure and material:
            bench = open_bench(make_exam(classifier, material, listen), Path(scratch), max_loss)
        kept = keep_others(target, staging.path, order, chosen)
        made = [attempt_export(name, order, staging.path, bench, listen) for name in chosen]
        exports = gather(target, order, [*kept, *made, *refused])
        write_file(staging.path / CARD, write_card(exports, classifier, order).encode())
        write_file(staging.path / INDEX, to_json(describe_exports(exports)))
    try:
        update_report(folder, exports)
    except ArtifactError as error:
        # such as a folder that may only be read: the figures are beside the exports, too
        listen(Notice(error.message))
    return read_exports(target)


def choose_formats(
    names: Sequence[str], network: TrainedNetwork, *, has_student: bool
) -> tuple[dict[str, Format], list[Failure]]:
    """Choose the formats that are written, a student's too where it is to have one, and say of
    those that cannot be made of this network why not.

    Raises:
        SettingsError: there is no such format.
        MissingExtraError: what a format needs is not installed.
        ExportError: none of them can be made.
    """
    default = DEFAULT_FORMATS if network.is_described else GRAPH_FORMATS
    chosen = (*(names or default), *([STUDENT_FORMAT] if has_student else ()))
    wanted = {name: find_format(name) for name in chosen}
    able = {
        name: found for name, found in wanted.items() if network.is_described or found.takes_graphs
    }
    others = ", ".join(name for name, found in FORMATS.items() if found.takes_graphs)
    refused = [
        Failure(
            name,
            f"it is made of a description of every layer, and {network.title} is a graph alone",
            f"Formats of such a network: {others}.",
        )
        for name in wanted
        if name not in able
    ]
    if not able:
        raise make_refusal(refused)
    return able, refused


def name_target(folder: Path) -> Path:
    """Name the exports' folder beside the model's."""
    named = folder if folder.name not in {"", ".."} else folder.resolve()
    return named.with_name(f"{named.name}-export")


def check_target_outside(target: Path, folder: Path, material: ModelPhotos | None) -> None:
    """Make sure that nothing is written among the photos or into the model's folder."""
    roots = [folder, *([material.place] if material and material.place else [])]
    for root in roots:
        check_outside(target, root, "the exports' folder", "give another folder with --output")


def read_parameters(classifier: Classifier) -> TrainedNetwork:
    """Read the network of a model's folder."""
    folder, files = classifier.folder or Path(), classifier.manifest.files
    return read_network(read_payload(folder / NETWORK, files[NETWORK]))


def make_order(
    classifier: Classifier, network: TrainedNetwork, material: ModelPhotos | None
) -> ExportInputs:
    """Read what a file says of itself, and put all together that exports are made of."""
    folder, manifest = classifier.folder or Path(), classifier.manifest
    model = read_payload(folder / MODEL, manifest.files[MODEL])
    metadata = {item.key: item.value for item in onnx.load_from_string(model).metadata_props}
    metadata |= {"settings": json.dumps(dict(manifest.settings)), "created": manifest.created,
                 "squeezetune": manifest.version}  # fmt: skip
    photos, judges = (material.training, material.validation) if material else (None, None)
    return ExportInputs(network, model, metadata, photos, judges, read_title(classifier))


def read_title(classifier: Classifier) -> str:
    """Read what the model is called in its report."""
    try:
        return str(classifier.report["title"])
    except (ArtifactError, KeyError):
        return "Classifier"


def keep_others(
    target: Path, staged: Path, order: ExportInputs, chosen: Collection[str]
) -> list[Export]:
    """Copy the exports of the same model that are there and are not made anew."""
    try:
        earlier = read_exports(target)
    except ArtifactError:
        return []
    if earlier.model_sha256 != hash_bytes(order.model):
        return []
    kept = [item for item in earlier.items if item.format in FORMATS and item.format not in chosen]
    for item in kept:
        for name in item.files:
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(target / name, staged / name)
    return kept


def gather(target: Path, order: ExportInputs, made: Sequence[Export | Failure]) -> Exports:
    """Put together what there is and what has failed, in the order of the formats.

    Raises:
        ExportError: there is nothing but failures.
    """
    ordered = sorted(made, key=lambda item: list(FORMATS).index(item.format))
    items = tuple(item for item in ordered if isinstance(item, Export))
    failures = tuple(item for item in ordered if isinstance(item, Failure))
    if not items:
        raise make_refusal(failures)
    return Exports(target, hash_bytes(order.model), items, failures)


def make_refusal(failures: Sequence[Failure]) -> ExportError:
    """Say why nothing was written."""
    reasons, hints = zip(
        *((f"{item.format}: {item.message}", item.hint) for item in failures), strict=True
    )
    return ExportError(
        "; ".join(reasons), " ".join(dict.fromkeys([*hints, "Nothing was written."]))
    )
