import doctest
from itertools import pairwise

import numpy as np
import pytest
from torchvision_models import load_models

from squeezetune.errors import SettingsError, WeightsError
from squeezetune.network.graph import BLOCKS, TAPS, build_backbone
from squeezetune.network.inference import Runtime, open_graph
from squeezetune.network.weights import (
    detect_version,
    find_architecture,
)
from squeezetune.network.zoo import ARCHITECTURES

torch = pytest.importorskip("torch", reason="torch is an extra")
from squeezetune.finetune import torch_network as module  # noqa: E402
from squeezetune.finetune.torch_network import SqueezeNet, build_network, export_weights  # noqa: E402

VERSIONS = tuple(ARCHITECTURES)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# The places of the max pools in torchvision's `features`.
POOLS = {"1.0": (2, 6, 11), "1.1": (2, 5, 8)}


@pytest.fixture(scope="module")
def models():
    return load_models()


@pytest.fixture(params=VERSIONS)
def version(request):
    return request.param


@pytest.fixture
def theirs(models, version):
    """Build torchvision's network with parameters of its own, in evaluation mode."""
    torch.manual_seed(1)
    return getattr(models, f"squeezenet{version.replace('.', '_')}")(weights=None).eval()


@pytest.fixture
def ours(theirs, version):
    """Build our network with the parameters of torchvision's."""
    network = SqueezeNet(version).eval()
    network.load_state_dict(theirs.state_dict(), strict=True)
    return network


def make_images(count=2, side=96, seed=0):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def make_weights(version, num_classes=1000):
    return {
        name: np.full(shape, 0.01, np.float32)
        for name, shape in find_architecture(version).list_shapes(num_classes).items()
    }


def compute_plainly(network, x):
    """Compute torchvision's way from the parameters alone: a ReLU after every convolution, then the
    pools.
    """
    features, classifier = network.features, network.classifier
    x = torch.relu(features[0](x))
    for place in range(2, 13):
        if place in POOLS[network.version]:
            x = torch.nn.functional.max_pool2d(x, 3, 2, ceil_mode=True)
        else:
            fire = features[place]
            x = torch.relu(fire.squeeze(x))
            x = torch.cat([torch.relu(fire.expand1x1(x)), torch.relu(fire.expand3x3(x))], 1)
    return torch.relu(classifier[1](x)).mean((2, 3))


# ---- the same network as torchvision's, as the graph, and as in plain words


def test_parameters_are_torchvisions(theirs, version):
    own, others = SqueezeNet(version).state_dict(), theirs.state_dict()
    assert [(name, value.shape) for name, value in own.items()] == [
        (n, v.shape) for n, v in others.items()
    ]
    assert {name: tuple(value.shape) for name, value in others.items()} == find_architecture(
        version
    ).list_shapes()


@pytest.mark.parametrize("side", [63, 96, 101])  # pools that end at an edge and that hang over it
def test_outputs_are_torchvisions(ours, theirs, side):
    images = make_images(side=side)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images))
    theirs.load_state_dict(ours.state_dict(), strict=True)


def test_who_walks_the_features_meets_torchvisions_values(ours, theirs):
    x = y = make_images()
    with torch.no_grad():
        for place, (layer, other) in enumerate(zip(ours.features, theirs.features, strict=True)):
            x, y = layer(x.clone()), other(y.clone())
            if place != 1:  # between the first max pool and the ReLU
                torch.testing.assert_close(x, y)


def test_parameters_start_as_torchvisions_do(theirs, version):
    torch.manual_seed(2)
    own = SqueezeNet(version).state_dict()
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(own[name].std(), value.std(), rtol=0.1, atol=0, msg=name)


def test_values_and_gradients_are_those_of_the_plain_order(version):
    torch.manual_seed(3)
    network = SqueezeNet(version, num_classes=7).eval()
    images, gradients = make_images(), []
    for compute in (network, lambda x: compute_plainly(network, x)):
        network.zero_grad()
        logits = compute(images)
        logits.square().sum().backward()
        gradients.append([logits.detach(), *[value.grad.clone() for value in network.parameters()]])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_outputs_are_those_of_the_graph(either_weights):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), dtype=np.uint8)
    expected = open_graph(build_backbone(either_weights), Runtime("onnxruntime", "float32"), 1)(
        pixels
    )[:, 0]
    network = build_network(either_weights, version=detect_version(either_weights)).eval()
    means = []
    for name, block in network.list_blocks().items():
        if name in TAPS:
            block.register_forward_hook(
                lambda block, inputs, output: means.append(output.mean((2, 3)))
            )
    normal = (torch.from_numpy(pixels) / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    with torch.no_grad():
        network(normal.permute(0, 3, 1, 2))
    found = torch.cat(means, 1).numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_logits_have_one_row_an_image(version, memory_format):
    network = SqueezeNet(version, num_classes=4).to(memory_format=memory_format)
    assert network(make_images(3)).shape == (3, 4)


# ---- its blocks


def test_blocks_hold_every_parameter_once_and_in_order(version):
    network = SqueezeNet(version)
    blocks = network.list_blocks()
    assert list(blocks) == [*BLOCKS, "classifier"]
    held = [value for block in blocks.values() for value in block.parameters()]
    assert all(a is b for a, b in zip(held, network.parameters(), strict=True))


def test_blocks_follow_each_other():
    blocks = SqueezeNet("1.1").list_blocks()
    fires = [block for name, block in blocks.items() if name in BLOCKS[1:]]
    for before, after in pairwise(fires):
        assert after.squeeze.in_channels == 2 * before.expand3x3.out_channels


# ---- building and exporting


def test_the_weights_in_the_package_are_loaded_and_come_back(weights):
    exported = export_weights(build_network())
    assert list(exported) == list(build_network().state_dict())
    assert exported.keys() == weights.keys()
    for name, value in exported.items():
        np.testing.assert_array_equal(value, weights[name])


def test_exported_weights_are_copies_in_the_usual_order():
    network = build_network().to(memory_format=torch.channels_last).to(torch.bfloat16)
    exported = export_weights(network)
    with torch.no_grad():
        network.features[0].weight.zero_()
    assert all(
        value.flags.c_contiguous and value.dtype == np.float32 for value in exported.values()
    )
    assert exported["features.0.weight"].any()


def test_training_a_network_leaves_the_weights_alone(weights):
    before = weights["features.0.bias"].copy()
    with torch.no_grad():
        for value in build_network(weights).parameters():
            value.zero_()
    np.testing.assert_array_equal(weights["features.0.bias"], before)


def test_other_classes_start_afresh_on_the_same_features(weights):
    torch.manual_seed(0)
    exported = export_weights(build_network(num_classes=3))
    assert exported["classifier.1.weight"].shape == (3, 512, 1, 1)
    assert exported["classifier.1.weight"].std() == pytest.approx(0.01, rel=0.1)
    np.testing.assert_array_equal(exported["classifier.1.bias"], 0)
    np.testing.assert_array_equal(
        exported["features.12.squeeze.weight"], weights["features.12.squeeze.weight"]
    )


def test_weights_with_other_classes_keep_their_classifier():
    weights = make_weights("1.0", 5)
    network = build_network(weights, version="1.0", num_classes=5)
    np.testing.assert_array_equal(
        export_weights(network)["classifier.1.weight"], weights["classifier.1.weight"]
    )


def test_version_1_0_needs_weights():
    with pytest.raises(WeightsError, match=r"no weights of SqueezeNet 1\.0") as caught:
        build_network(version="1.0")
    assert "fetch_weights" in caught.value.hint


def test_weights_of_the_other_version_are_refused():
    with pytest.raises(WeightsError, match=r"1\.0, asked for was SqueezeNet 1\.1") as caught:
        build_network(make_weights("1.0"))
    assert "build_network('squeezenet1_0', weights)" in caught.value.hint


@pytest.mark.parametrize(("options", "message"), [
    ({"version": "1.2"}, r"no network '1\.2'"), ({"num_classes": 0}, "num_classes is 0"),
])  # fmt: skip
def test_settings_out_of_their_limits_are_refused(options, message):
    with pytest.raises(SettingsError, match=message) as caught:
        build_network(**options)
    assert caught.value.hint


def test_examples_in_the_documentation_run():
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed
