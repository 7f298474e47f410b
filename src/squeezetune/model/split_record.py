"""Which photo was in which part of a model's split, by content: `parts.safetensors` of a model's
folder.

A photo is known by its digest, so that it is found again after it was renamed or moved, and nothing
else of it is kept.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from squeezetune.data.index import ImageIndex
from squeezetune.data.inputs import PhotoInput
from squeezetune.data.split import Split
from squeezetune.errors import ArtifactError
from squeezetune.network.trained import read_metadata

PARTS = "parts.safetensors"
NAMES = ("train", "validation", "test")
ABOUT = "squeezetune"


@dataclass(frozen=True, eq=False)
class SplitRecord:
    """The digests (n, 16) of the photos of every part, and where they lay: source, class pattern,
    columns.
    """

    digests: Mapping[str, NDArray[np.uint8]]
    origin: Mapping[str, str]

    def find(self, index: ImageIndex, part: str) -> NDArray[np.int64]:
        """Find the positions in an index of the photos of a part."""
        found = np.isin(_as_keys(index.digests), _as_keys(self.digests[part]))
        return np.flatnonzero(found)

    def count_missing(self, index: ImageIndex, part: str) -> int:
        """Count the photos of a part that an index does not hold, each content once."""
        keys = np.unique(_as_keys(self.digests[part]))
        return int((~np.isin(keys, _as_keys(index.digests))).sum())


def pack_parts(index: ImageIndex, split: Split, origin: PhotoInput) -> bytes:
    """Pack the digests of every part; the same always give the same bytes."""
    tensors = {name: np.ascontiguousarray(index.digests[getattr(split, name)]) for name in NAMES}
    is_path = isinstance(origin.photos, Path)
    about = {"source": str(origin.photos) if is_path else "", "class_pattern": origin.class_pattern,
             "columns": origin.columns}  # fmt: skip
    return save(tensors, metadata={ABOUT: json.dumps(about)})


def read_parts(folder: Path) -> SplitRecord:
    """Read which photo of a model's was in which part.

    Raises:
        ArtifactError: the model does not say so, or the file is damaged.
    """
    path = folder / PARTS
    try:
        payload = path.read_bytes()
        tensors = load(payload)
        about = read_metadata(payload)[ABOUT]
        if any(tensors[name].shape[1:] != (16,) for name in NAMES):
            raise ValueError("digests of another length")
        return SplitRecord({name: tensors[name] for name in NAMES}, json.loads(about))
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{folder} does not say which photos it was tested on: it has no {PARTS}",
            "An earlier version has trained it. Train it again.",
        ) from error
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}", "Train the model again.") from error


def _as_keys(digests: NDArray[np.uint8]) -> NDArray[np.void]:
    keys: NDArray[np.void] = np.ascontiguousarray(digests).view("V16").ravel()
    return keys
