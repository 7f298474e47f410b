"""Networks in torch made of descriptions, with every kind of layer, beside a plain twin."""

import numpy as np
import pytest
from described_network import EVERYTHING, draw_parameters

from squeezetune.network.graph import build_backbone
from squeezetune.network.inference import Runtime, open_graph
from squeezetune.network.weights import fold_norms
from squeezetune.network.zoo import NETWORKS

torch = pytest.importorskip("torch", reason="torch is an extra")
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from squeezetune.finetune.backprop import run_backward, run_forward  # noqa: E402
from squeezetune.finetune.summary import describe  # noqa: E402
from squeezetune.finetune.surgery import (  # noqa: E402
    freeze,
    list_blocks,
    replace_classifier,
    unfreeze_last,
)
from squeezetune.finetune.tapped import TappedNetwork  # noqa: E402
from squeezetune.finetune.torch_network import DescribedNetwork  # noqa: E402

SIDE = 32
PLAIN = EVERYTHING.without_norms()


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setitem(NETWORKS, "everything", PLAIN)


@pytest.fixture(scope="module")
def parameters():
    return draw_parameters(EVERYTHING)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(1).integers(0, 256, (4, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def images(pixels):
    mean, std = torch.tensor(EVERYTHING.mean), torch.tensor(EVERYTHING.std)
    return ((torch.from_numpy(pixels) / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


def load(network, values):
    network.load_state_dict({name: torch.tensor(value) for name, value in values.items()})
    return network.eval()


@pytest.fixture
def network(parameters):
    return load(DescribedNetwork(EVERYTHING, 10), parameters)


@pytest.fixture
def tapped(parameters):
    return TappedNetwork(load(DescribedNetwork(PLAIN, 10), fold_norms(parameters, EVERYTHING)), 5)


class Twin:
    """The same network in plain words: logits, and what is tapped."""

    def __init__(self, parameters):
        self.values = {name: torch.tensor(value) for name, value in parameters.items()}

    def convolve(self, x, path, norm="", pads=(0, 0, 0, 0), **options):
        bias = None if norm else self.values[f"{path}.bias"]
        y = functional.conv2d(
            functional.pad(x, pads), self.values[f"{path}.weight"], bias, **options
        )
        if not norm:
            return y
        parts = ("running_mean", "running_var", "weight", "bias")
        statistics = (self.values[f"{norm}.{part}"] for part in parts)
        return functional.batch_norm(y, *statistics, eps=1e-3)

    def __call__(self, x):
        around = (1, 1, 1, 1)
        stem = self.convolve(x, "stem.0", "stem.1", around, stride=2).relu()
        wide = functional.hardswish(self.convolve(stem, "inverted.expand", "inverted.norm1"))
        deep = functional.relu6(
            self.convolve(wide, "inverted.depth", "inverted.norm2", around, groups=16)
        )
        gates = self.convolve(deep.mean((2, 3), keepdim=True), "inverted.gate1").relu()
        gates = functional.hardsigmoid(self.convolve(gates, "inverted.gate2"))
        inverted = self.convolve(deep * gates, "inverted.project", "inverted.norm3") + stem
        a = self.convolve(inverted, "residual.conv1", "residual.norm1", around, stride=2).relu()
        b = self.convolve(a, "residual.conv2", "residual.norm2", around)
        residual = (b + self.convolve(inverted, "residual.short", stride=2)).relu()
        lite = functional.relu6(self.convolve(residual, "lite.expand"))
        # TensorFlow's padding: of an even side one pixel behind, of an odd one one on both sides
        pads = (0, 1, 0, 1) if lite.shape[2] % 2 == 0 else around
        lite = functional.relu6(self.convolve(lite, "lite.depth", "", pads, stride=2, groups=24))
        lite = self.convolve(lite, "lite.project")
        left = self.convolve(lite, "branches.left").relu()
        right = functional.max_pool2d(lite, 3, 1, 1)
        right = self.convolve(right, "branches.right", "", around).relu()
        averaged = functional.avg_pool2d(lite, 3, 1, 1)
        flat = self.convolve(averaged, "branches.flat", "", (1, 1, 0, 0)).relu()
        tall = self.convolve(averaged, "branches.tall", "", (0, 0, 2, 2)).relu()
        branches = torch.cat([left, right, flat, tall], 1)
        weight, bias = (self.values[f"classifier.1.{part}"] for part in ("weight", "bias"))
        logits = functional.linear(branches.mean((2, 3)), weight, bias)
        taps = torch.cat([maps.mean((2, 3)) for maps in (deep, residual, branches)], 1)
        return logits, taps


def test_it_has_the_parameters_of_its_description(network):
    found = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert found == EVERYTHING.list_shapes(10)


@pytest.mark.parametrize("side", [32, 31, 40])
def test_it_computes_what_its_twin_does(network, parameters, side):
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(network(images), Twin(parameters)(images)[0])


def test_the_onnx_graph_computes_what_its_twin_does(parameters, pixels, images):
    run = open_graph(
        build_backbone(fold_norms(parameters, EVERYTHING)), Runtime("onnxruntime", "float32"), 1
    )
    expected = Twin(parameters)(images)[1].numpy()
    np.testing.assert_allclose(run(pixels)[:, 0], expected, rtol=1e-4, atol=1e-4)


def test_folded_layers_give_the_features_of_its_twin(tapped, parameters, images):
    expected = Twin(parameters)(images)[1]
    with torch.no_grad():
        torch.testing.assert_close(tapped.compute_features(images), expected, rtol=1e-4, atol=1e-4)
    found, _ = run_forward(tapped, images, None, is_training=False)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("first", EVERYTHING.block_names)
@pytest.mark.parametrize("start", EVERYTHING.block_names)
def test_gradients_are_those_of_autograd(parameters, images, start, first):
    backbone = load(DescribedNetwork(PLAIN, 10), fold_norms(parameters, EVERYTHING))
    network = TappedNetwork(backbone, 5, start, PLAIN.block_names.index(first))
    maps, taps = (
        torch.randn(3, PLAIN.channels[network.input_name], 17, 17,
                    generator=torch.Generator().manual_seed(2)),
        None,
    )  # fmt: skip
    trained = {
        name: value for name, value in network.named_parameters()
        if value.requires_grad and not name.startswith("classifier")
    }  # fmt: skip
    features = network.compute_features(maps, taps)
    slope = torch.randn(features.shape, generator=torch.Generator().manual_seed(3))
    expected = torch.autograd.grad(
        (features * slope).sum(), list(trained.values()), allow_unused=True
    )
    found, steps = run_forward(network, maps.clone(), taps)
    gradients = run_backward(slope, steps)
    torch.testing.assert_close(found, features.detach(), rtol=1e-4, atol=1e-4)
    assert not steps
    assert set(gradients) == set(trained.values())
    for name, value, wanted in zip(trained, trained.values(), expected, strict=True):
        torch.testing.assert_close(
            gradients[value],
            wanted,
            rtol=1e-3,
            atol=1e-4,
            msg=lambda text, name=name: f"{name}: {text}",
        )


def test_blocks_are_the_descriptions(network):
    assert list(network.list_blocks()) == [*EVERYTHING.block_names, "classifier"]
    assert list(list_blocks(network)) == [
        "stem.0", "inverted", "residual", "lite", "branches", "classifier.1",
    ]  # fmt: skip


def test_the_calls_for_any_network_work_on_it(network, images):
    unfreeze_last(freeze(replace_classifier(network, 3)), 2)
    trained = {
        name.split(".")[0] for name, value in network.named_parameters() if value.requires_grad
    }
    assert trained == {"branches", "classifier"}
    assert network(images).shape == (4, 3)
    summary = describe(network, SIDE)
    assert summary.parameters == sum(value.numel() for value in network.parameters())
    assert isinstance(network.classifier[1], nn.Linear)
