"""The threads that train: each takes its part of a batch through the network on its own.

Convolutions run on one thread each, so that activations stay in its processor's cache and nobody
waits within a layer; gradients are added in a fixed order, so that the same seed and number of
threads give the same bytes. What is drawn at random follows from (seed, step, part), so that a run
can go on from any step.
"""

import copy
import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from squeezetune.events import Listener
from squeezetune.finetune.batches import BatchSource, Positions, cut_and_mix
from squeezetune.finetune.recipe import Recipe, count_micro
from squeezetune.finetune.torch_layers import Module, Tensor
from squeezetune.finetune.trainable import TrainableNetwork
from squeezetune.heads.head_data import WATCHED_IMAGES
from squeezetune.system.machine import recall_choice

# isort: split
# after `network`, which says how to install torch where it is missing
import torch
from torch.nn import functional

# What inner blocks read is smaller than the image that it is of: so many times more of them go
# through at once.
INNER_TIMES = 4
# bfloat16 is taken where it is this much faster: where the processor has it, and not where it is
# emulated.
NATIVE_GAIN = 1.2


# Says of what a network reads, maps and the means of earlier taps, which logits it should give; may
# be called from several threads at once.
Teacher: TypeAlias = Callable[[Tensor, Tensor | None], Tensor]


def leave_value(name: str, value: Tensor) -> Tensor:
    """Compute with parameters as they are."""
    return value


@dataclass(frozen=True)
class TrainingTask:
    """What is to be learnt: where the images come from, and which of them train and which judge.

    Where there is a `teacher`, its probabilities are learnt instead of the labels, both with logits
    divided by `temperature`: it is given what the network reads, and gives logits (n, classes).
    """

    feed: BatchSource
    labels: NDArray[np.int64]
    train: Positions
    validation: Positions
    class_weights: NDArray[np.float32]
    views: int = 2
    teacher: Teacher | None = None
    temperature: float = 1.0

    @property
    def watched(self) -> Positions:
        """An even sample of the validation images, cheap enough to look at in every epoch."""
        return self.validation[:: max(1, -(-len(self.validation) // WATCHED_IMAGES))]


@dataclass(frozen=True)
class TrainerOptions:
    """Under which a stage trains: its name, the seed, the threads, and the type of number of the
    convolutions.

    `is_stopping` is asked after every step; no more than `micro_pixels`, or one image, go through
    the network at once. `rounding` makes of a parameter, by its name, what the network computes
    with in its place; the gradient passes straight through to the parameter itself (Bengio et al.
    2013).
    """

    stage: str
    seed: int
    threads: int
    precision: Any
    listen: Listener
    is_stopping: Callable[[], bool] = lambda: False
    micro_pixels: float = math.inf
    rounding: Callable[[str, Tensor], Tensor] = leave_value


class DataParallelWorkers:
    """The threads and their common copy of the network, whose convolutions compute in
    `precision`.
    """

    def __init__(
        self,
        network: TrainableNetwork,
        task: TrainingTask,
        recipe: Recipe,
        conditions: TrainerOptions,
    ) -> None:
        self.network = network
        self.task = task
        self.recipe = recipe
        self.conditions = conditions
        self.batch = min(recipe.batch, len(task.train))
        self._micro_times = 1 if network.reads_images else INNER_TIMES
        self._worker = copy_network(network, conditions.precision)
        self.names = [name for name, value in network.named_parameters() if value.requires_grad]
        self._labels = torch.from_numpy(task.labels)
        self._class_weights = torch.from_numpy(task.class_weights)

    def __enter__(self) -> "DataParallelWorkers":
        # threads of our own share the work: those of torch would wait for each other, spinning, in
        # every layer
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(1)
        self.pool = ThreadPoolExecutor(
            self.conditions.threads, initializer=torch.set_num_threads, initargs=(1,)
        )
        return self

    def __exit__(self, *reason: object) -> None:
        self.pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self._threads_before)

    def load(self, parameters: Mapping[str, Tensor]) -> None:
        """Give the threads these parameters to work with."""
        own = dict(self._worker.named_parameters())
        with torch.no_grad():
            for name in self.names:
                own[name].copy_(self.conditions.rounding(name, parameters[name]))

    def measure_gradients(
        self, positions: Positions, side: int, step: int
    ) -> tuple[dict[str, Tensor], float, int]:
        """Return the gradients of the mean loss over a batch, that loss, and how many images were
        named right.
        """
        parts = np.array_split(positions, self.conditions.threads)
        results = list(
            self.pool.map(
                lambda at: self._measure_part(parts[at], side, (step, at)), range(len(parts))
            )
        )
        gradients = results[0][0]
        for other, _, _ in results[1:]:
            torch._foreach_add_(gradients, other)
        loss, correct = sum(result[1] for result in results), sum(result[2] for result in results)
        return dict(zip(self.names, gradients, strict=True)), loss, correct

    def infer(self, positions: Positions, side: int, views: int) -> Tensor:
        """Compute the logits (n, classes) of images, averaged over their views."""
        size = self._count_micro(side)
        chunks = [positions[at : at + size] for at in range(0, len(positions), size)]

        def run(chunk: Positions) -> Tensor:
            with torch.inference_mode():
                inputs = (self.task.feed.show(chunk, side, view) for view in range(views))
                return sum(self._forward(*each) for each in inputs) / views

        return torch.cat(list(self.pool.map(run, chunks)))

    def _count_micro(self, side: int) -> int:
        """Count the images that go through the network at once on one thread, as far as memory
        allows.
        """
        has_bfloat16 = self.conditions.precision is torch.bfloat16
        return count_micro(
            side, self.conditions.micro_pixels, self._micro_times, has_bfloat16=has_bfloat16
        )

    def _measure_part(
        self, positions: Positions, side: int, place: tuple[int, int]
    ) -> tuple[list[Tensor], float, int]:
        """Measure one thread's part of a batch, a few images at a time."""
        generator = torch.Generator().manual_seed(_mix_seed(self.conditions.seed, *place))
        parameters = dict(self._worker.named_parameters())
        trained = [parameters[name] for name in self.names]
        classifier = [
            value for value in self._worker.classifier.parameters() if value.requires_grad
        ]
        sums = [torch.zeros(value.shape) for value in trained]
        loss, correct = 0.0, 0
        pieces = -(-len(positions) // self._count_micro(side))
        for chosen in np.array_split(positions, pieces) if pieces else []:
            labels = self._labels[chosen]
            maps, taps = self.task.feed.draw(chosen, side, generator, self.conditions.precision)
            maps, taps, others, own = self._mix(maps, taps, generator)
            features, go_back = self._worker.differentiate(self._convert(maps), taps)
            logits = self._worker.classify(features.requires_grad_())
            if self.task.teacher is not None:
                wanted = self.task.teacher(maps, taps)
                losses, labels = self._measure_difference(logits, wanted), wanted.argmax(1)
            else:
                losses = self._measure_losses(logits, labels, others, own)
            total = (losses * self._class_weights[labels]).sum() / self.batch
            above = torch.autograd.grad(total, [features, *classifier])
            gradients = go_back(above[0]) | dict(zip(classifier, above[1:], strict=True))
            for value, parameter in zip(sums, trained, strict=True):
                value.add_(gradients[parameter])
            loss, correct = (
                loss + float(total.detach()),
                correct + int((logits.argmax(1) == labels).sum()),
            )
        return sums, loss, correct

    def _mix(
        self, maps: Tensor, taps: Tensor | None, generator: Any
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """Mix images with others of the batch where the recipe says so; also return which, and
        their own share (n,).
        """
        if not self.recipe.mixing:
            return maps, taps, None, None
        maps, others, own = cut_and_mix(maps, self.recipe.mixing, generator)
        if taps is not None:
            taps = own[:, None] * taps + (1 - own)[:, None] * taps[others]
        return maps, taps, others, own

    def _measure_losses(
        self, logits: Tensor, labels: Tensor, others: Tensor | None, own: Tensor | None
    ) -> Tensor:
        """Measure the loss of each image (n,), also against the labels of those that it was mixed
        with.
        """

        def measure(target: Tensor) -> Tensor:
            return functional.cross_entropy(
                logits, target, label_smoothing=self.recipe.smoothing, reduction="none"
            )

        if others is None or own is None:
            return measure(labels)
        return own * measure(labels) + (1 - own) * measure(labels[others])

    def _measure_difference(self, logits: Tensor, wanted: Tensor) -> Tensor:
        """Measure the divergence of each image's probabilities from those that a teacher gives
        (n,).

        Source: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network".
        """
        aim, found = (
            functional.log_softmax(values / self.task.temperature, 1) for values in (wanted, logits)
        )
        return functional.kl_div(found, aim, reduction="none", log_target=True).sum(1)

    def _forward(self, maps: Tensor, taps: Tensor | None) -> Tensor:
        return self._worker.classify(self._worker.infer_features(self._convert(maps), taps))

    def _convert(self, maps: Tensor) -> Tensor:
        return maps.to(self.conditions.precision, memory_format=torch.channels_last)


def copy_network(network: Module, precision: Any) -> Module:
    """Copy a network, with convolutions that compute in this type of number."""
    copied = copy.deepcopy(network)
    copied.convert(precision)
    return copied


def recall_precision(cache: Path | None, *, is_described: bool = True) -> Any:
    """Take the type of number that an earlier run on this machine chose, or choose it now and keep
    the choice; a network that is not described is computed in float32.
    """
    if not is_described:
        return torch.float32
    kinds = {str(kind).removeprefix("torch."): kind for kind in (torch.float32, torch.bfloat16)}
    names = {kind: name for name, kind in kinds.items()}
    return kinds[
        recall_choice(
            cache, ["training", torch.__version__], list(kinds), lambda: names[choose_precision()]
        )
    ]


def choose_precision() -> Any:
    """Choose bfloat16 where the processor computes in it by itself, else float32; found by timing a
    convolution.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in training
    seconds = {
        kind: min(_time_convolution(kind) for _ in range(5))
        for kind in (torch.float32, torch.bfloat16)
    }
    torch.set_num_threads(threads)
    return (
        torch.bfloat16
        if seconds[torch.float32] > NATIVE_GAIN * seconds[torch.bfloat16]
        else torch.float32
    )


def _time_convolution(kind: Any) -> float:
    """Time a few convolutions of a Fire module in one type of number, in seconds of this thread's
    processor.
    """
    x = torch.ones(8, 64, 28, 28, dtype=kind).to(memory_format=torch.channels_last)
    kernel = torch.ones(256, 64, 3, 3, dtype=kind).to(memory_format=torch.channels_last)
    functional.conv2d(x, kernel, padding=1)
    # the clock's would hang on what other programs do, and the choice with it
    start = time.thread_time()
    for _ in range(3):
        functional.conv2d(x, kernel, padding=1)
    return time.thread_time() - start


def _mix_seed(*numbers: int) -> int:
    """Make one seed of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
