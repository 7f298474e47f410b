"""The one training loop: the layers themselves, on a CPU.

Linear probe first, then fine-tuning: Kumar et al. 2022, "Fine-Tuning can Distort Pretrained
Features and Underperform Out-of-Distribution". Averaged weights: Polyak and Juditsky 1992.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from squeezetune.events import EpochFinished, Notice, StageFinished, StageStarted, TrainingAdvanced
from squeezetune.finetune.batches import Positions
from squeezetune.finetune.optimiser import Optimiser, make_groups, schedule_rate
from squeezetune.finetune.recipe import EpochPace, StagePlan, StageProgress
from squeezetune.finetune.state import Snapshot, State
from squeezetune.finetune.torch_layers import Tensor
from squeezetune.finetune.trainable import TrainableNetwork
from squeezetune.finetune.workers import DataParallelWorkers, TrainerOptions, TrainingTask

# isort: split
# after `network`, which says how to install torch where it is missing
import torch
from torch.nn import functional

# The share of the latest step in the figures that are told while training.
RECENT = 0.05
MAX_ROLLBACKS = 4
DIVERGED = 2.0
TOLD_EVERY_S = 1.0
KEPT_EVERY_S = 30.0
FINISHED = 1 - 1e-9


@dataclass(frozen=True)
class FinetuneResult:
    """What a stage left: the parameters by their names in the network, and the validation images'
    logits (n, classes).

    `is_averaged` says that the averaged weights were better than the last ones, `is_finished` that
    nobody stopped it.
    """

    parameters: Mapping[str, NDArray[np.float32]]
    logits: NDArray[np.float32]
    is_averaged: bool
    is_finished: bool
    history: tuple[EpochFinished, ...]
    seconds: float


# Is given what the run may go on from; it has to copy what it keeps.
KeepSnapshot: TypeAlias = Callable[[Snapshot], None]


def tune(
    network: TrainableNetwork,
    task: TrainingTask,
    plan: StagePlan,
    pace: StageProgress,
    conditions: TrainerOptions,
    kept: Snapshot | None = None,
    keep: KeepSnapshot | None = None,
) -> FinetuneResult:
    """Train a network, which is changed, and return the better of its last and its averaged
    weights.

    With `kept`, which `keep` was given by an earlier run, this one goes on from there, to the same
    end.
    """
    conditions.listen(StageStarted(conditions.stage, 100, "%"))
    with DataParallelWorkers(network, task, plan.recipe, conditions) as crew:
        loop = Trainer(crew, plan, pace, kept, keep)
        loop.run()
        tuned = loop.choose_weights()
    conditions.listen(StageFinished(conditions.stage, tuned.seconds))
    return tuned


def measure_step(
    network: TrainableNetwork,
    task: TrainingTask,
    plan: StagePlan,
    conditions: TrainerOptions,
    steps: int,
) -> float:
    """Measure the seconds of a training step: the median of some, after one that is not counted."""
    seconds = []
    with DataParallelWorkers(network, task, plan.recipe, conditions) as crew:
        loop = Trainer(crew, plan, EpochPace(steps + 1, 1.0, plan.side), None, None)
        for at in range(steps + 1):
            start = time.perf_counter()
            loop.take_step(task.train[at * crew.batch : (at + 1) * crew.batch])
            seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[1:]))


class Trainer:
    """Steps, epochs, checkpoints, and what happens when training goes wrong."""

    def __init__(
        self,
        crew: DataParallelWorkers,
        plan: StagePlan,
        pace: StageProgress,
        kept: Snapshot | None,
        keep: KeepSnapshot | None,
    ) -> None:
        self._crew = crew
        self._plan = plan
        self._keep_state = keep
        self._pace = pace
        self._conditions = crew.conditions
        parameters = {name: value.detach() for name, value in crew.network.named_parameters()}
        self._parameters = {name: parameters[name] for name in crew.names}
        groups = make_groups(crew.network, crew.recipe)
        self._optimiser = Optimiser(self._parameters, groups, crew.recipe.momentum, crew.pool)
        averages = {f"{name}.average": value.clone() for name, value in self._parameters.items()}
        self.state = State({**self._parameters, **self._optimiser.state, **averages})
        if kept:
            self._restore(kept.state)
        crew.load(self._parameters)
        self._safe = kept.safe if kept else self.state.copy()
        self._told_at = self._kept_at = time.perf_counter()
        self._seconds_a_pixel = 0.0  # of a batch, recently

    def run(self) -> None:
        """Train to the end, or until somebody asks to stop, or until nothing helps against
        diverging.
        """
        steps = len(self._crew.task.train) // self._crew.batch
        order, epoch = np.empty(0, np.int64), -1
        while self.state.progress < FINISHED and not self._conditions.is_stopping():
            if epoch != self.state.epoch:
                order, epoch = self._draw_order(), self.state.epoch
            start = self.state.epoch_step * self._crew.batch
            if not self.take_step(order[start : start + self._crew.batch]):
                if not self._roll_back():
                    return
                continue
            if self.state.epoch_step == steps or self.state.progress >= FINISHED:
                self._finish_epoch()
            self._tell()
            self._keep()
        # stopped: a resumed run goes on from here
        if self._keep_state and self.state.progress < FINISHED:
            self._keep_state(Snapshot(self.state, self._safe))

    def choose_weights(self) -> FinetuneResult:
        """Judge the last and the averaged weights on some validation images, and the better ones on
        all.
        """
        is_finished = self.state.progress >= FINISHED or self.state.rollbacks > MAX_ROLLBACKS
        side, views = self._plan.side, self._crew.task.views
        judged = [self._judge_weights(is_averaged, side, views) for is_averaged in (False, True)]
        # the last steps have diverged, and no later one has noticed
        if not math.isfinite(judged[0][1]):
            self._restore(self._safe)
            judged = [
                self._judge_weights(is_averaged, side, views) for is_averaged in (False, True)
            ]
        is_averaged = judged[1][:2] > judged[0][:2]
        parameters = judged[is_averaged][2]
        self._crew.load(parameters)
        logits = self._crew.infer(self._crew.task.validation, side, views)
        arrays = {name: value.clone().numpy() for name, value in parameters.items()}
        history, seconds = tuple(self.state.history), self.state.seconds
        return FinetuneResult(arrays, logits.numpy(), is_averaged, is_finished, history, seconds)

    def _judge_weights(
        self, is_averaged: bool, side: int, views: int
    ) -> tuple[float, float, dict[str, Tensor]]:
        """Judge the last or the averaged weights on some images: accuracy, likelihood, and the
        weights themselves.
        """
        own = {
            name: self.state.tensors[f"{name}.average" if is_averaged else name]
            for name in self._crew.names
        }
        chosen = self._crew.task.watched
        labels = torch.from_numpy(self._crew.task.labels[chosen])
        self._crew.load(own)
        logits = self._crew.infer(chosen, side, views)
        accuracy = float((logits.argmax(1) == labels).double().mean())
        return accuracy, -float(functional.cross_entropy(logits, labels)), own

    def _draw_order(self) -> Positions:
        """Draw the order of the training images in this epoch."""
        rng = np.random.default_rng((self._conditions.seed, self.state.epoch))
        return rng.permutation(self._crew.task.train)

    def take_step(self, positions: Positions) -> bool:
        """Train on one batch; say whether the loss still makes sense."""
        start, state = time.perf_counter(), self.state
        side = self._plan.find_side(state.progress)
        gradients, loss, correct = self._crew.measure_gradients(positions, side, state.step)
        if not self._is_sane(loss, gradients):
            return False
        self._optimiser.steps = state.step
        share = schedule_rate(state.progress, self._crew.recipe) * state.rate_share
        self._optimiser.step(gradients, share, self._conditions.precision)
        self._crew.load(self._parameters)
        self._average()
        state.step, state.epoch_step = state.step + 1, state.epoch_step + 1
        accuracy = correct / len(positions)
        state.loss, state.correct = state.loss + loss, state.correct + accuracy
        pull = max(RECENT, 1 / state.step)
        state.recent_loss += pull * (loss - state.recent_loss)
        state.recent_accuracy += pull * (accuracy - state.recent_accuracy)
        seconds = time.perf_counter() - start
        state.seconds += seconds
        pixel_s = seconds / side**2
        self._seconds_a_pixel += (pixel_s - self._seconds_a_pixel) * (
            RECENT if self._seconds_a_pixel else 1.0
        )
        state.progress += self._measure_share(side)
        return True

    def _is_sane(self, loss: float, gradients: Mapping[str, Tensor]) -> bool:
        """Say whether loss and gradients are numbers, and recent losses are not beyond what
        guessing would give.
        """
        # a ReLU within a convolution may make 0 of what is no number, so the loss alone does not
        # tell
        norms = torch.stack(torch._foreach_norm(list(gradients.values())))
        is_finite = math.isfinite(loss) and bool(norms.isfinite().all())
        return is_finite and (self.state.step < 20 or self.state.recent_loss < self._find_bound())

    def _find_bound(self) -> float:
        """Find the loss beyond which a run has diverged: well beyond what guessing would give."""
        return DIVERGED * math.log(self._crew.network.class_count) + 1

    def _average(self) -> None:
        """Move the averaged weights towards the present ones."""
        horizon = self._crew.recipe.averaging * (self.state.step + self._estimate_steps())
        averages = [self.state.tensors[f"{name}.average"] for name in self._crew.names]
        pull = 1 / max(1.0, min(self.state.step + 1, horizon))
        torch._foreach_lerp_(averages, [self._parameters[name] for name in self._crew.names], pull)

    def _finish_epoch(self) -> None:
        """Judge the averaged weights on some validation images, note the figures, and begin another
        epoch.
        """
        state, task = self.state, self._crew.task
        side = self._plan.find_side(state.progress)
        accuracy, likelihood, _ = self._judge_weights(True, side, 1)
        self._crew.load(self._parameters)
        steps = len(task.train) // self._crew.batch
        figures = EpochFinished(
            stage=self._conditions.stage,
            epoch=state.epoch + 1,
            of=state.epoch + 1 + math.ceil(self._estimate_steps() / steps - 1e-6),
            train_loss=state.loss / state.epoch_step,
            train_accuracy=state.correct / state.epoch_step,
            validation_loss=-likelihood,
            validation_accuracy=accuracy,
            images_per_s=state.step * self._crew.batch / state.seconds,
            seconds=state.seconds,
        )
        state.history.append(figures)
        self._conditions.listen(figures)
        state.epoch, state.epoch_step, state.loss, state.correct = state.epoch + 1, 0, 0.0, 0.0
        # the first steps and the very last one are not watched, and may have diverged
        if figures.train_loss < self._find_bound() and math.isfinite(
            figures.validation_loss or 0.0
        ):
            self._safe = state.copy()
        self._kept_at = -math.inf

    def _roll_back(self) -> bool:
        """Go back to the last epoch's end with half the rate; say whether there is still hope."""
        rollbacks, share = self.state.rollbacks + 1, self.state.rate_share / 2
        self._restore(self._safe)
        self.state.rollbacks, self.state.rate_share = rollbacks, share
        self._safe = self.state.copy()
        self._crew.load(self._parameters)
        hope = rollbacks <= MAX_ROLLBACKS
        what = (
            f"goes on from the last epoch's end at {share:g} of the rate"
            if hope
            else "ends with what it had"
        )
        self._conditions.listen(
            Notice(f"{self._conditions.stage}: the loss grew without bound; it {what}")
        )
        return hope

    def _restore(self, state: State) -> None:
        """Take over a state, into the very tensors that are trained."""
        for name, value in self.state.tensors.items():
            value.copy_(state.tensors[name])
        tensors = self.state.tensors
        self.state = replace(state.copy(), tensors=tensors)

    def _tell(self) -> None:
        """Say about once a second how it goes."""
        now, state = time.perf_counter(), self.state
        if now < self._told_at + TOLD_EVERY_S:
            return
        self._told_at = now
        side = self._plan.find_side(state.progress)
        speed = self._crew.batch / (self._seconds_a_pixel * side**2)
        left, progress = self._estimate_seconds(), min(state.progress, 1.0)
        self._conditions.listen(
            TrainingAdvanced(
                self._conditions.stage,
                progress,
                state.recent_loss,
                state.recent_accuracy,
                speed,
                left,
            )
        )

    def _measure_share(self, side: int) -> float:
        """Measure what share of the stage a step at this size makes up, at the speed of the latest
        ones.
        """
        return self._pace.measure_share(self.state.progress, side, self._seconds_a_pixel * side**2)

    def _estimate_steps(self) -> float:
        """Estimate how many steps are left, at all sizes that are still to come."""
        rest = self._plan.list_rest(self.state.progress)
        return sum(phase.share / self._measure_share(phase.side) for phase in rest)

    def _estimate_seconds(self) -> float:
        """Estimate how long the rest takes at the speed of the latest steps."""
        rest = self._plan.list_rest(self.state.progress)
        steps = [(phase.side, phase.share / self._measure_share(phase.side)) for phase in rest]
        return sum(count * side**2 for side, count in steps) * self._seconds_a_pixel

    def _keep(self) -> None:
        """Keep the state at the end of every epoch, and every half minute between."""
        now = time.perf_counter()
        if self._keep_state and now > self._kept_at + KEPT_EVERY_S:
            self._keep_state(Snapshot(self.state, self._safe))
            self._kept_at = now
