"""The ONNX graphs: resize, views, a network's layers, head and score put together, for users' files
and for what is frozen.

Pixels enter as uint8 RGB, (n, height, width, 3).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from squeezetune.heads.familiarity import Familiarity
from squeezetune.network.architecture import Architecture
from squeezetune.network.float_layers import (
    FloatLayers,
    GraphLayers,
    WeightEncoder,
    store_exactly,
    store_floats,
)
from squeezetune.network.graph_input import add_fit, add_views
from squeezetune.network.inference import IMAGE
from squeezetune.network.int8_layers import Int8, Int8Layers
from squeezetune.network.layers import Layer
from squeezetune.network.onnx_builder import Graph, Output, Shape
from squeezetune.network.weights import Weights, detect_architecture
from squeezetune.network.zoo import SQUEEZENET1_1


@dataclass(frozen=True)
class WeightFormat:
    """How a classifier is stored and computed: how parameters are kept, and with `int8`
    convolutions in int8.

    Those keep their kernels as int8; `store` then says it of the dense layers alone.
    """

    store: WeightEncoder
    int8: Int8 | None = None

    def make_layers(self, graph: Graph, weights: Weights) -> GraphLayers:
        """Make what adds the layers to a graph."""
        return (
            FloatLayers(graph, weights, self.store)
            if self.int8 is None
            else Int8Layers(graph, weights, self.int8)
        )


EXACT = WeightFormat(store_exactly)


class FrozenLayers(Protocol):
    """The layers before the head, wherever they are from: what adds their features to a graph."""

    @property
    def feature_count(self) -> int:
        """How many features there are."""
        ...

    @property
    def is_signed(self) -> bool:
        """Whether features may be below 0."""
        ...

    def add_features(self, graph: Graph, pixels: str, views: int) -> str:
        """Add the further views and the layers: (n, h, w, 3) uint8 -> (views n, features) float32,
        all first views, then all second ones.
        """
        ...


@dataclass(frozen=True, eq=False)
class DescribedLayers:
    """The layers of a network that is described: `FrozenLayers` of weights, in some form."""

    weights: Weights
    form: WeightFormat = EXACT

    @property
    def architecture(self) -> Architecture:
        """Which network the weights are of."""
        return detect_architecture(self.weights)

    @property
    def feature_count(self) -> int:
        """How many features there are."""
        return self.architecture.feature_count

    @property
    def is_signed(self) -> bool:
        """Whether features may be below 0."""
        return self.architecture.has_signed_taps

    def add_features(self, graph: Graph, pixels: str, views: int) -> str:
        """Add the further views and the layers."""
        return _add_backbone(graph, pixels, self.form.make_layers(graph, self.weights), views)


BLOCKS, TAPS = SQUEEZENET1_1.block_names, SQUEEZENET1_1.tapped_blocks
FEATURE_COUNT = SQUEEZENET1_1.feature_count

# The dense layers behind the features, first to last: (inputs, outputs) weights and (outputs,)
# biases.
DenseLayers = Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]]


def build_backbone(weights: Weights, int8: Int8 | None = None, *, views: int = 1) -> bytes:
    """Build the frozen layers: pixels in, the mean of every channel of the taps out.

    Input `pixels` (n, side, side, 3) uint8; output `features` (n, views, features) float32. One
    view is the image, two are the image and its mirror image, four those and the middles of both.
    With `int8` the convolutions are of that kind.
    """
    return build_features(DescribedLayers(weights, WeightFormat(store_floats, int8)), views)


def build_features(layers: FrozenLayers, views: int = 1) -> bytes:
    """Build frozen layers of any origin: input, output and views are those of `build_backbone`."""
    graph = Graph()
    _add_features(graph, "pixels", layers, views)
    return graph.to_bytes("pixels", "features", ["n", views, layers.feature_count])


def build_activations(
    weights: Weights,
    block: str,
    *,
    int8: Int8 | None = None,
    views: int = 1,
    scales: NDArray[np.float32] | None = None,
) -> bytes:
    """Build the frozen layers up to a block: pixels in, what the block behind it reads out.

    Input `pixels` (n, side, side, 3) uint8. Output `activations` (n, views, height, width,
    channels) is what `block` gives, behind the max pool where one follows: float32, or with
    `scales` (channels,) uint8 of which 255 stands for the channel's scale. Output `taps` (n, views,
    t) float32 are the means of the taps up to `block`, as the backbone has them; there is none
    before the first tap. Views and `int8` are those of `build_backbone`.
    """
    graph = Graph()
    layers = WeightFormat(store_floats, int8).make_layers(graph, weights)
    network, passed = layers.architecture, layers.architecture.pass_blocks(last=block)
    maps, means = _add_layers(graph, "pixels", layers, passed, views)
    x = layers.to_floats(maps[passed[-1].output])
    x = x if scales is None else _add_codes(graph, x, scales)
    channels_last = graph.add("Transpose", x, perm=[0, 2, 3, 1])
    sizes = graph.add(
        "Concat",
        graph.constant("views", [views, -1]),
        graph.add("Shape", channels_last, start=1),
        axis=0,
    )
    _add_split(graph, channels_last, sizes, "activations", axes=5)
    shape: Shape = ["n", views, "height.out", "width.out", network.channels[passed[-1].output]]
    outputs = [Output("activations", shape, np.float32 if scales is None else np.uint8)]
    if means:
        width = network.count_features(block)
        taps = graph.add("Concat", *means, axis=1)
        _add_split(graph, taps, graph.constant("taps.views", [views, -1, width]), "taps", axes=3)
        outputs.append(Output("taps", ["n", views, width]))
    return graph.serialise("pixels", outputs)


def build_range_probe(weights: Weights) -> bytes:
    """Build the float layers with the largest value of every channel of every activation of every
    image as output.

    Input `pixels` (n, side, side, 3) uint8; output `maxima` (n, channels) float32, scale after
    scale in the order of `Architecture.list_scales`; of values that may be below 0 the largest
    size.
    """
    graph = Graph()
    layers = FloatLayers(graph, weights)
    scales = layers.architecture.list_scales()
    _add_backbone(graph, "pixels", layers)
    axes = graph.constant("hw", [2, 3])
    sizes = [
        graph.add("Abs", name) if name in layers.architecture.signed else name for name in scales
    ]
    maxima = [graph.add("ReduceMax", name, axes, keepdims=0) for name in sizes]
    graph.add("Concat", *maxima, name="maxima", axis=1)
    return graph.to_bytes("pixels", "maxima", ["n", sum(scales.values())])


def build_classifier(
    weights: Weights,
    head: DenseLayers,
    *,
    views: int,
    side: int,
    resize: str,
    metadata: Mapping[str, str],
    use_roots: bool = True,
    form: WeightFormat = EXACT,
    familiarity: Familiarity | None = None,
) -> bytes:
    """Build the whole classifier: images of any size in, probabilities out.

    Input `image` (n, height, width, 3) uint8 RGB; output `probabilities` (n, classes) float32.
    Inside: resize by the policy `resize` to `side` pixels, normalisation, network, dense layers on
    the features or, with `use_roots`, on their square roots, mean over the views, softmax. `form`
    says how it is stored and computed. With `familiarity` there is a second output of that name,
    (n,) float32: its score.
    """
    return build_model(
        DescribedLayers(weights, form),
        head,
        form.store,
        views=views,
        side=side,
        resize=resize,
        metadata=metadata,
        use_roots=use_roots,
        familiarity=familiarity,
    )


def build_model(
    layers: FrozenLayers,
    head: DenseLayers,
    store: WeightEncoder = store_exactly,
    *,
    views: int,
    side: int,
    resize: str,
    metadata: Mapping[str, str],
    use_roots: bool = True,
    familiarity: Familiarity | None = None,
) -> bytes:
    """Build the whole classifier on frozen layers of any origin: input, outputs and all that is
    inside are those of `build_classifier`.

    Roots of features that may be below 0 keep their sign. `store` says how the head is kept.
    """
    graph = Graph()
    pixels = add_fit(graph, IMAGE, side, resize)
    features = _add_features(graph, pixels, layers, views)
    rows = _add_roots(graph, features, is_signed=layers.is_signed) if use_roots else features
    logits = _add_head(graph, rows, head, store)
    logits = graph.add("ReduceMean", logits, graph.constant("views.axis", [1]), keepdims=0)
    graph.add("Softmax", logits, name="probabilities", axis=-1)
    outputs = [Output("probabilities", ["n", len(head[-1][1])])]
    if familiarity:
        _add_familiarity(graph, rows, logits, familiarity)
        outputs.append(Output("familiarity", ["n"]))
    return graph.serialise(IMAGE, outputs, metadata)


def build_convolved(
    weights: Weights,
    classifier: tuple[NDArray[np.float32], NDArray[np.float32]],
    *,
    side: int,
    resize: str,
    metadata: Mapping[str, str],
    form: WeightFormat = EXACT,
) -> bytes:
    """Build a network with a classifier of SqueezeNet's kind: images of any size in, probabilities
    out.

    Input, output and `form` are those of `build_classifier`. The classifier is a linear layer,
    weights (channels, classes) and biases (classes,), at every position of what the last block
    gives, then ReLU, the mean over the positions, softmax.
    """
    graph = Graph()
    pixels = add_fit(graph, IMAGE, side, resize)
    layers = form.make_layers(graph, weights)
    passed = layers.architecture.layers
    given, _ = _add_layers(graph, pixels, layers, passed, views=1, taps=())
    maps = layers.to_floats(given[passed[-1].output])
    kernel = form.store(graph, "classifier.weight", classifier[0].T[:, :, None, None])
    y = graph.add(
        "Conv",
        maps,
        kernel,
        form.store(graph, "classifier.bias", classifier[1]),
        kernel_shape=[1, 1],
    )
    logits = graph.add(
        "ReduceMean", graph.add("Relu", y), graph.constant("positions", [2, 3]), keepdims=0
    )
    graph.add("Softmax", logits, name="probabilities", axis=-1)
    return graph.to_bytes(IMAGE, "probabilities", ["n", len(classifier[1])], metadata)


def build_published(
    weights: Weights, *, views: int, side: int, resize: str, metadata: Mapping[str, str]
) -> bytes:
    """Build a whole network with the classifier that it was published with: images of any size in,
    probabilities out.

    Input and output are those of `build_classifier`. The classes' logits are averaged over the
    views.
    """
    graph = Graph()
    pixels, layers = add_fit(graph, IMAGE, side, resize), EXACT.make_layers(graph, weights)
    network = layers.architecture
    passed = (*network.layers, *network.classifier_layers)
    maps, _ = _add_layers(graph, pixels, layers, passed, views, taps=())
    last = passed[-1].output
    count = len(weights[list(network.list_shapes())[-1]])
    shape = graph.constant("views", [views, -1, count])
    split = _add_split(graph, maps[last], shape, f"{last}.views", axes=3)
    mean = graph.add("ReduceMean", split, graph.constant("views.axis", [1]), keepdims=0)
    graph.add("Softmax", mean, name="probabilities", axis=-1)
    return graph.to_bytes(IMAGE, "probabilities", ["n", count], metadata)


def build_maps(
    weights: Weights, blocks: Sequence[str], *, views: int, side: int, resize: str
) -> bytes:
    """Build the layers up to the last of these blocks: an image in, what is tapped in each of them
    out, before its mean.

    Input `image` (n, height, width, 3) uint8 RGB of any size; outputs named after the blocks,
    (views n, channels, height, width) float32: all first views, then all second ones.
    """
    graph = Graph()
    pixels, layers = add_fit(graph, IMAGE, side, resize), FloatLayers(graph, weights)
    network = layers.architecture
    taps = dict(zip(network.tapped_blocks, network.taps, strict=True))
    passed = network.pass_blocks(last=blocks[-1])
    maps, _ = _add_layers(graph, pixels, layers, passed, views, taps=())
    for block in blocks:
        graph.add("Identity", maps[taps[block]], name=block)
    return graph.serialise(
        IMAGE,
        [
            Output(
                block,
                ["views", network.channels[taps[block]], f"{block}.height", f"{block}.width"],
            )
            for block in blocks
        ],
    )


def _add_features(graph: Graph, pixels: str, layers: FrozenLayers, views: int) -> str:
    """Add the further views, the layers and the split into views: (n, h, w, 3) -> `features` (n,
    views, features).
    """
    stacked = layers.add_features(graph, pixels, views)
    shape = graph.constant("views", [views, -1, layers.feature_count])
    return _add_split(graph, stacked, shape, "features", axes=3)


def _add_roots(graph: Graph, features: str, *, is_signed: bool) -> str:
    """Add square roots; of features that may be below 0 those of their sizes, with their signs."""
    if not is_signed:
        return graph.add("Sqrt", features)
    sizes = graph.add("Sqrt", graph.add("Abs", features))
    return graph.add("Mul", graph.add("Sign", features), sizes)


def _add_split(graph: Graph, stacked: str, shape: str, name: str, axes: int) -> str:
    """Split the views, which follow one another: (views n, ...) -> (views, n, ...) -> (n, views,
    ...).
    """
    split = graph.add("Reshape", stacked, shape)
    return graph.add("Transpose", split, name=name, perm=[1, 0, *range(2, axes)])


def _add_backbone(graph: Graph, pixels: str, layers: GraphLayers, views: int = 1) -> str:
    """Add the further views, all layers and the taps; returns the features, (views n, features)."""
    _, means = _add_layers(graph, pixels, layers, layers.architecture.layers, views)
    return graph.add("Concat", *means, axis=1)


def _add_layers(
    graph: Graph,
    pixels: str,
    layers: GraphLayers,
    passed: Sequence[Layer],
    views: int,
    taps: Sequence[str] | None = None,
) -> tuple[dict[str, str], list[str]]:
    """Add the views and the first layers; returns the maps by name, and every channel's mean after
    each tap on the way.

    The further views follow behind the batch: (n, h, w, 3) -> (views n, ...).
    """
    taps = layers.architecture.taps if taps is None else taps
    maps, means = _begin(graph, pixels, layers, views), []
    outputs = [layer.output for layer in passed]
    for layer in passed[max(outputs.index(name) for name in maps) + 1 :]:
        maps[layer.output] = layers.add(layer, [maps[name] for name in layer.reads])
        if layer.output in taps:
            means.append(layers.mean(maps[layer.output]))
    return maps, means


def _begin(graph: Graph, pixels: str, layers: GraphLayers, views: int) -> dict[str, str]:
    """Add the further views and the first layer, or the first few."""
    if views == 2:
        return layers.begin(pixels, mirror=True)
    return layers.begin(add_views(graph, pixels, views))


def _add_codes(graph: Graph, x: str, scales: NDArray[Any]) -> str:
    """Add the step from float32 to uint8 with one scale for each channel; x is (n, channels, h,
    w).
    """
    # a scale for each channel in QuantizeLinear itself halves ONNX Runtime's speed in int8
    codes = graph.add("Mul", x, graph.constant("steps", 255 / scales[:, None, None], np.float32))
    one, zero = (
        graph.constant("steps.one", 1, np.float32),
        graph.constant("steps.zero", 0, np.uint8),
    )
    return graph.add("QuantizeLinear", codes, one, zero)


def _add_head(graph: Graph, x: str, head: DenseLayers, store: WeightEncoder) -> str:
    """Add dense layers with ReLUs between them: (n, views, features) -> (n, views, classes)."""
    for number, (weight, bias) in enumerate(head):
        x = graph.add("Relu", x) if number else x
        product = graph.add("MatMul", x, store(graph, f"head.{number}.weight", weight))
        x = graph.add("Add", product, store(graph, f"head.{number}.bias", bias))
    return x


def _add_familiarity(graph: Graph, rows: str, logits: str, familiarity: Familiarity) -> None:
    """Add the score `familiarity` (n,) of what the head reads, (n, views, features), and gives, (n,
    classes).
    """
    found, last = familiarity.discriminants, graph.constant("last.axis", [1])

    def keep(name: str, value: NDArray[Any]) -> str:
        return graph.constant(f"familiarity.{name}", value, np.float32)

    means = graph.add("ReduceMean", rows, graph.constant("views.axis", [1]), keepdims=0)
    centred = graph.add("Sub", means, keep("mean", found.mean))
    standardised = graph.add("Mul", centred, keep("scale", 1 / found.deviation))
    places = graph.add("MatMul", standardised, keep("directions", found.directions))
    products = graph.add("MatMul", places, keep("centres", 2 * found.centres.T))
    nearness = graph.add("Sub", products, keep("norms", (found.centres**2).sum(axis=1)))
    nearest = graph.add("ReduceMax", nearness, last)
    shrinking = keep("shrinking", (1 - 1 / found.variances)[:, None])
    among_all = graph.add("MatMul", graph.add("Mul", places, places), shrinking)
    relative, energy = (
        graph.add("Sub", nearest, among_all),
        graph.add("ReduceLogSumExp", logits, last),
    )
    distance = graph.add("Neg", graph.add("ReduceSumSquare", standardised, last))
    parts = graph.add("Concat", relative, energy, distance, axis=1)
    score = graph.add("MatMul", parts, keep("weights", familiarity.weights[:, None]))
    graph.add("Squeeze", score, last, name="familiarity")
