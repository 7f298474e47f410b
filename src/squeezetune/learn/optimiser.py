"""Muon for kernels, AdamW for all else, as one optimiser over named parameters.

Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks") turns the momentum of a kernel
into the nearest matrix with equal singular values before it is added. Here a step is measured by the kernel itself: a
rate of 0.005 changes it by 0.5 % of its norm. On CIFAR-10 two epochs with it were worth five with AdamW
(docs/decisions/0005-fine-tuning.md).
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from squeezetune.learn.network import Tensor

# isort: split
# after `network`, which says how to install torch where it is missing
import torch

# Coefficients of the quintic iteration that drives singular values towards 1 (Jordan et al. 2024).
QUINTIC = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


@dataclass(frozen=True)
class Group:
    """Parameters that are trained alike: `is_kernel` ones by Muon at `rate`, others by AdamW."""

    names: tuple[str, ...]
    rate: float
    weight_decay: float
    is_kernel: bool


class Optimiser:
    """Changes parameters in place; its state is a mapping of tensors, to be kept and brought back."""

    def __init__(
        self, parameters: Mapping[str, Tensor], groups: Sequence[Group], momentum: float, pool: Executor
    ) -> None:
        self._parameters = parameters
        self._groups = groups
        self._momentum = momentum
        self._pool = pool
        self.steps = 0
        names = [(name, group.is_kernel) for group in groups for name in group.names]
        self.state = {f"{name}.momentum": torch.zeros_like(parameters[name]) for name, _ in names}
        self.state |= {
            f"{name}.square": torch.zeros_like(parameters[name]) for name, is_kernel in names if not is_kernel
        }

    def step(self, gradients: Mapping[str, Tensor], share: float, precision: Any) -> None:
        """Take one step at `share` of every group's rate."""
        self.steps += 1
        kernels = [(name, group) for group in self._groups if group.is_kernel for name in group.names]
        tasks = [
            self._pool.submit(self._step_kernel, name, group, gradients[name], share, precision)
            for name, group in kernels
        ]
        for group in self._groups:
            for name in () if group.is_kernel else group.names:
                self._step_adam(name, group, gradients[name], share)
        for task in tasks:
            task.result()

    def _step_kernel(self, name: str, group: Group, gradient: Tensor, share: float, precision: Any) -> None:
        parameter, momentum = self._parameters[name], self.state[f"{name}.momentum"]
        momentum.mul_(self._momentum).add_(gradient)
        direction = gradient.add(momentum, alpha=self._momentum)  # Nesterov's look ahead
        update = orthogonalise(direction.flatten(1).to(precision)).float()
        rate = group.rate * share
        parameter.mul_(1 - rate * group.weight_decay)
        scale = float(parameter.norm() / update.norm().clamp(min=1e-12))
        parameter.sub_(update.view_as(parameter), alpha=rate * scale)

    def _step_adam(self, name: str, group: Group, gradient: Tensor, share: float) -> None:
        """AdamW: Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization"."""
        parameter, rate = self._parameters[name], group.rate * share
        mean, square = self.state[f"{name}.momentum"], self.state[f"{name}.square"]
        mean.lerp_(gradient, 0.1)
        square.lerp_(gradient.square(), 0.01)
        parameter.mul_(1 - rate * group.weight_decay)
        scale = (square / (1 - 0.99**self.steps)).sqrt_().add_(1e-8)
        parameter.addcdiv_(mean, scale, value=-rate / (1 - 0.9**self.steps))


def orthogonalise(matrix: Tensor) -> Tensor:
    """Bring the singular values of a matrix (rows, columns) near to 1 and leave its singular vectors."""
    a, b, c = QUINTIC
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix
    x = x / (x.float().norm() + 1e-12).to(x.dtype)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if is_tall else x
