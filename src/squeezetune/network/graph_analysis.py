"""A foreign graph looked at: what it gives for noise, of which shapes, and where it ends."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import onnx
from onnx import TensorProto, helper, shape_inference

from squeezetune.errors import WeightsError
from squeezetune.network.foreign_file import ForeignFile, open_quietly
from squeezetune.network.graph_cuts import Dataflow, NetworkEnd, find_end


@dataclass(frozen=True, eq=False)
class GraphAnalysis:
    """What was found in a graph: its flow, and how it ends.

    `shapes` has the inner tensors of floats with a row for each image, without those rows; `sizes`
    the whole shapes of all, for `count` images of `side` pixels.
    """

    flow: Dataflow
    end: NetworkEnd
    shapes: Mapping[str, tuple[int, ...]]
    sizes: Mapping[str, tuple[int, ...]]
    side: int

    @property
    def map_sides(self) -> set[int]:
        """The sides of all maps, of which patches are of one."""
        return {shape[1] for shape in self.shapes.values()
                if len(shape) == 3 and shape[1] == shape[2] > 1}  # fmt: skip

    def count_alive(self) -> int:
        """Count the values that an image needs at once at most, up to the penultimate tensor: those
        that were computed and are still to be read.
        """
        needed = self._list_needed()
        last_read = {name: at for at, node in enumerate(needed) for name in node.input}
        alive, most = {self.flow.image}, 0
        for at, node in enumerate(needed):
            alive.update(name for name in node.output if name in self.sizes)
            most = max(most, sum(prod(self.sizes[name]) for name in alive))
            alive = {name for name in alive if last_read.get(name, at) > at}
        return most // self._rows

    def count_values(self) -> int:
        """Count all values of an image up to the penultimate tensor, of which a training keeps most
        for the way back.
        """
        names = [name for node in self._list_needed() for name in node.output if name in self.sizes]
        return sum(prod(self.sizes[name]) for name in names) // self._rows

    @property
    def _rows(self) -> int:
        """How many images the sizes are of."""
        return max(1, self.sizes[self.flow.image][0])

    def _list_needed(self) -> list[onnx.NodeProto]:
        """List the nodes that the penultimate tensor needs, in their order."""
        return [self.flow.nodes[at] for at in self.flow.list_before([self.end.penultimate])]

    @property
    def cuts(self) -> list[str]:
        """Where the graph can be cut before its penultimate tensor, and that."""
        return self.flow.find_cuts(self.end.penultimate)


def analyse_graph(file: ForeignFile, side: int, cut: str = "") -> GraphAnalysis:
    """Run a graph on noise of this side, and find out how it ends; `cut` is its end, if somebody
    names one.

    Raises:
        WeightsError: it cannot be run so, or has several ends.
    """
    flow = Dataflow(file.model.graph, file.image.name)
    if not file.output and not cut:
        raise WeightsError(
            f"The network has {len(file.model.graph.output)} outputs "
            f"({', '.join(repr(item.name) for item in file.model.graph.output)}); needed is one.",
            "Name the tensor that features are to be read from (cut), or export one output alone.",
        )
    count, sizes = _measure_shapes(file, flow, side)
    kinds = _find_kinds(file.model)
    shapes = {name: size[1:] for name, size in sizes.items()
              if kinds.get(name) == TensorProto.FLOAT and size and size[0] == count}  # fmt: skip
    width = prod(shapes.get(file.output, ()))
    end = NetworkEnd(cut) if cut else find_end(flow, file.output, width)
    return GraphAnalysis(flow, end, shapes, sizes, side)


def _measure_shapes(
    file: ForeignFile, flow: Dataflow, side: int
) -> tuple[int, dict[str, tuple[int, ...]]]:
    """Measure the shapes of all tensors that depend on the images, for several images if it takes
    several.
    """
    names = [file.image.name, *flow.inner]
    probe = onnx.ModelProto()
    probe.CopyFrom(file.model)
    probe.graph.ClearField("output")
    for at, name in enumerate(names):
        probe.graph.node.append(helper.make_node("Shape", [name], [f"measured.{at}"]))
        shape = helper.make_tensor_value_info(f"measured.{at}", TensorProto.INT64, None)
        probe.graph.output.append(shape)
    run, reason = open_quietly(probe.SerializeToString()), ""
    for count in [file.image.batch] if file.image.batch else [2, 1]:
        try:
            found = run(file.image.make_noise(count, side))
        except WeightsError as error:
            reason = error.message
            continue
        sizes = [tuple(int(length) for length in size) for size in found]
        return count, dict(zip(names, sizes, strict=True))
    raise WeightsError(
        f"Images of {side} x {side} pixels were tried. {reason}",
        "Name the side that it was trained with (side).",
    )


def _find_kinds(model: onnx.ModelProto) -> dict[str, int]:
    """Find the type of every tensor's numbers, as far as ONNX knows."""
    inferred = shape_inference.infer_shapes(model).graph
    return {item.name: item.type.tensor_type.elem_type
            for item in (*inferred.input, *inferred.value_info, *inferred.output)}  # fmt: skip
