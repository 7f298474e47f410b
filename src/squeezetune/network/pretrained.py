"""The pretrained network that a run begins with: one in the package or in another, a file's, or
torchvision's, which is fetched.

torch names such a file by the first eight hexadecimal digits of its SHA-256, which are checked here
as well.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from squeezetune.errors import MissingExtraError, SettingsError, WeightsError
from squeezetune.events import Listener, Notice, ignore_event
from squeezetune.network.architecture import Architecture, NetworkSize
from squeezetune.network.float_layers import store_floats
from squeezetune.network.graph import DescribedLayers, FrozenLayers, WeightFormat
from squeezetune.network.old_checkpoint import START, read_old_checkpoint
from squeezetune.network.published import FETCHED, find_published, find_weights
from squeezetune.network.weights import (
    NEEDED,
    Weights,
    detect_architecture,
    find_architecture,
    fold_norms,
    identify_architecture,
    load_weights,
    parse_safetensors,
    use_known_names,
)
from squeezetune.quantities import format_size
from squeezetune.system.disk import cache_or_temporary
from squeezetune.system.downloads import (
    TIMEOUT_S,
    PublishedFile,
    fetch_file,
    hash_file,
    name_file,
)

# Where the cache has what was fetched.
WEIGHTS_FOLDER = "weights"
# What is taken where nobody names a network.
DEFAULT = "squeezenet1_1"
LARGEST_SHARE = 2.0  # of the published size, which a mirror may store in another form
BY_HAND = (
    "Or fetch the file on another computer, and give it to read_weights, or as --weights FILE."
)


def fetch_weights(
    network: str,
    cache_folder: str | Path,
    *,
    url: str | None = None,
    listen: Listener = ignore_event,
    timeout_s: float = TIMEOUT_S,
) -> Path:
    """Fetch torchvision's published weights of a network, by its name or a SqueezeNet's version,
    into a folder; return the file.

    A file that is there already is checked and taken as it is. A download that breaks off goes on
    where it stopped, at once or in the next call; the file appears whole or not at all. `url` may
    name a mirror; its last part has to hold the checksum as the original's does. A proxy is taken
    from the environment (`https_proxy`). Example, which needs the network:

        >>> weights = read_weights(fetch_weights("1.0", "weights"))  # doctest: +SKIP
        >>> network = build_network(weights, version="1.0")  # doctest: +SKIP

    Raises:
        SettingsError: there is no such network, torchvision has not published it, or the address is
            not one of a file with a checksum.
        WeightsError: the file cannot be had, or its content is not what its name promises.
    """
    architecture = find_architecture(network)
    published = FETCHED.get(architecture.name)
    if published is None:
        raise SettingsError(
            f"torchvision has not published weights of {architecture.name}.",
            f"It has of {', '.join(FETCHED)}.",
        )
    address = url or published.address
    name, checksum = _parse_address(address)
    file = PublishedFile(
        address,
        {"sha256": checksum},
        int(LARGEST_SHARE * published.size_bytes),
        architecture.title,
        WeightsError,
        BY_HAND,
        timeout_s=timeout_s,
    )
    return fetch_file(file, Path(cache_folder) / name, listen)


def read_weights(path: str | Path) -> Weights:
    """Read the weights of a known network from a safetensors file, or from torch's .pth or .pt.

    They come under the names that the network is described with, and all are checked;
    `identify_architecture` says which network it is. Files as torch wrote them until version 1.5
    are read here, newer ones by torch, as tensors only: nothing in them is ever run. Example:

        >>> from squeezetune.network.weights import WEIGHTS_PATH
        >>> read_weights(WEIGHTS_PATH)["classifier.1.weight"].shape
        (1000, 512, 1, 1)

    Raises:
        MissingExtraError: the file is torch's, and torch is not installed.
        WeightsError: the file cannot be read, or does not hold the weights of a known network.
    """
    path = Path(path)
    read = READERS.get(path.suffix.lower())
    if read is None:
        raise WeightsError(
            f"{path} is no file of weights by its name.", f"Known endings: {', '.join(READERS)}."
        )
    if not path.is_file():
        raise WeightsError(
            f"There is no file of weights {path}.", "Look for a mistake in the path."
        )
    try:
        weights = use_known_names(read(path))
        identify_architecture(weights)
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
            "Needed is http:// or https://, and a name with the file's SHA-256, as in "
            "squeezenet1_1-b8a52dc0.pth.",
        )
    return name, named[1]


# ---- the files


def _read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    try:
        payload = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"The weights cannot be read: {path}: {error.strerror}") from error
    return parse_safetensors(payload)


def _read_torch(path: Path) -> dict[str, NDArray[Any]]:
    with path.open("rb") as file:
        is_old = file.read(len(START)) == START
    return read_old_checkpoint(path) if is_old else import_torch_reader()(path)


def import_torch_reader() -> Callable[[Path], dict[str, NDArray[np.float32]]]:
    """Import what reads torch's files.

    Raises:
        MissingExtraError: torch is not installed.
    """
    try:
        from squeezetune.network.torch_file import read_checkpoint  # needs torch, an extra
    except MissingExtraError as error:
        message = "torch is not installed, which alone reads its files of weights, .pth and .pt."
        raise MissingExtraError(
            message, f"{error.hint}, or give the weights as safetensors."
        ) from error
    return read_checkpoint


READERS: dict[str, Callable[[Path], dict[str, NDArray[Any]]]] = {
    ".safetensors": _read_safetensors,
    ".pth": _read_torch,
    ".pt": _read_torch,
}


# What the setting `weights` calls torchvision's published files.
PUBLISHED = ("squeezenet1_0", "squeezenet1_1")
UNKNOWN = "unknown"


@dataclass(frozen=True, eq=False)
class Pretrained:
    """A pretrained network: its parameters, with batch normalisations folded, which float16 holds,
    and where they come from.

    `sha256` is that of the file that they were read from: the same weights in another place are the
    same weights.
    """

    weights: Weights
    sha256: str
    origin: str
    license: str

    @property
    def architecture(self) -> Architecture:
        """The network's description, without batch normalisations."""
        return detect_architecture(self.weights)

    @property
    def name(self) -> str:
        """Its name, as the setting `backbone` has it."""
        return self.architecture.name

    @property
    def network(self) -> str:
        """Name the network for people."""
        return self.architecture.title

    def without_classifier(self) -> "Pretrained":
        """Leave out the classifier, which of a VGG takes half a gigabyte."""
        owns = self.architecture.owns
        layers = {name: value for name, value in self.weights.items() if owns(name)}
        return replace(self, weights=MappingProxyType(layers))

    @property
    def side(self) -> int:
        """The side in pixels of the images that it was made for."""
        return self.architecture.side

    @property
    def fixed_side(self) -> int:
        """The only side that it takes: none, which is 0."""
        return 0

    @property
    def least_side(self) -> int:
        """The smallest side that it takes."""
        return self.architecture.least_side

    @property
    def size(self) -> NetworkSize:
        """How large it is."""
        return self.architecture.size

    @property
    def is_described(self) -> bool:
        """Whether its layers are described."""
        return True

    @property
    def key(self) -> str:
        """What its speed hangs on: which network it is."""
        return self.architecture.version

    @property
    def layout(self) -> Architecture:
        """How it is divided into blocks, where its layers are trained."""
        return detect_architecture(self.weights)

    def freeze(self) -> FrozenLayers:
        """Make its layers in float32 ready to be added to a graph that is run here."""
        return DescribedLayers(self.weights, WeightFormat(store_floats))

    @property
    def provenance(self) -> dict[str, str]:
        """Which weights these are, for reports and manifests."""
        return {
            "network": self.network,
            "origin": self.origin,
            "license": self.license,
            "sha256": self.sha256,
        }


def load_pretrained(
    source: str = "",
    cache: Path | None = None,
    listen: Listener = ignore_event,
    *,
    backbone: str = "",
) -> Pretrained:
    """Load what the settings `weights` and `backbone` name: a file, which then has to be one of
    that network; torchvision's by name; or the published weights of the network, the package's
    SqueezeNet 1.1 where nothing is named.

    Those of torchvision are fetched into the cache once, or for now where there is none. Values are
    rounded to float16, in which the files that a run leaves keep the layers, so that all that is
    measured is one network. Example:

        >>> load_pretrained().network
        'SqueezeNet 1.1'

    Raises:
        MissingExtraError: the file is torch's, and torch is not installed; or the weights are in
            another package, which is not.
        SettingsError: there is no such network.
        WeightsError: the file cannot be had or read, or does not hold the weights of the network.
    """
    name = find_architecture(backbone or DEFAULT).name
    if source in PUBLISHED:
        found = _fetch_pretrained(source, cache, listen)
    elif source:
        found = read_pretrained(Path(source).expanduser())
    else:
        return _load_published(name, cache, listen)
    if backbone and found.architecture.name != name:
        raise WeightsError(
            f"{source} holds the weights of {found.network}, and the backbone is {name}.",
            f"Leave one of them out, or give weights of {name}.",
        )
    return found


def _load_published(name: str, cache: Path | None, listen: Listener) -> Pretrained:
    """Load a network's weights from where they are: this package, another one, or the web."""
    published = find_weights(name)
    if published.address:
        return _fetch_pretrained(name, cache, listen)
    if published.package:
        return read_pretrained(published.check())
    weights = load_weights(Path(__file__).with_name(published.file), published.sha256)
    return Pretrained(weights, published.sha256, published.origin, published.license)


def _fetch_pretrained(name: str, cache: Path | None, listen: Listener) -> Pretrained:
    import_torch_reader()  # before anything is fetched that could not be read
    published = FETCHED[name]
    with cache_or_temporary(cache) as folder:
        if not (folder / WEIGHTS_FOLDER / published.file).is_file():
            listen(
                Notice(
                    f"the weights of {name} are fetched from {published.address}: "
                    f"{format_size(published.size_bytes)}, {published.license}"
                )
            )
        return read_pretrained(fetch_weights(name, folder / WEIGHTS_FOLDER, listen=listen))


def read_pretrained(path: Path) -> Pretrained:
    """Read a pretrained network from a file, and find out what is known of it.

    Raises:
        MissingExtraError: the file is torch's, and torch is not installed.
        WeightsError: the file cannot be read, or does not hold the weights of a known network.
    """
    weights = read_weights(path)
    weights = round_read(fold_norms(weights, detect_architecture(weights)), path)
    sha256 = hash_file(path, "sha256")
    if known := find_published(sha256):
        return Pretrained(weights, sha256, known.origin, known.license)
    return Pretrained(weights, sha256, path.name, _read_license(path))


def round_weights(weights: Weights) -> Weights:
    """Round parameters to what float16 holds, as the files store them, so that all forms of the
    network are one.
    """
    return {name: value.astype(np.float16).astype(np.float32) for name, value in weights.items()}


def round_read(weights: Weights, path: Path) -> Weights:
    """Round the parameters that a file holds.

    Raises:
        WeightsError: a value is too large for that.
    """
    with np.errstate(over="ignore"):  # it is told below
        rounded = round_weights(weights)
    beyond = [name for name, value in rounded.items() if not np.isfinite(value).all()]
    if beyond:
        largest = np.abs(weights[beyond[0]]).max()
        raise WeightsError(
            f"{path}: {beyond[0]} has values up to {largest:.3g}; needed are at most "
            f"{np.finfo(np.float16).max:g}, since models keep their layers in float16.",
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
