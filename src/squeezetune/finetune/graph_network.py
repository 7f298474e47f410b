"""A network that is an ONNX graph alone, as it is trained: its nodes run in torch, its parameters
are torch's, and autograd gives their gradients.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from squeezetune.data.sources.source import list_some
from squeezetune.errors import WeightsError
from squeezetune.finetune.backprop import Gradients
from squeezetune.finetune.graph_layers import UnknownOperatorError
from squeezetune.finetune.graph_operators import make_operator, to_tensor
from squeezetune.finetune.linear_classifier import LinearClassifier
from squeezetune.finetune.tapped import CLASSIFIER
from squeezetune.finetune.torch_layers import Tensor
from squeezetune.heads.linear import DenseWeights, Rows
from squeezetune.heads.scaling import Scaling
from squeezetune.network.backbone import measure_distance
from squeezetune.network.foreign_file import open_quietly, shorten_reason
from squeezetune.network.foreign_network import ForeignNetwork
from squeezetune.network.graph_cuts import Dataflow
from squeezetune.network.taps import Tap

# isort: split
# after the modules above, which say how to install torch where it is missing
import torch
from torch import nn

# Features of torch and of ONNX Runtime are the same up to this distance, relative to their norm.
SAME_FEATURES = 1e-4
LAYERS = "layers"
HINT = "Leave --layers out: the head is trained on the layers as they are."

# How a tapped tensor becomes one value a channel; `taps.REDUCTIONS` has the same as nodes.
REDUCTIONS: Mapping[str, Callable[[Tensor, Tap], Tensor]] = {
    "values": lambda x, tap: x.flatten(1),
    "mean of positions": lambda x, tap: x.mean((2, 3)),
    "mean of positions, channels last": lambda x, tap: x.mean((1, 2)),
    "mean of tokens": lambda x, tap: x[:, tap.extra :].mean(1),
    "mean of tokens, channels first": lambda x, tap: x[:, :, tap.extra :].mean(2),
    "first token": lambda x, tap: x[:, 0],
}


@dataclass(frozen=True, eq=False)
class NodePass:
    """How a node is passed: what it computes, which tensors it reads ("" is none) and gives, and
    which of them nobody reads any more.
    """

    run: Callable[..., object]
    operator: str
    reads: tuple[str, ...]
    gives: tuple[str, ...]
    frees: tuple[str, ...]


class GraphNetwork(nn.Module):  # type: ignore[misc]  # torch is not seen by the type checker
    """The trainable form of what a foreign network's `build_model` builds, in float32.

    Its parameters are those of the graph, under `layers`, and those of the classifier; those of the
    first `frozen_blocks` stay as they are, and all other constants.

    Raises:
        WeightsError: the graph has an operator that cannot be trained here.
    """

    def __init__(self, foreign: ForeignNetwork, classes: int, frozen_blocks: int = 0) -> None:
        super().__init__()
        self.foreign, self.layout = foreign, foreign.layout
        self.passes = plan_passes(foreign)
        self._constants, parameters = {}, {}
        read = {name for each in self.passes for name in each.reads}
        trained = self.layout.block_names[frozen_blocks:]
        for item in foreign.model.graph.initializer:
            owner = self.layout.owners.get(item.name)
            if owner is not None:
                is_trained = owner in trained
                parameters[quote_name(item.name)] = nn.Parameter(to_tensor(item), is_trained)
            elif item.name in read:
                self._constants[item.name] = to_tensor(item)
        self.layers = nn.ParameterDict(parameters)
        self.classifier = LinearClassifier(foreign.feature_count, classes)

    @property
    def reads_images(self) -> bool:
        """Whether it begins with images: always."""
        return True

    @property
    def class_count(self) -> int:
        """The number of classes."""
        return int(self.classifier.out_features)

    def convert(self, precision: object) -> None:
        """Let the kernels lie in memory as convolutions want them; numbers stay float32, as in the
        engine that the graph is compared with.
        """
        for value in self.layers.values():
            if value.ndim == 4:
                value.data = value.data.contiguous(memory_format=torch.channels_last)

    def find_block(self, parameter: str) -> str:
        """Name the block that a parameter, by its name here, belongs to."""
        name = unquote_name(parameter.removeprefix(f"{LAYERS}."))
        return self.layout.owners.get(name, CLASSIFIER)

    def forward(self, maps: Tensor, taps: Tensor | None = None) -> Tensor:
        """Normalised images (n, 3, side, side) in; logits (n, classes) out."""
        return self.classify(self.compute_features(maps, taps))

    def compute_features(self, maps: Tensor, taps: Tensor | None = None) -> Tensor:
        """Compute what the taps give of normalised RGB images (n, 3, side, side): (n, features)
        float32, by autograd.
        """
        parts = maps.split(1) if self.foreign.is_sequential else [maps]
        return torch.cat([self._run_taps(part) for part in parts])

    def _run_taps(self, maps: Tensor) -> Tensor:
        values = self.run(maps, [tap.tensor for tap in self.foreign.taps])
        means = [REDUCTIONS[tap.reduction](values[tap.tensor], tap) for tap in self.foreign.taps]
        return torch.cat(means, 1)

    def run(self, maps: Tensor, wanted: Sequence[str]) -> dict[str, Tensor]:
        """Run the nodes on normalised RGB images; return at least the `wanted` tensors, by name."""
        image, kept = self.foreign.file.image, set(wanted)
        maps = maps.flip(1) if self.foreign.preprocessing.order == "bgr" else maps
        maps = maps.permute(0, 2, 3, 1) if image.channels_last else maps
        layers = {unquote_name(name): value for name, value in self.layers.items()}
        values: dict[str, Tensor] = {**self._constants, **layers, image.name: maps, "": None}
        for each in self.passes:
            found = each.run(*(values[name] for name in each.reads))
            given = found if isinstance(found, tuple) else (found,)
            values.update(zip(each.gives, given, strict=False))
            for name in each.frees:
                if name not in kept:
                    del values[name]
        return values

    def classify(self, features: Tensor) -> Tensor:
        """Compute logits (n, classes) of features (n, features)."""
        return self.classifier(features)

    def differentiate(
        self, maps: Tensor, taps: Tensor | None
    ) -> tuple[Tensor, Callable[[Tensor], Gradients]]:
        """Compute the features, and what turns their gradient into those of the parameters."""
        features = self.compute_features(maps, taps)
        trained = [value for value in self.layers.values() if value.requires_grad]

        def go_back(above: Tensor) -> Gradients:
            if not features.requires_grad:
                return {value: torch.zeros_like(value) for value in trained}
            found = torch.autograd.grad(features, trained, above, allow_unused=True)
            return {value: torch.zeros_like(value) if gradient is None else gradient
                    for value, gradient in zip(trained, found, strict=True)}  # fmt: skip

        return features.detach(), go_back

    def infer_features(self, maps: Tensor, taps: Tensor | None) -> Tensor:
        """Compute the features, without a way back."""
        with torch.no_grad():
            return self.compute_features(maps, taps)

    def set_classifier(self, scaling: Scaling, weight: Rows, bias: Rows) -> None:
        """Take over a linear classifier on standardised features."""
        self.classifier.take(scaling, weight, bias)

    def to_arrays(
        self, parameters: Mapping[str, Rows]
    ) -> tuple[Scaling, DenseWeights, dict[str, Rows]]:
        """Split parameters by name into the classifier with its scaling, and those of the graph
        that were trained, by their names in it.
        """
        scaling, layers = self.classifier.to_arrays(parameters)
        start = f"{LAYERS}."
        trained = {
            unquote_name(name.removeprefix(start)): value
            for name, value in parameters.items()
            if name.startswith(start)
        }
        return scaling, layers, trained


def quote_name(name: str) -> str:
    """Write a tensor's name as torch takes it, without dots."""
    return name.replace("%", "%25").replace(".", "%2E")


def unquote_name(name: str) -> str:
    """Read a tensor's name that `quote_name` wrote.

    >>> unquote_name(quote_name("conv1.weight"))
    'conv1.weight'
    """
    return name.replace("%2E", ".").replace("%25", "%")


def plan_passes(foreign: ForeignNetwork) -> tuple[NodePass, ...]:
    """Plan how the nodes that the taps need are passed.

    Raises:
        WeightsError: there are operators among them that cannot be trained here; it names them.
    """
    flow = Dataflow(foreign.model.graph, foreign.file.image.name)
    nodes = [flow.nodes[at] for at in flow.list_before([tap.tensor for tap in foreign.taps])]
    last_reads = {name: at for at, node in enumerate(nodes) for name in node.input if name}
    passes, unknown = list[NodePass](), set[str]()
    for at, node in enumerate(nodes):
        frees = tuple(name for name in dict.fromkeys(node.input) if last_reads.get(name) == at)
        try:
            run = make_operator(node)
        except UnknownOperatorError as error:
            unknown.add(str(error))
            continue
        passes.append(NodePass(run, node.op_type, tuple(node.input), tuple(node.output), frees))
    if unknown:
        raise WeightsError(
            f"The layers of {foreign.name} cannot be trained: gradients of these operators are not "
            f"known here: {list_some(sorted(unknown))}.",
            HINT,
        )
    return tuple(passes)


def check_features(network: GraphNetwork, pixels: NDArray[np.uint8]) -> None:
    """Make sure that torch computes a network's features of photos (n, side, side, 3) as ONNX
    Runtime does.

    Raises:
        WeightsError: it does not; the operator is named where they part.
    """
    maps = normalise_photos(network, pixels)
    try:
        found = network.infer_features(maps, None).numpy()
    except Exception as error:  # torch raises whatever it likes
        reason = shorten_reason(error)
        raise WeightsError(
            f"The layers of {network.foreign.name} cannot be trained: torch cannot run them: "
            f"{reason}",
            HINT,
        ) from error
    run = open_quietly(network.foreign.build_features())
    expected = np.concatenate([run(pixels[at : at + 1])[0][:, 0] for at in range(len(pixels))])
    distance = measure_distance(found, expected)
    if not distance <= SAME_FEATURES:
        raise WeightsError(
            f"The layers of {network.foreign.name} cannot be trained: torch computes features that "
            f"are {distance:.2%} from those of ONNX Runtime, at most {SAME_FEATURES:.2%} are "
            f"rounding; they part at {find_difference(network, maps[:1])}.",
            HINT,
        )


def normalise_photos(network: GraphNetwork, pixels: NDArray[np.uint8]) -> Tensor:
    """Turn photos (n, side, side, 3) into what the network is given in training, float32."""
    layout = network.layout
    mean, std = (torch.tensor(each)[:, None, None] for each in (layout.mean, layout.std))
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std


def find_difference(network: GraphNetwork, maps: Tensor) -> str:
    """Find the first operator that gives something else in torch than in ONNX Runtime, for one
    normalised image; in words.
    """
    image, model = network.foreign.file.image, onnx.ModelProto()
    names = [name for each in network.passes for name in each.gives if name]
    model.CopyFrom(network.foreign.model)
    model.graph.ClearField("output")
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    with torch.no_grad():
        own = network.run(maps, [*names, image.name])
    given = own[image.name].numpy()
    theirs = open_quietly(model.SerializeToString())(given.round().astype(np.uint8)
                                                    if image.is_uint8 else given)  # fmt: skip
    expected = dict(zip(names, theirs, strict=True))
    for each in network.passes:
        for name in filter(None, each.gives):
            values = own[name].numpy()
            if values.shape != expected[name].shape:
                return f"{each.operator} ({name!r}), whose shape is another one"
            if not measure_distance(values.astype(np.float64), expected[name]) <= SAME_FEATURES:
                return f"{each.operator} ({name!r})"
    return "none of its operators alone"
