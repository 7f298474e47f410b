"""The state of an unfinished training run on disk: saved while it trains, found again after a kill
or a power cut.

::

    .<model>.unfinished/                beside the model's folder
        state-000012.safetensors        the tensors, written first
        checkpoint-000012.json          what the state is, and the checksums; written last

A checkpoint counts once its JSON is there and every checksum fits. The one before is kept too, so a
file that a power cut has torn, or a disk has damaged, costs the work since then and no more.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as unpack_tensors
from safetensors.numpy import save as pack_tensors

from squeezetune.errors import CheckpointError
from squeezetune.events import Listener, Notice, ignore_event
from squeezetune.system.disk import sync_folder, write_file

FORMAT = "squeezetune-checkpoint"
FORMAT_VERSION = 1
KEPT = 2  # the newest and the one before
SHOWN_CHARACTERS = 24  # of a value that differs: enough to tell two versions or fingerprints apart
_OURS = re.compile(r"checkpoint-(?P<number>\d{6,})\.json|state-\d{6,}\.safetensors|\..+\.tmp")


def find_checkpoint_folder(output: Path) -> Path:
    """Name the hidden folder beside a model's folder in which its unfinished run is kept.

    >>> find_checkpoint_folder(Path("/home/ada/bees-model")).name
    '.bees-model.unfinished'

    """
    path = output.absolute()
    return path.parent / f".{path.name}.unfinished"


@dataclass(frozen=True)
class Checkpoint:
    """A state to go on from: `tensors` by name, and `about` as it was given, in the types that JSON
    knows.
    """

    tensors: Mapping[str, NDArray[Any]]
    about: Mapping[str, Any]


@dataclass(frozen=True)
class CheckpointFolder:
    """The checkpoints of one training run; one run at a time writes to it."""

    path: Path

    def save(self, tensors: Mapping[str, NDArray[Any]], about: Mapping[str, Any]) -> None:
        """Save a checkpoint; when this returns it survives a power cut, until then the one before
        does.

        `about` is anything that JSON can hold; its `identity`, a mapping, says which run this is
        (see `load`).

        Raises:
            CheckpointError: it cannot be written; the earlier checkpoints are as they were.

        """
        plain = _to_plain(about)
        try:
            # in C order, else safetensors writes a transposed array's numbers as they lie in
            # memory, scrambled
            self._write(
                pack_tensors(
                    {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
                ),
                plain,
            )
        except OSError as error:
            raise CheckpointError(
                f"The state of the run cannot be saved in {self.path}: {error.strerror or error}",
                "Check the disk's space and permissions.",
            ) from error

    def load(self, identity: Mapping[str, Any] | None = None) -> Checkpoint | None:
        """Load the newest checkpoint that is whole, None if there is none; the arrays may be
        written to.

        `identity` says which run is to go on; without it, any will do.

        Raises:
            CheckpointError: the checkpoint is of another run or a newer version, or this user may
                not read it.

        """
        try:
            for number in reversed(self._list_numbers()):
                checkpoint = self._read(number)
                if checkpoint and identity is not None:
                    _check_identity(checkpoint, identity, self.path)
                if checkpoint:
                    return checkpoint
        except OSError as error:
            raise CheckpointError(
                f"The unfinished run in {self.path} cannot be read: {error.strerror or error}",
                "Check its permissions, or train anew without --resume.",
            ) from error
        return None

    def remove(self) -> None:
        """Remove all checkpoints for good; what cannot be removed, or is not ours, stays."""
        with suppress(OSError):
            # the oldest manifest first: a kill leaves the newest whole
            for path in sorted(self._list_files()):
                _remove_file(path)
            # else a power cut might bring them back, among those of the next run
            _sync_folder(self.path)
            self.path.rmdir()

    def _write(self, payload: bytes, about: Any) -> None:
        """Write one generation, make it durable, and only then remove the older ones."""
        _make_folder(self.path)
        number = max(self._list_numbers(), default=0) + 1
        manifest, state = self._name_files(number)
        write_file(state, payload)
        content = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "state": {
                "file": state.name,
                "bytes": len(payload),
                "sha256": hashlib.sha256(payload).hexdigest(),
            },
            "about": about,
        }
        sealed = content | {"checksum": _checksum(content)}
        write_file(manifest, json.dumps(sealed, indent=1).encode())
        sync_folder(self.path)
        self._tidy()

    def _tidy(self) -> None:
        """Remove all but the newest generations, and what a killed run has left half-written."""
        kept = {
            path for number in self._list_numbers()[-KEPT:] for path in self._name_files(number)
        }
        for path in set(self._list_files()) - kept:
            _remove_file(path)

    def _read(self, number: int) -> Checkpoint | None:
        """Read one generation; None where a part is missing or damaged."""
        manifest, state = self._name_files(number)
        content = _open_seal(_read_bytes(manifest))
        if content is None:
            return None
        if content["format_version"] > FORMAT_VERSION:
            raise CheckpointError(
                f"The unfinished run in {self.path} has format {content['format_version']}; "
                f"this program reads up to {FORMAT_VERSION}",
                "Update it: pip install --upgrade squeezetune",
            )
        payload = _read_bytes(state)
        if hashlib.sha256(payload).hexdigest() != content["state"]["sha256"]:
            return None
        # copied, since safetensors gives read-only views, which torch does not like
        tensors = {name: np.array(tensor) for name, tensor in unpack_tensors(payload).items()}
        return Checkpoint(tensors, content["about"])

    def _list_numbers(self) -> list[int]:
        """List the generations that have a manifest, whole or not, the newest last."""
        matches = (_OURS.fullmatch(path.name) for path in self._list_files())
        return sorted(int(match["number"]) for match in matches if match and match["number"])

    def _list_files(self) -> list[Path]:
        """List the files that are ours: manifests, states, and temporary ones."""
        try:
            return [path for path in self.path.iterdir() if _OURS.fullmatch(path.name)]
        except FileNotFoundError:
            return []

    def _name_files(self, number: int) -> tuple[Path, Path]:
        """Name the manifest and the tensors of a generation."""
        return (
            self.path / f"checkpoint-{number:06}.json",
            self.path / f"state-{number:06}.safetensors",
        )


@dataclass(frozen=True)
class UnfinishedRun:
    """Where the training of layers is kept while it lasts, if anywhere, and whether what lies there
    is gone on with.
    """

    folder: CheckpointFolder | None = None
    is_resuming: bool = False

    def load(self, identity: Mapping[str, Any]) -> Checkpoint | None:
        """Load what the run goes on from; None where it begins anew.

        Raises:
            CheckpointError: it is of another run.

        """
        return self.folder.load(identity) if self.folder and self.is_resuming else None


NOTHING_KEPT = UnfinishedRun()


class CheckpointWriter:
    """Saves checkpoints in a thread of its own, since a memory card may take seconds over what
    training does in one.

    A checkpoint that cannot be saved does not end a run that trains well: the listener hears of it,
    once. At the end of the `with` block all that was saved is on the disk.
    """

    def __init__(self, folder: CheckpointFolder, listen: Listener = ignore_event) -> None:
        self._folder = folder
        self._listen = listen
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None
        self._told = ""

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, *reason: object) -> None:
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def save(self, tensors: Mapping[str, NDArray[Any]], about: Mapping[str, Any]) -> None:
        """Copy the state and save it in the background, after the one before: training may change
        it at once.
        """
        self.wait()
        copies = {name: np.array(tensor, order="C") for name, tensor in tensors.items()}
        self._pending = self._thread.submit(self._folder.save, copies, _to_plain(about))

    def wait(self) -> None:
        """Wait until the latest checkpoint is on the disk, and tell the listener if it could not be
        saved.
        """
        if self._pending is None:
            return
        try:
            self._pending.result()
        except CheckpointError as error:
            if error.message != self._told:
                self._listen(
                    Notice(f"{error.message}. The run goes on; a kill would cost more of its work.")
                )
            self._told = error.message
        self._pending = None


def _to_plain(about: Mapping[str, Any]) -> Any:
    """Copy values as JSON will give them back: tuples as lists, keys as text."""
    return json.loads(json.dumps(dict(about)))


def _checksum(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of plain values; all format versions do it this way."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _open_seal(payload: bytes) -> dict[str, Any] | None:
    """Read a manifest whose checksum fits; None if it is damaged or not ours."""
    try:
        content = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return None
    checksum = content.pop("checksum", None)
    return content if checksum == _checksum(content) and _is_complete(content) else None


def _is_complete(content: Mapping[str, Any]) -> bool:
    """Say whether a manifest has all parts that are read, of the right types: somebody may have
    sealed it himself.
    """
    state, about = content.get("state"), content.get("about")
    return (
        isinstance(content.get("format_version"), int)
        and (isinstance(state, dict) and isinstance(state.get("sha256"), str))
        and (isinstance(about, dict) and isinstance(about.get("identity", {}), dict))
    )


def _check_identity(checkpoint: Checkpoint, identity: Mapping[str, Any], folder: Path) -> None:
    """Refuse the checkpoint of another run, with all that differs."""
    wanted, found = _flatten(_to_plain(identity)), _flatten(checkpoint.about.get("identity", {}))
    names = [name for name in wanted | found if wanted.get(name) != found.get(name)]
    if names:
        changes = [
            f"{name} is {_show(wanted, name)}, the unfinished run had {_show(found, name)}"
            for name in names
        ]
        raise CheckpointError(
            f"The unfinished run in {folder} is another one: {'; '.join(changes)}",
            "Give the photos and settings of the unfinished run, or train anew without --resume.",
        )


def _flatten(identity: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Name nested values by their path, e.g. `libraries.torch`, and write each as JSON does."""
    flat: dict[str, str] = {}
    for name, value in identity.items():
        path = f"{prefix}{name}"
        flat |= (
            _flatten(value, f"{path}.") if isinstance(value, dict) else {path: json.dumps(value)}
        )
    return flat


def _show(identity: Mapping[str, str], name: str) -> str:
    text = identity.get(name, "none")
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def _read_bytes(path: Path) -> bytes:
    """Read a file; one that is missing or on a bad spot of the disk is empty, and so no checksum
    fits it.
    """
    try:
        return path.read_bytes()
    except PermissionError:
        raise
    except OSError:
        return b""


def _make_folder(folder: Path) -> None:
    """Make a folder, and those above it, so that a power cut does not take it away again."""
    missing = [path for path in folder.parents if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in (folder, *missing):
        sync_folder(path.parent)


def _remove_file(path: Path) -> None:
    """Remove a file if that can be done; one that stays does no harm."""
    with suppress(OSError):
        path.unlink()


def _sync_folder(folder: Path) -> None:
    """Make renames and removals in a folder durable, where the disk knows such a thing."""
    with suppress(OSError):
        sync_folder(folder)
