"""A compressed network in torch, whose codes are trained to answer as the network that it was made
of.

The network computes with the codes; gradients pass straight through to the values that these are
rounded from (Bengio et al. 2013, "Estimating or Propagating Gradients Through Stochastic Neurons
for Conditional Computation").

Sources: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network"; of training what is
rounded: see `coded`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from squeezetune.compression.layerwise import Compressed
from squeezetune.finetune.batches import PixelBatches, Positions
from squeezetune.finetune.loop import tune
from squeezetune.finetune.recipe import (
    FROM_IMAGES,
    Augmentation,
    Phase,
    Recipe,
    StagePlan,
    StageProgress,
)
from squeezetune.finetune.tapped import CLASSIFIER, TrainableLayers
from squeezetune.finetune.teachers import LayerTeacher
from squeezetune.finetune.torch_layers import Tensor
from squeezetune.finetune.torch_network import DescribedNetwork
from squeezetune.finetune.workers import (
    DataParallelWorkers,
    TrainerOptions,
    TrainingTask,
    leave_value,
)
from squeezetune.network.codes import QuantizedTensor
from squeezetune.network.trained import TrainedNetwork
from squeezetune.network.weights import detect_architecture

# isort: split
# after the modules above, which say how to install torch where it is missing
import torch
from torch import nn
from torch.nn import functional

# The slope of a square root grows without bound towards 0; here it is that of this root at most.
LEAST_ROOT = 0.1
# What one step from code to code is to a kernel of four bits, is to biases this share of their
# size.
BIAS_STEP = 0.1


@dataclass(frozen=True)
class Grid:
    """What a parameter is rounded to: whole numbers from -top to top, times the scale of each
    output.
    """

    scales: Tensor
    top: int

    def find_codes(self, value: Tensor) -> Tensor:
        """Round to the nearest codes."""
        return (value / self.scales).round().clamp(-self.top, self.top)

    def fit_scales(self, value: Tensor, codes: Tensor) -> Tensor:
        """Fit the scale of each output, so that they move with the values that the codes stand
        for.
        """
        values, wholes = value.flatten(1), codes.flatten(1)
        fitted = (values * wholes).sum(1) / (wholes**2).sum(1).clamp(min=1)
        fitted = fitted.half().float().view(self.scales.shape)
        return torch.where(fitted > 0, fitted, self.scales)

    def round(self, value: Tensor) -> Tensor:
        """Round to what the codes stand for."""
        codes = self.find_codes(value)
        return codes * self.fit_scales(value, codes)


class CodedNetwork(TrainableLayers):
    """A compressed network with dense layers, of the shape that the training loop expects; the
    first convolution stays as it is.

    What is trained is counted in steps from code to code, so that one rate suits all of it: `round`
    turns it into the parameters that the network computes with.
    """

    def __init__(self, compressed: Compressed) -> None:
        network = compressed.network
        architecture = detect_architecture(network.weights)
        super().__init__(DescribedNetwork(architecture, 1), frozen_blocks=1)
        own = {
            name: torch.tensor(value)
            for name, value in network.weights.items()
            if architecture.owns(name)
        }
        self.load_state_dict(own)
        self.use_roots, self.class_count = network.use_roots, network.class_count
        self.classifier = _make_dense(network)
        for name in compressed.products:  # these stay as they are, too
            self.get_parameter(_name_parameter(name)).requires_grad_(False)
        self._grids = {
            _name_parameter(name): _make_grid(name, codes)
            for name, codes in compressed.codes.items()
        }
        self._steps = self._measure_steps()

    def classify(self, features: Tensor) -> Tensor:
        """Compute logits of features (n, 2048)."""
        if self.use_roots:
            sizes = features.detach().abs().sqrt()
            roots = sizes.copysign(features.detach())
            features = roots + (features - features.detach()) * (0.5 / sizes.clamp(min=LEAST_ROOT))
        return self.classifier(features)

    def count_in_steps(self) -> None:
        """Turn the parameters into what is trained."""
        with torch.no_grad():
            for name, value in self.named_parameters():
                if name in self._steps:
                    value.div_(self._steps[name])

    def round(self, name: str, trained: Tensor) -> Tensor:
        """Turn what is trained into a parameter as it is stored; those without codes are
        float16.
        """
        value = trained * self._steps[name]
        return self._grids[name].round(value) if name in self._grids else value.half().float()

    def to_compressed(
        self, trained: Mapping[str, NDArray[np.float32]], before: Compressed
    ) -> Compressed:
        """Put what was trained in place of a compressed network's codes and biases."""
        tensors = {name: torch.from_numpy(value) for name, value in trained.items()}
        values = {name: self.round(name, value).numpy() for name, value in tensors.items()}
        codes = dict(before.codes)
        for name, found in before.codes.items():
            own = _name_parameter(name)
            if own in tensors:
                grid, value = self._grids[own], tensors[own] * self._steps[own]
                wholes = grid.find_codes(value)
                scales = grid.fit_scales(value, wholes)
                turned = [
                    np.ascontiguousarray(_turn(name, item).numpy()) for item in (wholes, scales)
                ]
                codes[name] = QuantizedTensor(
                    turned[0].astype(np.int8), turned[1].astype(np.float16), found.bits
                )
        layers = {name: value for name, value in values.items() if self.architecture.owns(name)}
        head = []
        for at, (weight, _) in enumerate(before.network.head):
            found_weight = values.get(f"{CLASSIFIER}.{2 * at}.weight", weight.T).T
            head.append((np.ascontiguousarray(found_weight), values[f"{CLASSIFIER}.{2 * at}.bias"]))
        weights = {**before.network.weights, **layers}
        return replace(
            before, network=replace(before.network, weights=weights, head=tuple(head)), codes=codes
        )

    def _measure_steps(self) -> dict[str, Tensor]:
        """Measure what counts as one step of every parameter that is trained."""
        steps = {}
        for name, value in self.named_parameters():
            if not value.requires_grad:
                continue
            if name in self._grids:
                steps[name] = self._grids[name].scales
            else:
                steps[name] = BIAS_STEP * value.detach().square().mean().sqrt().clamp(min=1e-3)
        return steps


def _name_parameter(name: str) -> str:
    """Name a parameter in torch that has this name among codes: there a ReLU stands between dense
    layers.
    """
    if not name.startswith("head."):
        return name
    _, number, kind = name.split(".")
    return f"{CLASSIFIER}.{2 * int(number)}.{kind}"


def _make_grid(name: str, codes: QuantizedTensor) -> Grid:
    return Grid(
        _turn(name, torch.tensor(codes.scales.astype(np.float32))), 2 ** (codes.bits - 1) - 1
    )


def _turn(name: str, value: Tensor) -> Tensor:
    """Turn what belongs to a dense layer: its inputs come first in files, and last in torch."""
    return value.T if name.startswith("head.") else value


def _make_dense(network: TrainedNetwork) -> nn.Sequential:
    layers: list[nn.Module] = []
    for weight, bias in network.head:
        dense = nn.Linear(*weight.shape)
        dense.load_state_dict({"weight": torch.tensor(weight.T), "bias": torch.tensor(bias)})
        layers += [dense, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


# Kernels are trained as all else is: Muon's steps would change every code alike.
RECIPE = Recipe(
    rate=0.0,
    head_rate=0.015,
    layer_decay=1.0,
    weight_decay=0.0,
    smoothing=0.0,
    batch=64,
    averaging=0.25,
)


@dataclass(frozen=True, eq=False)
class Sample:
    """Images (n, side, side, 3) uint8 as the network sees them; the last `judges` of them judge,
    the others train.
    """

    pixels: NDArray[np.uint8]
    judges: int

    @property
    def train(self) -> Positions:
        """The places of those that train."""
        return np.arange(len(self.pixels) - self.judges)

    @property
    def validation(self) -> Positions:
        """The places of those that judge."""
        return np.arange(len(self.pixels) - self.judges, len(self.pixels))

    def gather(self, positions: Positions) -> NDArray[np.uint8]:
        """Return images by their places."""
        return self.pixels[positions]


def tune_codes(
    compressed: Compressed,
    teacher: TrainedNetwork,
    sample: Sample,
    make_pace: Callable[[int], StageProgress],
    conditions: TrainerOptions,
) -> Compressed:
    """Train codes and biases; the network stays as it was where that is no better on the images
    that judge.

    `make_pace` is given the number of steps in which every image is seen once. The network has
    dense layers.
    """
    student, exact = CodedNetwork(compressed), CodedNetwork(Compressed(teacher, {}))
    student.count_in_steps()
    conditions = replace(conditions, rounding=student.round)
    recipe = replace(RECIPE, batch=max(1, min(RECIPE.batch, len(sample.train) // 4)))
    plan = StagePlan(conditions.stage, FROM_IMAGES, (Phase(teacher.side, 1.0),), 1.0, recipe)
    task = make_task(sample, teacher)
    wanted = infer(exact, task, plan, replace(conditions, rounding=leave_value))
    task.labels[task.validation] = wanted.argmax(1).numpy()
    before = infer(student, task, plan, conditions)
    pace = make_pace(max(1, len(task.train) // recipe.batch))
    task = replace(task, teacher=LayerTeacher(exact, conditions.precision))
    tuned = tune(student, task, plan, pace, conditions)
    is_better = judge(torch.from_numpy(tuned.logits), wanted) < judge(before, wanted)
    return student.to_compressed(tuned.parameters, compressed) if is_better else compressed


def make_task(sample: Sample, teacher: TrainedNetwork) -> TrainingTask:
    """Say which images train; what they show the teacher says."""
    network = detect_architecture(teacher.weights)
    feed = PixelBatches(sample, Augmentation(mirror=teacher.views > 1), network)
    labels, weights = (
        np.zeros(len(sample.pixels), np.int64),
        np.ones(teacher.class_count, np.float32),
    )
    return TrainingTask(
        feed, labels, sample.train, sample.validation, weights, min(2, teacher.views)
    )


def infer(
    network: CodedNetwork, task: TrainingTask, plan: StagePlan, conditions: TrainerOptions
) -> Tensor:
    """Compute a network's logits (n, classes) of the images that judge."""
    with DataParallelWorkers(network, task, plan.recipe, conditions) as crew:
        crew.load(dict(network.named_parameters()))
        return crew.infer(task.validation, plan.side, task.views)


def judge(logits: Tensor, wanted: Tensor) -> float:
    """Judge logits by those of the teacher: the mean divergence of the probabilities, 0 where they
    are the same.
    """
    found, aim = (functional.log_softmax(values, 1) for values in (logits, wanted))
    return float(functional.kl_div(found, aim, reduction="batchmean", log_target=True))
