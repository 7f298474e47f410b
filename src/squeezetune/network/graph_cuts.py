"""Where any ONNX graph can be cut, and where its classifier begins: found by what it computes,
without a name known beforehand.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import onnx
from onnx import numpy_helper

# Operators that give a tensor's own values, in the same or another shape.
PASSING = ("Identity", "Dropout", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Cast")
POOLS = ("GlobalAveragePool", "ReduceMean", "AveragePool")
# What turns logits into probabilities.
LINKS = ("Softmax", "LogSoftmax", "Sigmoid")
LAYERS = ("Gemm", "MatMul", "Conv")
# What adds a bias to logits, or scales them, by constants.
AFFINE = ("Add", "Sub", "Mul", "Div")
# Operators that give nothing below 0, and those that give nothing below 0 of what is not below it.
RECTIFIERS = ("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs", "Sqrt", "Exp", "Softplus")
JOINS = ("Concat", "Add", "Sum", "Mul")
KEEPS_SIGN = (*PASSING, *POOLS, *JOINS, "MaxPool", "GlobalMaxPool", "LRN", "Transpose", "Slice",
              "Gather", "Pad", "Split")  # fmt: skip
# What depends on the size of images alone, and not on them.
SIZES = ("Shape", "Size")

# Widths of a last layer that are those of ImageNet's classes, though embeddings have such as well.
CLASS_COUNTS = (1000, 1008)
# Embeddings are at least so wide, and a multiple of this, which other numbers of classes hardly
# ever are.
EMBEDDING_WIDTH, EMBEDDING_STEP = 128, 16


@dataclass(frozen=True)
class NetworkEnd:
    """How a network ends: the penultimate tensor, and the logits ("" where the end is an
    embedding).

    `doubtful` is what the last layer reads where it may be a classifier or the end of an embedding.
    """

    penultimate: str
    logits: str = ""
    doubtful: str = ""


class Dataflow:
    """Which node of a graph gives and which ones read each tensor, and what depends on the
    images.
    """

    def __init__(self, graph: onnx.GraphProto, image: str) -> None:
        self.nodes: Sequence[onnx.NodeProto] = list(graph.node)
        self.image = image
        self.producers: Mapping[str, int] = {
            name: at for at, node in enumerate(self.nodes) for name in node.output if name
        }
        self.live = self._find_live()
        self._constants = {item.name: item for item in graph.initializer}

    def _find_live(self) -> frozenset[str]:
        """Find the tensors whose values, and not their sizes alone, depend on the images."""
        live = {self.image}
        for node in self.nodes:
            if node.op_type not in SIZES and live.intersection(node.input):
                live.update(name for name in node.output if name)
        return frozenset(live)

    @cached_property
    def inner(self) -> tuple[str, ...]:
        """All tensors that depend on the images, in the order of the data."""
        return tuple(name for node in self.nodes for name in node.output if name in self.live)

    def find_node(self, tensor: str) -> onnx.NodeProto | None:
        """Find the node that gives a tensor."""
        return self.nodes[self.producers[tensor]] if tensor in self.producers else None

    def read_live(self, node: onnx.NodeProto) -> list[str]:
        """List what a node reads that depends on the images."""
        return [name for name in node.input if name in self.live]

    def list_before(self, tensors: Sequence[str]) -> list[int]:
        """List the places of all nodes that these tensors need, in the order of the data."""
        found, waiting = set[int](), list(tensors)
        while waiting:
            at = self.producers.get(waiting.pop())
            if at is not None and at not in found:
                found.add(at)
                waiting += self.nodes[at].input
        return sorted(found)

    def find_cuts(self, last: str) -> list[str]:
        """Find the tensors that all of what `last` needs of the images passes, in the order of the
        data, and `last` itself.

        Behind such a tensor nothing else is alive: all that follows can be computed from it.
        """
        needed = [self.nodes[at] for at in self.list_before([last])]
        readers = dict[str, int]()
        for node in needed:
            for name in set(self.read_live(node)):
                readers[name] = readers.get(name, 0) + 1
        alive, cuts = {self.image}, list[str]()
        for node in needed:
            for name in set(self.read_live(node)):
                readers[name] -= 1
                if not readers[name]:
                    alive.discard(name)
            alive.update(name for name in node.output if readers.get(name) or name == last)
            if len(alive) == 1 and not alive.isdisjoint(node.output):
                cuts += alive
        return cuts

    def walk_back(self, tensor: str, operators: Sequence[str]) -> Iterator[str]:
        """Walk from a tensor towards the images, as long as it is one of these operators that gives
        it.
        """
        node = self.find_node(tensor)
        while True:
            yield tensor
            read = self.read_live(node) if node else []
            if node is None or node.op_type not in operators or len(read) != 1:
                return
            tensor = read[0]
            node = self.find_node(tensor)

    @cached_property
    def unsigned(self) -> frozenset[str]:
        """The tensors whose values are never below 0, as far as operators tell."""
        found = set[str]()
        for node in self.nodes:
            parts = node.input if node.op_type in JOINS else self.read_live(node)
            keeps = node.op_type in KEEPS_SIGN and parts and found.issuperset(parts)
            if node.op_type in RECTIFIERS or keeps or self._has_floor(node):
                found.update(node.output)
        return frozenset(found)

    def _has_floor(self, node: onnx.NodeProto) -> bool:
        """Say whether a node is a Clip that lets nothing below 0 through."""
        is_clip = node.op_type == "Clip" and len(node.input) > 1
        floor = self._constants.get(node.input[1]) if is_clip else None
        return floor is not None and bool(numpy_helper.to_array(floor).min() >= 0)


def find_end(flow: Dataflow, output: str, count: int) -> NetworkEnd:
    """Find the penultimate tensor of a network whose output has `count` values for each image.

    It is what the last layer reads, where that is a classifier: where nothing but a bias, a mean
    over positions (SqueezeNet) or a softmax is behind it. Without a softmax a last layer may be an
    embedding's as well (CLIP), which its width tells: then the output is the penultimate tensor.
    """
    logits, links, pools = output, False, False
    tensor = output
    while node := flow.find_node(tensor):
        read = flow.read_live(node)
        if node.op_type in LAYERS and len(read) == 1:
            is_wide = count >= EMBEDDING_WIDTH and not count % EMBEDDING_STEP
            if not links and is_wide and count not in CLASS_COUNTS:
                return NetworkEnd(output, doubtful=read[0])
            return NetworkEnd(read[0], logits)
        if shared := _find_shared_input(flow, output, read):
            return NetworkEnd(shared, logits)
        links |= node.op_type in LINKS
        pools |= node.op_type in POOLS
        # a ReLU only of what is averaged then, as in SqueezeNet
        usual = (*PASSING, *LINKS, *POOLS, *AFFINE, *(["Relu"] if pools else []))
        if node.op_type not in usual or len(read) != 1:
            break
        tensor = read[0]
        logits = tensor if node.op_type in LINKS else logits
    return NetworkEnd(output)


def _find_shared_input(flow: Dataflow, output: str, answers: Sequence[str]) -> str:
    """Find the last cut before dense layers whose answers are taken together, as DeiT's two; "" if
    that is not what these tensors are.
    """
    ends = [list(flow.walk_back(name, AFFINE))[-1] for name in answers]
    givers = [flow.find_node(name) for name in ends]
    if len(ends) < 2 or any(
        node is None or node.op_type not in ("Gemm", "MatMul") or len(flow.read_live(node)) != 1
        for node in givers
    ):
        return ""
    before = [flow.list_before([name])[:-1] for name in ends]
    shared = set.intersection(
        *({name for at in places for name in flow.nodes[at].output} for places in before)
    )
    return next((cut for cut in reversed(flow.find_cuts(output)) if cut in shared), "")


def name_source(flow: Dataflow, tensor: str) -> str:
    """Name the tensor that this one has its values, or the means of its values, from: two with one
    source are one to a head.
    """
    return list(flow.walk_back(tensor, (*PASSING, *POOLS)))[-1]
