from dataclasses import replace

import numpy as np
import pytest
from sessions import open_session

from squeezetune.compression.layerwise import Compressed, compress_layers
from squeezetune.network.codes import LowRankTensor, QuantizedTensor
from squeezetune.network.trained import TrainedNetwork

torch = pytest.importorskip("torch", reason="torch is an extra")
from tiny_training import SIDE, make_pixels  # noqa: E402

from squeezetune.compression.distillation import CodedNetwork, Grid  # noqa: E402
from squeezetune.finetune.backprop import run_forward  # noqa: E402
from squeezetune.finetune.batches import show_images  # noqa: E402


@pytest.fixture(scope="module")
def photos():
    return make_pixels(12)[0]


@pytest.fixture(scope="module")
def layers(weights, photos):
    """Compress the layers; 4 bits, but 8 for conv1."""
    head = ((np.zeros((2048, 3), np.float32), np.zeros(3, np.float32)),)
    return compress_layers(TrainedNetwork(weights, head, 1, SIDE, "squash"), photos)


@pytest.fixture(params=["linear on roots", "hidden on means", "hidden, a product"])
def compressed(layers, request):
    """Put codes of a head behind the layers."""
    rng, codes, head, products = np.random.default_rng(0), dict(layers.codes), [], {}
    sizes = [(2048, 3)] if request.param == "linear on roots" else [(2048, 8), (8, 3)]
    for number, (inputs, outputs) in enumerate(sizes):
        wholes = rng.integers(-127, 128, (inputs, outputs), dtype=np.int8)
        found = QuantizedTensor(
            wholes, np.full((1, outputs), 0.02 / np.sqrt(inputs), np.float16), 8
        )
        codes[f"head.{number}.weight"] = found
        head.append(
            (found.decode(), rng.standard_normal(outputs).astype(np.float16).astype(np.float32))
        )
    if request.param == "hidden, a product":
        first, square = codes.pop("head.0.weight"), np.full((1, 8), 0.01, np.float16)
        products["head.0.weight"] = LowRankTensor(
            first, QuantizedTensor(rng.integers(-127, 128, (8, 8), dtype=np.int8), square, 8)
        )
        head[0] = (products["head.0.weight"].decode(), head[0][1])
    network = replace(layers.network, head=tuple(head), use_roots=len(head) == 1)
    return Compressed(network, codes, products)


def run_file(compressed, photos):
    session = open_session(compressed.network.build_model({}))
    return session.run(None, {"image": photos})[0]


def run_torch(network, photos):
    features, _ = run_forward(
        network, show_images(torch.from_numpy(photos), SIDE), None, is_training=False
    )
    return network.classify(features).softmax(1).detach().numpy()


def list_trained(network):
    return {
        name: value.detach() for name, value in network.named_parameters() if value.requires_grad
    }


def test_it_computes_what_the_file_does(compressed, photos):
    np.testing.assert_allclose(
        run_torch(CodedNetwork(compressed), photos), run_file(compressed, photos), atol=1e-3
    )


def test_counted_in_steps_the_parameters_are_the_same(compressed):
    network = CodedNetwork(compressed)
    before = {name: value.clone() for name, value in list_trained(network).items()}
    network.count_in_steps()
    trained = list_trained(network)
    assert "features.0.weight" not in trained
    for name, value in before.items():
        torch.testing.assert_close(network.round(name, trained[name]), value, rtol=2e-3, atol=1e-6)
    kernel = trained["features.3.expand3x3.weight"]
    torch.testing.assert_close(kernel, kernel.round(), rtol=0, atol=1e-4)
    assert kernel.abs().max() <= 7


def test_what_was_not_trained_stays(compressed):
    network = CodedNetwork(compressed)
    network.count_in_steps()
    found = network.to_compressed(
        {name: value.numpy() for name, value in list_trained(network).items()}, compressed
    )
    assert found.codes.keys() == compressed.codes.keys()
    for name, codes in compressed.codes.items():
        np.testing.assert_array_equal(found.codes[name].values, codes.values)
        assert found.codes[name].values.dtype == np.int8
        np.testing.assert_allclose(found.codes[name].scales, codes.scales, rtol=2e-3)
    assert found.products == compressed.products
    for (weight, _), (before, _) in zip(found.network.head, compressed.network.head, strict=True):
        np.testing.assert_allclose(weight, before, rtol=2e-3)
    for name, value in compressed.network.weights.items():
        np.testing.assert_allclose(found.network.weights[name], value, rtol=2e-3, atol=1e-6)


def test_what_was_trained_is_what_the_file_holds(compressed, photos):
    network, rng = CodedNetwork(compressed), np.random.default_rng(1)
    network.count_in_steps()
    trained = {name: value.numpy() for name, value in list_trained(network).items()}
    trained = {
        name: value + rng.uniform(-0.9, 0.9, value.shape).astype(np.float32)
        for name, value in trained.items()
    }
    found = network.to_compressed(trained, compressed)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if name in trained:
                value.copy_(network.round(name, torch.from_numpy(trained[name])))
    np.testing.assert_allclose(run_torch(network, photos), run_file(found, photos), atol=1e-3)
    changed = [
        (found.codes[name].values != codes.values).mean()
        for name, codes in compressed.codes.items()
    ]
    assert 0.2 < np.mean(changed) < 0.9
    for name, codes in found.codes.items():
        assert np.abs(codes.values).max() <= 2 ** (codes.bits - 1) - 1
        own = (
            found.network.weights[name]
            if name.startswith("features.")
            else found.network.head[int(name[5])][0]
        )
        if name != "features.0.weight":
            np.testing.assert_allclose(codes.decode(), own, rtol=1e-6)


def test_scales_follow_what_is_rounded():
    grid = Grid(torch.tensor([[0.5], [0.25], [1.0]]), 7)
    value = torch.tensor([[0.5, -1.0, 3.5], [0.25, 0.5, -0.75], [0.1, -0.2, 0.0]])
    torch.testing.assert_close(grid.round(value)[:2], value[:2])
    larger = grid.round(1.125 * value)
    torch.testing.assert_close(larger[:2], 1.125 * value[:2], rtol=1e-2, atol=0)
    assert grid.find_codes(torch.tensor([[99.0], [-99.0], [0.4]])).tolist() == [[7], [-7], [0]]
    assert larger[2].tolist() == [0, 0, 0]  # a row without codes keeps its scale


def test_roots_of_nothing_have_a_slope_that_can_be_borne(layers):
    network = CodedNetwork(replace(layers, network=replace(layers.network, use_roots=True)))
    torch.nn.init.ones_(network.classifier[0].weight)
    features = torch.tensor([0.0, 1e-12, 0.25, 4.0]).repeat(512)[None].requires_grad_()
    logits = network.classify(features)
    assert float(logits[0, 0].detach()) == pytest.approx(512 * (0.5 + 2), rel=1e-4)
    [slopes] = torch.autograd.grad(logits[0, 0], features)
    assert slopes[0, :4].tolist() == pytest.approx([5.0, 5.0, 1.0, 0.25])
