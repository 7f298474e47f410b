"""What is known of exports: `exports.json`, the last file of their folder to be written."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from squeezetune.errors import ArtifactError, ExportError
from squeezetune.exporting.runtimes import RuntimeBenchmark
from squeezetune.exporting.scoring import Score
from squeezetune.model.artifact import FolderKind

INDEX, CARD = "exports.json", "README.md"
EXPORT_FOLDER = FolderKind("exports of a model", INDEX, "squeezetune-exports", 1)


@dataclass(frozen=True)
class Export:
    """One export: its format, its main file below the folder, its size in bytes, and what was
    measured.

    `files` maps each of its files to its SHA-256. `needs` says which version of which runtime runs
    it. Nothing was measured where no photos were at hand, or for the reason that `unmeasured`
    gives.
    """

    format: str
    path: str
    byte_count: int
    files: Mapping[str, str]
    score: Score | None = None
    trial: RuntimeBenchmark | None = None
    needs: str = ""
    unmeasured: str = ""


@dataclass(frozen=True)
class Failure:
    """A format that could not be written, or that its runtime here cannot run: why, and what to
    do.
    """

    format: str
    message: str
    hint: str = ""


@dataclass(frozen=True)
class Exports:
    """A folder of exports of one model, which is known by the SHA-256 of its `model.onnx`.

    `failures` are the formats that were asked for, and are not there.
    """

    folder: Path
    model_sha256: str
    items: tuple[Export, ...]
    failures: tuple[Failure, ...] = ()

    def __getitem__(self, name: str) -> Export:
        """Find the export of a format.

        Raises:
            ExportError: it has failed.
            KeyError: it was not asked for.
        """
        for item in self.items:
            if item.format == name:
                return item
        for failure in self.failures:
            if failure.format == name:
                raise ExportError(failure.message, failure.hint)
        raise KeyError(name)

    def find_path(self, name: str) -> Path:
        """Find the main file of a format."""
        return self.folder / self[name].path


def describe_exports(exports: Exports) -> dict[str, Any]:
    """Make the content of `exports.json`."""
    items, failures = (
        [asdict(item) for item in group] for group in (exports.items, exports.failures)
    )
    return EXPORT_FOLDER.describe() | {
        "model_sha256": exports.model_sha256,
        "exports": items,
        "failures": failures,
    }


def read_exports(folder: Path) -> Exports:
    """Read what is known of the exports in a folder.

    Raises:
        ArtifactError: it is no such folder, or damaged, or a newer SqueezeTune wrote it.
    """
    try:
        content = json.loads((folder / INDEX).read_bytes())
        if (
            content["format"] != EXPORT_FOLDER.format
            or content["format_version"] > EXPORT_FOLDER.version
        ):
            raise ValueError(f"format {content['format']!r}, version {content['format_version']}")
        items = tuple(_read_export(item) for item in content["exports"])
        failures = tuple(Failure(**item) for item in content.get("failures", ()))
        return Exports(folder, str(content["model_sha256"]), items, failures)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{folder} holds no exports that this program can read: {error}",
            "Export the model again.",
        ) from error


def _read_export(item: Mapping[str, Any]) -> Export:
    score, trial = item["score"], item["trial"]
    if score:
        ends = {name: tuple(score[name]) for name in ("interval", "change_interval")}
        score = Score(**score | ends)
    return Export(**dict(item) | {"score": score, "trial": trial and RuntimeBenchmark(**trial)})
