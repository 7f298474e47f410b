"""How a network is described: its layers, the blocks that it may be cut behind, and its taps.

Everything that a network becomes is made from its description, by one function a kind of layer
(`layers`): the ONNX graphs in float and int8 (`float_layers`, `int8_layers`), the torch module and
its passes (`finetune`), the numbers for compression and the file of LiteRT.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any, Protocol

from squeezetune.network.layers import (
    PIXELS,
    RECTIFIERS,
    AveragePool,
    Convolution,
    GlobalMean,
    Join,
    Layer,
    Linear,
    MaxPool,
    count_channels,
    find_last_parameters,
    list_layer_shapes,
    measure_side,
)

# What a parameter takes in inference (docs/decisions/0006-memory.md).
PARAMETER_BYTES = 6


@dataclass(frozen=True)
class Block:
    """Layers between two places where a network can be cut: one map in, one map out.

    Those whose paths begin with `path` and a dot are one module in torch.
    """

    name: str
    layers: tuple[Layer, ...]
    path: str = ""


class NetworkLayout(Protocol):
    """What training knows of any network: its blocks, how many of them stay as they are, and how
    its images are normalised. `Architecture` fulfils it, and so does a graph's
    (`graph_layout.GraphLayout`); what the numbers mean, `Architecture` says.
    """

    @property
    def block_names(self) -> tuple[str, ...]:
        """The names of the blocks, in the order of the data."""
        ...

    @property
    def mean(self) -> tuple[float, ...]:
        """The mean of each channel of RGB pixels / 255."""
        ...

    @property
    def std(self) -> tuple[float, ...]:
        """The standard deviation of each channel of RGB pixels / 255."""
        ...

    @property
    def frozen_blocks(self) -> int:
        """How many of the first blocks stay as they are where layers are trained."""
        ...

    @property
    def last_blocks(self) -> int:
        """How many blocks the last ones are, unless somebody says otherwise."""
        ...

    @property
    def epochs_for_all(self) -> float:
        """The epochs of all layers that are worth more than the last blocks alone."""
        ...


@dataclass(frozen=True)
class NetworkSize:
    """How large a network is, which its memory hangs on: the values of all maps before the
    classifier for an image of `side` pixels, its parameters, with the bytes that one takes while
    graphs of it are built and run, its features, and the bytes that a run holds of it throughout,
    beyond what SqueezeNet's do. Where autograd trains it, `autograd_values` are what that may keep
    of an image; else it is 0.
    """

    side: int
    values: int
    parameters: int
    features: int
    parameter_bytes: int = PARAMETER_BYTES
    held_bytes: int = 0
    autograd_values: int = 0


@dataclass(frozen=True)
class Architecture:
    """A network: its blocks in the order of the data, what is tapped, and the classifier that it
    was trained with.

    `taps` names the maps whose channels' means are the features. The classifier's last layer with
    parameters has as many outputs as there are classes; how many it has here is what published
    weights know. Images are RGB / 255, minus `mean`, over `std`, and best of `side` pixels. A batch
    normalisation adds `norm_epsilon` to the variance. Parameters of published weights that the
    network does without begin with one of `ignored`. Where all layers are trained, the first
    `frozen_blocks` stay as they are: their gradients cost the most, and change the least. Where the
    last blocks alone are trained, they are `last_blocks` unless somebody says otherwise; on photos
    in full size they are worth more in the same time than fewer than `epochs_for_all` of all
    layers.
    """

    name: str
    title: str
    version: str
    blocks: tuple[Block, ...]
    taps: tuple[str, ...]
    classifier: tuple[Layer, ...]
    side: int = 224
    norm_epsilon: float = 1e-5
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    ignored: tuple[str, ...] = ()
    frozen_blocks: int = 1
    last_blocks: int = 4
    epochs_for_all: float = 1.0

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """All layers before the classifier, each with the names of what it reads."""
        return _connect([layer for block in self.blocks for layer in block.layers], PIXELS)

    @cached_property
    def classifier_layers(self) -> tuple[Layer, ...]:
        """The classifier's layers, each with the names of what it reads."""
        return _connect(self.classifier, self.layers[-1].output)

    @cached_property
    def block_names(self) -> tuple[str, ...]:
        """The names of the blocks, in the order of the data."""
        return tuple(block.name for block in self.blocks)

    @cached_property
    def tapped_blocks(self) -> tuple[str, ...]:
        """The names of the blocks that have a tap."""
        return tuple(self.name_block(tap) for tap in self.taps)

    @cached_property
    def convolutions(self) -> tuple[Convolution, ...]:
        """All convolutions before the classifier."""
        return tuple(layer for layer in self.layers if isinstance(layer, Convolution))

    @cached_property
    def channels(self) -> Mapping[str, int]:
        """How many channels every map has, by name."""
        found = {PIXELS: 3}
        for layer in (*self.layers, *self.classifier_layers):
            found[layer.output] = count_channels(layer, [found[name] for name in layer.reads])
        return found

    @cached_property
    def feature_count(self) -> int:
        """How many features the taps give."""
        return self.count_features(self.block_names[-1])

    @property
    def largest_pixel(self) -> float:
        """The largest size of a normalised pixel."""
        statistics = zip(self.mean, self.std, strict=True)
        return max(max(mean, 1 - mean) / std for mean, std in statistics)

    @cached_property
    def readers(self) -> Mapping[str, tuple[Layer, ...]]:
        """The layers that read a map, by its name, the classifier's left out."""
        names = [PIXELS, *(layer.output for layer in self.layers)]
        return {
            name: tuple(layer for layer in self.layers if name in layer.reads) for name in names
        }

    @cached_property
    def activations(self) -> Mapping[str, str]:
        """What is computed with one scale in int8: each map by name, with the name of its scale.

        A pool gives no larger values than the map has that it reads, and a join puts maps together,
        which then have its scale. The scales stand in the order of the data.
        """
        found = {PIXELS: PIXELS}
        joins = {name: layer.output for layer in self.layers if isinstance(layer, Join)
                 for name in layer.reads if len(self.readers[name]) == 1}  # fmt: skip
        for layer in self.layers:
            scale = layer.output
            while scale in joins:  # joins may be joined
                scale = joins[scale]
            is_pool = isinstance(layer, MaxPool | AveragePool)
            found[layer.output] = found[layer.reads[0]] if is_pool else scale
        return found

    @cached_property
    def signed(self) -> frozenset[str]:
        """The scales whose values may be below 0."""
        found = {PIXELS: True}
        for layer in self.layers:
            activation = getattr(layer, "activation", "")
            # a convolution may give anything, all others what they read, if no function follows
            is_any = isinstance(layer, Convolution) or any(found[name] for name in layer.reads)
            found[layer.output] = is_any and activation not in RECTIFIERS
        return frozenset(self.activations[name] for name, is_signed in found.items() if is_signed)

    def without_norms(self) -> "Architecture":
        """Describe the network whose batch normalisations are folded into its convolutions
        (`weights.fold_norms`); itself where there are none.
        """
        return self._folded

    @cached_property
    def norms(self) -> tuple[str, ...]:
        """The paths of all batch normalisations."""
        layers = (*self.layers, *self.classifier_layers)
        return tuple(norm for layer in layers if (norm := getattr(layer, "norm", "")))

    @cached_property
    def _folded(self) -> "Architecture":
        if not self.norms:
            return self

        def strip(layer: Any) -> Any:
            return replace(layer, norm="") if getattr(layer, "norm", "") else layer

        blocks = tuple(
            replace(block, layers=tuple(strip(layer) for layer in block.layers))
            for block in self.blocks
        )
        return replace(
            self, blocks=blocks, classifier=tuple(strip(layer) for layer in self.classifier)
        )

    @property
    def has_signed_taps(self) -> bool:
        """Say whether features may be below 0."""
        return any(self.activations[name] in self.signed for name in self.taps)

    def list_scales(self) -> dict[str, int]:
        """List the names of the scales in the order of the data, with the channels of each."""
        names = dict.fromkeys(self.activations[layer.output] for layer in self.layers)
        return {name: self.channels[name] for name in names}

    def find_block(self, name: str) -> Block:
        """Look up a block."""
        return self.blocks[self.block_names.index(name)]

    def name_block(self, output: str) -> str:
        """Name the block that a map comes of."""
        return next(
            block.name for block in self.blocks for layer in block.layers if layer.output == output
        )

    def pass_blocks(self, start: str = "", last: str = "") -> tuple[Layer, ...]:
        """List the layers from the block `start`, or the first, to the block `last`, or the end."""
        begin = self.block_names.index(start) if start else 0
        end = self.block_names.index(last) + 1 if last else len(self.blocks)
        outputs = {layer.output for block in self.blocks[begin:end] for layer in block.layers}
        return tuple(layer for layer in self.layers if layer.output in outputs)

    def name_input(self, block: str) -> str:
        """Name the map that a block reads."""
        at = self.block_names.index(block)
        return self.blocks[at - 1].layers[-1].output if at else PIXELS

    def name_before(self, block: str) -> str:
        """Name the block that gives what this one reads, which is not the first."""
        return self.block_names[self.block_names.index(block) - 1]

    def list_taps(self, last: str) -> list[str]:
        """List the taps up to a block and in it."""
        passed = {layer.output for layer in self.pass_blocks(last=last)}
        return [name for name in self.taps if name in passed]

    def count_features(self, last: str) -> int:
        """Count the features of the taps up to a block and in it."""
        return sum(self.channels[name] for name in self.list_taps(last))

    def measure_block(self, block: str, side: int) -> tuple[int, int, int]:
        """Tell the height, width and channels of what a block gives for pixels of this side."""
        output = self.find_block(block).layers[-1].output
        length = self.measure_sides(side)[output]
        return length, length, self.channels[output]

    def measure_sides(self, side: int) -> dict[str, int]:
        """Tell the side of every map, by name, for pixels of this side."""
        sides = {PIXELS: side}
        for layer in (*self.layers, *self.classifier_layers):
            sides[layer.output] = measure_side(layer, sides[layer.reads[0]])
        return sides

    @cached_property
    def least_side(self) -> int:
        """The smallest side of images that leaves a position in every map."""
        sides = range(1, self.side)
        return next(
            (side for side in sides if min(self.measure_sides(side).values()) > 0), self.side
        )

    def count_values(self, side: int) -> int:
        """Count the values of all maps before the classifier, for pixels of this side."""
        sides = self.measure_sides(side)
        return sum(sides[each.output] ** 2 * self.channels[each.output] for each in self.layers)

    @property
    def size(self) -> NetworkSize:
        """How large it is, at its own side."""
        values = self.count_values(self.side)
        return NetworkSize(self.side, values, self.parameter_count, self.feature_count)

    @cached_property
    def parameter_count(self) -> int:
        """How many parameters it has, its own classifier's among them."""
        shapes = self.without_norms().list_shapes()
        return sum(prod(shape) for shape in shapes.values())

    def list_shapes(self, num_classes: int = 0) -> dict[str, tuple[int, ...]]:
        """List the shape of every parameter and running statistic, by torchvision's names, in the
        order of the data.

        Without `num_classes` the classifier has as many outputs as published weights know.
        """
        layers = [*self.layers, *self.classifier_layers]
        shapes: dict[str, tuple[int, ...]] = {}
        last = find_last_parameters(layers)
        for at, layer in enumerate(layers):
            classes = num_classes if at == last else 0
            shapes |= list_layer_shapes(layer, self.count_inputs(layer), classes)
        return shapes

    def count_inputs(self, layer: Layer) -> int:
        """Count the channels that a layer reads; those of each position where it is dense."""
        name = layer.reads[0]
        is_dense = isinstance(layer, Linear)
        return self.channels[name] * (self._positions.get(name, 1) if is_dense else 1)

    @cached_property
    def _positions(self) -> Mapping[str, int]:
        return {
            layer.output: layer.side**2
            for layer in self.classifier_layers
            if isinstance(layer, GlobalMean)
        }

    def owns(self, parameter: str) -> bool:
        """Say whether a parameter, by its name, belongs to the layers before the classifier."""
        return parameter.rpartition(".")[0] in self._owners

    def ignores(self, parameter: str) -> bool:
        """Say whether the network does without a parameter of published weights, by its name."""
        return parameter.startswith(self.ignored)

    def find_owner(self, parameter: str) -> str:
        """Name the block that a parameter, by its name, belongs to; "" if it is the classifier."""
        return self._owners.get(parameter.rpartition(".")[0], "")

    @cached_property
    def _owners(self) -> Mapping[str, str]:
        return {
            path: block.name
            for block in self.blocks
            for layer in block.layers
            if isinstance(layer, Convolution)
            for path in (layer.path, layer.norm)
            if path
        }


def _connect(layers: Sequence[Layer], start: str) -> tuple[Layer, ...]:
    """Name what each layer reads: where it does not say, what the layer before it gives."""
    found: list[Any] = []
    for layer in layers:
        before = found[-1].output if found else start
        found.append(layer if layer.reads else _read_from(layer, before))
    return tuple(found)


def _read_from(layer: Any, name: str) -> Any:
    return replace(layer, reads=(name,))
