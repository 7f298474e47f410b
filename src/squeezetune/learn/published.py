"""Weights that others have published: fetched when somebody asks for them, and read without running anything.

torch names such a file by the first eight hexadecimal digits of its SHA-256, which are checked here as well.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeezetune.downloads import TIMEOUT_S, PublishedFile, fetch_file, name_file
from squeezetune.errors import MissingExtraError, SettingsError, WeightsError
from squeezetune.events import Listener, ignore_event
from squeezetune.learn.weights import (
    NEEDED,
    Weights,
    find_layout,
    identify_version,
    parse_safetensors,
    use_torchvision_names,
)

# torchvision's files (BSD-3-Clause), trained on ImageNet
URLS = {
    "1.0": "https://download.pytorch.org/models/squeezenet1_0-b66bff10.pth",
    "1.1": "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth",
}
LARGEST_BYTES = 64 << 20  # a SqueezeNet is 5 MB
BY_HAND = "Or fetch the file on another computer, and give it to read_weights, or as --weights FILE."


def fetch_weights(
    version: str,
    cache_folder: str | Path,
    *,
    url: str | None = None,
    listen: Listener = ignore_event,
    timeout_s: float = TIMEOUT_S,
) -> Path:
    """Fetch torchvision's published weights of SqueezeNet "1.0" or "1.1" into a folder; return the file.

    A file that is there already is checked and taken as it is. A download that breaks off goes on where it stopped, at
    once or in the next call; the file appears whole or not at all. `url` may name a mirror; its last part has
    to hold the checksum as the original's does. A proxy is taken from the environment (`https_proxy`). Example, which
    needs the network:

        >>> network = build_network(read_weights(fetch_weights("1.0", "weights")), version="1.0")  # doctest: +SKIP

    Raises:
        SettingsError: there is no such version, or the address is not one of a file with a checksum.
        WeightsError: the file cannot be had, or its content is not what its name promises.
    """
    find_layout(version)
    address = url or URLS[version]
    name, checksum = _parse_address(address)
    file = PublishedFile(address, {"sha256": checksum}, LARGEST_BYTES, "SqueezeNet", WeightsError, BY_HAND,
                         timeout_s=timeout_s)  # fmt: skip
    return fetch_file(file, Path(cache_folder) / name, listen)


def read_weights(path: str | Path) -> Weights:
    """Read the weights of a SqueezeNet 1.0 or 1.1 from a safetensors file, or from torch's .pth or .pt.

    They come under torchvision's names, and all are checked; `identify_version` says which version it is. A file of
    torch is read by torch, as tensors only: nothing in it is ever run. Example:

        >>> from squeezetune.learn.weights import WEIGHTS_PATH
        >>> read_weights(WEIGHTS_PATH)["classifier.1.weight"].shape
        (1000, 512, 1, 1)

    Raises:
        MissingExtraError: the file is torch's, and torch is not installed.
        WeightsError: the file cannot be read, or does not hold the weights of a SqueezeNet.
    """
    path = Path(path)
    read = READERS.get(path.suffix.lower())
    if read is None:
        raise WeightsError(f"{path} is no file of weights by its name.", f"Known endings: {', '.join(READERS)}.")
    if not path.is_file():
        raise WeightsError(f"There is no file of weights {path}.", "Look for a mistake in the path.")
    try:
        weights = use_torchvision_names(read(path))
        identify_version(weights)
    except WeightsError as error:
        message = error.message if str(path) in error.message else f"{path}: {error.message}"
        raise WeightsError(message, error.hint or NEEDED) from error
    return weights


def _parse_address(address: str) -> tuple[str, str]:
    """Take the file's name and the first digits of its SHA-256 out of its address."""
    name = name_file(address)
    named = re.fullmatch(r"[\w.-]+-([0-9a-f]{8,64})\.\w+", name)
    if not named:
        raise SettingsError(
            f"{address!r} is not the address of published weights.",
            "Needed is http:// or https://, and a name with the file's SHA-256, as in squeezenet1_1-b8a52dc0.pth.",
        )
    return name, named[1]


# ---- the files


def _read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    try:
        payload = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"The weights cannot be read: {path}: {error.strerror}") from error
    return parse_safetensors(payload)


def _read_torch(path: Path) -> dict[str, NDArray[np.float32]]:
    return import_torch_reader()(path)


def import_torch_reader() -> Callable[[Path], dict[str, NDArray[np.float32]]]:
    """Import what reads torch's files.

    Raises:
        MissingExtraError: torch is not installed.
    """
    try:
        from squeezetune.learn.network import read_checkpoint  # needs torch, an extra
    except MissingExtraError as error:
        message = "torch is not installed, which alone reads its files of weights, .pth and .pt."
        raise MissingExtraError(message, f"{error.hint}\nOr give the weights as safetensors.") from error
    return read_checkpoint


READERS: dict[str, Callable[[Path], dict[str, NDArray[Any]]]] = {
    ".safetensors": _read_safetensors,
    ".pth": _read_torch,
    ".pt": _read_torch,
}
