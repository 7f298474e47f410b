"""torch's files of weights, read as tensors only: no code in them is ever run.

It stands apart since it imports torch, which only such files need.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from squeezetune.errors import INSTALL_TORCH, MissingExtraError, WeightsError

try:
    import torch
except ImportError as error:
    raise MissingExtraError(
        "torch is not installed; its files of weights are read with it.", INSTALL_TORCH
    ) from error


# The first torch whose torch.load(weights_only=True) has no known way to run code or to corrupt
# memory (CVE-2025-32434, CVE-2026-24747).
SAFE_TORCH = (2, 10)


def read_checkpoint(path: Path) -> dict[str, NDArray[np.float32]]:
    """Read a state dict that torch has saved, by name; no code in the file is ever run.

    Raises:
        WeightsError: the file is missing, damaged or more than a state dict, or this torch is too
            old to be safe.
    """
    needed = "Needed is a file as torch.save(network.state_dict(), path) writes it."
    _refuse_unsafe_torch()
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(f"The weights cannot be read: {path}: {error.strerror}") from error
    except Exception as error:  # torch raises nearly anything over a damaged or a hostile file
        raise WeightsError(
            f"{path} is damaged or holds more than tensors; it was not loaded.", needed
        ) from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} is no state dict: it holds a {type(content).__name__}.", needed)
    for name, value in content.items():
        if not (isinstance(name, str) and isinstance(value, torch.Tensor)):
            raise WeightsError(
                f"{path} is no state dict: {name!r} in it is no tensor with a name.", needed
            )
    return {name: value.detach().float().numpy() for name, value in content.items()}


def _refuse_unsafe_torch() -> None:
    found, needed = torch.__version__, ".".join(map(str, SAFE_TORCH))
    if tuple(int(part) for part in found.split(".")[:2]) < SAFE_TORCH:
        raise WeightsError(
            f"torch {found} cannot read such a file safely, needed is {needed} or newer.",
            "Update torch, or convert the file to safetensors.",
        )
