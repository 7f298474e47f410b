import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import onnx
import pytest
from example_weights import draw_weights
from safetensors.numpy import load, save

from squeezetune.errors import ArtifactError
from squeezetune.network.float_layers import store_floats, store_halves
from squeezetune.network.graph import FEATURE_COUNT, WeightFormat
from squeezetune.network.trained import TrainedNetwork, pack_network, read_network


def draw_network(version="1.1", use_roots=True, hidden=0):
    rng = np.random.default_rng(0)
    sizes = [FEATURE_COUNT, *([hidden] if hidden else []), 3]
    head = tuple((rng.standard_normal((n, m), np.float32), rng.standard_normal(m, np.float32))
                 for n, m in pairwise(sizes))  # fmt: skip
    weights = {
        name: value.astype(np.float16).astype(np.float32)
        for name, value in draw_weights(version).items()
    }
    return TrainedNetwork(weights, head, 2, 64, "crop", use_roots)


@pytest.mark.parametrize(
    ("version", "use_roots", "hidden"), [("1.1", True, 0), ("1.1", False, 0), ("1.0", True, 5)]
)
def test_a_packed_network_makes_the_same_model(version, use_roots, hidden):
    network = draw_network(version, use_roots, hidden)
    again = read_network(pack_network(network))
    assert (again.views, again.side, again.resize, again.use_roots) == (2, 64, "crop", use_roots)
    assert (again.class_count, len(again.head), again.is_convolved) == (3, len(network.head), False)
    assert again.build_model({"a": "b"}) == network.build_model({"a": "b"})


def test_arrays_are_packed_by_their_values_and_not_as_they_lie_in_memory():
    network = draw_network()
    turned = {name: value.copy(order="F") for name, value in network.weights.items()}
    assert pack_network(replace(network, weights=turned)) == pack_network(network)


def test_a_models_network_is_the_one_in_its_file(model_folder):
    network = read_network((model_folder / "network.safetensors").read_bytes())
    kept, built = (
        onnx.load_from_string(model)
        for model in ((model_folder / "model.onnx").read_bytes(), network.build_model({}))
    )
    others = [node for node in kept.graph.node if node in built.graph.node]
    assert others == list(built.graph.node)  # the file says how familiar an image looks besides
    values = {item.name: item for item in kept.graph.initializer}
    assert all(values[item.name] == item for item in built.graph.initializer)


@pytest.mark.parametrize("harm", ["cut", "no about", "no layers", "no safetensors", "empty"])
def test_damaged_parameters_are_refused(harm):
    payload = pack_network(draw_network())
    tensors = load(payload)
    payload = {
        "cut": payload[:-100],
        "no about": save(tensors),
        "no layers": save(
            {"head.0.weight": tensors["head.0.weight"], "head.0.bias": tensors["head.0.bias"]},
            metadata={"squeezetune": json.dumps({"views": 1})},
        ),
        "no safetensors": b"photo" * 100,
        "empty": b"",
    }[harm]
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_network(payload)


@pytest.mark.parametrize("is_convolved", [False, True])
def test_every_kind_of_network_is_written_in_the_form_that_is_asked_for(is_convolved):
    network = draw_network()
    network = (
        replace(
            network,
            head=((np.ones((512, 3), np.float32), np.zeros(3, np.float32)),),
            views=1,
            is_convolved=True,
        )
        if is_convolved
        else network
    )
    floats, halves = (
        len(network.build_model({}, WeightFormat(store))) for store in (store_floats, store_halves)
    )
    assert halves < 0.55 * floats
