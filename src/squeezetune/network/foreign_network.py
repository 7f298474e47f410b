"""Any ONNX classifier or embedding network as frozen layers: what is read from it, and the graphs
that are made of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from squeezetune.heads.familiarity import Familiarity
from squeezetune.network.architecture import NetworkSize
from squeezetune.network.batch_freeing import scan_images
from squeezetune.network.float_layers import (
    WeightEncoder,
    add_normalisation,
    add_reversal,
    store_exactly,
    store_floats,
)
from squeezetune.network.foreign_file import ForeignFile
from squeezetune.network.graph import DenseLayers, build_features, build_model
from squeezetune.network.graph_cuts import Dataflow
from squeezetune.network.graph_input import add_views
from squeezetune.network.graph_layout import GraphLayout, divide_graph
from squeezetune.network.onnx_builder import Graph
from squeezetune.network.preprocessing import Preprocessing
from squeezetune.network.taps import Tap, add_tap
from squeezetune.network.weights import Weights

# All names of the foreign graph begin so in ours.
PREFIX = "backbone."
# What a parameter takes: in the file as it was read, which is held throughout; and besides in the
# graph that is made of it, and in two engines that are compared.
HELD_BYTES, PARAMETER_BYTES = 8, 12
# Constants of fewer values stand as they are, however parameters are stored.
FEW_VALUES = 256
DOUBTFUL = (
    "its last layer may be a classifier or the end of an embedding: what it reads and what it "
    "gives are both taken"
)
# How a network is run on several images at once, in words.
BATCHES = {
    "free": "takes any number of images",
    "freed": "was exported for a fixed number of images, and takes any now",
    "one by one": "was exported for one image, and runs on one after the other, which is slower",
}


@dataclass(frozen=True, eq=False)
class ForeignNetwork:
    """An ONNX network that others wrote, ready to be frozen layers: `FrozenLayers` whose parameters
    are kept as `store` says.

    `model` is its graph, with any number of images where that is possible; `logits` names the
    classifier's output, which may be tapped too, "" where there is none; where it `is_doubtful`,
    its last layer may be a classifier or the end of an embedding. `values` is what memory
    is forecast by: as many as the maps of a described network would have; `all_values` those of all
    tensors of an image, 0 of a network that was trained; `largest` is the largest
    feature of images of noise.
    """

    name: str
    file: ForeignFile
    model: onnx.ModelProto
    preprocessing: Preprocessing
    taps: tuple[Tap, ...]
    cuts: tuple[str, ...]
    logits: str
    batches: str
    license: str
    values: int
    is_doubtful: bool = False
    all_values: int = 0
    largest: float = 0.0
    store: WeightEncoder = store_exactly

    @property
    def network(self) -> str:
        """Its name, for people."""
        return self.name

    @property
    def sha256(self) -> str:
        """The SHA-256 of the file, which names the network."""
        return self.file.sha256

    @property
    def side(self) -> int:
        """The side in pixels of the images that it reads."""
        return self.preprocessing.side

    @property
    def fixed_side(self) -> int:
        """The only side that it takes: others were not tried."""
        return self.side

    @property
    def least_side(self) -> int:
        """The smallest side that it takes: a graph does not say."""
        return 0

    @property
    def size(self) -> NetworkSize:
        """How large it is."""
        parameters = self.file.parameter_count
        return NetworkSize(
            self.side,
            self.values,
            parameters,
            self.feature_count,
            PARAMETER_BYTES,
            HELD_BYTES * parameters,
            self.all_values,
        )

    @property
    def is_described(self) -> bool:
        """Whether its layers are described: they are a graph alone."""
        return False

    @property
    def weights(self) -> Weights:
        """The parameters by name: nothing, since the layers are not described."""
        return {}

    @property
    def key(self) -> str:
        """What its speed hangs on: the file, and the tensors that are read."""
        return f"{self.sha256} {' '.join(self.widths)}"

    @cached_property
    def layout(self) -> GraphLayout:
        """How it is divided into blocks, where its layers are trained."""
        wanted, tapped = self.preprocessing, [tap.tensor for tap in self.taps]
        mean, std = wanted.mean, wanted.std
        if wanted.order == "bgr":
            mean, std = mean[::-1], std[::-1]
        return divide_graph(self.model.graph, self.file.image.name, tapped, mean, std)

    def replace_parameters(self, values: Weights) -> "ForeignNetwork":
        """Give some of its parameters, by their names in the graph, other values."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        for tensor in model.graph.initializer:
            if tensor.name in values:
                value = np.ascontiguousarray(values[tensor.name], np.float32)
                tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
        return replace(self, model=model)

    def freeze(self) -> "ForeignNetwork":
        """Keep its parameters as float32, for a graph that is run here."""
        return replace(self, store=store_floats)

    @property
    def widths(self) -> Mapping[str, int]:
        """How many features each tap gives, by tensor and reduction."""
        return {f"{tap.tensor}: {tap.reduction}": tap.width for tap in self.taps}

    @property
    def feature_count(self) -> int:
        """How many features there are."""
        return sum(tap.width for tap in self.taps)

    @property
    def is_signed(self) -> bool:
        """Whether features may be below 0."""
        return any(tap.is_signed for tap in self.taps)

    @cached_property
    def provenance(self) -> dict[str, str]:
        """Which weights these are, for reports and manifests, as of any pretrained network."""
        return {
            "network": self.name,
            "origin": f"written by {self.file.origin}",
            "license": self.license,
            "sha256": self.sha256,
        }

    def build_features(self, views: int = 1) -> bytes:
        """Build the frozen layers: input, output and views are those of `graph.build_backbone`."""
        return build_features(self.freeze(), views)

    def build_model(
        self,
        head: DenseLayers,
        *,
        views: int,
        resize: str,
        metadata: Mapping[str, str],
        use_roots: bool = True,
        store: WeightEncoder = store_exactly,
        familiarity: Familiarity | None = None,
    ) -> bytes:
        """Build the whole classifier: input and outputs are those of `graph.build_classifier`."""
        return build_model(
            replace(self, store=store),
            head,
            store,
            views=views,
            side=self.side,
            resize=resize,
            metadata=metadata,
            use_roots=use_roots,
            familiarity=familiarity,
        )

    @property
    def is_sequential(self) -> bool:
        """Whether it runs on one image after the other."""
        return self.batches == "one by one"

    def add_features(self, graph: Graph, pixels: str, views: int) -> str:
        """Add the further views, normalisation, the foreign nodes and the means of the taps."""
        if not self.is_sequential:
            self.add_nodes(graph, pixels, views)
            return self._add_taps(graph)
        graph.least_opset = max(graph.least_opset, self.file.opset)
        images = self._add_images(graph, add_views(graph, pixels, views))
        return self._add_scan(graph, images, self._add_constants(graph))

    def add_nodes(self, graph: Graph, pixels: str, views: int) -> None:
        """Add the further views, normalisation and the foreign nodes that the taps need, whose
        tensors begin with `PREFIX` then.
        """
        graph.least_opset = max(graph.least_opset, self.file.opset)
        images = self._add_images(graph, add_views(graph, pixels, views))
        nodes = self._add_constants(graph)
        graph.nodes.append(helper.make_node("Identity", [images], [self._image]))
        graph.nodes.extend(nodes)

    def _add_scan(self, graph: Graph, images: str, nodes: Sequence[onnx.NodeProto]) -> str:
        """Add one node that runs the network on one image after the other."""
        inside = Graph(list(nodes))
        self._add_taps(inside, f"{PREFIX}features.one")
        graph.constants |= inside.constants
        names = {name: f"{PREFIX}one.{name}" for node in inside.nodes for name in node.output
                 if not name.startswith(PREFIX)}  # fmt: skip
        body = _rename(inside.nodes, {**names, self._image: f"{PREFIX}images.one"})
        axes = [self.side, self.side]
        axes = [*axes, 3] if self.file.image.channels_last else [3, *axes]
        graph.nodes.append(helper.make_node("Identity", [images], [f"{PREFIX}images"]))
        result = f"{PREFIX}features"
        graph.nodes.append(scan_images(body, f"{PREFIX}images", result, self.feature_count, axes))
        return result

    @property
    def _image(self) -> str:
        return f"{PREFIX}{self.file.image.name}"

    def _add_images(self, graph: Graph, pixels: str) -> str:
        """Add normalisation, in the network's own order of axes and channels."""
        image, wanted = self.file.image, self.preprocessing
        x = add_reversal(graph, pixels, axis=3) if wanted.order == "bgr" else pixels
        x = x if image.is_uint8 else graph.add("Cast", x, to=TensorProto.FLOAT)
        if image.is_uint8:
            return x if image.channels_last else graph.add("Transpose", x, perm=[0, 3, 1, 2])
        x = graph.add("Transpose", x, perm=[0, 3, 1, 2])
        x = add_normalisation(graph, x, wanted.mean, wanted.std)
        return graph.add("Transpose", x, perm=[0, 2, 3, 1]) if image.channels_last else x

    def _add_constants(self, graph: Graph) -> list[onnx.NodeProto]:
        """Add the constants that the taps need; return the nodes that they do."""
        flow = Dataflow(self.model.graph, self.file.image.name)
        places = flow.list_before([tap.tensor for tap in self.taps])
        nodes = [flow.nodes[at] for at in places]
        needed = {name for node in nodes for name in node.input}
        for tensor in self.model.graph.initializer:
            if tensor.name not in needed:
                continue
            value, name = numpy_helper.to_array(tensor), f"{PREFIX}{tensor.name}"
            is_parameter = value.dtype == np.float32 and value.size >= FEW_VALUES
            if is_parameter:
                self.store(graph, name, value)
            else:
                graph.constant(name, value)
        return _rename(nodes, {}, PREFIX)

    def _add_taps(self, graph: Graph, name: str = "") -> str:
        means = [add_tap(graph, f"{PREFIX}{tap.tensor}", tap) for tap in self.taps]
        return graph.add("Concat", *means, name=name, axis=1)

    def summarise(self) -> str:
        """Tell in one sentence what is taken of it, and how images are prepared for it."""
        wanted = self.preprocessing
        taps = [f"{tap.tensor!r} ({tap.reduction}, {tap.width:,})" for tap in self.taps]
        return (
            f"{self.name}: {self.feature_count:,} features of {', '.join(taps)}; images of "
            f"{wanted.side} px ({wanted.reasons['side']}), channels {wanted.order.upper()}, "
            f"{_name_normalisation(wanted)}; licence {self.license}"
            f"{'; ' + DOUBTFUL if self.is_doubtful else ''}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what was found as plain values for JSON."""
        wanted = self.preprocessing
        return {
            **self.provenance,
            "parameters": self.file.parameter_count,
            "side": wanted.side,
            "mean": wanted.mean,
            "std": wanted.std,
            "order": wanted.order,
            "reasons": dict(wanted.reasons),
            "features": self.feature_count,
            "taps": [asdict(tap) for tap in self.taps],
            "logits": self.logits,
            "cuts": self.cuts,
            "batches": self.batches,
            "is_doubtful": self.is_doubtful,
        }

    def describe(self) -> str:
        """Tell in words what was found: how images are read, which taps there are, and what was
        assumed; a table for people.
        """
        wanted, image = self.preprocessing, self.file.image
        shape = "side, side, 3" if image.channels_last else "3, side, side"
        numbers = "uint8" if image.is_uint8 else "floats"
        lines = [
            f"{self.name}: {self.file.parameter_count:,} parameters, written by "
            f"{self.file.origin}, licence {self.license}",
            f"It reads {image.name!r}, (n, {shape}) {numbers}, and {BATCHES[self.batches]}.",
            f"Side: {wanted.side} px ({wanted.reasons['side']}). Channels: {wanted.order.upper()} "
            f"({wanted.reasons['order']}).",
            f"Normalisation: {_name_normalisation(wanted)}.",
            f"{self.feature_count:,} features are read from:",
            *_tabulate_taps(self.taps),
        ]
        if self.logits:
            lines.append(f"Its classifier is left out; its logits are {self.logits!r}.")
        lines.append(f"It can be cut behind {len(self.cuts)} tensors, the last ones "
                     f"{', '.join(map(repr, self.cuts[-3:]))}.")  # fmt: skip
        if self.is_doubtful:
            lines.append(f"{DOUBTFUL[0].upper()}{DOUBTFUL[1:]}. Name a cut to choose.")
        return "\n".join(lines)


# ---- in words


def _name_normalisation(wanted: Preprocessing) -> str:
    if wanted.reasons["normalisation"] == "inside the network":
        return "inside the network, which takes pixels as they are"
    mean, std = (" ".join(f"{value:.4g}" for value in each) for each in (wanted.mean, wanted.std))
    return f"mean {mean}, deviation {std} ({wanted.reasons['normalisation']})"


def _tabulate_taps(taps: Sequence[Tap]) -> list[str]:
    rows = [("tensor", "shape", "pixels a position", "read as", "features", "why")]
    for tap in taps:
        shape, stride = " x ".join(map(str, tap.shape)), str(tap.stride or "-")
        rows.append((tap.tensor, shape, stride, tap.reduction, f"{tap.width:,}", tap.role))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            .rstrip() for row in rows]  # fmt: skip


def _rename(
    nodes: Sequence[onnx.NodeProto], names: Mapping[str, str], prefix: str = ""
) -> list[onnx.NodeProto]:
    """Copy nodes with other names of tensors: those that are named, and all others behind a
    prefix.
    """

    def rename(name: str) -> str:
        return names.get(name, f"{prefix}{name}") if name else ""

    renamed = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for field in ("input", "output"):
            found = [rename(name) for name in getattr(node, field)]
            copy.ClearField(field)
            getattr(copy, field).extend(found)
        copy.name = copy.output[0]
        renamed.append(copy)
    return renamed
