"""The product's own classifier as it is trained: a linear layer on standardised features."""

from collections.abc import Mapping

from squeezetune.finetune.torch_layers import Tensor
from squeezetune.heads.linear import DenseWeights, Rows
from squeezetune.heads.scaling import Scaling

# isort: split
# after `torch_layers`, which says how to install torch where it is missing
import torch
from torch import nn
from torch.nn import functional


class LinearClassifier(nn.Linear):  # type: ignore[misc]  # torch is not seen by the type checker
    """A linear layer on features that `mean` and `deviation` standardise, which stay as they
    are.
    """

    def __init__(self, features: int, classes: int) -> None:
        super().__init__(features, classes)
        self.register_buffer("mean", torch.zeros(features), persistent=False)
        self.register_buffer("deviation", torch.ones(features), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Compute logits (n, classes) of features (n, features), in float32 whatever the layers
        before are in.
        """
        rows = (features - self.mean) / self.deviation
        return functional.linear(rows, self.weight, self.bias)

    def take(self, scaling: Scaling, weight: Rows, bias: Rows) -> None:
        """Take over a classifier on standardised features: weights (features, classes) and biases
        (classes,).
        """
        values = (scaling.mean, scaling.deviation, weight.T.copy(), bias)
        own = (self.mean, self.deviation, self.weight, self.bias)
        with torch.no_grad():
            for target, value in zip(own, values, strict=True):
                target.copy_(torch.from_numpy(value))

    def to_arrays(self, parameters: Mapping[str, Rows]) -> tuple[Scaling, DenseWeights]:
        """Take the classifier, with its scaling, from the parameters of a network by name."""
        scaling = Scaling(self.mean.numpy().copy(), self.deviation.numpy().copy(), use_roots=False)
        weight, bias = (parameters[f"classifier.{name}"] for name in ("weight", "bias"))
        return scaling, ((weight.T.copy(), bias),)
