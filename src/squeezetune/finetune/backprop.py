"""The tapped network forwards and backwards by hand: what autograd computes, in fewer passes over
memory.

Where a processor multiplies bfloat16 matrices fast, convolutions take less than half of autograd's
time, and the rest goes over memory. Here a ReLU happens within its convolution, its gradient where
the halves of a join are taken apart, and the gradient of the channels' means is added in place.
Autograd's own gradients are the measure in the tests.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from squeezetune.finetune.tapped import TappedNetwork
from squeezetune.finetune.torch_network import Fire, Module, Tensor
from squeezetune.network.graph import TAPS

# isort: split
# after `network`, which says how to install torch where it is missing
import torch
from torch import nn
from torch.nn import functional

aten: Any = torch.ops.aten

# By the parameter that they belong to.
Gradients: TypeAlias = dict[Any, Tensor]
# Takes the gradient of a layer's output, notes those of its parameters, and returns that of its
# input.
Back: TypeAlias = Callable[[Tensor, Gradients], Tensor]


@dataclass(frozen=True)
class Step:
    """The way back through one layer, whose output has this `shape` (n, channels, height,
    width).
    """

    back: Back
    shape: tuple[int, int, int, int]
    is_tapped: bool


def run_forward(
    network: TappedNetwork, maps: Tensor, taps: Tensor | None, *, is_training: bool = True
) -> tuple[Tensor, list[Step]]:
    """Compute the features (n, 2048) float32, as `TappedNetwork.compute_features` does, and in
    training the steps back.

    The steps hold what every layer reads; without them it goes as soon as the next layer has read
    it.
    """
    means, steps = [] if taps is None else [taps], []
    tapped = {network.places[name] for name in TAPS}
    with torch.no_grad():
        for place in range(network.places[network.start], len(network.features)):
            layer = network.features[place]
            maps, back = PASSES[type(layer)](layer, maps, place > network.first_trained)
            if is_training and place >= network.first_trained:
                steps.append(Step(back, tuple(maps.shape), place in tapped))
            if place in tapped:
                means.append(maps.mean((2, 3), dtype=torch.float32))
    return torch.cat(means, 1), steps


def run_backward(features: Tensor, steps: list[Step]) -> Gradients:
    """Turn the gradient of the features into those of the layers' parameters; `steps` is emptied on
    the way.
    """
    gradients: Gradients = {}
    gradient, end = None, features.shape[1]
    with torch.no_grad():
        while steps:
            step = steps.pop()
            if step.is_tapped:
                start = end - step.shape[1]
                gradient, end = _add_mean(gradient, features[:, start:end], step.shape), start
            gradient = step.back(gradient, gradients)
    return gradients


def _add_mean(gradient: Tensor | None, own: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
    """Add the gradient of the mean of every channel to that of the maps."""
    share = (own / (shape[2] * shape[3]))[:, :, None, None]
    # behind the last layer nothing but its means is used
    return share.expand(shape) if gradient is None else gradient.add_(share.to(gradient.dtype))


def _pass_fire(fire: Fire, maps: Tensor, is_input_trained: bool) -> tuple[Tensor, Back]:
    squeezed = _convolve(fire.squeeze, maps)
    joined = torch.cat(
        [_convolve(layer, squeezed) for layer in (fire.expand1x1, fire.expand3x3)], 1
    )

    def back(gradient: Tensor, gradients: Gradients) -> Tensor:
        halves = zip(gradient.to(maps.dtype).chunk(2, 1), joined.chunk(2, 1), strict=True)
        near, far = (_mask(*half) for half in halves)
        inner = _reverse(fire.expand3x3, far, squeezed, gradients)
        inner = _reverse_pointwise(fire.expand1x1, near, squeezed, gradients).add_(inner)
        return _reverse_pointwise(
            fire.squeeze, _mask(inner, squeezed), maps, gradients, is_input_trained
        )

    return joined, back


def _pass_convolution(layer: Module, maps: Tensor, is_input_trained: bool) -> tuple[Tensor, Back]:
    def back(gradient: Tensor, gradients: Gradients) -> Tensor:
        return _reverse(layer, gradient, maps, gradients, is_input_trained)

    return functional.conv2d(maps, layer.weight, layer.bias, layer.stride, layer.padding), back


def _pass_pool(layer: Module, maps: Tensor, is_input_trained: bool) -> tuple[Tensor, Back]:
    window = [[layer.kernel_size] * 2, [layer.stride] * 2, [0, 0], [1, 1], layer.ceil_mode]
    pooled, places = aten.max_pool2d_with_indices(maps, *window)

    def back(gradient: Tensor, gradients: Gradients) -> Tensor:
        return aten.max_pool2d_with_indices_backward(gradient, maps, *window, places)

    return pooled, back


def _pass_relu(layer: Module, maps: Tensor, is_input_trained: bool) -> tuple[Tensor, Back]:
    maps = maps.relu_()
    return maps, lambda gradient, gradients: _mask(gradient, maps)


# How a layer of SqueezeNet is passed: the layer, its input, and whether a gradient of that is asked
# for.
PASSES: Mapping[type, Callable[[Any, Tensor, bool], tuple[Tensor, Back]]] = {
    nn.Conv2d: _pass_convolution,
    nn.MaxPool2d: _pass_pool,
    nn.ReLU: _pass_relu,
    Fire: _pass_fire,
}


def _convolve(layer: Module, maps: Tensor) -> Tensor:
    """Convolve and apply ReLU, in one pass over memory where oneDNN is there to do so."""
    if not FUSES:
        return functional.conv2d(maps, layer.weight, layer.bias, 1, layer.padding).relu_()
    padding, ones = list(layer.padding), [1, 1]
    return torch.ops.mkldnn._convolution_pointwise(
        maps, layer.weight, layer.bias, padding, ones, ones, 1, "relu", [], None
    )


def _mask(gradient: Tensor, output: Tensor) -> Tensor:
    """Leave the gradient of a ReLU where its output is above 0."""
    return aten.threshold_backward(gradient, output, 0)


def _reverse(
    layer: Module,
    gradient: Tensor,
    maps: Tensor,
    gradients: Gradients,
    is_input_trained: bool = True,
) -> Tensor:
    """Note the gradients of a convolution's parameters, and return that of its input."""
    back, gradients[layer.weight], gradients[layer.bias] = aten.convolution_backward(
        gradient,
        maps,
        layer.weight,
        [len(layer.bias)],
        list(layer.stride),
        list(layer.padding),
        [1, 1],
        False,
        [0, 0],
        1,
        [is_input_trained, True, True],
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


def _find_fusion() -> bool:
    """Say whether torch was built with oneDNN's convolutions that end in a ReLU."""
    return torch.backends.mkldnn.is_available() and hasattr(
        torch.ops.mkldnn, "_convolution_pointwise"
    )


FUSES = _find_fusion()
