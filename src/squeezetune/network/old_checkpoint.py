"""Checkpoints as torch wrote them until version 1.5, read without torch, and without running
anything in them.

Such a file is five pickles in a row (a number, a version, facts of the computer, the state dict,
and the keys of the storages) and then the storages: a count of numbers, and these. Source: torch's
`serialization._legacy_save`.
"""

from collections.abc import Mapping
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from squeezetune.data.datasets.pickles import Call, Name, PersistentId, PickleError, read_pickle
from squeezetune.errors import WeightsError

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
# How a file of this kind begins: a pickle of the second protocol that is the number above.
START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_REBUILD = "torch._utils _rebuild_tensor_v2"
_KINDS = {
    "torch FloatStorage": "<f4",
    "torch HalfStorage": "<f2",
    "torch DoubleStorage": "<f8",
    "torch LongStorage": "<i8",
}


def read_old_checkpoint(path: Path) -> dict[str, NDArray[Any]]:
    """Read the arrays of a state dict by name, as they are stored.

    Raises:
        WeightsError: the file cannot be read, is damaged, or holds anything but tensors.
    """
    try:
        payload = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"The weights cannot be read: {path}: {error.strerror}") from error
    try:
        return parse_checkpoint(payload)
    except PickleError as error:
        raise WeightsError(
            f"{path} is damaged or holds more than tensors: {error}.",
            "Needed is a state dict as torch wrote it until version 1.5.",
        ) from error


def parse_checkpoint(payload: bytes) -> dict[str, NDArray[Any]]:
    """Read the arrays of a state dict from the bytes of a file.

    Raises:
        PickleError: they are damaged, or hold anything but tensors.
    """
    file = BytesIO(payload)
    if not payload.startswith(START) or [read_pickle(file), read_pickle(file)] != [MAGIC, VERSION]:
        raise PickleError("it is no such file of torch")
    read_pickle(file)  # about the computer that wrote it
    state, keys = read_pickle(file), read_pickle(file)
    is_listed = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not isinstance(state, dict) or not is_listed:
        raise PickleError("it holds no state dict")
    calls = {name: _check_tensor(name, value) for name, value in state.items()}
    kinds = {key: _KINDS[kind] for (_, kind, key, *_), _ in calls.values()}
    storages = {key: _read_storage(file, kinds.get(key, "<f4")) for key in keys}
    return {name: _view(storages, *call) for name, call in calls.items()}


def _check_tensor(name: Any, value: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Check that a value is made as tensors are; return its storage, and its place in that."""
    try:
        storage, *place = value.arguments
        kind, storage_type, key, *rest = storage.value
        is_tensor = (
            isinstance(name, str)
            and isinstance(value, Call)
            and isinstance(value.target, Name)
            and value.target.name == _REBUILD
            and isinstance(storage, PersistentId)
            and kind == "storage"
            and isinstance(key, str)
            and storage_type.name in _KINDS
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise PickleError(f"{name!r} in it is no tensor") from error
    if not is_tensor:
        raise PickleError(f"{name!r} in it is no tensor")
    return (kind, storage_type.name, key, *rest), tuple(place)


def _read_storage(file: BytesIO, kind: str) -> NDArray[Any]:
    header = file.read(8)
    size = int.from_bytes(header, "little", signed=True) * np.dtype(kind).itemsize
    if len(header) < 8 or not 0 <= size <= file.getbuffer().nbytes - file.tell():
        raise PickleError("it ends too early")
    return np.frombuffer(file.read(size), kind)


def _view(
    storages: Mapping[str, NDArray[Any]], storage: tuple[Any, ...], place: tuple[Any, ...]
) -> NDArray[Any]:
    """View a tensor in its storage."""
    try:
        offset, lengths, strides = int(place[0]), *(list(map(int, each)) for each in place[1:3])
        values = storages[storage[2]]
        reach = sum((length - 1) * stride for length, stride in zip(lengths, strides, strict=True))
    except (TypeError, ValueError, LookupError) as error:
        raise PickleError("a tensor in it has no place") from error
    is_within = min([offset, *lengths, *strides]) >= 0 and offset + reach < len(values)
    if prod(lengths) > len(values) or not is_within:
        raise PickleError("a tensor in it lies beyond its storage")
    steps = [stride * values.itemsize for stride in strides]
    return as_strided(values[offset:], lengths, steps, writeable=False)
