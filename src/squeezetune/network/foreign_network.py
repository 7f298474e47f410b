"""Any ONNX classifier or embedding network as frozen layers: what is read from it, and the graphs
that are made of it.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from squeezetune.errors import WeightsError
from squeezetune.heads.familiarity import Familiarity
from squeezetune.network.batch_freeing import free_batch, scan_images
from squeezetune.network.float_layers import (
    WeightEncoder,
    add_normalisation,
    add_reversal,
    store_exactly,
    store_floats,
)
from squeezetune.network.foreign_file import (
    UNKNOWN,
    ForeignFile,
    are_close,
    open_quietly,
    parse_foreign_file,
    read_foreign_file,
)
from squeezetune.network.graph import DenseLayers, build_features, build_model
from squeezetune.network.graph_analysis import GraphAnalysis, analyse_graph
from squeezetune.network.graph_cuts import Dataflow
from squeezetune.network.graph_input import add_views
from squeezetune.network.inference import RunOutputs
from squeezetune.network.onnx_builder import Graph
from squeezetune.network.preprocessing import (
    Preprocessing,
    PreprocessingOptions,
    find_preprocessing,
    find_value,
)
from squeezetune.network.taps import (
    Tap,
    add_tap,
    check_tensor,
    find_taps,
    take_taps,
)

# All names of the foreign graph begin so in ours.
PREFIX = "backbone."
# Constants of fewer values stand as they are, however parameters are stored.
FEW_VALUES = 256
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
    its last layer may be a classifier or the end of an embedding.
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
    is_doubtful: bool = False
    store: WeightEncoder = store_exactly

    @property
    def sha256(self) -> str:
        """The SHA-256 of the file, which names the network."""
        return self.file.sha256

    @property
    def side(self) -> int:
        """The side in pixels of the images that it reads."""
        return self.preprocessing.side

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
            "origin": self.file.origin,
            "license": self.license,
            "sha256": self.sha256,
        }

    def build_features(self, views: int = 1) -> bytes:
        """Build the frozen layers: input, output and views are those of `graph.build_backbone`."""
        return build_features(replace(self, store=store_floats), views)

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

    def add_features(self, graph: Graph, pixels: str, views: int) -> str:
        """Add the further views, normalisation, the foreign nodes and the means of the taps."""
        graph.least_opset = max(graph.least_opset, self.file.opset)
        images = self._add_images(graph, add_views(graph, pixels, views))
        nodes = self._add_constants(graph)
        if self.batches != "one by one":
            graph.nodes.append(helper.make_node("Identity", [images], [self._image]))
            graph.nodes.extend(nodes)
            return self._add_taps(graph)
        return self._add_scan(graph, images, nodes)

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
            _describe_normalisation(wanted),
            f"{self.feature_count:,} features are read from:",
            *_tabulate_taps(self.taps),
        ]
        if self.logits:
            lines.append(f"Its classifier is left out; its logits are {self.logits!r}.")
        lines.append(f"It can be cut behind {len(self.cuts)} tensors, the last ones "
                     f"{', '.join(map(repr, self.cuts[-3:]))}.")  # fmt: skip
        if self.is_doubtful:
            lines.append(
                "Its last layer may be a classifier or the end of an embedding: what it reads and "
                "what it gives are both taken. Name a cut to choose."
            )
        return "\n".join(lines)


def read_foreign(
    path: str | Path,
    options: PreprocessingOptions | None = None,
    *,
    cut: str = "",
    taps: Sequence[str] = (),
) -> ForeignNetwork:
    """Read any ONNX network for images as frozen layers.

    `cut` names the tensor that is to be the penultimate one, `taps` all tensors that features are
    read from, in place of what is found.

    Raises:
        SettingsError: what `options` say is nothing of the kind.
        WeightsError: the file cannot be used, or has no such tensor.
    """
    path = Path(path)
    try:
        return make_foreign(read_foreign_file(path), path.name, options, cut=cut, taps=taps)
    except WeightsError as error:
        message = error.message if str(path) in error.message else f"{path}: {error.message}"
        raise WeightsError(message, error.hint) from error


def parse_foreign(
    payload: bytes,
    name: str,
    options: PreprocessingOptions | None = None,
    *,
    cut: str = "",
    taps: Sequence[str] = (),
) -> ForeignNetwork:
    """Read any ONNX network for images from bytes, as `read_foreign` does from a file."""
    return make_foreign(parse_foreign_file(payload), name, options, cut=cut, taps=taps)


def make_foreign(
    file: ForeignFile,
    name: str,
    options: PreprocessingOptions | None = None,
    *,
    cut: str = "",
    taps: Sequence[str] = (),
) -> ForeignNetwork:
    """Make frozen layers of a file that was read: they are run on noise, to see what is in them,
    and that every image is seen by itself.
    """
    options, image = options or PreprocessingOptions(), file.image
    wanted = find_preprocessing(file.metadata, image.side, options, is_uint8=image.is_uint8)
    analysis = analyse_graph(file, wanted.side, cut or "".join(taps[-1:]))
    for tensor in (cut, *taps):
        if tensor:
            check_tensor(analysis, tensor)
    network = ForeignNetwork(
        name=find_value(file.metadata, "name") or name,
        file=file,
        model=file.model,
        preprocessing=wanted,
        taps=take_taps(analysis, taps) if taps else find_taps(analysis),
        cuts=tuple(analysis.cuts),
        logits=analysis.end.logits,
        batches="free",
        license=find_value(file.metadata, "license") or UNKNOWN,
        is_doubtful=bool(analysis.end.doubtful),
    )
    return _settle_batches(network, analysis)


# ---- several images at once


def _settle_batches(network: ForeignNetwork, analysis: GraphAnalysis) -> ForeignNetwork:
    """Find out how the network is run on several images so that each is seen by itself.

    Raises:
        WeightsError: there is no such way, or it gives no numbers, or others each time.
    """
    batch = network.file.image.batch
    part = max(batch, 1)
    pixels = _draw_pixels(2 * part, network.side)
    run = open_quietly(network.build_features())
    alone = np.concatenate([run(pixels[:part])[0], run(pixels[part:])[0]])
    _check_values(alone, run(pixels[:part])[0])
    together = _try(run, pixels)
    if together is not None and are_close(together, alone):
        return replace(network, batches="freed" if batch else "free")
    freed = free_batch(network.model, analysis.flow, analysis.sizes)
    ways = [replace(network, batches="freed", model=freed)]
    if batch == 1 or (not batch and together is None):
        ways.append(replace(network, batches="one by one"))
    for way in ways:
        with suppress(WeightsError):
            run = open_quietly(way.build_features())
            if all(are_close(run(pixels[:count])[0], alone[:count]) for count in (1, len(pixels))):
                return way
    raise WeightsError(
        "What the network gives for an image hangs on the images beside it.",
        "Export it in evaluation mode (model.eval()), and with a free number of images.",
    )


def _draw_pixels(count: int, side: int) -> NDArray[np.uint8]:
    """Draw images that are unlike each other."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 200, (count, 1, 1, 3))
    return (colours + rng.integers(0, 56, (count, side, side, 3))).astype(np.uint8)


def _try(run: RunOutputs, pixels: NDArray[np.uint8]) -> NDArray[Any] | None:
    """Run a graph on images that it may not take together."""
    with suppress(WeightsError):
        return run(pixels)[0]
    return None


def _check_values(values: NDArray[Any], again: NDArray[Any]) -> None:
    if not np.isfinite(values).all():
        raise WeightsError(
            "The network gives values that are no numbers for images of noise.",
            "Look at its mean and deviation, and whether its weights are sound.",
        )
    if not are_close(again, values[: len(again)]):
        raise WeightsError(
            "The network gives other values each time for the same image.",
            "Export it in evaluation mode (model.eval()), in which nothing is drawn or learnt.",
        )


# ---- in words


def _describe_normalisation(wanted: Preprocessing) -> str:
    if wanted.reasons["normalisation"] == "inside the network":
        return "Normalisation: inside the network, which takes pixels as they are."
    mean, std = (" ".join(f"{value:.4g}" for value in each) for each in (wanted.mean, wanted.std))
    return f"Normalisation: mean {mean}, deviation {std} ({wanted.reasons['normalisation']})."


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
