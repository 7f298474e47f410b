"""Weights that others have published: fetched when somebody asks for them, and read without running anything.

torch names such a file by the first eight hexadecimal digits of its SHA-256, which are checked here as well.
"""

import hashlib
import math
import re
import time
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, build_opener

import numpy as np
from numpy.typing import NDArray

from squeezetune.errors import MissingExtraError, SettingsError, WeightsError
from squeezetune.events import Listener, StageAdvanced, StageFinished, StageStarted, ignore_event
from squeezetune.learn.weights import (
    NEEDED,
    Weights,
    find_layout,
    identify_version,
    parse_safetensors,
    use_torchvision_names,
)
from squeezetune.store import write_file

# torchvision's files (BSD-3-Clause), trained on ImageNet
URLS = {
    "1.0": "https://download.pytorch.org/models/squeezenet1_0-b66bff10.pth",
    "1.1": "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth",
}
TIMEOUT_S = 30.0
LARGEST_BYTES = 64 << 20  # a SqueezeNet is 5 MB
CHUNK_BYTES = 64 << 10
CONNECTIONS = 20  # at most, for one file whose connection breaks again and again
STAGE = "download"
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
    path = Path(cache_folder) / name
    if path.is_file() and _has_checksum(path.read_bytes(), checksum):
        return path
    started = time.perf_counter()
    payload = _download(address, path.with_name(f"{name}.part"), listen, timeout_s)
    if not _has_checksum(payload, checksum):
        raise WeightsError(
            f"{address} gave {len(payload):,} bytes without the SHA-256 {checksum}... that its name promises.",
            f"Try again, perhaps from another network. {BY_HAND}",
        )
    write_file(path, payload)
    listen(StageFinished(STAGE, time.perf_counter() - started))
    return path


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


# ---- the download


def _download(address: str, partial: Path, listen: Listener, timeout_s: float) -> bytes:
    """Download a file; what has come when it breaks off stays in `partial`, to go on from."""
    payload = bytearray(partial.read_bytes() if partial.is_file() else b"")
    try:
        _receive(address, payload, listen, timeout_s)
    except BaseException:  # Ctrl-C as well
        if payload:
            write_file(partial, bytes(payload))
        raise
    partial.unlink(missing_ok=True)
    return bytes(payload)


def _receive(address: str, payload: bytearray, listen: Listener, timeout_s: float) -> None:
    """Append to the payload what it lacks, over as many connections as it takes while each brings something."""
    for connection in range(CONNECTIONS):
        before = len(payload)
        with _open(address, before, timeout_s) as response:
            start, total = _read_extent(response, before)
            del payload[start:]  # all of it, where the server starts from the beginning
            if not connection:
                listen(StageStarted(STAGE, math.ceil((total or 0) / 1000), "kB"))
            fault = _read_rest(response, payload, listen)
        if not fault and total in {None, len(payload)}:
            return
        if len(payload) <= before:
            break
    raise WeightsError(
        f"The download from {address} broke off after {len(payload):,} of {_count(total)} bytes{fault}.",
        f"Call again to go on from there. {BY_HAND}",
    )


def _count(total: int | None) -> str:
    return "unknown" if total is None else f"{total:,}"


def _open(address: str, start: int, timeout_s: float) -> HTTPResponse:
    """Ask for a file from byte `start` on."""
    headers = {"User-Agent": "squeezetune", "Accept-Encoding": "identity"}
    headers |= {"Range": f"bytes={start}-"} if start else {}
    try:
        # an opener of its own, since urlopen keeps the proxies of its first call
        response: HTTPResponse = build_opener().open(Request(address, headers=headers), timeout=timeout_s)
    except HTTPError as error:
        error.close()
        if start and error.code == 416:  # nothing from there on: the part that is kept is of another file
            return _open(address, 0, timeout_s)
        raise WeightsError(f"{address} cannot be had: the server says {error.code} {error.reason}.", BY_HAND) from error
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise WeightsError(
            f"{address} cannot be reached: {reason}.",
            f"Check the connection and any https_proxy. {BY_HAND}",
        ) from error
    return response


def _read_extent(response: HTTPResponse, asked: int) -> tuple[int, int | None]:
    """Read from an answer's header at which byte it starts, and how long the whole file is, if it says so."""
    start, total = 0, response.headers.get("Content-Length", "")
    if response.status == 206:
        extent = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        start, total = (int(extent[1]), extent[2]) if extent else (-1, "")
        if start != asked:
            raise WeightsError(f"{response.url} gave another part of the file than was asked for.", BY_HAND)
    return start, int(total) if total.isdigit() else None


def _read_rest(response: HTTPResponse, payload: bytearray, listen: Listener) -> str:
    """Append an answer to the payload; say what broke it off, or nothing."""
    try:
        while chunk := response.read1(CHUNK_BYTES):
            payload += chunk
            if len(payload) > LARGEST_BYTES:
                payload.clear()
                raise WeightsError(
                    f"{response.url} gave more than {LARGEST_BYTES >> 20} MB; no SqueezeNet is so large."
                )
            listen(StageAdvanced(STAGE, math.ceil(len(payload) / 1000)))
    except (OSError, HTTPException) as error:
        return f" ({error})"
    return ""


def _parse_address(address: str) -> tuple[str, str]:
    """Take the file's name and the first digits of its SHA-256 out of its address."""
    parts = urlsplit(address)
    name = parts.path.rpartition("/")[2]
    named = re.fullmatch(r"[\w.-]+-([0-9a-f]{8,64})\.\w+", name)
    if parts.scheme not in {"http", "https"} or not named:
        raise SettingsError(
            f"{address!r} is not the address of published weights.",
            "Needed is http:// or https://, and a name with the file's SHA-256, as in squeezenet1_1-b8a52dc0.pth.",
        )
    return name, named[1]


def _has_checksum(payload: bytes, checksum: str) -> bool:
    return hashlib.sha256(payload).hexdigest().startswith(checksum)


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
