"""A network's layers forwards and backwards by hand: what autograd computes, in fewer passes over
memory.

Where a processor multiplies bfloat16 matrices fast, convolutions take less than half of autograd's
time, and the rest goes over memory. Here a ReLU happens within its convolution, its gradient where
the parts of a join are taken apart, and the gradient of the channels' means is added in place.
Autograd's own gradients are the measure in the tests.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from squeezetune.finetune.depthwise import (
    find_input_gradient,
    find_kernel_gradient,
    reverse_convolution,
)
from squeezetune.finetune.torch_layers import (
    ACTIVATIONS,
    Module,
    SamePaddedConv2d,
    Tensor,
    list_same_padding,
)
from squeezetune.network.layers import (
    AveragePool,
    Convolution,
    GlobalMean,
    Join,
    Layer,
    MaxPool,
    Product,
    Sum,
)

# isort: split
# after `network`, which says how to install torch where it is missing
import torch
from torch.nn import functional

aten: Any = torch.ops.aten

# By the parameter that they belong to.
Gradients: TypeAlias = dict[Any, Tensor]
# Takes the gradient of a layer's output, notes those of its parameters, and returns those of what
# it reads.
Back: TypeAlias = Callable[[Tensor, Gradients], Sequence[Tensor]]


@dataclass(frozen=True)
class LayerPass:
    """How one layer is passed in training.

    `activation` follows it: its own, or that of the convolution before a pool. `slope` is the
    function whose slope is taken on the way back: behind a join that of all its parts, which then
    take none. `needs` says of each map that it reads whether its gradient is asked for, `frees`
    names those that nobody reads any more.
    """

    layer: Layer
    activation: str
    slope: str
    is_tapped: bool
    is_trained: bool
    needs: tuple[bool, ...]
    frees: tuple[str, ...]


@dataclass(frozen=True)
class Step:
    """The way back through one layer, whose output has this `shape` (n, channels, height, width)
    and type of number.
    """

    back: Back
    plan: LayerPass
    shape: tuple[int, int, int, int]
    kind: Any


def run_forward(
    network: Module, maps: Tensor, taps: Tensor | None, *, is_training: bool = True
) -> tuple[Tensor, list[Step]]:
    """Compute the features (n, features) float32 of a `TrainableLayers`, as
    `TappedNetwork.compute_features` does, and in training the steps back.

    The steps hold what every layer reads; without them it goes as soon as the last layer has read
    it.
    """
    means, steps = [] if taps is None else [taps], []
    values = {network.input_name: maps}
    with torch.no_grad():
        for plan in network.passes:
            # nothing else may hold what is read: memory that is free at once is used again
            inputs = (values[name] for name in plan.layer.reads)
            y, back = PASSES[type(plan.layer)](network, plan, *inputs)
            values[plan.layer.output] = y
            for name in plan.frees:
                del values[name]
            if is_training and plan.is_trained:
                steps.append(Step(back, plan, tuple(y.shape), y.dtype))
            if plan.is_tapped:
                means.append(y.mean((2, 3), dtype=torch.float32))
    return torch.cat(means, 1), steps


def run_backward(features: Tensor, steps: list[Step]) -> Gradients:
    """Turn the gradient of the features into those of the layers' parameters; `steps` is emptied on
    the way.
    """
    gradients: Gradients = {}
    flows = Flows()
    end = features.shape[1]
    with torch.no_grad():
        while steps:
            step = steps.pop()
            layer = step.plan.layer
            if step.plan.is_tapped:
                start = end - step.shape[1]
                flows.add_mean(layer.output, features[:, start:end], step.shape)
                end = start
            if layer.output not in flows.gradients:
                continue  # nothing behind it counts
            flows.add_all(step.plan, step.back(flows.take(layer.output).to(step.kind), gradients))
    return gradients


class Flows:
    """The gradients of maps, by their names, on the way back; those that are our own are added to
    in place.
    """

    def __init__(self) -> None:
        self.gradients: dict[str, Tensor] = {}
        self._own: set[str] = set()

    def take(self, name: str) -> Tensor:
        """Take the gradient of a map."""
        self._own.discard(name)
        return self.gradients.pop(name)

    def add_all(self, plan: LayerPass, inner: Sequence[Tensor]) -> None:
        """Add the gradients of what a layer reads, as far as they are asked for."""
        is_own = isinstance(plan.layer, Convolution | MaxPool | AveragePool)
        for name, needs, gradient in zip(plan.layer.reads, plan.needs, inner, strict=True):
            if needs:
                self.add(name, gradient, is_own=is_own)

    def add(self, name: str, gradient: Tensor, *, is_own: bool) -> None:
        """Add a gradient to what there is for a map; one that is not our own is another map's
        too.
        """
        if name not in self.gradients:
            self.gradients[name] = gradient
            self._own |= {name} if is_own else set()
            return
        before = self.gradients[name]
        if is_own:
            self.gradients[name] = gradient.add_(before)
        else:
            self.gradients[name] = before.add_(gradient) if name in self._own else before + gradient
        self._own.add(name)

    def add_mean(self, name: str, own: Tensor, shape: tuple[int, int, int, int]) -> None:
        """Add the gradient (n, channels) of the mean of every channel to that of the map."""
        share = (own / (shape[2] * shape[3]))[:, :, None, None]
        if name not in self.gradients:  # behind the last layer nothing but its means is used
            self.gradients[name] = share.expand(shape)
        elif name in self._own:
            self.gradients[name].add_(share.to(self.gradients[name].dtype))
        else:
            self.add(name, share.to(self.gradients[name].dtype).expand(shape), is_own=False)


# ---- the passes: the network, the plan of the layer, and what it reads


def _pass_convolution(network: Module, plan: LayerPass, x: Tensor) -> tuple[Tensor, Back]:
    layer: Any = network.get_submodule(plan.layer.path)  # type: ignore[union-attr]
    borders = list_same_padding(x, layer) if isinstance(layer, SamePaddedConv2d) else []
    padded = functional.pad(x, borders) if any(borders) else x
    is_told = SLOPES[plan.slope].by_output
    y = _convolve(layer, padded, plan.activation if is_told else "")
    kept = y if plan.slope else None
    y = y if is_told else ACTIVATIONS[plan.activation](y)
    reverse = _choose_reverse(layer)

    def back(gradient: Tensor, gradients: Gradients) -> list[Tensor]:
        if kept is not None:
            gradient = SLOPES[plan.slope].back(gradient, kept)
        inner = reverse(layer, gradient, padded, gradients, plan.needs[0])
        if any(borders) and plan.needs[0]:
            left, _, top, _ = borders
            inner = inner[:, :, top : top + x.shape[2], left : left + x.shape[3]]
        return [inner]

    return y, back


def _pass_pool(network: Module, plan: LayerPass, x: Tensor) -> tuple[Tensor, Back]:
    layer: Any = plan.layer
    window = [[layer.kernel] * 2, [layer.stride] * 2, [layer.padding] * 2, [1, 1], layer.is_ceil]
    pooled, places = aten.max_pool2d_with_indices(x, *window)
    pooled = ACTIVATIONS[plan.activation](pooled)

    def back(gradient: Tensor, gradients: Gradients) -> list[Tensor]:
        gradient = SLOPES[plan.slope].back(gradient, pooled)
        return [aten.max_pool2d_with_indices_backward(gradient, x, *window, places)]

    return pooled, back


def _pass_average_pool(network: Module, plan: LayerPass, x: Tensor) -> tuple[Tensor, Back]:
    layer: Any = plan.layer
    # no ceil mode, padding counts, the divisor is the window
    window = [[layer.kernel] * 2, [layer.stride] * 2, [layer.padding] * 2, False, True, None]

    def back(gradient: Tensor, gradients: Gradients) -> list[Tensor]:
        return [aten.avg_pool2d_backward(gradient, x, *window)]

    return aten.avg_pool2d(x, *window), back


def _pass_join(network: Module, plan: LayerPass, *inputs: Tensor) -> tuple[Tensor, Back]:
    joined, widths = torch.cat(inputs, 1), [each.shape[1] for each in inputs]

    def back(gradient: Tensor, gradients: Gradients) -> list[Tensor]:
        parts = zip(gradient.split(widths, 1), joined.split(widths, 1), strict=True)
        return [SLOPES[plan.slope].back(*part) for part in parts]

    return joined, back


def _pass_sum(network: Module, plan: LayerPass, *inputs: Tensor) -> tuple[Tensor, Back]:
    total = inputs[0] + inputs[1]
    for other in inputs[2:]:
        total += other
    y = ACTIVATIONS[plan.activation](total)
    kept = y if SLOPES[plan.slope].by_output else total

    def back(gradient: Tensor, gradients: Gradients) -> list[Tensor]:
        return [SLOPES[plan.slope].back(gradient, kept)] * len(inputs)

    return y, back


def _pass_product(
    network: Module, plan: LayerPass, x: Tensor, gates: Tensor
) -> tuple[Tensor, Back]:
    def back(gradient: Tensor, gradients: Gradients) -> list[Tensor]:
        return [gradient * gates, (gradient * x).sum((2, 3), keepdim=True)]

    return x * gates, back


def _pass_global_mean(network: Module, plan: LayerPass, x: Tensor) -> tuple[Tensor, Back]:
    shape = x.shape

    def back(gradient: Tensor, gradients: Gradients) -> list[Tensor]:
        return [(gradient / (shape[2] * shape[3])).expand(shape)]

    return x.mean((2, 3), keepdim=True), back


# How each kind of layer is passed.
PASSES: Mapping[type, Callable[..., tuple[Tensor, Back]]] = {
    Convolution: _pass_convolution,
    MaxPool: _pass_pool,
    AveragePool: _pass_average_pool,
    Join: _pass_join,
    Sum: _pass_sum,
    Product: _pass_product,
    GlobalMean: _pass_global_mean,
}


@dataclass(frozen=True)
class Slope:
    """The way back through a function: the gradient of its output, and its output or its input,
    in; the gradient of its input out.
    """

    back: Callable[[Tensor, Tensor], Tensor]
    by_output: bool = True


SLOPES: Mapping[str, Slope] = {
    "": Slope(lambda gradient, output: gradient),
    "relu": Slope(lambda gradient, output: aten.threshold_backward(gradient, output, 0)),
    "relu6": Slope(lambda gradient, output: aten.hardtanh_backward(gradient, output, 0, 6)),
    "sigmoid": Slope(lambda gradient, output: aten.sigmoid_backward(gradient, output)),
    "hard_sigmoid": Slope(
        lambda gradient, inputs: aten.hardsigmoid_backward(gradient, inputs), by_output=False
    ),
    "hard_swish": Slope(
        lambda gradient, inputs: aten.hardswish_backward(gradient, inputs), by_output=False
    ),
}


def _choose_reverse(layer: Module) -> Callable[..., Tensor]:
    """Choose what takes the least time on the way back through a convolution."""
    if _is_pointwise(layer):
        return _reverse_pointwise
    is_depthwise = 1 < layer.groups == layer.in_channels == layer.out_channels
    return _reverse_depthwise if is_depthwise else _reverse


# Functions that oneDNN applies within a convolution, by its own names, with their numbers.
FUSED: Mapping[str, tuple[str, list[float]]] = {"relu": ("relu", []), "relu6": ("hardtanh", [0, 6])}


def _is_pointwise(layer: Module) -> bool:
    """Say whether a convolution is one matrix product: of single pixels, of all channels."""
    shape = (*layer.kernel_size, *layer.stride, *layer.padding, layer.groups)
    return shape == (1, 1, 1, 1, 0, 0, 1)


def _convolve(layer: Module, maps: Tensor, activation: str) -> Tensor:
    """Convolve and apply a function; a ReLU in one pass over memory where oneDNN is there to do
    so.
    """
    if activation in FUSED and FUSES:
        sizes = (list(layer.padding), list(layer.stride), [1, 1], layer.groups)
        return torch.ops.mkldnn._convolution_pointwise(
            maps, layer.weight, layer.bias, *sizes, *FUSED[activation], None
        )
    y = functional.conv2d(
        maps, layer.weight, layer.bias, layer.stride, layer.padding, groups=layer.groups
    )
    return ACTIVATIONS[activation](y)


def _reverse(
    layer: Module,
    gradient: Tensor,
    maps: Tensor,
    gradients: Gradients,
    is_input_trained: bool = True,
) -> Tensor:
    """Note the gradients of a convolution's parameters, and return that of its input."""
    back, gradients[layer.weight], gradients[layer.bias] = reverse_convolution(
        layer, gradient, maps, (is_input_trained, True, True)
    )
    return back


def _reverse_pointwise(
    layer: Module,
    gradient: Tensor,
    maps: Tensor,
    gradients: Gradients,
    is_input_trained: bool = True,
) -> Tensor:
    """Do what `_reverse` does for a convolution of one pixel: as matrix products, which takes less
    time.
    """
    rows, inputs = (
        value.permute(0, 2, 3, 1).reshape(-1, value.shape[1]) for value in (gradient, maps)
    )
    gradients[layer.weight] = (rows.T @ inputs).view_as(layer.weight)
    gradients[layer.bias] = rows.sum(0)
    if not is_input_trained:
        return gradient  # nobody looks at it
    count, _, height, width = maps.shape
    return (rows @ layer.weight.flatten(1)).view(count, height, width, -1).permute(0, 3, 1, 2)


def _reverse_depthwise(
    layer: Module,
    gradient: Tensor,
    maps: Tensor,
    gradients: Gradients,
    is_input_trained: bool = True,
) -> Tensor:
    """Do what `_reverse` does for a convolution that mixes no channels, which takes less time."""
    down, across = layer.padding
    padded = functional.pad(maps, [across, across, down, down]) if down or across else maps
    gradients[layer.weight] = find_kernel_gradient(layer, gradient, padded)
    gradients[layer.bias] = gradient.sum((0, 2, 3))
    if not is_input_trained:
        return gradient  # nobody looks at it
    inner = find_input_gradient(layer, gradient, padded)
    return inner[:, :, down : down + maps.shape[2], across : across + maps.shape[3]]


def _find_fusion() -> bool:
    """Say whether torch was built with oneDNN's convolutions that end in a ReLU."""
    return torch.backends.mkldnn.is_available() and hasattr(
        torch.ops.mkldnn, "_convolution_pointwise"
    )


FUSES = _find_fusion()
