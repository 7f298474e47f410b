"""The layouts of int8 for one runtime or another compute the same."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from described_network import EVERYTHING, draw_parameters

from squeezetune.network.architecture import Block
from squeezetune.network.backbone import measure_distance, measure_ranges
from squeezetune.network.float_layers import find_zero_pixel
from squeezetune.network.graph import build_backbone
from squeezetune.network.inference import Runtime, open_graph
from squeezetune.network.int8_layers import Int8
from squeezetune.network.layers import SAME
from squeezetune.network.weights import fold_norms
from squeezetune.network.zoo import LITES, NETWORKS, SQUEEZENET1_1

FLOAT, INT8 = Runtime("onnxruntime", "float32"), Runtime("onnxruntime", "int8")
SHARED = {"mean": (127 / 255,) * 3, "std": (0.5,) * 3}


def change_first(padding=1, kernel=3, **statistics):
    """Describe the network of every kind with another first convolution."""
    (first, *_), blocks = EVERYTHING.blocks[0].layers, EVERYTHING.blocks[1:]
    stem = Block("stem", (replace(first, padding=padding, kernel=kernel),))
    return replace(EVERYTHING, blocks=(stem, *blocks), **statistics)


CASES = {
    "padding on all sides": change_first(),
    "TensorFlow's padding": change_first(SAME),
    "a pixel that is nothing": change_first(**SHARED),
    "TensorFlow's padding and a pixel that is nothing": change_first(SAME, **SHARED),
    "a larger kernel": change_first(2, kernel=5),
    "a larger kernel and a pixel that is nothing": change_first(2, kernel=5, **SHARED),
}


@pytest.fixture(params=CASES)
def network(request, monkeypatch):
    monkeypatch.setitem(NETWORKS, "everything", CASES[request.param].without_norms())
    return CASES[request.param]


def draw_photos(side):
    return np.random.default_rng(1).integers(0, 256, (5, side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize("side", [32, 33, 34])
def test_the_layout_for_one_side_computes_what_that_for_all_does(network, side):
    weights, photos = fold_norms(draw_parameters(network), network), draw_photos(side)
    ranges = measure_ranges(weights, photos)

    def compute(int8=None, runtime=FLOAT):
        return open_graph(build_backbone(weights, int8, views=2), runtime, 1)(photos)

    fixed, free, exact = compute(Int8(ranges, side), INT8), compute(Int8(ranges), INT8), compute()
    assert measure_distance(fixed, free) < 0.002  # where codes are between two, either is right
    assert measure_distance(fixed, exact) < 0.05
    mirrored = open_graph(build_backbone(weights, Int8(ranges, side)), INT8, 1)(photos[:, :, ::-1])
    assert measure_distance(fixed[:, 1], mirrored[:, 0]) < 0.002


def test_pixels_are_read_as_they_are_where_one_of_them_is_nothing():
    assert find_zero_pixel(SQUEEZENET1_1) is None
    assert find_zero_pixel(replace(SQUEEZENET1_1, mean=(0.5,) * 3, std=(0.5,) * 3)) is None
    assert [find_zero_pixel(network) for network in LITES] == [127] * 3
    weights = fold_norms(draw_parameters(LITES[0]), LITES[0])
    ranges = dict.fromkeys(LITES[0].list_scales(), 6.0)
    nodes = onnx.load_from_string(build_backbone(weights, Int8(ranges, 64))).graph.node
    assert [node.op_type for node in nodes][:2] == ["Reshape", "Transpose"]


def test_biases_of_kernels_that_are_nothing_are_kept(monkeypatch):
    network = change_first().without_norms()
    monkeypatch.setitem(NETWORKS, "everything", network)
    weights = dict(fold_norms(draw_parameters(EVERYTHING), EVERYTHING))
    kernel = weights["branches.right.weight"].copy()
    kernel[0], kernel[1] = 0, kernel[1] * 1e-12
    bias = np.abs(weights["branches.right.bias"]) + 1
    weights |= {"branches.right.weight": kernel, "branches.right.bias": bias}
    photos = draw_photos(32)
    exact, int8 = (
        open_graph(build_backbone(weights, given), runtime, 1)(photos)
        for given, runtime in ((None, FLOAT), (Int8(measure_ranges(weights, photos), 32), INT8))
    )
    np.testing.assert_allclose(int8[..., -12:-10], exact[..., -12:-10], rtol=0.02)
