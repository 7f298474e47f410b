"""Arrays in numpy's files as a source: images and labels, in one .npz file or in .npy files beside
each other.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeezetune.data.sources.class_names import read_labels
from squeezetune.data.sources.content import hash_image
from squeezetune.data.sources.folder import explain_os_error
from squeezetune.data.sources.paths import PARTS
from squeezetune.data.sources.source import Entry, Listing, list_entries, quote_name
from squeezetune.errors import ClassesError, SettingsError, SourceError

# What arrays of images and of their labels are called, besides the name of a part: `x_train`,
# `test_labels`.
IMAGES = ("images", "image", "imgs", "x", "data")
LABELS = ("labels", "label", "targets", "target", "y")
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class ArraySource:
    """Images in arrays (n, height, width[, channels]) of uint8; a name is that of the array and a
    position in it.
    """

    path: Path
    arrays: Arrays = field(repr=False)

    def read(self, name: str) -> NDArray[np.uint8]:
        """Return the image, (height, width[, channels])."""
        array, _, position = name.rpartition("/")
        image: NDArray[np.uint8] = np.asarray(self.arrays[array][int(position)])
        return image

    def digest(self, name: str) -> bytes:
        """Return the digest of the image's shape and pixels; ImageError where it is none."""
        return hash_image(self.read(name))

    def describe(self) -> str:
        """Return the file's path."""
        return str(self.path)


@dataclass(frozen=True)
class Pair:
    """The names of an array of images and of that of their labels, and their part: 0, 1, 2, or
    -1.
    """

    images: str
    labels: str
    part: int = -1


def open_npz(path: Path, columns: Mapping[str, str]) -> tuple[ArraySource, Listing]:
    """Open a .npz file of images and labels, perhaps of several parts; its arrays are held in
    memory.

    Raises:
        SourceError: it cannot be read, or its arrays are not images and labels.
        SettingsError: an array that was named is not there.

    """
    with _load_all(path) as arrays:
        pairs = find_pairs(path, arrays.files, columns)
        held = _hold(path, arrays, (name for pair in pairs for name in (pair.images, pair.labels)))
    return list_arrays(path, held, pairs)


def open_npy(path: Path, columns: Mapping[str, str]) -> tuple[ArraySource, Listing]:
    """Open a .npy file of images, which is mapped, and that of their labels beside it.

    The labels are in the file that `columns` names, as `label=y.npy`, or in `labels.npy`, `y.npy`
    or `<name>_labels.npy`.

    Raises:
        SourceError: a file cannot be read, or the arrays are not images and labels.

    """
    guesses = [f"{path.stem}{sign}{word}" for sign in "_-" for word in LABELS] + list(LABELS)
    names = [columns["label"]] if columns.get("label") else [f"{guess}.npy" for guess in guesses]
    found = [
        path.parent / name for name in names if (path.parent / name).is_file() and path.name != name
    ]
    if not found:
        raise SourceError(
            f"there are no labels beside {quote_name(str(path))}",
            "Give the file of the labels, in the same folder: --columns "
            f"label={path.stem}_labels.npy.",
        )
    arrays = {file.stem: np.asarray(_load(file)) for file in (path, found[0])}
    return list_arrays(path, arrays, [Pair(path.stem, found[0].stem)])


def list_npz(
    path: Path, columns: Mapping[str, str]
) -> tuple[ArraySource, Iterable[tuple[str, str]]]:
    """Open a .npz file as `open_npz` does, also without labels, and list all of its images.

    Without labels the array of images is the one that `columns` names, one that is called so, or
    the only one.
    """
    with _load_all(path) as arrays:
        try:
            names = [pair.images for pair in find_pairs(path, arrays.files, columns)]
        except SourceError:
            called = [name for name in arrays.files if set(_split_words(name)) & set(IMAGES)]
            names = [columns["path"]] if columns.get("path") else called or arrays.files
            if len(names) > 1:
                raise
        held = _hold(path, arrays, names)
    return _list_images(path, held)


def list_npy(
    path: Path, columns: Mapping[str, str]
) -> tuple[ArraySource, Iterable[tuple[str, str]]]:
    """Open a .npy file of images, with or without labels beside it, and list all of its images."""
    return _list_images(path, {path.stem: np.asarray(_load(path))})


def _list_images(path: Path, arrays: Arrays) -> tuple[ArraySource, Iterable[tuple[str, str]]]:
    for name, images in arrays.items():
        check_images(name, images)
    names = (
        (_name_image(name, images, at), "")
        for name, images in arrays.items()
        for at in range(len(images))
    )
    return ArraySource(path, arrays), names


def _load_all(path: Path) -> Any:
    """Open a file of several arrays."""
    arrays = _load(path)
    if not isinstance(arrays, np.lib.npyio.NpzFile):
        raise SourceError(
            f"{quote_name(str(path))} is no .npz file but a single array", "Call it .npy."
        )
    return arrays


def _hold(path: Path, arrays: Mapping[str, Any], names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Read arrays of a file into memory."""
    try:
        return {name: arrays[name] for name in names}
    except Exception as error:  # numpy raises nearly anything over a damaged file
        raise _explain_damage(path, error) from error


def _load(path: Path) -> Any:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise _explain_damage(path, explain_os_error(error)) from error
    except Exception as error:  # numpy raises nearly anything over a damaged header
        raise _explain_damage(path, error) from error


def _explain_damage(path: Path, reason: object) -> SourceError:
    return SourceError(
        f"{quote_name(str(path))} cannot be read as arrays: {reason}",
        "Save plain arrays with numpy.savez or numpy.save; arrays of objects are not read.",
    )


def find_pairs(path: Path, names: list[str], columns: Mapping[str, str]) -> list[Pair]:
    """Find out which arrays are images and which are their labels, by their names.

    Raises:
        SourceError: there is no such pair.
        SettingsError: an array that was named is not there.

    """
    gone = [name for name in columns.values() if name and name not in names]
    if gone:
        known = ", ".join(names)
        raise SettingsError(
            f"{quote_name(str(path))} has no array {quote_name(gone[0])}; it has {known}",
            "Name one.",
        )
    if columns.get("path") and columns.get("label"):
        return [Pair(columns["path"], columns["label"])]
    roles: dict[tuple[str, int], str] = {}
    for name in names:
        words = _split_words(name)
        parts = [PARTS[word] for word in words if word in PARTS] or [-1]
        for role, usual in (("path", IMAGES), ("label", LABELS)):
            if columns.get(role) == name or (role not in columns and set(words) & set(usual)):
                roles.setdefault((role, parts[0]), name)
    pairs = [Pair(roles["path", part], roles["label", part], part) for part in (0, 1, 2, -1)
             if ("path", part) in roles and ("label", part) in roles]  # fmt: skip
    if not pairs:
        raise SourceError(
            f"{quote_name(str(path))} has no arrays that are surely images and labels; it has "
            f"{', '.join(names)}",
            "Say which they are: --columns path=IMAGES,label=LABELS.",
        )
    split = [pair for pair in pairs if pair.part >= 0]
    return (
        split
        if len(split) > 1 and split[0].part == 0
        else [Pair(pairs[-1].images, pairs[-1].labels)]
    )


def _split_words(name: str) -> list[str]:
    """Split a name into its words, in order."""
    return re.split("[^a-z]+", name.lower())


def list_arrays(path: Path, arrays: Arrays, pairs: list[Pair]) -> tuple[ArraySource, Listing]:
    """List the images of arrays that belong together.

    Raises:
        SourceError: an array is of no images, or there are not as many labels.
        ClassesError: two labels look the same.

    """
    listed = [(pair, arrays[pair.images], _flatten_labels(arrays[pair.labels])) for pair in pairs]
    for pair, images, labels in listed:
        check_pair(pair, images, labels)
    try:
        values = [read_labels(labels)[0] for _, _, labels in listed]
    except ClassesError:
        raise
    except Exception as error:  # text that is none
        raise _explain_damage(path, error) from error
    entries = (
        Entry(_name_image(pair.images, images, at), label, pair.part)
        for (pair, images, _), labels in zip(listed, values, strict=True)
        for at, label in enumerate(labels)
    )
    note = "; ".join(f"{path.name}: path={pair.images}, label={pair.labels}" for pair in pairs)
    source = ArraySource(path, {pair.images: arrays[pair.images] for pair in pairs})
    return source, list_entries(entries, {}, (note,))


def _name_image(array: str, images: NDArray[Any], at: int) -> str:
    return f"{array}/{at:0{len(str(len(images) - 1))}d}"


def _flatten_labels(labels: NDArray[Any]) -> NDArray[Any]:
    """Take labels in one column as a plain list of them."""
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels


def check_images(name: str, images: NDArray[Any]) -> None:
    """Refuse an array that is no images."""
    if images.ndim not in (3, 4) or images.dtype != np.uint8:
        raise SourceError(
            f"the array {name!r} is {images.dtype} of shape {images.shape}; needed are images of "
            "uint8, (n, height, width) or (n, height, width, channels)",
            "Save them as uint8, 0 to 255, channels last.",
        )


def check_pair(pair: Pair, images: NDArray[Any], labels: NDArray[Any]) -> None:
    """Refuse arrays that are no images and their labels."""
    check_images(pair.images, images)
    if labels.ndim != 1 or len(labels) != len(images):
        raise SourceError(
            f"the array {pair.labels!r} has the shape {labels.shape}; needed is one label for each "
            f"of {len(images):,} images",
            "Save a label, a number or a word, for each image, in the same order.",
        )
