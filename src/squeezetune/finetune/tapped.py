"""A network's layers as they are trained, with the product's own classifier: a linear layer on the
mean of every channel of the taps.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from squeezetune.finetune.backprop import Gradients, LayerPass, run_backward, run_forward
from squeezetune.finetune.linear_classifier import LinearClassifier
from squeezetune.finetune.torch_layers import Tensor, delay_activations, find_path, run_layers
from squeezetune.finetune.torch_network import DescribedNetwork, export_weights
from squeezetune.heads.linear import DenseWeights, Rows
from squeezetune.heads.scaling import Scaling
from squeezetune.network.architecture import Architecture
from squeezetune.network.layers import Join, Layer, MaxPool

# isort: split
# after `network`, which says how to install torch where it is missing
import torch
from torch import nn

CLASSIFIER = "classifier"


class TrainableLayers(nn.Module):  # type: ignore[misc]  # torch is not seen by the type checker
    """The layers of a network from the block `start`, or the first, under torchvision's names.

    The first `frozen_blocks` of the network, as far as they are among these, are run and stay as
    they are. A class below adds `classify`, and its own layers under `classifier`.
    """

    def __init__(self, backbone: DescribedNetwork, start: str = "", frozen_blocks: int = 0) -> None:
        super().__init__()
        self.architecture = network = backbone.architecture
        self.start = start or network.block_names[0]
        first = max(network.block_names.index(self.start), frozen_blocks)
        self.first_trained = network.block_names[first]
        self.roots = sorted({find_path(layer).split(".")[0] for layer in network.convolutions})
        for name in self.roots:
            self.add_module(name, backbone.get_submodule(name))
        trained = network.block_names[first:]
        for name, value in self.named_parameters():
            if network.find_owner(name) not in trained:
                value.requires_grad_(False)
        self.passes = _plan_passes(self.architecture, self.start, self.first_trained)

    @property
    def input_name(self) -> str:
        """The name of the map that the first block reads."""
        return self.architecture.name_input(self.start)

    @property
    def layout(self) -> Architecture:
        """How the network is divided into blocks."""
        return self.architecture

    @property
    def reads_images(self) -> bool:
        """Whether it begins with images, and not with what a block reads."""
        return self.start == self.architecture.block_names[0]

    def differentiate(
        self, maps: Tensor, taps: Tensor | None
    ) -> tuple[Tensor, Callable[[Tensor], Gradients]]:
        """Compute the features (n, features) float32, and what turns their gradient into those of
        the parameters, once.
        """
        features, steps = run_forward(self, maps, taps)
        return features, partial(run_backward, steps=steps)

    def infer_features(self, maps: Tensor, taps: Tensor | None) -> Tensor:
        """Compute the features, without a way back."""
        features, _ = run_forward(self, maps, taps, is_training=False)
        return features

    def convert(self, precision: Any) -> None:
        """Let the convolutions compute in this type of number, channels last."""
        for name in self.roots:
            self.get_submodule(name).to(precision, memory_format=torch.channels_last)

    def find_block(self, parameter: str) -> str:
        """Name the block that a parameter, by its name here, belongs to."""
        return self.architecture.find_owner(parameter) or CLASSIFIER


class TappedNetwork(TrainableLayers):
    """The trainable form of what `graph.build_classifier` builds.

    It begins at the block `start`: with images at the first, else with what that block reads, and
    with the means of the taps before it. `mean` and `deviation` standardise the features, and stay
    as they are.
    """

    def __init__(
        self, backbone: DescribedNetwork, classes: int, start: str = "", frozen_blocks: int = 0
    ) -> None:
        super().__init__(backbone, start, frozen_blocks)
        self.classifier = LinearClassifier(self.architecture.feature_count, classes)

    @property
    def class_count(self) -> int:
        """The number of classes."""
        return int(self.classifier.out_features)

    def forward(self, maps: Tensor, taps: Tensor | None = None) -> Tensor:
        """Normalised images (n, 3, height, width), or what the first block reads, in; logits (n,
        classes) out.
        """
        return self.classify(self.compute_features(maps, taps))

    def compute_features(self, maps: Tensor, taps: Tensor | None = None) -> Tensor:
        """Compute the mean of every channel of the taps, (n, features) float32, by autograd."""
        layers, tapped = [each.layer for each in self.passes], self.architecture.taps
        means = [] if taps is None else [taps]
        activations = delay_activations(layers, (MaxPool, Join), tapped)
        for layer, y in run_layers(self, layers, activations, {self.input_name: maps}):
            if layer.output in tapped:
                means.append(y.mean((2, 3), dtype=torch.float32))
        return torch.cat(means, 1)

    def classify(self, features: Tensor) -> Tensor:
        """Compute logits of features (n, 2048), in float32 whatever the layers before are in."""
        return self.classifier(features)

    def set_classifier(self, scaling: Scaling, weight: Rows, bias: Rows) -> None:
        """Take over a linear classifier on standardised features: weights (2048, classes) and
        biases (classes,).
        """
        self.classifier.take(scaling, weight, bias)

    def to_arrays(
        self, parameters: Mapping[str, Rows]
    ) -> tuple[Scaling, DenseWeights, dict[str, Rows]]:
        """Split parameters by name into the classifier with its scaling, and the layers under
        torchvision's names.
        """
        scaling, layers = self.classifier.to_arrays(parameters)
        owns = self.architecture.owns
        trained = {name: value for name, value in parameters.items() if owns(name)}
        frozen = {name: value for name, value in export_weights(self).items() if owns(name)}
        return scaling, layers, frozen | trained


def _plan_passes(network: Architecture, start: str, first_trained: str) -> tuple[LayerPass, ...]:
    """Plan how the layers from `start` on are passed, of which those from `first_trained` on
    train.
    """
    layers = network.pass_blocks(start)
    trained = {layer.output for layer in network.pass_blocks(first_trained)}
    activations = delay_activations(layers, (MaxPool,), network.taps)
    slopes = _place_slopes(layers, activations, network.taps)
    last_reads = {name: layer.output for layer in layers for name in layer.reads}
    return tuple(
        LayerPass(
            layer,
            activations[layer.output],
            slopes[layer.output],
            layer.output in network.taps,
            layer.output in trained,
            tuple(name in trained for name in layer.reads),
            tuple(name for name in layer.reads if last_reads[name] == layer.output),
        )
        for layer in layers
    )


def _place_slopes(
    layers: Sequence[Layer], activations: Mapping[str, str], taps: Sequence[str]
) -> dict[str, str]:
    """Say behind which layers the slopes of which functions are taken: for a join's parts behind
    the join, so that their own maps need not be kept beside it.
    """
    joined = delay_activations(layers, (Join,), taps)
    found = dict(activations)
    for layer in layers:
        if isinstance(layer, Join) and joined[layer.output]:
            found |= {layer.output: joined[layer.output], **dict.fromkeys(layer.reads, "")}
    return found
