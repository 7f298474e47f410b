"""What descriptions say of networks, and that all forms made of one compute the same."""

import numpy as np
import pytest
from described_network import EVERYTHING, draw_parameters

from squeezetune.compression.equalisation import equalise
from squeezetune.compression.layerwise import compress_layers
from squeezetune.network.backbone import measure_distance, measure_maxima, measure_ranges
from squeezetune.network.graph import build_activations, build_backbone, build_classifier
from squeezetune.network.inference import Runtime, open_graph, open_outputs
from squeezetune.network.int8_layers import Int8
from squeezetune.network.trained import TrainedNetwork, pack_network, read_network
from squeezetune.network.weights import detect_architecture, fold_norms
from squeezetune.network.zoo import NETWORKS, SQUEEZENET1_1

FLOAT, INT8 = Runtime("onnxruntime", "float32"), Runtime("onnxruntime", "int8")
SIDE = 32


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setitem(NETWORKS, "everything", EVERYTHING.without_norms())


@pytest.fixture(scope="module")
def parameters():
    return draw_parameters(EVERYTHING)


@pytest.fixture(scope="module")
def weights(parameters):
    return fold_norms(parameters, EVERYTHING)


@pytest.fixture(scope="module")
def photos():
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 256, (8, SIDE // 4, SIDE // 4, 3), dtype=np.uint8)
    return coarse.repeat(4, axis=1).repeat(4, axis=2)


def compute(weights, photos, int8=None, runtime=FLOAT):
    return open_graph(build_backbone(weights, int8), runtime, 1)(photos)[:, 0]


# ---- what a description says


def test_squeezenet_is_what_the_paper_says():
    assert SQUEEZENET1_1.feature_count == 256 + 384 + 384 + 512 + 512
    assert SQUEEZENET1_1.tapped_blocks == ("fire5", "fire6", "fire7", "fire8", "fire9")
    assert SQUEEZENET1_1.measure_block("fire9", 224) == (13, 13, 512)
    assert SQUEEZENET1_1.name_input("fire4") == "fire3.pool"
    assert SQUEEZENET1_1.activations["fire2.expand3x3"] == "fire2.expand"
    assert SQUEEZENET1_1.signed == {"pixels"}


def test_maps_and_scales_are_told():
    assert EVERYTHING.channels["deep"] == EVERYTHING.channels["gated"] == 16
    assert EVERYTHING.channels["branches"] == 16
    assert EVERYTHING.feature_count == 16 + 12 + 16
    assert [EVERYTHING.measure_block(name, 33)[0] for name in EVERYTHING.block_names] == [
        17, 17, 9, 5, 5,
    ]  # fmt: skip
    # what pools pass on has the scale of what they read, what is joined that of the join
    assert EVERYTHING.activations["pooled"] == "lite"
    assert EVERYTHING.activations["averaged"] == "lite"
    # also where a join is joined
    parts = ("left", "right", "flat", "tall", "crossed", "branches")
    assert {EVERYTHING.activations[name] for name in parts} == {"branches"}
    assert {"narrow", "inverted", "b", "short", "lite", "wide"} <= EVERYTHING.signed
    assert not {"stem", "deep", "residual", "branches", "gate1", "gated"} & EVERYTHING.signed


def test_parameters_have_their_blocks(parameters, weights):
    assert EVERYTHING.find_owner("inverted.norm2.running_mean") == "inverted"
    assert EVERYTHING.find_owner("classifier.1.weight") == ""
    assert EVERYTHING.owns("stem.1.bias")
    assert not EVERYTHING.owns("classifier.1.bias")
    assert EVERYTHING.list_shapes(3)["classifier.1.weight"] == (3, 16)
    assert {name: value.shape for name, value in weights.items()} == (
        EVERYTHING.without_norms().list_shapes()
    )


def test_the_network_is_told_by_its_weights(weights):
    assert detect_architecture(weights).name == "everything"


# ---- its forms in ONNX


def test_the_graph_up_to_a_block_gives_what_the_blocks_behind_it_read(weights, photos):
    whole = compute(weights, photos)
    for block in EVERYTHING.block_names:
        maps, *taps = open_outputs(build_activations(weights, block), FLOAT, 1)(photos)
        assert maps.shape[2:] == EVERYTHING.measure_block(block, SIDE)
        width = EVERYTHING.count_features(block)
        assert (not taps) == (not width)
        for found in taps:
            np.testing.assert_allclose(found[:, 0], whole[:, :width], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("side", [0, SIDE])
def test_int8_is_near_float(weights, photos, side):
    int8 = Int8(measure_ranges(weights, photos), side)
    found = compute(weights, photos, int8, INT8)
    assert measure_distance(found, compute(weights, photos)) < 0.05


def test_compressed_layers_are_near_and_nearer_with_more_bits(weights, photos):
    network, exact = TrainedNetwork(weights, (), 1, SIDE, "squash"), compute(weights, photos)
    distances = {}
    for bits in (8, 4):
        compressed = compress_layers(network, photos, bits)
        assert compressed.codes.keys() == {
            f"{layer.path}.weight" for layer in EVERYTHING.convolutions
        }
        distances[bits] = measure_distance(compute(compressed.network.weights, photos), exact)
    assert 2 * distances[8] < distances[4] < 0.2


def test_layers_fitted_to_int8_are_near_float(weights, photos):
    ranges = measure_ranges(weights, photos)
    network = TrainedNetwork(weights, (), 1, SIDE, "squash")
    fitted = compress_layers(network, photos, 8, ranges)
    int8 = Int8(ranges, SIDE, fitted.codes)
    found = compute(fitted.network.weights, photos, int8, INT8)
    assert measure_distance(found, compute(weights, photos)) < 0.05


def test_equalised_layers_give_the_same(weights, photos):
    equalised = equalise(weights, measure_maxima(weights, photos))
    # what a sum or a depth-wise layer reads, or a ReLU6 is behind, is left as it is
    assert set(equalised.factors) == {"gate1", "a", "lite"}
    np.testing.assert_allclose(
        compute(equalised.weights, photos), compute(weights, photos), rtol=1e-3, atol=1e-3
    )


def test_a_trained_network_comes_back_from_its_file(weights):
    head = ((np.zeros((EVERYTHING.feature_count, 3), np.float32), np.zeros(3, np.float32)),)
    network = TrainedNetwork(weights, head, 2, SIDE, "crop")
    found = read_network(pack_network(network))
    assert found.weights.keys() == {name for name in weights if EVERYTHING.owns(name)}
    assert build_classifier(
        weights, head, views=2, side=SIDE, resize="crop", metadata={}, use_roots=False
    )


@pytest.mark.parametrize(
    ("name", "side"), [("squeezenet1_1", 17), ("vgg16", 32), ("inception_v3", 75), ("resnet18", 1)]
)
def test_the_smallest_side_leaves_a_position_in_every_map(name, side):
    network = NETWORKS[name]
    assert network.least_side == side
    assert min(network.measure_sides(side).values()) == 1
