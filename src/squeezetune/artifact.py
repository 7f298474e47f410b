"""A trained classifier as a folder on disk.

::

    model.json            the manifest, written last: format, classes, settings, checksums of all other files
    model.onnx            images in, probabilities out; all that prediction needs
    network.safetensors   the parameters, to train on
    report.json           the measurements;  report.html  the same for people;  plots/  the same for papers
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from squeezetune.errors import ArtifactError
from squeezetune.store import write_file

FORMAT = "squeezetune-model"
FORMAT_VERSION = 1
MANIFEST, MODEL, NETWORK, REPORT, REPORT_PAGE = (
    "model.json",
    "model.onnx",
    "network.safetensors",
    "report.json",
    "report.html",
)


@dataclass(frozen=True)
class Manifest:
    """What `model.json` says; `files` maps each other file to its SHA-256."""

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
        content = {"format": FORMAT, "format_version": FORMAT_VERSION} | vars(manifest) | {"files": self.checksums}
        write_file(self.path / MANIFEST, to_json(content))


@contextmanager
def stage_artifact(folder: Path) -> Iterator[Staging]:
    """Open a hidden sibling of the folder; when all is well at the end, it takes the folder's place.

    An earlier model in the folder is replaced in one move and is still there if anything goes wrong.

    Raises:
        ArtifactError: the folder holds something else than a model, or cannot be written.

    """
    check_target(folder)
    sibling = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:12]}.partial")
    try:
        sibling.mkdir(parents=True)
        yield Staging(sibling)
        _take_place(sibling, folder)
    except OSError as error:
        raise ArtifactError(
            f"The model cannot be written to {folder}: {error.strerror or error}",
            "Check the disk's space and permissions, or give another folder with --output.",
        ) from error
    finally:
        shutil.rmtree(sibling, ignore_errors=True)


def check_target(folder: Path) -> None:
    """Make sure that a model may be written to the folder, and clean up after a killed run.

    Raises:
        ArtifactError: there is a file of that name, or a folder with something else than a model.

    """
    _recover(folder)
    if folder.is_dir() and not (folder / MANIFEST).is_file() and any(folder.iterdir()):
        raise ArtifactError(
            f"{folder} exists and holds something else than a model",
            "Give another folder with --output; nothing was changed.",
        )
    if folder.exists() and not folder.is_dir():
        raise ArtifactError(f"{folder} is a file; needed is a folder for the model", "Give another name with --output.")


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a model folder and check that its files are whole.

    Raises:
        ArtifactError: it is no model folder, a file is missing or damaged, or a newer SqueezeTune wrote it.

    """
    _recover(folder)
    content = _read_content(folder)
    missing = [name for name in Manifest.__dataclass_fields__ if name not in content]
    if missing:
        raise ArtifactError(f"{folder / MANIFEST} is damaged: it has no {', '.join(missing)}", _RETRAIN)
    for name in (MODEL, NETWORK):
        _check_file(folder / name, content["files"].get(name, ""))
    fields = {name: content[name] for name in Manifest.__dataclass_fields__}
    return Manifest(**fields | {"class_names": tuple(content["class_names"])})


def read_report(folder: Path) -> dict[str, Any]:
    """Read `report.json` of a model folder.

    Raises:
        ArtifactError: it is missing or damaged.

    """
    try:
        content: dict[str, Any] = json.loads((folder / REPORT).read_bytes())
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{folder / REPORT} cannot be read: {error}", _RETRAIN) from error
    return content


_RETRAIN = "Train the model again, or copy the whole folder again from where it came."


def _read_content(folder: Path) -> dict[str, Any]:
    """Read the manifest's JSON and check format and version."""
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        found = "there is no such folder" if not folder.exists() else f"it has no {MANIFEST}"
        hint = "Give the folder that `squeezetune train` has written."
        raise ArtifactError(f"{folder} is no SqueezeTune model: {found}", hint) from error
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}", _RETRAIN) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ArtifactError(f"{path} is no manifest of a SqueezeTune model", "Give the folder of a model.")
    if not isinstance(content.get("format_version"), int) or content["format_version"] > FORMAT_VERSION:
        raise ArtifactError(
            f"{folder} has format {content.get('format_version')!r}; this program reads up to {FORMAT_VERSION}",
            "Update it: pip install --upgrade squeezetune",
        )
    return content


def _check_file(path: Path, sha256: str) -> None:
    try:
        with path.open("rb") as file:
            found = hashlib.sha256(file.read()).hexdigest()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}", _RETRAIN) from error
    if found != sha256:
        raise ArtifactError(f"{path} is damaged: its checksum is not the one in {MANIFEST}", _RETRAIN)


def _take_place(sibling: Path, folder: Path) -> None:
    """Move the finished sibling to the folder's name; an earlier model waits under a hidden name meanwhile."""
    retired = _retired_name(folder)
    if folder.exists():
        folder.rename(retired)
    sibling.rename(folder)
    _sync_folder(folder.parent)
    shutil.rmtree(retired, ignore_errors=True)


def _recover(folder: Path) -> None:
    """Finish what a killed run has left: bring the earlier model back if its successor never arrived."""
    retired = _retired_name(folder)
    try:
        if retired.exists() and not folder.exists():
            retired.rename(folder)
        elif retired.exists():
            shutil.rmtree(retired, ignore_errors=True)
    except OSError:
        return


def remove_leftovers(folder: Path) -> None:
    """Remove the unfinished siblings that killed runs have left beside the folder."""
    for sibling in folder.parent.glob(f".{folder.name}.*.partial"):
        shutil.rmtree(sibling, ignore_errors=True)


def _retired_name(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.retired")


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; some systems cannot open a folder, and need no such thing."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def to_json(content: Mapping[str, Any]) -> bytes:
    """Turn plain values into the bytes of a JSON file."""
    return json.dumps(content, indent=1, ensure_ascii=True, default=dict).encode()
