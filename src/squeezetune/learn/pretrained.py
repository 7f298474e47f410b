"""The pretrained network that a run begins with: the package's own, one from somebody's file, or torchvision's."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from safetensors import safe_open

from squeezetune.disk import lend_folder
from squeezetune.errors import WeightsError
from squeezetune.events import Listener, ignore_event
from squeezetune.learn.published import URLS, fetch_weights, import_torch_reader, read_weights
from squeezetune.learn.weights import PROVENANCE, WEIGHTS_SHA256, Weights, detect_version, load_weights

# What the setting `weights` calls torchvision's published files.
PUBLISHED = {f"squeezenet{version.replace('.', '_')}": version for version in URLS}
UNKNOWN = "unknown"


@dataclass(frozen=True, eq=False)
class Pretrained:
    """A pretrained network: its parameters, which float16 holds, and where they come from.

    `sha256` is that of the file that they were read from: the same weights in another place are the same weights.
    """

    weights: Weights
    sha256: str
    origin: str
    license: str

    @property
    def network(self) -> str:
        """Name the network."""
        return f"SqueezeNet {detect_version(self.weights)}"

    def describe(self) -> dict[str, str]:
        """Say which weights these are, for reports and manifests."""
        return {"network": self.network, "origin": self.origin, "license": self.license, "sha256": self.sha256}


def load_pretrained(source: str = "", cache: Path | None = None, listen: Listener = ignore_event) -> Pretrained:
    """Load what the setting `weights` names: nothing for those in the package, a file, or torchvision's by name.

    Those of torchvision are fetched into the cache once, or for now where there is none. Values are rounded to float16,
    in which the files that a run leaves keep the layers, so that all that is measured is one network. Example:

        >>> load_pretrained().network
        'SqueezeNet 1.1'

    Raises:
        MissingExtraError: the file is torch's, and torch is not installed.
        WeightsError: the file cannot be had or read, or does not hold the weights of a SqueezeNet.
    """
    if not source:
        return Pretrained(load_weights(), WEIGHTS_SHA256, PROVENANCE, "BSD-2-Clause")
    if source not in PUBLISHED:
        return read_pretrained(Path(source).expanduser())
    import_torch_reader()  # before anything is fetched that could not be read
    with lend_folder(cache) as folder:
        return read_pretrained(fetch_weights(PUBLISHED[source], folder / "weights", listen=listen))


def read_pretrained(path: Path) -> Pretrained:
    """Read a pretrained network from a file, and find out what is known of it.

    Raises:
        MissingExtraError: the file is torch's, and torch is not installed.
        WeightsError: the file cannot be read, or does not hold the weights of a SqueezeNet.
    """
    weights = round_weights(read_weights(path), path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    if sha256 == WEIGHTS_SHA256:
        return Pretrained(weights, sha256, PROVENANCE, "BSD-2-Clause")
    # torchvision's files are known by the digits of their checksum in their names
    if any(sha256.startswith(url.rpartition("-")[2].removesuffix(".pth")) for url in URLS.values()):
        origin = f"torchvision's SqueezeNet {detect_version(weights)}, ImageNet"
        return Pretrained(weights, sha256, origin, "BSD-3-Clause")
    return Pretrained(weights, sha256, path.name, _read_license(path))


def round_weights(weights: Weights, path: Path) -> Weights:
    """Round parameters to what float16 holds.

    Raises:
        WeightsError: a value is too large for that.
    """
    with np.errstate(over="ignore"):  # it is told below
        rounded = {name: value.astype(np.float16).astype(np.float32) for name, value in weights.items()}
    beyond = [name for name, value in rounded.items() if not np.isfinite(value).all()]
    if beyond:
        largest = np.abs(weights[beyond[0]]).max()
        raise WeightsError(
            f"{path}: {beyond[0]} has values up to {largest:.3g}; needed are at most {np.finfo(np.float16).max:g}, "
            "since models keep their layers in float16.",
            "Look whether the training that made them diverged.",
        )
    return MappingProxyType(rounded)


def _read_license(path: Path) -> str:
    """Read the licence that a safetensors file may name in its metadata."""
    if path.suffix.lower() != ".safetensors":
        return UNKNOWN
    with safe_open(path, "numpy") as file:
        about: Mapping[str, str] = file.metadata() or {}
    return about.get("license") or UNKNOWN
