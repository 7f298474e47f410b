"""What the layers of a torch network give and cost, as a table."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

from squeezetune.errors import SettingsError
from squeezetune.finetune.torch_layers import Module
from squeezetune.network.architecture import Architecture

# isort: split
# after `network`, which says how to install torch where it is missing
import torch
from torch import nn

DEFAULT_SIDE = 224
COUNTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class LayerSummary:
    """One layer of a network: what it gives for one image, and what it costs."""

    name: str
    kind: str
    output_shape: tuple[int, ...]  # without the batch; empty if the layer did not run
    parameters: int
    multiply_adds: int
    is_trainable: bool


@dataclass(frozen=True)
class Summary:
    """The layers of a network in the order of its modules, and their sums; its text is a table."""

    layers: tuple[LayerSummary, ...]
    parameters: int
    trainable_parameters: int
    multiply_adds: int

    def __str__(self) -> str:
        head = ("layer", "kind", "output", "parameters", "multiply-adds", "trains")
        rows = [
            (
                layer.name,
                layer.kind,
                " x ".join(map(str, layer.output_shape)),
                f"{layer.parameters:,}",
                f"{layer.multiply_adds:,}",
                "yes" if layer.is_trainable else "no" if layer.parameters else "",
            )
            for layer in self.layers
        ]
        total = (
            "total",
            "",
            "",
            f"{self.parameters:,}",
            f"{self.multiply_adds:,}",
            f"{self.trainable_parameters:,}",
        )
        widths = [max(map(len, column)) for column in zip(head, *rows, total, strict=True)]
        align = (str.ljust, str.ljust, str.ljust, str.rjust, str.rjust, str.rjust)
        lines = [[pad(cell, width) for pad, cell, width in zip(align, row, widths, strict=True)]
                 for row in (head, *rows, total)]  # fmt: skip
        return "\n".join("  ".join(cells).rstrip() for cells in lines)


def describe(network: Module, image_side: int | None = None) -> Summary:
    """Say what each layer of a network gives for one square RGB image, its parameters and its
    multiply-adds.

    Without `image_side` the image has the side that the network is described with, such as 299 for
    Inception v3, or 224 pixels where it has no description. The network runs once, on zeros, in
    evaluation mode; its modes are put back. Multiply-adds are those of the convolutions and
    Linears, without their biases; other layers cost next to nothing and count as 0. Example:

        >>> from squeezetune import build_network, describe
        >>> summary = describe(build_network())
        >>> summary.parameters, summary.multiply_adds
        (1235496, 349151936)

    Raises:
        MissingExtraError: torch is not installed.
        SettingsError: the network cannot run on such an image.
    """
    described = getattr(network, "architecture", None)
    side = described.side if isinstance(described, Architecture) else DEFAULT_SIDE
    found = _run_once(network, side if image_side is None else image_side)
    layers = tuple(
        _summarise_layer(name, module, found.get(module, ()))
        for name, module in network.named_modules()
        if _own_parameters(module) or (module in found and not any(module.children()))
    )
    parameters = list(network.parameters())
    return Summary(
        layers=layers,
        parameters=sum(value.numel() for value in parameters),
        trainable_parameters=sum(value.numel() for value in parameters if value.requires_grad),
        multiply_adds=sum(layer.multiply_adds for layer in layers),
    )


def _run_once(network: Module, image_side: int) -> dict[Module, list[tuple[int, ...]]]:
    """Run zeros through the network; return the shapes that each module gave, without the batch, a
    call each.
    """
    first = next(network.parameters(), torch.empty(0))
    image = torch.zeros(1, 3, image_side, image_side, dtype=first.dtype, device=first.device)
    found: dict[Module, list[tuple[int, ...]]] = {}
    with torch.no_grad(), _in_evaluation_mode(network), _listen_to_outputs(network, found):
        try:
            network(image)
        except (RuntimeError, ValueError) as error:
            raise SettingsError(
                f"The network cannot run on an RGB image of {image_side} x {image_side} pixels: "
                f"{error}",
                "Choose another image_side; the network has to take one tensor (n, 3, side, side).",
            ) from error
    return found


@contextmanager
def _in_evaluation_mode(network: Module) -> Iterator[None]:
    """Put the network in evaluation mode for a while; every module has its own mode, and gets it
    back.
    """
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def _listen_to_outputs(
    network: Module, found: dict[Module, list[tuple[int, ...]]]
) -> Iterator[None]:
    """Note the shapes of all that the modules give for a while."""

    def note(module: Module, inputs: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            found.setdefault(module, []).append(tuple(output.shape[1:]))

    hooks = [module.register_forward_hook(note) for module in network.modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _summarise_layer(name: str, module: Module, shapes: Sequence[tuple[int, ...]]) -> LayerSummary:
    own = _own_parameters(module)
    # each output is a sum over one filter: the weights that belong to one channel of the output
    per_output = module.weight[0].numel() if isinstance(module, COUNTED) else 0
    return LayerSummary(
        name=name,
        kind=type(module).__name__,
        output_shape=shapes[-1] if shapes else (),
        parameters=sum(value.numel() for value in own),
        multiply_adds=per_output * sum(prod(shape) for shape in shapes),
        is_trainable=any(value.requires_grad for value in own),
    )


def _own_parameters(module: Module) -> list[Any]:
    return list(module.parameters(recurse=False))
