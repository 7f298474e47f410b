"""The whole story: a model becomes files in other formats, each measured by its own runtime on the test photos.

::

    model-tiny.onnx     an export; some are a folder
    README.md           the model card
    exports.json        what each export is worth, and the checksums of its files; written last

The model's own report gets a chapter on them.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx

from squeezetune.artifact import MODEL, NETWORK, read_payload, stage_artifact, to_json
from squeezetune.data.folders import check_outside
from squeezetune.data.origin import Photos
from squeezetune.errors import INSTALL_TORCH, ArtifactError, ExportError, SettingsError
from squeezetune.events import EXPORT, Listener, Notice, StageFinished, StageStarted, ignore_event
from squeezetune.exporting.card import write_card
from squeezetune.exporting.chapter import update_report
from squeezetune.exporting.formats import DEFAULT_FORMATS, FORMATS, find_format
from squeezetune.exporting.material import Material, Request, make_exam, open_material
from squeezetune.exporting.order import Order
from squeezetune.exporting.record import CARD, EXPORT_FOLDER, INDEX, Export, Exports, describe_exports, read_exports
from squeezetune.exporting.scoring import Exam, Score, score_export
from squeezetune.exporting.trial import CALL_SIZES, Trial, try_export
from squeezetune.learn.trained import read_network
from squeezetune.output_lock import follow_link, hold_output
from squeezetune.prediction import Classifier, load
from squeezetune.settings import judge_number
from squeezetune.store import write_file


def export(
    model: str | os.PathLike[str],
    formats: Sequence[str] = DEFAULT_FORMATS,
    output: str | os.PathLike[str] | None = None,
    *,
    photos: Photos | None = None,
    class_pattern: str = "",
    columns: str = "",
    max_loss: float | None = None,
    measure: bool = True,
    runtime: str | os.PathLike[str] | None = None,
    listen: Listener = ignore_event,
) -> Exports:
    """Export a model to other formats, and measure each file by its own runtime on the model's test photos.

    The photos are those that the model was trained on: where they lie elsewhere now, or were in memory, say so with
    `photos`. The exports go into the folder `output`, by default `<model>-export` beside the model; exports of the same
    model that are there stay. With `max_loss`, in points of accuracy, an export that loses more is an error and nothing
    is written; one of 4 bits is trained for a minute before, if torch is installed. Without `measure` no photos are
    needed, but for those formats whose parameters are fitted to some. `runtime` is a folder with ONNX Runtime's build
    for browsers, which `web` else fetches once.

    Raises:
        SettingsError: there is no such format, or it is not known where the photos are.
        MissingExtraError: what a format needs is not installed.
        ArtifactError: the model cannot be read, or the folder cannot be written.
        DataError: the photos cannot be used.
        ExportError: an export loses more than it may, or its runtime cannot run it.

    >>> import squeezetune                                                    # doctest: +SKIP
    >>> exports = squeezetune.export("flowers-model", ["onnx-tiny"])          # doctest: +SKIP
    >>> exports["onnx-tiny"].score.accuracy                                   # doctest: +SKIP
    0.953

    """
    if max_loss is not None and (problem := judge_number("max_loss", max_loss, 0, 100)):
        raise SettingsError(problem, "It is in points of accuracy.")
    chosen = {name: find_format(name) for name in formats}
    looks_at_photos = measure or any(found.looks_at_photos for found in chosen.values())
    folder = Path(model)
    if folder.is_file():
        raise ArtifactError(
            f"{folder} is a file, and exports are made from a model's folder: only that has all parameters and knows "
            "the photos",
            "Give the folder that `squeezetune train` has written.",
        )
    classifier, target = load(folder), follow_link(Path(output)) if output else name_target(folder)
    request = Request(photos, class_pattern, columns)
    material = open_material(folder, request, listen) if looks_at_photos else None
    check_target_outside(target, folder, material)
    order = replace(make_order(classifier, material), runtime=Path(runtime) if runtime else None, listen=listen)
    with (
        hold_output(target),
        stage_artifact(target, EXPORT_FOLDER) as staging,
        tempfile.TemporaryDirectory() as scratch,
    ):
        bench = None
        if measure and material:
            bench = open_bench(make_exam(classifier, material, listen), Path(scratch), max_loss)
        made = keep_others(target, staging.path, order, chosen)
        for name in chosen:
            made.append(make_export(name, order, staging.path, bench, listen))
        made.sort(key=lambda item: list(FORMATS).index(item.format))
        exports = Exports(target, hash_bytes(order.model), tuple(made))
        write_file(staging.path / CARD, write_card(exports, classifier, order).encode())
        write_file(staging.path / INDEX, to_json(describe_exports(exports)))
    try:
        update_report(folder, exports)
    except ArtifactError as error:  # such as a folder that may only be read: the figures are beside the exports, too
        listen(Notice(error.message))
    return read_exports(target)


@dataclass(frozen=True)
class Bench:
    """What exports are measured by: the exam, some of its photos as an array in a file, and what may be lost."""

    exam: Exam
    sample: Path
    max_loss: float | None


def name_target(folder: Path) -> Path:
    """Name the exports' folder beside the model's."""
    named = folder if folder.name not in {"", ".."} else folder.resolve()
    return named.with_name(f"{named.name}-export")


def check_target_outside(target: Path, folder: Path, material: Material | None) -> None:
    """Make sure that nothing is written among the photos or into the model's folder."""
    roots = [folder, *([material.place] if material and material.place else [])]
    for root in roots:
        check_outside(target, root, "the exports' folder", "give another folder with --output")


def make_order(classifier: Classifier, material: Material | None) -> Order:
    """Read the network, and what a file says of itself."""
    folder, manifest = classifier.folder or Path(), classifier.manifest
    network = read_network(read_payload(folder / NETWORK, manifest.files[NETWORK]))
    model = read_payload(folder / MODEL, manifest.files[MODEL])
    metadata = {item.key: item.value for item in onnx.load_from_string(model).metadata_props}
    metadata |= {"settings": json.dumps(dict(manifest.settings)), "created": manifest.created,
                 "squeezetune": manifest.version}  # fmt: skip
    title, accuracy = describe_model(classifier)
    photos, judges = (material.training, material.validation) if material else (None, None)
    return Order(network, model, metadata, photos, judges, title, accuracy)


def describe_model(classifier: Classifier) -> tuple[str, str]:
    """Return the model's title, and a sentence with what it was measured to be worth."""
    try:
        report = classifier.report
        test = report["test"]
    except (ArtifactError, KeyError):
        return "Classifier", ""
    low, high = (f"{100 * end:.1f} %" for end in test["interval"])
    found = f"{100 * test['accuracy']:.1f} % of {test['count']:,} photos that it had never seen are recognised"
    return str(report["title"]), f"{found} (95 % interval {low} to {high})."


def open_bench(exam: Exam, scratch: Path, max_loss: float | None) -> Bench:
    """Keep some photos of one size, the commonest of the first ones, for the process that is timed."""
    images = next(exam.read())
    shapes = [image.shape for image in images]
    common = max(shapes, key=shapes.count)
    alike = [image for image in images if image.shape == common]
    path = scratch / "images.npy"
    np.save(path, np.stack([alike[at % len(alike)] for at in range(max(CALL_SIZES))]))
    return Bench(exam, path, max_loss)


def keep_others(target: Path, staged: Path, order: Order, chosen: Collection[str]) -> list[Export]:
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


def make_export(name: str, order: Order, folder: Path, bench: Bench | None, listen: Listener) -> Export:
    """Write one export, check it, and measure it.

    Raises:
        ExportError: it loses more than it may, or its runtime cannot run it.
    """
    found, start = find_format(name), time.perf_counter()
    listen(StageStarted(EXPORT + name, len(bench.exam.positions) if bench else 0, "photos"))
    path = folder / found.path
    path.parent.mkdir(parents=True, exist_ok=True)
    found.write(order, path)
    found.check(path)
    score: Score | None = None
    trial: Trial | None = None
    if bench:
        score = measure_export(name, order, path, bench, listen)
        trial = try_export(found.runtime, found.find_model(path), bench.sample)
    listen(StageFinished(EXPORT + name, time.perf_counter() - start))
    root = folder / found.root
    files = sorted(item for item in root.rglob("*") if item.is_file()) if root.is_dir() else [root]
    hashes = {item.relative_to(folder).as_posix(): hash_bytes(item.read_bytes()) for item in files}
    return Export(name, found.path, sum(item.stat().st_size for item in files), hashes, score, trial)


def measure_export(name: str, order: Order, path: Path, bench: Bench, listen: Listener) -> Score:
    """Measure an export; where it loses more than it may, write it anew as it loses less, if that can be done.

    Raises:
        ExportError: it still loses more than it may.
    """
    found = find_format(name)
    score = score_export(found.open(path), bench.exam, listen, EXPORT + name)
    can_tune, has_torch = not order.network.is_convolved, find_spec("torch") is not None
    if found.tune and can_tune and has_torch and not is_allowed(score, bench.max_loss):
        listen(Notice(f"{name} loses {find_loss(score):.2f} points as it is, so its codes are trained"))
        found.tune(order, path)
        found.check(path)
        score = score_export(found.open(path), bench.exam, listen, EXPORT + name)
    check_loss(name, score, bench.max_loss, needs_torch=bool(found.tune) and can_tune and not has_torch)
    return score


def find_loss(score: Score) -> float:
    """Find the points that an export loses; of a model without test photos, by where it disagrees."""
    return 100 * (-score.change if score.is_honest else 1 - score.agreement)


def is_allowed(score: Score, max_loss: float | None) -> bool:
    """Say whether an export loses no more than it may."""
    return max_loss is None or find_loss(score) <= max_loss


def check_loss(name: str, score: Score, max_loss: float | None, needs_torch: bool = False) -> None:
    """Refuse an export that loses more points than it may; `needs_torch` says that more could be done with that.

    Raises:
        ExportError: it does.
    """
    if is_allowed(score, max_loss):
        return
    low, high = (100 * -end for end in reversed(score.change_interval))
    advice = f"With torch its codes are trained to lose less. {INSTALL_TORCH}. " if needs_torch else ""
    raise ExportError(
        f"{name} loses {find_loss(score):.2f} points on {score.images:,} test photos (95 % interval {low:.2f} to "
        f"{high:.2f}); allowed are {max_loss:g}",
        f"{advice}Allow more with --max-loss, or export to another format. Nothing was written.",
    )


def hash_bytes(payload: bytes) -> str:
    """Return the SHA-256."""
    return hashlib.sha256(payload).hexdigest()
