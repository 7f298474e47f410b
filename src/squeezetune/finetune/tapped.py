"""SqueezeNet with the product's own classifier: a linear layer on the mean of every channel after
five Fire modules.
"""

from collections.abc import Mapping

from squeezetune.finetune.torch_network import SqueezeNet, Tensor, export_weights
from squeezetune.heads.linear import DenseWeights, Rows
from squeezetune.heads.scaling import Scaling
from squeezetune.network.graph import TAPS
from squeezetune.network.weights import FIRE_WIDTHS, find_architecture

# isort: split
# after `network`, which says how to install torch where it is missing
import torch
from torch import nn
from torch.nn import functional

CLASSIFIER = "classifier"


class TappedNetwork(nn.Module):  # type: ignore[misc]  # torch is not seen by the type checker
    """The trainable form of what `graph.build_classifier` builds.

    It begins at the block `start`: with images at conv1, else with what that block reads, and with
    the means of the taps before it. Blocks before `first_trained`, if that is a later one, are run
    and stay as they are, and so do `mean` and `deviation`, which standardise the features.
    """

    def __init__(
        self, backbone: SqueezeNet, classes: int, start: str = "conv1", first_trained: str = "conv1"
    ) -> None:
        super().__init__()
        self.places = {"conv1": 0, **find_architecture(backbone.version).fires}
        self.start = start
        self.features = backbone.features
        self.first_trained = max(
            self.places[start], self.places[first_trained]
        )  # a place in `features`
        for place in range(self.first_trained):
            self.features[place].requires_grad_(False)
        self.classifier = nn.Linear(sum(2 * FIRE_WIDTHS[name][1] for name in TAPS), classes)
        self.register_buffer("mean", torch.zeros(self.classifier.in_features))
        self.register_buffer("deviation", torch.ones(self.classifier.in_features))

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
        """Compute the mean of every channel after each tap, (n, 2048) float32."""
        means = [] if taps is None else [taps]
        tapped = {self.places[name] for name in TAPS}
        for place in range(self.places[self.start], len(self.features)):
            maps = self.features[place](maps)
            if place in tapped:
                means.append(maps.mean((2, 3), dtype=torch.float32))
        return torch.cat(means, 1)

    def classify(self, features: Tensor) -> Tensor:
        """Compute logits of features (n, 2048), in float32 whatever the layers before are in."""
        rows = (features - self.mean) / self.deviation
        return functional.linear(rows, self.classifier.weight, self.classifier.bias)

    def find_block(self, parameter: str) -> str:
        """Name the block that a parameter, by its name here, belongs to."""
        family, place = parameter.split(".")[:2]
        names = {str(place): name for name, place in self.places.items()}
        return CLASSIFIER if family == CLASSIFIER else names[place]

    def set_classifier(self, scaling: Scaling, weight: Rows, bias: Rows) -> None:
        """Take over a linear classifier on standardised features: weights (2048, classes) and
        biases (classes,).
        """
        values = (scaling.mean, scaling.deviation, weight.T.copy(), bias)
        own = (self.mean, self.deviation, self.classifier.weight, self.classifier.bias)
        with torch.no_grad():
            for target, value in zip(own, values, strict=True):
                target.copy_(torch.from_numpy(value))

    def to_arrays(
        self, parameters: Mapping[str, Rows]
    ) -> tuple[Scaling, DenseWeights, dict[str, Rows]]:
        """Split parameters by name into the classifier with its scaling, and the layers under
        torchvision's names.
        """
        scaling = Scaling(self.mean.numpy().copy(), self.deviation.numpy().copy(), use_roots=False)
        layers = ((parameters["classifier.weight"].T.copy(), parameters["classifier.bias"]),)
        trained = {
            name: value for name, value in parameters.items() if name.startswith("features.")
        }
        frozen = {
            f"features.{name}": value for name, value in export_weights(self.features).items()
        }
        return scaling, layers, frozen | trained
