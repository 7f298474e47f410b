"""What a network in training may learn from instead of labels: what another network says of the
images that it is shown, changed as they are.

Sources: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network"; that both have to see
the same crop: Beyer et al. 2022, "Knowledge Distillation: A Good Teacher Is Patient and
Consistent".
"""

from dataclasses import replace
from typing import Any

from squeezetune.finetune.backprop import run_forward
from squeezetune.finetune.batches import list_statistics
from squeezetune.finetune.tapped import TrainableLayers
from squeezetune.finetune.torch_layers import Tensor
from squeezetune.finetune.workers import TrainingTask, copy_network
from squeezetune.network.architecture import NetworkLayout
from squeezetune.network.frozen_classifier import FrozenClassifier, Teaching

# isort: split
# after the modules above, which say how to install torch where it is missing
import torch
from torch.nn import functional


class LayerTeacher:
    """A network in torch that reads the same as the one in training."""

    def __init__(self, network: TrainableLayers, precision: Any) -> None:
        """Let its convolutions compute in this type of number."""
        self._network, self._precision = copy_network(network, precision), precision

    def __call__(self, maps: Tensor, taps: Tensor | None) -> Tensor:
        """Give logits (n, classes) of what both read."""
        maps = maps.to(self._precision, memory_format=torch.channels_last)
        with torch.no_grad():
            features, _ = run_forward(self._network, maps, taps, is_training=False)
            logits: Tensor = self._network.classify(features)
        return logits


class FrozenTeacher:
    """A trained classifier of any network, in the engine that runs it fastest.

    It looks at the very images (n, 3, side, side) that the `learner`, whose first layer has to be
    among those in training, is shown: normalised for it, changed, and perhaps mixed with others.
    They are turned back into pixels, and brought to the size that the classifier is made for.
    """

    def __init__(self, classifier: FrozenClassifier, learner: NetworkLayout, threads: int) -> None:
        """Open the classifier for so many threads."""
        self._answer = classifier.open(threads)
        self._side = classifier.backbone.pixels.side
        self._mean, self._deviation = list_statistics(learner)

    def __call__(self, maps: Tensor, taps: Tensor | None) -> Tensor:
        """Give logits (n, classes) of normalised images."""
        images = maps.float()
        if images.shape[2] != self._side:
            images = functional.interpolate(
                images, size=(self._side, self._side), mode="bilinear", antialias=True
            )
        pixels = (images * self._deviation + self._mean).round().clamp(0, 255).to(torch.uint8)
        return torch.from_numpy(self._answer(pixels.permute(0, 2, 3, 1).contiguous().numpy()))


def add_teacher(
    task: TrainingTask, teaching: Teaching, learner: NetworkLayout, threads: int
) -> TrainingTask:
    """Let what a frozen classifier says be learnt, instead of the labels."""
    teacher = FrozenTeacher(teaching.classifier, learner, threads)
    return replace(task, teacher=teacher, temperature=teaching.temperature)
