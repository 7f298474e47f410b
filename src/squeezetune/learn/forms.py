"""In which form a classifier is stored and computed."""

from dataclasses import dataclass

from squeezetune.learn.int8 import Int8, Int8Layers
from squeezetune.learn.layers import FloatLayers, Layers, Store, store_exactly
from squeezetune.learn.onnx_builder import Graph
from squeezetune.learn.weights import Weights


@dataclass(frozen=True)
class Form:
    """How a classifier is stored and computed: how parameters are kept, and with `int8` convolutions in int8.

    Those keep their kernels as int8; `store` then says it of the dense layers alone.
    """

    store: Store
    int8: Int8 | None = None

    def make_layers(self, graph: Graph, weights: Weights) -> Layers:
        """Make what adds the layers to a graph."""
        return FloatLayers(graph, weights, self.store) if self.int8 is None else Int8Layers(graph, weights, self.int8)


EXACT = Form(store_exactly)
