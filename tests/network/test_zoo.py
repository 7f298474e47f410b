"""The networks that torchvision has too, beside torchvision's own."""

import numpy as np
import pytest
from described_network import draw_parameters

from squeezetune.network.graph import build_backbone
from squeezetune.network.inference import Runtime, open_graph
from squeezetune.network.weights import detect_architecture, fold_norms
from squeezetune.network.zoo import LITES, NETWORKS

torch = pytest.importorskip("torch", reason="torch is an extra")
from torchvision_models import load_models  # noqa: E402

from squeezetune.finetune.surgery import (  # noqa: E402
    freeze,
    list_blocks,
    replace_classifier,
    unfreeze_last,
)
from squeezetune.finetune.torch_network import DescribedNetwork  # noqa: E402

NAMES = [name for name in NETWORKS if NETWORKS[name] not in LITES]
# VGGs have up to 140 million parameters, and the others are much like these.
FEW = ["squeezenet1_0", "squeezenet1_1", "resnet18", "resnet50", "mobilenet_v2",
       "mobilenet_v3_small", "mobilenet_v3_large"]  # fmt: skip
REST = [pytest.param(name, marks=pytest.mark.slow) for name in NAMES if name not in FEW]


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_torchvisions(name):
    with torch.device("meta"):
        theirs = getattr(load_models(), name)(weights=None).state_dict()
    expected = {key: tuple(value.shape) for key, value in theirs.items()}
    assert NETWORKS[name].list_shapes() == expected


@pytest.mark.parametrize("name", NAMES)
def test_each_is_told_by_its_weights(name):
    shapes = NETWORKS[name].list_shapes()
    empty = {key: np.broadcast_to(np.float32(1), shape) for key, shape in shapes.items()}
    found = detect_architecture(empty)
    # VGGs with and without batch normalisation differ in the places of their kernels alone
    assert found is NETWORKS[name]


@pytest.mark.parametrize("name", [*FEW, *REST])
def test_logits_are_torchvisions_and_features_those_of_the_graph(name):
    network = NETWORKS[name]
    parameters = draw_parameters(network)
    tensors = {key: torch.tensor(value) for key, value in parameters.items()}
    with torch.device("meta"):
        theirs, ours = getattr(load_models(), name)(weights=None), DescribedNetwork(network)
    for each in (theirs, ours):
        each.load_state_dict(tensors, assign=True)
        each.eval()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    pixels = pixels.repeat(8, axis=1).repeat(8, axis=2)
    normal = (torch.from_numpy(pixels) / 255 - torch.tensor(network.mean)) / torch.tensor(
        network.std
    )
    images = normal.permute(0, 3, 1, 2).contiguous()
    with torch.no_grad():
        expected = theirs(images)
        torch.testing.assert_close(
            ours(images), expected, rtol=1e-3, atol=1e-3 * expected.abs().max()
        )
    weights = fold_norms(parameters, network)
    found = open_graph(build_backbone(weights), Runtime("onnxruntime", "float32"), 1)(pixels)[:, 0]
    assert found.shape == (2, network.feature_count)
    tapped = take_taps(ours, network, images)
    np.testing.assert_allclose(found, tapped, rtol=1e-3, atol=1e-3 * np.abs(tapped).max())


def take_taps(network, architecture, images):
    """Compute what is tapped by autograd's own functions, from the modules with their norms."""
    from squeezetune.finetune.torch_layers import delay_activations, run_layers

    layers, means = architecture.layers, []
    with torch.no_grad():
        for layer, y in run_layers(
            network, layers, delay_activations(layers, ()), {"pixels": images}
        ):
            if layer.output in architecture.taps:
                means.append(y.mean((2, 3)))
    return torch.cat(means, 1).numpy()


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "mobilenet_v3_small"])
def test_the_calls_for_any_network_work_on_it(name):
    network = DescribedNetwork(NETWORKS[name], 10)
    theirs = getattr(load_models(), name)(weights=None, num_classes=10)
    assert list(list_blocks(network)) == list(list_blocks(theirs))
    unfreeze_last(freeze(replace_classifier(network, 3)), 2)
    trained = [name for name, value in network.named_parameters() if value.requires_grad]
    assert trained
    assert all(
        NETWORKS[name].find_owner(each) in {"", NETWORKS[name].block_names[-1]} for each in trained
    )
    assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 3)
