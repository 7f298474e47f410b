"""A foreign network kept beside a head, so that a model needs its file no more: its graph as bytes,
its parameters by name.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from squeezetune.errors import WeightsError
from squeezetune.network.foreign_file import ForeignFile
from squeezetune.network.foreign_network import FEW_VALUES, PREFIX, ForeignNetwork
from squeezetune.network.graph_cuts import Dataflow
from squeezetune.network.image_input import ImageInput
from squeezetune.network.preprocessing import Preprocessing
from squeezetune.network.taps import Tap

# The tensor that holds the graph, without its parameters.
GRAPH = "graph"
# The key under which the rest is told.
ABOUT = "foreign"


def pack_foreign(network: ForeignNetwork) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Pack what the taps need of a network: tensors by name, and all else as plain values for
    JSON.

    Parameters that float16 holds exactly are float16, others float32.
    """
    model = _cut_model(network)
    names = [tensor.name for tensor in model.graph.initializer]
    tensors, constants = {}, []
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.dtype == np.float32 and value.size >= FEW_VALUES:
            tensors[f"{PREFIX}{tensor.name}"] = _shrink(value)
        else:
            constants.append(tensor)
    model.graph.ClearField("initializer")
    model.graph.initializer.extend(constants)
    graph = np.frombuffer(model.SerializeToString(deterministic=True), np.uint8)
    about = {
        "name": network.name,
        "image": asdict(network.file.image),
        "preprocessing": asdict(network.preprocessing),
        "taps": [asdict(tap) for tap in network.taps],
        "batches": network.batches,
        "license": network.license,
        "values": network.values,
        "origin": network.file.origin,
        "sha256": network.sha256,
        "constants": names,
    }
    return {GRAPH: graph, **tensors}, {ABOUT: about}


def unpack_foreign(tensors: Mapping[str, NDArray[Any]], about: Mapping[str, Any]) -> ForeignNetwork:
    """Make a network of what `pack_foreign` gave.

    Raises:
        WeightsError: the graph is damaged.
        KeyError, TypeError, ValueError: something is missing or of another kind.
    """
    found, model = about[ABOUT], onnx.ModelProto()
    try:
        model.ParseFromString(tensors[GRAPH].tobytes())
    except DecodeError as error:
        raise WeightsError("The graph of the frozen layers is damaged.") from error
    constants = {item.name: item for item in model.graph.initializer}
    for name in found["constants"]:
        if name not in constants:
            parameter = np.asarray(tensors[f"{PREFIX}{name}"], np.float32)
            constants[name] = numpy_helper.from_array(parameter, name)
    ordered = [constants[name] for name in found["constants"]]
    model.graph.ClearField("initializer")
    model.graph.initializer.extend(ordered)
    file = ForeignFile(
        model, ImageInput(**found["image"]), "", {}, found["origin"], found["sha256"]
    )
    wanted = found["preprocessing"]
    taps = tuple(Tap(**{**tap, "shape": tuple(tap["shape"])}) for tap in found["taps"])
    return ForeignNetwork(
        name=found["name"],
        file=file,
        model=model,
        preprocessing=Preprocessing(
            wanted["side"],
            tuple(wanted["mean"]),
            tuple(wanted["std"]),
            wanted["order"],
            wanted["reasons"],
        ),
        taps=taps,
        cuts=(),
        logits="",
        batches=found["batches"],
        license=found["license"],
        values=found["values"],
    )


def _cut_model(network: ForeignNetwork) -> onnx.ModelProto:
    """Keep the nodes and constants that the taps need."""
    flow = Dataflow(network.model.graph, network.file.image.name)
    names = list(dict.fromkeys(tap.tensor for tap in network.taps))
    nodes = [flow.nodes[at] for at in flow.list_before(names)]
    needed = {name for node in nodes for name in node.input}
    cut = onnx.ModelProto(ir_version=network.model.ir_version)
    cut.opset_import.extend(network.model.opset_import)
    cut.graph.name = "backbone"
    cut.graph.node.extend(nodes)
    cut.graph.input.extend(network.model.graph.input)
    cut.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names
    )
    cut.graph.initializer.extend(
        item for item in network.model.graph.initializer if item.name in needed
    )
    return cut


def _shrink(values: NDArray[np.float32]) -> NDArray[Any]:
    """Store values as float16 where it holds them exactly."""
    with np.errstate(over="ignore"):
        halves = values.astype(np.float16)
    return halves if np.array_equal(halves, values) else values
