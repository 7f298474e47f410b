"""The blocks of a network that is a graph alone: which of its constants are parameters that can be
trained, and between which cuts they lie.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

import numpy as np
import onnx
from onnx import numpy_helper

from squeezetune.network.graph_cuts import Dataflow

# Where operators read what is trained: the numbers of their inputs. The running mean and variance
# of a batch normalisation stay as they are.
KERNELS: Mapping[str, tuple[int, ...]] = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (1, 2),
    "MatMul": (0, 1),
}
PARAMETERS: Mapping[str, tuple[int, ...]] = {
    **KERNELS,
    "BatchNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "RMSNormalization": (1,),
    "PRelu": (1,),
}
# Biases, scales, and tokens that join the patches; a single value is none of them, but part of a
# formula.
VECTORS = ("Add", "Mul", "Concat")
# What may be done to a parameter before it is used.
KEEPING = ("Identity", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice",
           "Expand")  # fmt: skip
# A summand with such values hides positions from an attention.
HIDING = -50.0
# Rates of learning fall from block to block: neighbours are joined to at most so many.
MOST_BLOCKS = 12
# With fewer blocks than this the first one is trained as well, where all are.
LEAST_TO_FREEZE = 4
# The last blocks are this share of all, unless somebody says how many.
LAST_SHARE = 1 / 3


@dataclass(frozen=True, eq=False)
class GraphLayout:
    """How a graph is divided: its blocks in the order of the data, each named after the tensor that
    it ends in, and which block `owners` says each parameter belongs to.

    All else means what it does in `architecture.NetworkLayout`.
    """

    block_names: tuple[str, ...]
    owners: Mapping[str, str]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    frozen_blocks: int
    last_blocks: int
    epochs_for_all: float = 1.0

    def keep_last(self, count: int) -> "GraphLayout":
        """Freeze all but so many of the last blocks, or but the usual ones where `count` is 0."""
        kept = min(count or self.last_blocks, len(self.block_names))
        return replace(self, frozen_blocks=len(self.block_names) - kept)


def divide_graph(
    graph: onnx.GraphProto,
    image: str,
    tapped: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
) -> GraphLayout:
    """Divide what the `tapped` tensors need of a graph into blocks, between tensors that alone are
    alive; `mean` and `std` normalise RGB pixels / 255 for it.
    """
    flow = Dataflow(graph, image)
    places = flow.list_before(tapped)
    uses = _find_uses(graph, flow, places)
    last = max(tapped, key=lambda name: flow.producers.get(name, -1))
    ends = _choose_ends(flow, places, last, uses)
    limits = [flow.producers[name] for name in ends]
    owners = {name: ends[min(bisect_left(limits, at), len(ends) - 1)] for name, at in uses.items()}
    count = len(ends)
    return GraphLayout(
        tuple(ends),
        owners,
        tuple(mean),
        tuple(std),
        frozen_blocks=int(count >= LEAST_TO_FREEZE),
        last_blocks=max(1, round(LAST_SHARE * count)),
    )


def _find_uses(graph: onnx.GraphProto, flow: Dataflow, places: Sequence[int]) -> dict[str, int]:
    """Find the constants that can be trained, each with the place of the first node that uses it
    on the way from the images.
    """
    readers: dict[str, list[tuple[int, int]]] = {}
    for at in places:
        for number, name in enumerate(flow.nodes[at].input):
            readers.setdefault(name, []).append((at, number))

    def list_uses(name: str, value: np.ndarray) -> Iterator[int]:
        for at, number in readers.get(name, []):
            node = flow.nodes[at]
            if flow.live.isdisjoint(node.output):
                if node.op_type in KEEPING and not number:
                    yield from list_uses(node.output[0], value)
            elif _is_parameter(node.op_type, number, value):
                yield at

    found = dict[str, int]()
    for tensor in graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and tensor.name in readers:
            uses = list(list_uses(tensor.name, numpy_helper.to_array(tensor)))
            found |= {tensor.name: min(uses)} if uses else {}
    return found


def _is_parameter(operator: str, number: int, value: np.ndarray) -> bool:
    """Say whether what an operator reads there is trained."""
    if operator in VECTORS:
        return value.size > 1 and float(value.min()) > HIDING
    return number in PARAMETERS.get(operator, ())


def _choose_ends(
    flow: Dataflow, places: Sequence[int], last: str, uses: Mapping[str, int]
) -> list[str]:
    """Choose the tensors that blocks end in, with about as many layers in each; `last` is the end
    of the last one.
    """
    used = set(uses.values())
    layers = [at for at in places if flow.nodes[at].op_type in KERNELS and at in used]
    each = max(1, ceil(len(layers) / MOST_BLOCKS))
    ends, counted = list[str](), 0
    for cut in flow.find_cuts(last)[:-1]:
        behind = sum(at > flow.producers[cut] for at in layers)
        before = len(layers) - behind
        # what follows the last layer belongs to its block
        if before - counted >= each and behind:
            ends, counted = [*ends, cut], before
    return [*ends, last]
