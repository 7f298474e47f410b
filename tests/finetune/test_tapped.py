import numpy as np
import pytest

from squeezetune.heads.linear import apply_layers
from squeezetune.heads.scaling import Scaling
from squeezetune.network.graph import BLOCKS, TAPS, build_activations, build_backbone
from squeezetune.network.inference import Runtime, open_graph, open_outputs
from squeezetune.network.weights import detect_version

torch = pytest.importorskip("torch", reason="torch is an extra")
from squeezetune.finetune.batches import normalise  # noqa: E402
from squeezetune.finetune.tapped import TappedNetwork  # noqa: E402
from squeezetune.finetune.torch_network import build_network  # noqa: E402


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return TappedNetwork(build_network(), 7)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), dtype=np.uint8)


def make_classifier(features=2048, classes=7):
    rng = np.random.default_rng(1)
    scaling = Scaling(
        rng.random(features, np.float32), 0.5 + rng.random(features, np.float32), use_roots=False
    )
    return (
        scaling,
        rng.standard_normal((features, classes), np.float32),
        rng.standard_normal(classes, np.float32),
    )


# torchvision's places of the blocks in `features`.
PLACES = dict(zip(BLOCKS, (0, 3, 4, 6, 7, 9, 10, 11, 12), strict=True))


def walk_to(network, images, block):
    """Walk the layers up to what `block` reads; return that, and the means of the taps on the
    way.
    """
    x, means = images, []
    for place in range(PLACES[block]):
        x = network.features[place](x)
        means += [x.mean((2, 3)) for name in TAPS if PLACES[name] == place]
    return x, torch.cat(means, 1) if means else None


def run_blocks(weights, block, pixels):
    """Run the graph up to a block; return what the block behind it reads, and the means of the taps
    on the way.
    """
    maps, *taps = open_outputs(
        build_activations(weights, block), Runtime("onnxruntime", "float32"), 1
    )(pixels)
    means = torch.from_numpy(taps[0][:, 0]) if taps else None
    return torch.from_numpy(maps[:, 0]).permute(0, 3, 1, 2), means


# ---- forwards


def test_features_are_those_of_the_graph(either_weights, pixels):
    expected = open_graph(build_backbone(either_weights), Runtime("onnxruntime", "float32"), 1)(
        pixels
    )[:, 0]
    network = TappedNetwork(
        build_network(either_weights, version=detect_version(either_weights)), 7
    )
    with torch.no_grad():
        found = network.compute_features(normalise(torch.from_numpy(pixels))).numpy()
    assert (found.shape, found.dtype) == (expected.shape, np.float32)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_logits_are_those_of_dense_layers_on_standardised_features(pixels):
    network = TappedNetwork(build_network(), 7)
    scaling, weight, bias = make_classifier()
    network.set_classifier(scaling, weight, bias)
    images = normalise(torch.from_numpy(pixels))
    with torch.no_grad():
        features, logits = network.compute_features(images).numpy(), network(images).numpy()
    expected = apply_layers(((weight, bias),), (features - scaling.mean) / scaling.deviation)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-3)
    folded = apply_layers(scaling.fold(((weight, bias),), 1.0), features)
    np.testing.assert_allclose(logits, folded, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("block", BLOCKS)
def test_starting_at_a_later_block_gives_what_the_graph_up_to_it_leads_to(
    either_weights, pixels, block
):
    backbone = build_network(either_weights, version=detect_version(either_weights))
    network, later = TappedNetwork(backbone, 7), TappedNetwork(backbone, 7, block)
    images = normalise(torch.from_numpy(pixels))
    before = BLOCKS[BLOCKS.index(block) - 1] if block != "conv1" else None
    maps, taps = run_blocks(either_weights, before, pixels) if before else (images, None)
    with torch.no_grad():
        found, expected = later.compute_features(maps, taps), network.compute_features(images)
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("block", BLOCKS)
def test_starting_at_a_later_block_gives_the_same(network, pixels, block):
    images = normalise(torch.from_numpy(pixels))
    later = TappedNetwork(build_network(), 7, block)
    later.load_state_dict(network.state_dict())
    with torch.no_grad():
        maps, taps = walk_to(network, images, block)
        torch.testing.assert_close(later(maps, taps), network(images))


def test_features_are_float32_whatever_the_layers_compute_in(network, pixels):
    half = TappedNetwork(build_network(), 7)
    half.load_state_dict(network.state_dict())
    half.features.to(torch.bfloat16)
    images = normalise(torch.from_numpy(pixels))
    with torch.no_grad():
        features, exact = half.compute_features(images.bfloat16()), network.compute_features(images)
    assert features.dtype == torch.float32
    assert (features - exact).norm() < 0.05 * exact.norm()


# ---- names and arrays


def test_every_parameter_has_its_block(network):
    blocks = [network.find_block(name) for name, _ in network.named_parameters()]
    assert list(dict.fromkeys(blocks)) == [*BLOCKS, "classifier"]
    assert network.find_block("features.0.weight") == "conv1"
    assert network.find_block("features.12.expand3x3.bias") == "fire9"
    assert len(blocks) == 2 * (1 + 3 * 8 + 1)


def test_the_classifier_comes_back_as_it_was_set():
    network = TappedNetwork(build_network(), 7)
    scaling, weight, bias = make_classifier()
    network.set_classifier(scaling, weight, bias)
    parameters = {name: value.detach().numpy() for name, value in network.named_parameters()}
    found, ((own_weight, own_bias),), _ = network.to_arrays(parameters)
    np.testing.assert_array_equal(found.mean, scaling.mean)
    np.testing.assert_array_equal(found.deviation, scaling.deviation)
    assert found.use_roots is False
    np.testing.assert_array_equal(own_weight, weight)
    np.testing.assert_array_equal(own_bias, bias)


def test_arrays_are_named_as_the_weights_in_the_package_and_trained_ones_win(weights):
    network = TappedNetwork(build_network(), 7)
    parameters = {name: value.detach().numpy().copy() for name, value in network.named_parameters()}
    del parameters["features.0.weight"]  # not trained
    parameters["features.12.squeeze.bias"] += 1
    _, _, arrays = network.to_arrays(parameters)
    assert arrays.keys() == {name for name in weights if name.startswith("features.")}
    for name, value in arrays.items():
        shift = 1 if name == "features.12.squeeze.bias" else 0
        np.testing.assert_array_equal(value, weights[name] + np.float32(shift))


def test_standardisation_is_no_parameter(network):
    assert {"mean", "deviation"}.isdisjoint(dict(network.named_parameters()))
