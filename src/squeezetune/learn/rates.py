"""How fast each parameter learns, and when.

Rates fall from the classifier down to conv1 (Howard and Ruder 2018, ULMFiT), and rise and fall once in the run (Smith
2018, one-cycle).
"""

import math

from squeezetune.learn.optimiser import Group
from squeezetune.learn.recipe import Recipe
from squeezetune.learn.tapped import CLASSIFIER, TappedNetwork


def make_groups(network: TappedNetwork, recipe: Recipe) -> list[Group]:
    """Sort the parameters into groups of one rate; rates fall by `layer_decay` a block from the classifier down."""
    order = [*network.places, CLASSIFIER]
    groups: dict[tuple[bool, float, float], list[str]] = {}
    trained = [(name, value) for name, value in network.named_parameters() if value.requires_grad]
    for name, value in trained:
        block = network.find_block(name)
        # conv1 is a bank of filters of its own kind
        is_kernel = recipe.rate > 0 and value.ndim == 4 and block != order[0]
        decay = recipe.layer_decay ** (len(order) - 1 - order.index(block))
        rate = decay * (recipe.rate if is_kernel else recipe.head_rate)
        groups.setdefault((is_kernel, rate, recipe.weight_decay if value.ndim > 1 else 0.0), []).append(name)
    return [Group(tuple(names), rate, decay, is_kernel) for (is_kernel, rate, decay), names in groups.items()]


def schedule_rate(progress: float, recipe: Recipe) -> float:
    """Return the share of the rate at this progress: up along a line, then down along a cosine."""
    if progress < recipe.warm_up:
        return 0.05 + 0.95 * progress / recipe.warm_up
    fall = 0.5 * (1 + math.cos(math.pi * (progress - recipe.warm_up) / (1 - recipe.warm_up)))
    return recipe.final_rate + (1 - recipe.final_rate) * fall
