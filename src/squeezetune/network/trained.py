"""The parameters of a trained classifier, and how they are kept in `network.safetensors`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from squeezetune.errors import ArtifactError, WeightsError
from squeezetune.heads.familiarity import Familiarity
from squeezetune.heads.linear import DenseWeights
from squeezetune.network.graph import EXACT, WeightFormat, build_classifier, build_convolved
from squeezetune.network.weights import Weights, detect_architecture
from squeezetune.network.zoo import ARCHITECTURES

# What torch adds to the variance in a batch normalisation.
NORM_EPSILON = 1e-5
_DAMAGED = "Train the model again, or copy the whole folder again from where it came."


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """All parameters of a trained classifier, and how an image becomes what the network sees.

    `weights` are those of the network's layers by torchvision's names. `head` is dense layers,
    (inputs, outputs) weights and (outputs,) biases, on the means of the channels of the
    taps, or with `use_roots` on their square roots; the logits are averaged over the views. With
    `is_convolved` it is one layer (channels, classes) at every position of the last map, then ReLU
    and the mean over the positions. Scaling and temperature are folded in.
    """

    weights: Weights
    head: DenseWeights
    views: int
    side: int
    resize: str
    use_roots: bool = True
    is_convolved: bool = False

    @property
    def class_count(self) -> int:
        """The number of classes."""
        return len(self.head[-1][1])

    def build_model(
        self,
        metadata: Mapping[str, str],
        form: WeightFormat = EXACT,
        familiarity: Familiarity | None = None,
    ) -> bytes:
        """Build the classifier as an ONNX file in some form: images in, probabilities out, perhaps
        familiarity too.
        """
        if self.is_convolved:
            return build_convolved(
                self.weights,
                self.head[0],
                side=self.side,
                resize=self.resize,
                metadata=metadata,
                form=form,
            )
        return build_classifier(
            self.weights,
            self.head,
            views=self.views,
            side=self.side,
            resize=self.resize,
            metadata=metadata,
            use_roots=self.use_roots,
            form=form,
            familiarity=familiarity,
        )


def pack_network(network: TrainedNetwork) -> bytes:
    """Pack the parameters as safetensors, under torchvision's names; the same always give the same
    bytes.

    The layers are float16; the classifier is float32 and acts on the features or on
    their roots.
    """
    architecture = detect_architecture(network.weights)
    owns, is_squeezenet = architecture.owns, architecture.version in ARCHITECTURES
    backbone = {name: value for name, value in network.weights.items() if owns(name)}
    tensors: dict[str, NDArray[Any]] = {
        # safetensors writes memory as it lies
        name: np.ascontiguousarray(value, np.float16)
        for name, value in backbone.items()
    }
    for number, (weight, bias) in enumerate(network.head):
        tensors[f"head.{number}.weight"], tensors[f"head.{number}.bias"] = weight, bias
    # one key: several would be written in no certain order
    about = {
        "views": network.views,
        "image_side": network.side,
        "resize": network.resize,
        "use_roots": network.use_roots,
        "squeezenet" if is_squeezenet else "network": architecture.version,
    }
    return save(tensors, metadata={"squeezetune": json.dumps(about)})


def read_network(payload: bytes) -> TrainedNetwork:
    """Read `network.safetensors` of a model; of the original recipe's, the batch normalisation is
    folded away.

    Raises:
        ArtifactError: the bytes are damaged, or no network of ours.
    """
    try:
        tensors = {name: value.astype(np.float32) for name, value in load(payload).items()}
        about = json.loads(read_metadata(payload)["squeezetune"])
        head, is_convolved = _read_head(tensors), "head.0.weight" not in tensors
        owns = detect_architecture(tensors).owns
        weights = {name: value for name, value in tensors.items() if owns(name)}
        return TrainedNetwork(
            weights,
            head,
            about["views"],
            about["image_side"],
            about["resize"],
            about["use_roots"],
            is_convolved,
        )
    except (SafetensorError, WeightsError, KeyError, ValueError, TypeError) as error:
        raise ArtifactError(
            f"The network's parameters cannot be read: {error}", _DAMAGED
        ) from error


def read_metadata(payload: bytes) -> Mapping[str, str]:
    """Read the text in a safetensors file: its header is JSON behind eight bytes that count it."""
    length = int.from_bytes(payload[:8], "little")
    found: Mapping[str, str] = json.loads(payload[8 : 8 + length])["__metadata__"]
    return found


def _read_head(tensors: Mapping[str, NDArray[np.float32]]) -> DenseWeights:
    if "head.0.weight" in tensors:
        count = sum(name.startswith("head.") and name.endswith(".weight") for name in tensors)
        return tuple(
            (tensors[f"head.{at}.weight"], tensors[f"head.{at}.bias"]) for at in range(count)
        )
    return (_fold_norm(tensors),)


def _fold_norm(
    tensors: Mapping[str, NDArray[np.float32]],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Fold the batch normalisation, where there is one, into the convolution behind it: (512,
    classes), (classes,).
    """
    kernel, bias = (
        tensors[f"classifier.1.{part}"].astype(np.float64) for part in ("weight", "bias")
    )
    weight = kernel.reshape(len(kernel), -1)
    if "classifier.0.weight" in tensors:
        norm = {part: tensors[f"classifier.0.{part}"].astype(np.float64)
                for part in ("weight", "bias", "running_mean", "running_var")}  # fmt: skip
        scale = norm["weight"] / np.sqrt(norm["running_var"] + NORM_EPSILON)
        weight, bias = weight * scale, bias + weight @ (norm["bias"] - scale * norm["running_mean"])
    return np.ascontiguousarray(weight.T, np.float32), bias.astype(np.float32)
