"""The maps behind a foreign network's features: where in an image they are what they are."""

from onnx import helper

from squeezetune.network.foreign_network import PREFIX, ForeignNetwork
from squeezetune.network.graph_input import add_fit
from squeezetune.network.inference import IMAGE
from squeezetune.network.onnx_builder import Graph, Output, Shape
from squeezetune.network.taps import Tap, add_tap_map


def build_foreign_maps(network: ForeignNetwork, *, views: int, resize: str) -> bytes:
    """Build the layers up to the taps: an image in, what each tap reads out, before its mean.

    Input `image` (n, height, width, 3) uint8 RGB of any size; an output for each tap, (views n,
    channels, height, width) float32, or (views n, channels) where it has no positions. A network
    that runs on one image after the other is asked for one view.
    """
    graph = Graph(least_opset=network.file.opset)
    pixels = add_fit(graph, IMAGE, network.side, resize)
    network.add_nodes(graph, pixels, 1 if network.is_sequential else views)
    outputs = []
    for number, tap in enumerate(network.taps):
        name = f"tap.{number}"
        found = add_tap_map(graph, f"{PREFIX}{tap.source or tap.tensor}", tap)
        graph.nodes.append(helper.make_node("Identity", [found], [name]))
        outputs.append(Output(name, _name_shape(tap, name)))
    return graph.serialise(IMAGE, outputs)


def _name_shape(tap: Tap, name: str) -> Shape:
    sides = [f"{name}.height", f"{name}.width"] if tap.has_map else []
    return ["views", tap.width, *sides]
