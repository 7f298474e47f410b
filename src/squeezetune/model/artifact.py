"""A trained classifier as a folder on disk.

::

    model.json            the manifest, written last: format, classes, settings, checksums of all
    model.onnx            images in, probabilities out; all that prediction needs
    network.safetensors   the parameters, to train on
    parts.safetensors     which photos trained, chose and measured, by their digests
    report.json           the measurements;  report.html  for people;  plots/  for papers
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from typing import Any

from squeezetune.errors import ArtifactError
from squeezetune.system.disk import sync_folder, write_file
from squeezetune.system.machine import is_running

FORMAT = "squeezetune-model"
FORMAT_VERSION = 1
MANIFEST = "model.json"
MODEL = "model.onnx"
NETWORK = "network.safetensors"
REPORT = "report.json"
REPORT_PAGE = "report.html"
RETIRED = "retired"
MOST_SIDE_PX = 4096  # no network of ours sees images as large
FLOATS, WHOLES = "float32", "int8"


@dataclass(frozen=True)
class FolderKind:
    """A kind of folder that is written whole: what people call it, and the file that is known by
    its format.
    """

    words: str
    marker: str
    format: str
    version: int

    def describe(self) -> dict[str, Any]:
        """Return what the marker says of itself."""
        return {"format": self.format, "format_version": self.version}

    def owns(self, folder: Path) -> bool:
        """Say whether a folder is of this kind, in any version; a file's name alone is one that
        others use too.
        """
        try:
            content = _parse_json(folder / self.marker)
        except (OSError, ValueError):
            return False
        return isinstance(content, dict) and content.get("format") == self.format


MODEL_FOLDER = FolderKind("a model", MANIFEST, FORMAT, FORMAT_VERSION)
# A reader may take a writer's turn for a killed run's and bring the earlier model back: most turns
# may be lost so.
RENAME_ATTEMPTS = 200


@dataclass(frozen=True)
class Manifest:
    """What `model.json` says.

    `files` maps each other file to its SHA-256; `weights` says which pretrained network was begun
    with; `confidences` and `familiarities` are tables of `rejection`, or nothing. The file computes
    in `arithmetic`.
    """

    class_names: tuple[str, ...]
    image_side: int
    resize: str
    views: int
    settings: Mapping[str, Any]
    data: Mapping[str, Any]
    libraries: Mapping[str, str]
    version: str
    created: str
    files: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    confidences: Mapping[str, Any] = field(default_factory=dict)
    familiarities: Mapping[str, Any] = field(default_factory=dict)
    arithmetic: str = FLOATS


@dataclass(frozen=True)
class Staging:
    """A model folder that is being written under another name."""

    path: Path
    checksums: dict[str, str] = field(default_factory=dict)

    def write(self, name: str, payload: bytes) -> Path:
        """Write one file of the artifact; return where it is until the artifact is complete."""
        write_file(self.path / name, payload)
        self.checksums[name] = hashlib.sha256(payload).hexdigest()
        return self.path / name

    def finish(self, manifest: Manifest) -> None:
        """Write the manifest; it comes last, so a folder with a manifest is complete."""
        content = MODEL_FOLDER.describe() | vars(manifest) | {"files": self.checksums}
        write_file(self.path / MANIFEST, to_json(content))


@contextmanager
def stage_artifact(folder: Path, kind: FolderKind = MODEL_FOLDER) -> Iterator[Staging]:
    """Open a hidden sibling of the folder; when all is well at the end, it takes the folder's
    place.

    An earlier one in the folder is replaced in one move and is still there if anything goes wrong.

    Raises:
        ArtifactError: the folder holds something else, or cannot be written.

    """
    check_target(folder, kind)
    sibling = _name_sibling(folder, f"{os.getpid()}-{uuid.uuid4().hex[:12]}.partial")
    try:
        sibling.mkdir(parents=True)
        yield Staging(sibling)
        _take_place(sibling, folder)
    except OSError as error:
        raise ArtifactError(
            f"{folder} cannot be written: {error.strerror or error}",
            "Check the disk's space and permissions, or give another folder with --output.",
        ) from error
    finally:
        shutil.rmtree(sibling, ignore_errors=True)


def check_target(folder: Path, kind: FolderKind = MODEL_FOLDER) -> None:
    """Make sure that a model, or another kind, may be written to the folder, and clean up after a
    killed run.

    Raises:
        ArtifactError: there is a file of that name, or a folder with something else, or it cannot
            be read.

    """
    try:
        _check_place(folder, kind)
    except OSError as error:
        raise ArtifactError(
            f"{folder} cannot be used for {kind.words}: {error.strerror or error}",
            "Check its permissions, or give another folder with --output; nothing was changed.",
        ) from error


def _check_place(folder: Path, kind: FolderKind) -> None:
    _bring_back(folder)
    if folder.is_dir() and not kind.owns(folder) and any(folder.iterdir()):
        raise ArtifactError(
            f"{folder} exists and holds something else than {kind.words}",
            "Give another folder with --output; nothing was changed.",
        )
    if folder.exists() and not folder.is_dir():
        raise ArtifactError(
            f"{folder} is a file; needed is a folder for {kind.words}",
            "Give another name with --output.",
        )
    if folder.exists():
        shutil.rmtree(_name_sibling(folder, RETIRED), ignore_errors=True)
    remove_leftovers(folder)


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a model folder and check that its files are whole.

    Raises:
        ArtifactError: it is no model folder, a file is missing or damaged, or a newer SqueezeTune
            wrote it.

    """
    attempts = RENAME_ATTEMPTS
    while True:
        before = _identify(folder)
        _bring_back(folder)
        try:
            return _read_whole(folder)
        except ArtifactError:
            is_replaced = _identify(folder) != before or _name_sibling(folder, RETIRED).exists()
            attempts -= 1
            if not (attempts and is_replaced):  # else a new model is taking the folder's place
                raise


def _identify(folder: Path) -> tuple[int, int] | None:
    """Tell a folder from another one of the same name; None where there is none."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _read_whole(folder: Path) -> Manifest:
    # earlier models do not say all
    content = {"weights": {}, "confidences": {}, "familiarities": {}} | _read_content(folder)
    wrong = [name for name, kind in _KINDS.items() if not isinstance(content.get(name), kind)]
    if not wrong:
        is_right = {"class_names": are_class_names(content["class_names"]),
                    "image_side": is_image_side(content["image_side"])}  # fmt: skip
        wrong = [name for name, right in is_right.items() if not right]
    if wrong:
        raise ArtifactError(
            f"{folder / MANIFEST} is damaged: {', '.join(wrong)} missing or of a wrong type",
            _RETRAIN,
        )
    for name in (MODEL, NETWORK):
        read_payload(folder / name, content["files"].get(name, ""))
    fields = {name: content[name] for name in _KINDS}
    return Manifest(**fields | {"class_names": tuple(content["class_names"])})


def are_class_names(names: object) -> bool:
    """Say whether these can be the names of a model's classes: texts, none of them twice."""
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        return False
    return len(set(names)) == len(names)


def is_image_side(side: object) -> bool:
    """Say whether this can be the side in pixels at which a model sees images."""
    return isinstance(side, int) and not isinstance(side, bool) and 0 < side <= MOST_SIDE_PX


def read_report(folder: Path) -> dict[str, Any]:
    """Read `report.json` of a model folder.

    Raises:
        ArtifactError: it is missing or damaged.

    """
    try:
        content = _parse_json(folder / REPORT)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{folder / REPORT} cannot be read: {error}", _RETRAIN) from error
    if not isinstance(content, dict):
        raise ArtifactError(f"{folder / REPORT} is no report", _RETRAIN)
    return content


# the JSON type of every field of the manifest
_KINDS: dict[str, type] = {
    "class_names": list,
    "image_side": int,
    "resize": str,
    "views": int,
    "settings": dict,
    "data": dict,
    "libraries": dict,
    "version": str,
    "created": str,
    "files": dict,
    "weights": dict,
    "confidences": dict,
    "familiarities": dict,
}
_RETRAIN = "Train the model again, or copy the whole folder again from where it came."


def _read_content(folder: Path) -> dict[str, Any]:
    """Read the manifest's JSON and check format and version."""
    path = folder / MANIFEST
    try:
        content = _parse_json(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        found = ("it is a file" if folder.is_file() else f"it has no {MANIFEST}" if folder.exists()
                 else "there is no such folder")  # fmt: skip
        hint = "Give the folder that `squeezetune train` has written; it comes before the photos."
        raise ArtifactError(f"{folder} is no SqueezeTune model: {found}", hint) from error
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}", _RETRAIN) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ArtifactError(
            f"{path} is no manifest of a SqueezeTune model", "Give the folder of a model."
        )
    if (
        not isinstance(content.get("format_version"), int)
        or content["format_version"] > FORMAT_VERSION
    ):
        raise ArtifactError(
            f"{folder} has format {content.get('format_version')!r}; this program reads up to "
            f"{FORMAT_VERSION}",
            "Update it: pip install --upgrade squeezetune",
        )
    return content


def _parse_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except RecursionError as error:
        raise ValueError("values within values without end") from error


def read_payload(path: Path, sha256: str) -> bytes:
    """Read one file of a model and check that it is the one that the manifest names.

    Raises:
        ArtifactError: it is missing or another one.

    """
    try:
        payload = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}", _RETRAIN) from error
    if hashlib.sha256(payload).hexdigest() != sha256:
        raise ArtifactError(
            f"{path} is damaged: its checksum is not the one in {MANIFEST}", _RETRAIN
        )
    return payload


def _take_place(sibling: Path, folder: Path) -> None:
    """Move the finished sibling to the folder's name; an earlier model waits under a hidden name
    meanwhile.
    """
    retired = _name_sibling(folder, RETIRED)
    for attempts_left in reversed(range(RENAME_ATTEMPTS)):
        if folder.exists():
            folder.rename(retired)
        try:
            sibling.rename(folder)
            break
        except OSError:
            # a reader may have taken this run for a killed one, and have brought the earlier model
            # back
            if not (attempts_left and folder.exists()):
                _bring_back(folder)
                raise
    sync_folder(folder.parent)
    shutil.rmtree(retired, ignore_errors=True)


def _bring_back(folder: Path) -> None:
    """Bring the earlier model back if a run was killed, or failed, before its own took the
    place.
    """
    retired = _name_sibling(folder, RETIRED)
    with suppress(OSError):  # another process has done it meanwhile, or the disk cannot be written
        if retired.exists() and not folder.exists():
            retired.rename(folder)


def remove_leftovers(folder: Path) -> None:
    """Remove the unfinished siblings that killed runs have left beside the folder.

    Their names hold the number of their process; those of a run that goes on are left alone.
    """
    for sibling in folder.parent.glob(f".{escape(folder.name)}.*-*.partial"):
        process = sibling.name.split(".")[-2].split("-")[0]
        if not (process.isdigit() and is_running(int(process))):
            shutil.rmtree(sibling, ignore_errors=True)


def _name_sibling(folder: Path, ending: str) -> Path:
    """Name a hidden folder beside this one, which may be given as `.`."""
    path = folder.absolute()
    return path.parent / f".{path.name}.{ending}"


def to_json(content: Mapping[str, Any]) -> bytes:
    """Turn plain values into the bytes of a JSON file."""
    return json.dumps(content, indent=1, ensure_ascii=True, default=dict).encode()
