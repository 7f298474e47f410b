"""The parameters of a trained classifier, and how they are kept in `network.safetensors`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from squeezetune.errors import ArtifactError, WeightsError
from squeezetune.heads.familiarity import Familiarity
from squeezetune.heads.linear import DenseWeights
from squeezetune.network.foreign_network import ForeignNetwork
from squeezetune.network.foreign_storage import ABOUT, pack_foreign, unpack_foreign
from squeezetune.network.graph import (
    EXACT,
    DescribedLayers,
    FrozenLayers,
    WeightFormat,
    build_convolved,
    build_model,
)
from squeezetune.network.weights import Weights, detect_architecture
from squeezetune.network.zoo import ARCHITECTURES

# What torch adds to the variance in a batch normalisation.
NORM_EPSILON = 1e-5
# What the names of the classifier's parameters begin with.
HEAD = "head."
_DAMAGED = "Train the model again, or copy the whole folder again from where it came."


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """All parameters of a trained classifier, and how an image becomes what the network sees.

    `weights` are those of the network's layers by torchvision's names; of a network that is not
    described there are none, and `foreign` has its graph. `head` is dense layers,
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
    foreign: ForeignNetwork | None = None

    @property
    def is_described(self) -> bool:
        """Whether its layers are described: of these alone most formats can be made."""
        return self.foreign is None

    @property
    def title(self) -> str:
        """The pretrained network's name, for people."""
        return self.foreign.name if self.foreign else detect_architecture(self.weights).title

    def freeze(self, form: WeightFormat) -> FrozenLayers:
        """Make its layers ready to be added to a graph, in some form.

        Raises:
            WeightsError: it is in int8, and the layers are not described.
        """
        if self.foreign is None:
            return DescribedLayers(self.weights, form)
        if form.int8:
            raise WeightsError(f"{self.title} cannot be computed in int8: it is a graph alone.")
        return replace(self.foreign, store=form.store)

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
        return build_model(
            self.freeze(form),
            self.head,
            form.store,
            views=self.views,
            side=self.side,
            resize=self.resize,
            metadata=metadata,
            use_roots=self.use_roots,
            familiarity=familiarity,
        )


def pack_network(network: TrainedNetwork) -> bytes:
    """Pack the parameters as safetensors, under torchvision's names or those that a foreign file
    has; the same always give the same bytes.

    The layers are float16, foreign ones where that holds them exactly; the classifier is float32
    and acts on the features or on their roots.
    """
    tensors, named = (
        pack_foreign(network.foreign) if network.foreign else _pack_layers(network.weights)
    )
    for number, (weight, bias) in enumerate(network.head):
        tensors[f"{HEAD}{number}.weight"], tensors[f"{HEAD}{number}.bias"] = weight, bias
    # one key: several would be written in no certain order
    about = {
        "views": network.views,
        "image_side": network.side,
        "resize": network.resize,
        "use_roots": network.use_roots,
        **named,
    }
    return save(tensors, metadata={"squeezetune": json.dumps(about)})


def _pack_layers(weights: Weights) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Pack the layers of a network that is described: tensors, and which network it is."""
    architecture = detect_architecture(weights)
    is_squeezenet = architecture.version in ARCHITECTURES
    layers = {name: value for name, value in weights.items() if architecture.owns(name)}
    # safetensors writes memory as it lies
    tensors = {name: np.ascontiguousarray(value, np.float16) for name, value in layers.items()}
    return tensors, {"squeezenet" if is_squeezenet else "network": architecture.version}


def read_network(payload: bytes) -> TrainedNetwork:
    """Read `network.safetensors` of a model; of the original recipe's, the batch normalisation is
    folded away.

    Raises:
        ArtifactError: the bytes are damaged, or no network of ours.
    """
    try:
        packed, about = load(payload), json.loads(read_metadata(payload)["squeezetune"])
        foreign = unpack_foreign(packed, about) if ABOUT in about else None
        tensors = {name: value.astype(np.float32) for name, value in packed.items()
                   if not foreign or name.startswith(HEAD)}  # fmt: skip
        head, is_convolved = _read_head(tensors), f"{HEAD}0.weight" not in tensors
        owns = None if foreign else detect_architecture(tensors).owns
        weights = {name: value for name, value in tensors.items() if owns and owns(name)}
        return TrainedNetwork(
            weights,
            head,
            about["views"],
            about["image_side"],
            about["resize"],
            about["use_roots"],
            is_convolved,
            foreign,
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
    if f"{HEAD}0.weight" in tensors:
        count = sum(name.startswith(HEAD) and name.endswith(".weight") for name in tensors)
        return tuple(
            (tensors[f"{HEAD}{at}.weight"], tensors[f"{HEAD}{at}.bias"]) for at in range(count)
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
