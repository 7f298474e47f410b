"""A compressed network, trained for a short time to answer as the network that it was made of. No label is needed.

Sources: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network"; of training what is rounded: see `coded`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from squeezetune.learn.coded import CodedNetwork
from squeezetune.learn.compression import Compressed
from squeezetune.learn.crew import Conditions, Crew, Task, leave_value
from squeezetune.learn.feeds import PixelFeed, Positions
from squeezetune.learn.finetune import tune
from squeezetune.learn.network import Tensor
from squeezetune.learn.pace import Pace
from squeezetune.learn.recipe import FIRST_BLOCK, Augmentation, Phase, Recipe, StagePlan
from squeezetune.learn.trained import TrainedNetwork

# isort: split
# after `network`, which says how to install torch where it is missing
import torch
from torch.nn import functional

# Kernels are trained as all else is: Muon's steps would change every code alike.
RECIPE = Recipe(rate=0.0, head_rate=0.015, layer_decay=1.0, weight_decay=0.0, smoothing=0.0, batch=64, averaging=0.25)


@dataclass(frozen=True, eq=False)
class Sample:
    """Images (n, side, side, 3) uint8 as the network sees them; the last `judges` of them judge, the others train."""

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
    make_pace: Callable[[int], Pace],
    conditions: Conditions,
) -> Compressed:
    """Train codes and biases; the network stays as it was where that is no better on the images that judge.

    `make_pace` is given the number of steps in which every image is seen once. The network has dense layers.
    """
    student, exact = CodedNetwork(compressed), CodedNetwork(Compressed(teacher, {}))
    student.count_in_steps()
    conditions = replace(conditions, rounding=student.round)
    recipe = replace(RECIPE, batch=max(1, min(RECIPE.batch, len(sample.train) // 4)))
    plan = StagePlan(conditions.stage, FIRST_BLOCK, (Phase(teacher.side, 1.0),), 1.0, recipe)
    task = make_task(sample, teacher)
    wanted = infer(exact, task, plan, replace(conditions, rounding=leave_value))
    task.labels[task.validation] = wanted.argmax(1).numpy()
    before = infer(student, task, plan, conditions)
    pace = make_pace(max(1, len(task.train) // recipe.batch))
    tuned = tune(student, replace(task, teacher=exact), plan, pace, conditions)
    is_better = judge(torch.from_numpy(tuned.logits), wanted) < judge(before, wanted)
    return student.to_compressed(tuned.parameters, compressed) if is_better else compressed


def make_task(sample: Sample, teacher: TrainedNetwork) -> Task:
    """Say which images train; what they show the teacher says."""
    feed = PixelFeed(sample, Augmentation(mirror=teacher.views > 1))
    labels, weights = np.zeros(len(sample.pixels), np.int64), np.ones(teacher.class_count, np.float32)
    return Task(feed, labels, sample.train, sample.validation, weights, min(2, teacher.views))


def infer(network: CodedNetwork, task: Task, plan: StagePlan, conditions: Conditions) -> Tensor:
    """Compute a network's logits (n, classes) of the images that judge."""
    with Crew(network, task, plan.recipe, conditions) as crew:
        crew.load(dict(network.named_parameters()))
        return crew.infer(task.validation, plan.side, task.views)


def judge(logits: Tensor, wanted: Tensor) -> float:
    """Judge logits by those of the teacher: the mean divergence of the probabilities, 0 where they are the same."""
    found, aim = (functional.log_softmax(values, 1) for values in (logits, wanted))
    return float(functional.kl_div(found, aim, reduction="batchmean", log_target=True))
