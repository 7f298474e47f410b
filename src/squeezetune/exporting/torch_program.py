"""Torch's formats: a program that `torch.export` made (.pt2), and parameters with a loader that
anybody can read.
"""

import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from squeezetune.exporting.export_inputs import ExportInputs
from squeezetune.network.architecture import Architecture
from squeezetune.network.layers import (
    SAME,
    AveragePool,
    Convolution,
    GlobalMean,
    Join,
    Layer,
    MaxPool,
    Product,
    Sum,
    count_groups,
)
from squeezetune.network.trained import TrainedNetwork
from squeezetune.network.weights import detect_architecture
from squeezetune.network.zoo import ARCHITECTURES
from squeezetune.system.disk import write_file

ABOUT = "metadata.json"  # the name of what a program says of itself, within it
# Any but 0 and 1, and all different: torch takes lengths that it has seen to be alike, or to be
# one, for always so.
EXAMPLE_SHAPE = (2, 67, 71, 3)
# What the loader calls the kinds of layers.
KINDS: Mapping[type[Layer], str] = {
    Convolution: "convolution",
    MaxPool: "max_pool",
    AveragePool: "average_pool",
    GlobalMean: "global_mean",
    Join: "join",
    Sum: "sum",
    Product: "product",
}


def write_torch(order: ExportInputs, path: Path) -> None:
    """Write a program, and beside it the parameters, what they mean, and a loader for plain
    torch.
    """
    import torch

    config, tensors = describe_network(order), list_tensors(order.network)
    network = import_loader(config).Classifier(config).eval()
    network.load_state_dict(
        {name: torch.from_numpy(value.astype(np.float32)) for name, value in tensors.items()}
    )
    shape = (*[torch.export.Dim.DYNAMIC] * 3, 3)
    with torch.no_grad():
        example = torch.zeros(EXAMPLE_SHAPE, dtype=torch.uint8)
        program = torch.export.export(network, (example,), dynamic_shapes=(shape,))
    buffer = BytesIO()
    torch.export.save(program, buffer, extra_files={ABOUT: json.dumps(dict(order.metadata))})
    write_loader(order, path.parent)
    write_file(path, buffer.getvalue())


def write_loader(order: ExportInputs, folder: Path) -> None:
    """Write the loader, and the parameters and what they mean, which it reads: `squeezenet.py` of a
    SqueezeNet, `network.py` of all others.
    """
    config = describe_network(order)
    source = Path(str(import_loader(config).__file__))
    write_file(folder / source.name, source.read_bytes())
    write_file(
        folder / "config.json",
        json.dumps(config, indent=1, ensure_ascii=False).encode(errors="backslashreplace"),
    )
    write_file(folder / "model.safetensors", save(list_tensors(order.network)))


def import_loader(config: Mapping[str, Any]) -> ModuleType:
    """Import the loader of the network that is described; it needs torch."""
    from squeezetune.exporting.copied import network, squeezenet

    return squeezenet if "squeezenet" in config else network


def check_torch(path: Path) -> None:
    """Load a program as torch does, which checks its graph."""
    import torch

    torch.export.load(path)


def read_metadata(path: Path) -> Mapping[str, str]:
    """Read what a program says of itself."""
    import torch

    extra = {ABOUT: ""}
    torch.export.load(path, extra_files=extra)
    found: Mapping[str, str] = json.loads(extra[ABOUT])
    return found


def describe_network(order: ExportInputs) -> dict[str, Any]:
    """Say in plain values all that the loader needs besides parameters, and what the export says of
    itself.
    """
    network, architecture = order.network, detect_architecture(order.network.weights)
    class_names = json.loads(order.metadata["class_names"])
    described = (
        {"squeezenet": architecture.version, "layers": list_layers(architecture)}
        if architecture.version in ARCHITECTURES
        else describe_architecture(architecture)
    )
    return described | {
        "class_names": class_names,
        "image_side": network.side,
        "resize": network.resize,
        "views": network.views,
        "head": [len(network.head[0][0]), *(len(bias) for _, bias in network.head)],
        "use_roots": network.use_roots,
        "is_convolved": network.is_convolved,
        "metadata": {
            name: value for name, value in order.metadata.items() if name != "class_names"
        },
    }


def list_layers(architecture: Architecture) -> list[Any]:
    """List the layers of a SqueezeNet in the order of the data: channels and kernel of the first,
    widths of Fire modules, and "pool".
    """
    layers: list[Any] = []
    for block in architecture.blocks:
        squeeze, *expand = [each for each in block.layers if isinstance(each, Convolution)]
        widths = [squeeze.channels, expand[0].channels if expand else squeeze.kernel]
        layers += [widths, *("pool" for each in block.layers if isinstance(each, MaxPool))]
    return layers


def describe_architecture(architecture: Architecture) -> dict[str, Any]:
    """Describe any network whose batch normalisations are folded: all its layers before the
    classifier, in the order of the data; what is tapped; and how pixels are normalised.
    """
    return {
        "network": architecture.name,
        "title": architecture.title,
        "mean": list(architecture.mean),
        "std": list(architecture.std),
        "taps": list(architecture.taps),
        "layers": [describe_layer(layer, architecture) for layer in architecture.layers],
    }


def describe_layer(layer: Layer, architecture: Architecture) -> dict[str, Any]:
    """Describe a layer: its kind, the maps that it reads and gives, by name, and how torch makes
    it.
    """
    described: dict[str, Any] = {
        "kind": KINDS[type(layer)],
        "reads": list(layer.reads),
        "output": layer.output,
        "activation": getattr(layer, "activation", ""),
    }
    if isinstance(layer, Convolution):
        inputs, outputs = (architecture.channels[name] for name in (*layer.reads, layer.output))
        return described | {
            "path": layer.path,
            "channels": [inputs, outputs],
            "kernel": list(layer.sides),
            "stride": layer.stride,
            "padding": SAME if layer.padding == SAME else list(layer.margins),
            "groups": count_groups(layer, inputs),
        }
    if isinstance(layer, MaxPool | AveragePool):
        described |= {name: getattr(layer, name) for name in ("kernel", "stride", "padding")}
    return described | ({"is_ceil": layer.is_ceil} if isinstance(layer, MaxPool) else {})


def list_tensors(network: TrainedNetwork) -> dict[str, NDArray[Any]]:
    """List the parameters by torch's names, those that float16 holds exactly in float16."""
    owns = detect_architecture(network.weights).owns
    tensors = {name: value for name, value in network.weights.items() if owns(name)}
    for number, (weight, bias) in enumerate(network.head):
        tensors |= {f"head.{number}.weight": weight.T, f"head.{number}.bias": bias}
    return {
        name: _shrink(np.ascontiguousarray(value, np.float32))
        for name, value in sorted(tensors.items())
    }


def _shrink(values: NDArray[np.float32]) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    return half if np.array_equal(half, values) else values
