"""Muon for kernels, AdamW for all else; how fast each parameter learns, and when.

Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks") turns the
momentum of a kernel into the nearest matrix with equal singular values before it is added. Here a
step is measured by the kernel itself: a rate of 0.005 changes it by 0.5 % of its norm. On CIFAR-10
two epochs with it were worth five with AdamW (docs/decisions/0005-fine-tuning.md).

Rates fall from the classifier down to conv1 (Howard and Ruder 2018, ULMFiT), and rise and fall once
in the run (Smith 2018, one-cycle).
"""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from squeezetune.finetune.recipe import Recipe
from squeezetune.finetune.tapped import CLASSIFIER
from squeezetune.finetune.torch_layers import Tensor
from squeezetune.finetune.trainable import TrainableNetwork

# isort: split
# after the modules above, which say how to install torch where it is missing
import torch

# Coefficients of the quintic iteration that drives singular values towards 1 (Jordan et al. 2024).
QUINTIC = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
# Matrices of fewer values times the length of their shorter side are faster in float32 than
# narrower numbers.
LEAST_NARROW = 4_000_000
# What AdamW keeps of the gradients.
KINDS = ("momentum", "square")


@dataclass(frozen=True)
class Group:
    """Parameters that are trained alike: `is_kernel` ones by Muon at `rate`, others by AdamW."""

    names: tuple[str, ...]
    rate: float
    weight_decay: float
    is_kernel: bool


class Optimiser:
    """Changes parameters in place; its state is a mapping of tensors, to be kept and brought
    back.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        groups: Sequence[Group],
        momentum: float,
        pool: Executor,
    ) -> None:
        self._parameters = parameters
        self._groups = groups
        self._momentum = momentum
        self._pool = pool
        self.steps = 0
        names = [(name, group.is_kernel) for group in groups for name in group.names]
        self.state = {f"{name}.momentum": torch.zeros_like(parameters[name]) for name, _ in names}
        self.state |= {
            f"{name}.square": torch.zeros_like(parameters[name])
            for name, is_kernel in names
            if not is_kernel
        }

    def step(self, gradients: Mapping[str, Tensor], share: float, precision: Any) -> None:
        """Take one step at `share` of every group's rate."""
        self.steps += 1
        for group in self._groups:
            if not group.is_kernel:
                self._step_adam(group, gradients, share)
        self._step_kernels(
            [group for group in self._groups if group.is_kernel], gradients, share, precision
        )

    def _step_kernels(
        self, groups: Sequence[Group], gradients: Mapping[str, Tensor], share: float, precision: Any
    ) -> None:
        """Muon, for all groups at once; the threads share the kernels."""
        names = [name for group in groups for name in group.names]
        if not names:
            return
        parameters = [self._parameters[name] for name in names]
        slopes = [gradients[name] for name in names]
        rates = [group.rate * share for group in groups for _ in group.names]
        decays = [group.weight_decay for group in groups for _ in group.names]
        momenta = self._list_state(names, "momentum")
        torch._foreach_mul_(momenta, self._momentum)
        torch._foreach_add_(momenta, slopes)
        # Nesterov's look ahead
        directions = torch._foreach_add(slopes, momenta, alpha=self._momentum)
        turned = self._pool.map(lambda direction: _turn(direction, precision), directions)
        updates = [
            update.view_as(parameter) for update, parameter in zip(turned, parameters, strict=True)
        ]
        torch._foreach_mul_(
            parameters, [1 - rate * decay for rate, decay in zip(rates, decays, strict=True)]
        )
        norms, lengths = (
            torch.stack(torch._foreach_norm(values)) for values in (parameters, updates)
        )
        scales = (norms / lengths.clamp(min=1e-12)).tolist()
        torch._foreach_mul_(
            updates, [rate * scale for rate, scale in zip(rates, scales, strict=True)]
        )
        torch._foreach_sub_(parameters, updates)

    def _step_adam(self, group: Group, gradients: Mapping[str, Tensor], share: float) -> None:
        """AdamW: Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization"."""
        parameters = [self._parameters[name] for name in group.names]
        slopes = [gradients[name] for name in group.names]
        rate, means, squares = (
            group.rate * share,
            *(self._list_state(group.names, kind) for kind in KINDS),
        )
        torch._foreach_lerp_(means, slopes, 0.1)
        torch._foreach_lerp_(squares, torch._foreach_mul(slopes, slopes), 0.01)
        torch._foreach_mul_(parameters, 1 - rate * group.weight_decay)
        scales = torch._foreach_div(squares, 1 - 0.99**self.steps)
        torch._foreach_sqrt_(scales)
        torch._foreach_add_(scales, 1e-8)
        torch._foreach_addcdiv_(parameters, means, scales, value=-rate / (1 - 0.9**self.steps))

    def _list_state(self, names: Sequence[str], kind: str) -> list[Tensor]:
        return [self.state[f"{name}.{kind}"] for name in names]


def _turn(direction: Tensor, precision: Any) -> Tensor:
    """Orthogonalise the direction of a kernel, in `precision` where that is the faster one; float32
    comes out.
    """
    matrix = direction.flatten(1)
    is_large = matrix.numel() * min(matrix.shape) >= LEAST_NARROW
    return orthogonalise(matrix.to(precision) if is_large else matrix).float()


def orthogonalise(matrix: Tensor) -> Tensor:
    """Bring the singular values of a matrix (rows, columns) near to 1 and leave its singular
    vectors.
    """
    a, b, c = QUINTIC
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix
    x = x / (x.float().norm() + 1e-12).to(x.dtype)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if is_tall else x


def make_groups(network: TrainableNetwork, recipe: Recipe) -> list[Group]:
    """Sort the parameters into groups of one rate; rates fall by `layer_decay` a block from the
    classifier down.
    """
    order = [*network.layout.block_names, CLASSIFIER]
    groups: dict[tuple[bool, float, float], list[str]] = {}
    trained = [(name, value) for name, value in network.named_parameters() if value.requires_grad]
    for name, value in trained:
        block = network.find_block(name)
        # the first is a bank of filters of its own kind, a depth-wise one mixes no channels
        mixes = value.ndim in (2, 4) and value.shape[1] > 1
        is_kernel = recipe.rate > 0 and mixes and block not in (order[0], CLASSIFIER)
        decay = recipe.layer_decay ** (len(order) - 1 - order.index(block))
        rate = decay * (recipe.rate if is_kernel else recipe.head_rate)
        groups.setdefault(
            (is_kernel, rate, recipe.weight_decay if value.ndim > 1 else 0.0), []
        ).append(name)
    return [
        Group(tuple(names), rate, decay, is_kernel)
        for (is_kernel, rate, decay), names in groups.items()
    ]


def schedule_rate(progress: float, recipe: Recipe) -> float:
    """Return the share of the rate at this progress: up along a line, then down along a cosine."""
    if progress < recipe.warm_up:
        return 0.05 + 0.95 * progress / recipe.warm_up
    fall = 0.5 * (1 + math.cos(math.pi * (progress - recipe.warm_up) / (1 - recipe.warm_up)))
    return recipe.final_rate + (1 - recipe.final_rate) * fall
