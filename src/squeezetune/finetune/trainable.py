"""A network as the training loop sees it, and how it is made of a pretrained one of either kind."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from squeezetune.finetune.backprop import Gradients
from squeezetune.finetune.graph_network import GraphNetwork
from squeezetune.finetune.tapped import TappedNetwork
from squeezetune.finetune.torch_layers import Module, Tensor
from squeezetune.finetune.torch_network import build_layers
from squeezetune.heads.linear import DenseWeights, Rows
from squeezetune.heads.scaling import Scaling
from squeezetune.network.architecture import NetworkLayout
from squeezetune.network.backbone import PretrainedNetwork
from squeezetune.network.foreign_network import ForeignNetwork
from squeezetune.network.weights import Weights


class TrainableNetwork(Protocol):
    """A network of torch, with a classifier on its features, that the training loop trains: a
    module, whose parameters train where their gradients are required.
    """

    @property
    def layout(self) -> NetworkLayout:
        """How it is divided into blocks."""
        ...

    @property
    def reads_images(self) -> bool:
        """Whether it begins with images, and not with what a block reads."""
        ...

    @property
    def class_count(self) -> int:
        """The number of classes."""
        ...

    @property
    def classifier(self) -> Module:
        """The classifier: its parameters are those of `classify`."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, Any]]:
        """List all parameters by their names."""
        ...

    def find_block(self, parameter: str) -> str:
        """Name the block that a parameter, by its name here, belongs to."""
        ...

    def convert(self, precision: Any) -> None:
        """Let it compute in this type of number, as far as it does."""
        ...

    def differentiate(
        self, maps: Tensor, taps: Tensor | None
    ) -> tuple[Tensor, Callable[[Tensor], Gradients]]:
        """Compute features (n, features) float32 of what it reads, and of the means of earlier
        taps; and what turns their gradient into those of the parameters.
        """
        ...

    def infer_features(self, maps: Tensor, taps: Tensor | None) -> Tensor:
        """Compute the features, without a way back."""
        ...

    def classify(self, features: Tensor) -> Tensor:
        """Compute logits (n, classes) of features, by autograd."""
        ...


class TransferNetwork(TrainableNetwork, Protocol):
    """A network in training that begins with a linear classifier, and becomes arrays again."""

    def set_classifier(self, scaling: Scaling, weight: Rows, bias: Rows) -> None:
        """Take over a linear classifier on standardised features: weights (features, classes) and
        biases (classes,).
        """
        ...

    def to_arrays(
        self, parameters: Mapping[str, Rows]
    ) -> tuple[Scaling, DenseWeights, dict[str, Rows]]:
        """Split parameters by name into the classifier with its scaling, and the layers by the
        names that files have.
        """
        ...


def build_trainable(
    network: PretrainedNetwork,
    classes: int,
    start: str = "",
    frozen_blocks: int = 0,
    trained: Weights | None = None,
) -> TransferNetwork:
    """Make the trainable form of a pretrained network, from the block `start` on where it is
    described; `trained` are parameters that an earlier stage has changed.

    Raises:
        WeightsError: it is a graph with an operator that cannot be trained here.
    """
    if isinstance(network, ForeignNetwork):
        return GraphNetwork(network.replace_parameters(trained or {}), classes, frozen_blocks)
    layers = build_layers({**network.weights, **(trained or {})})
    return TappedNetwork(layers, classes, start, frozen_blocks)
