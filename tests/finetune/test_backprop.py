import pytest

torch = pytest.importorskip("torch", reason="torch is an extra")
from test_tapped import walk_to  # noqa: E402
from torch.nn import functional  # noqa: E402

from squeezetune.finetune import backprop  # noqa: E402
from squeezetune.finetune.backprop import run_backward, run_forward  # noqa: E402
from squeezetune.finetune.tapped import TappedNetwork  # noqa: E402
from squeezetune.finetune.torch_network import SqueezeNet, build_network  # noqa: E402
from squeezetune.network.graph import BLOCKS  # noqa: E402


@pytest.fixture(scope="module")
def images():
    torch.manual_seed(0)
    return torch.randn(3, 3, 70, 70)


@pytest.fixture(params=[True, False], ids=["fused", "apart"])
def fuses(request, monkeypatch):
    if request.param and not backprop.FUSES:
        pytest.skip("this torch has no convolutions that end in a ReLU")
    monkeypatch.setattr(backprop, "FUSES", request.param)


def make_network(version="1.1", start="conv1", frozen_blocks=0, kind=torch.float32):
    torch.manual_seed(1)
    backbone = build_network() if version == "1.1" else SqueezeNet(version)
    network = TappedNetwork(backbone, 5, start, frozen_blocks)
    network.features.to(kind, memory_format=torch.channels_last)
    return network


def list_trained(network):
    return {
        name: value for name, value in network.features.named_parameters() if value.requires_grad
    }


def measure_by_hand(network, maps, taps):
    """Return the features, and the gradients of a loss on them that treats every value differently,
    by name.
    """
    features, steps = run_forward(network, maps, taps)
    gradients = run_backward(torch.cos(features), steps)
    assert not steps
    return features, {name: gradients[value] for name, value in list_trained(network).items()}


def measure_by_autograd(network, maps, taps):
    features = network.compute_features(maps, taps)
    trained = list_trained(network)
    found = torch.autograd.grad(torch.sin(features).sum(), list(trained.values()))
    return features.detach(), dict(zip(trained, found, strict=True))


def assert_close(found, expected, share):
    assert found.shape == expected.shape
    assert (found.float() - expected.float()).norm() <= share * expected.float().norm()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_features_and_gradients_are_those_of_autograd(version, images, fuses):
    network = make_network(version)
    features, gradients = measure_by_hand(network, images, None)
    expected, others = measure_by_autograd(network, images, None)
    assert_close(features, expected, 1e-6)
    assert len(gradients) == 50
    for name, gradient in gradients.items():
        assert_close(gradient, others[name], 1e-4)


@pytest.mark.parametrize("start", ["fire4", "fire6", "fire9"])
def test_a_network_that_begins_later_takes_the_means_of_the_taps_before_it(start, images, fuses):
    maps, taps = walk_to(make_network(), images, start)
    network, maps = (
        make_network(start=start),
        maps.detach().contiguous(memory_format=torch.channels_last),
    )
    taps = None if taps is None else taps.detach()
    features, gradients = measure_by_hand(network, maps, taps)
    expected, others = measure_by_autograd(network, maps, taps)
    assert_close(features, expected, 1e-6)
    assert set(gradients) == set(others)
    for name, gradient in gradients.items():
        assert_close(gradient, others[name], 1e-4)


@pytest.mark.parametrize("block", ["fire2", "fire4", "fire7"])
def test_the_gradients_of_later_blocks_do_not_change_where_the_first_ones_stay_as_they_are(
    block, images, fuses
):
    network, whole = make_network(frozen_blocks=BLOCKS.index(block)), make_network()
    features, gradients = measure_by_hand(network, images, None)
    expected, others = measure_by_hand(whole, images, None)
    assert torch.equal(features, expected)
    assert 0 < len(gradients) < len(others)
    assert all(torch.equal(gradient, others[name]) for name, gradient in gradients.items())


def test_bfloat16_gives_what_bfloat16_gives_in_autograd(images, fuses):
    network, maps = make_network(kind=torch.bfloat16), images.bfloat16()
    features, gradients = measure_by_hand(network, maps, None)
    expected, others = measure_by_autograd(network, maps, None)
    assert_close(features, expected, 0.01)
    for name, gradient in gradients.items():
        assert gradient.dtype == torch.bfloat16
        assert_close(gradient, others[name], 0.1)


def test_the_gradient_on_the_first_input_is_not_asked_for(images, monkeypatch):
    asked = []

    def watch(reverse):
        def note(layer, gradient, maps, gradients, is_input_trained=True):
            asked.append(is_input_trained)
            return reverse(layer, gradient, maps, gradients, is_input_trained)

        return note

    for name in ("_reverse", "_reverse_pointwise"):
        monkeypatch.setattr(backprop, name, watch(getattr(backprop, name)))
    measure_by_hand(make_network(), images, None)
    assert asked == [True] * 24 + [False]


def test_a_kernel_that_is_no_number_shows_in_the_gradients(images, fuses):
    network = make_network()
    with torch.no_grad():
        network.features[0].weight[0] = float("nan")
    features, steps = run_forward(network, images, None)
    loss = functional.cross_entropy(network.classify(features.requires_grad_()), torch.arange(3))
    gradients = run_backward(torch.autograd.grad(loss, features)[0], steps)
    assert not all(gradient.isfinite().all() for gradient in gradients.values())


def test_without_training_the_features_are_the_same_and_there_is_no_way_back(images):
    network = make_network()
    trained, named = (
        run_forward(network, images, None, is_training=is_training) for is_training in (True, False)
    )
    assert torch.equal(trained[0], named[0])
    assert len(trained[1]) > 0
    assert named[1] == []
