from dataclasses import replace

import numpy as np
import onnx
import pytest
from sessions import open_session

from squeezetune.compression.layerwise import (
    Kernel,
    Streams,
    add_up,
    compress_head,
    compress_kernel,
    compress_layers,
    pool,
)
from squeezetune.exporting.onnx_formats import HIDDEN_SIZE
from squeezetune.network.backbone import FLOAT_RUNTIME
from squeezetune.network.codes import QuantizedTensor
from squeezetune.network.float_layers import CodedStore
from squeezetune.network.graph import WeightFormat, build_backbone
from squeezetune.network.inference import open_graph
from squeezetune.network.layers import MaxPool
from squeezetune.network.trained import TrainedNetwork


@pytest.fixture(scope="module")
def photos(draw_shape):
    return np.stack(
        [
            np.asarray(draw_shape(shape, seed).resize((64, 64)))
            for shape in ("box", "disc")
            for seed in range(12)
        ]
    )


@pytest.fixture(scope="module")
def network(weights):
    rng = np.random.default_rng(0)
    head = ((0.05 * rng.standard_normal((2048, 3), np.float32), np.zeros(3, np.float32)),)
    return TrainedNetwork(weights, head, 2, 64, "squash")


@pytest.fixture(scope="module")
def layers(network, photos):
    return compress_layers(network, photos)


@pytest.fixture(scope="module")
def features(network, layers, photos):
    """Compute the features that the dense layers read: as they were, and as the compressed layers
    give them.
    """
    return [compute_features(each, photos) for each in (network.weights, layers.network.weights)]


def compute_features(weights, photos):
    return open_graph(build_backbone(weights, views=2), FLOAT_RUNTIME, 1)(photos)


def run(model, photos):
    session = open_session(model)
    return session.run(None, {"image": photos})[0]


# ---- the layers, in numpy


def make_kernel(rng, side=3, stride=1):
    return Kernel(
        rng.standard_normal((5, 4, side, side), np.float32),
        rng.standard_normal(5, np.float32),
        stride,
        side // 2 if stride == 1 else 0,
    )


@pytest.mark.parametrize(("side", "stride"), [(1, 1), (3, 1), (3, 2)])
@pytest.mark.parametrize("size", [9, 10])
def test_a_convolution_is_the_one_that_onnx_computes(side, stride, size):
    rng = np.random.default_rng(0)
    kernel, maps = (
        make_kernel(rng, side, stride),
        rng.standard_normal((6, size, size + 3, 4)).astype(np.float32),
    )
    node = onnx.helper.make_node(
        "Conv", ["x", "w", "b"], ["y"], strides=[stride] * 2, pads=[kernel.padding] * 4
    )
    expected = np.maximum(
        compute(node, x=maps.transpose(0, 3, 1, 2), w=kernel.weight, b=kernel.bias), 0
    )
    np.testing.assert_allclose(kernel.convolve(maps), expected.transpose(0, 2, 3, 1), atol=1e-4)


@pytest.mark.parametrize("size", [7, 8, 9])
def test_the_pool_is_the_one_that_onnx_computes(size):
    maps = np.random.default_rng(0).random((2, size, size + 1, 3), np.float32)
    node = onnx.helper.make_node(
        "MaxPool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1
    )
    expected = compute(node, x=maps.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(pool(MaxPool("pooled"), maps), expected)


def compute(node, **tensors):
    inputs = [
        onnx.helper.make_tensor_value_info(name, 1, value.shape) for name, value in tensors.items()
    ]
    graph = onnx.helper.make_graph(
        [node], "g", inputs, [onnx.helper.make_tensor_value_info("y", 1, None)]
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8
    )
    session = open_session(model.SerializeToString())
    return session.run(None, tensors)[0]


def test_sums_are_those_of_the_patches():
    rng = np.random.default_rng(0)
    kernel = make_kernel(rng)
    exact, changed = (rng.random((3, 6, 6, 4), np.float32) for _ in range(2))
    sums = add_up(kernel, Streams(exact, changed))
    old, new = (
        np.concatenate([part.reshape(-1, 36) for part in kernel.cut(maps)])
        for maps in (exact, changed)
    )
    np.testing.assert_allclose(sums.mean_changed, new.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(
        sums.cross, (old - old.mean(0)).T @ (new - new.mean(0)) / len(old), atol=1e-5
    )
    np.testing.assert_allclose(sums.gram, np.cov(new.T, bias=True), atol=1e-5)


def test_a_compressed_layer_makes_good_what_came_before_it():
    rng = np.random.default_rng(0)
    kernel, exact = make_kernel(rng, side=1), rng.random((20, 8, 8, 4), np.float32)
    changed = 0.8 * exact + 0.3
    found, codes = compress_kernel(kernel, Streams(exact, changed), 8)
    expected = kernel.convolve(exact)
    left = [np.abs(layer.convolve(changed) - expected).mean() for layer in (kernel, found)]
    assert left[1] < 0.1 * left[0]
    np.testing.assert_array_equal(codes.decode(), found.weight)


# ---- the whole network


def test_four_bits_keep_the_features(network, layers, photos, weights):
    exact, found = (
        compute_features(each, photos) for each in (network.weights, layers.network.weights)
    )
    assert np.linalg.norm(found - exact) < 0.2 * np.linalg.norm(exact)
    plain = {
        name: round_each(value) if value.ndim > 1 else value for name, value in weights.items()
    }
    rounded = compute_features(plain, photos)
    assert np.linalg.norm(found - exact) < 0.5 * np.linalg.norm(rounded - exact)


def round_each(kernel):
    scale = np.abs(kernel).max(axis=(1, 2, 3), keepdims=True) / 7
    return np.round(kernel / scale) * scale


def test_the_file_computes_what_the_codes_stand_for(layers, photos):
    coded = layers.network.build_model({}, WeightFormat(CodedStore(layers.codes)))
    plain = layers.network.build_model({})
    np.testing.assert_allclose(
        run(coded, photos), run(plain, photos), atol=2e-3
    )  # the head is float16 in one
    assert len(coded) < 0.45e6
    model = onnx.load_from_string(coded)
    assert {node.domain for node in model.graph.node} == {""}  # standard operators alone
    assert model.opset_import[0].version == 21


@pytest.mark.slow
@pytest.mark.parametrize(
    ("use_roots", "hidden", "most"),
    [
        (True, 0, 1),
        pytest.param(False, 16, np.inf, marks=pytest.mark.slow),
        (False, 16, 15 * 2064),
    ],
)
def test_a_compressed_head_answers_as_the_trained_one(
    network, layers, photos, features, use_roots, hidden, most
):
    rng, scale = np.random.default_rng(1), 0.05 if use_roots else 0.002
    sizes = [(2048, hidden), (hidden, 3)] if hidden else [(2048, 3)]
    head = tuple(
        (scale * rng.standard_normal(size, np.float32), np.full(size[1], scale, np.float32))
        for size in sizes
    )
    network = replace(network, head=head, use_roots=use_roots)
    changed = replace(layers, network=replace(layers.network, head=head, use_roots=use_roots))
    found = compress_head(changed, *features, hidden_size=most)
    expected, before, after = (
        run(each.build_model({}), photos) for each in (network, changed.network, found.network)
    )
    # a product of rank 15 in four bits can make good less than sixteen columns in eight
    share = 0.9 if found.products else 0.5
    assert np.abs(after - expected).mean() < share * np.abs(before - expected).mean()
    names = [f"head.{at}.weight" for at in range(len(head))]
    assert list(found.products) == ([names[0]] if np.isfinite(most) and hidden else [])
    for name, (weight, _) in zip(names, found.network.head, strict=True):
        np.testing.assert_allclose((found.products | found.codes)[name].decode(), weight)
    coded = found.network.build_model({}, WeightFormat(found.store))
    np.testing.assert_allclose(run(coded, photos), after, atol=1e-4)


@pytest.mark.slow
def test_a_wide_hidden_layer_fits_into_half_a_megabyte(layers, photos, features):
    rng = np.random.default_rng(1)
    head = tuple(
        (0.02 * rng.standard_normal(size, np.float32), np.zeros(size[1], np.float32))
        for size in ((2048, 512), (512, 20))
    )
    changed = replace(layers, network=replace(layers.network, head=head))
    found = compress_head(changed, *features, hidden_size=HIDDEN_SIZE)
    model = found.network.build_model({}, WeightFormat(found.store))
    assert len(model) < 0.5e6
    np.testing.assert_allclose(
        run(model, photos), run(found.network.build_model({}), photos), atol=1e-4
    )


def test_a_convolved_classifier_is_compressed_with_the_layers(network, photos):
    rng = np.random.default_rng(1)
    head = (
        (0.2 * rng.standard_normal((512, 3), np.float32), 0.1 * rng.standard_normal(3, np.float32)),
    )
    network = replace(network, head=head, is_convolved=True, views=1)
    found = compress_layers(network, photos[:12])
    expected, after = (run(each.build_model({}), photos) for each in (network, found.network))
    assert np.abs(after - expected).mean() < 0.1
    coded = found.network.build_model({}, WeightFormat(found.store))
    np.testing.assert_allclose(run(coded, photos), after, atol=1e-4)
    assert isinstance(found.codes["classifier.weight"], QuantizedTensor)


def test_it_is_repeatable(network, layers, photos):
    again = compress_layers(network, photos)
    form = [WeightFormat(CodedStore(each.codes)) for each in (layers, again)]
    assert layers.network.build_model({}, form[0]) == again.network.build_model({}, form[1])
