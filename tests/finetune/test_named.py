"""The calls of torch for every network by its name, and training of its last blocks."""

import numpy as np
import pytest
from described_network import draw_parameters, draw_photos, find_least_side, make_narrow

from squeezetune.errors import SettingsError, WeightsError
from squeezetune.network.graph import build_activations, build_backbone
from squeezetune.network.inference import Runtime, open_graph, open_outputs
from squeezetune.network.published import PACKAGED
from squeezetune.network.weights import fold_norms, load_weights
from squeezetune.network.zoo import LITES, NETWORKS

torch = pytest.importorskip("torch", reason="torch is an extra")
from torch import nn  # noqa: E402
from torchvision_models import load_models  # noqa: E402

from squeezetune.finetune.backprop import run_backward, run_forward  # noqa: E402
from squeezetune.finetune.summary import describe  # noqa: E402
from squeezetune.finetune.surgery import (  # noqa: E402
    freeze,
    list_blocks,
    replace_classifier,
    unfreeze_last,
)
from squeezetune.finetune.tapped import TappedNetwork  # noqa: E402
from squeezetune.finetune.torch_network import (  # noqa: E402
    SqueezeNet,
    build_layers,
    build_network,
    export_weights,
)

FLOAT = Runtime("onnxruntime", "float32")
every_network = pytest.mark.parametrize("name", NETWORKS)


def build_empty(name, num_classes=1000):
    """Build a network without numbers, which takes neither time nor memory."""
    with torch.device("meta"):
        return build_network(name, num_classes=num_classes)


def list_owners(network, parameters):
    """List the blocks of the description that parameters belong to, each once, in order."""
    return list(dict.fromkeys(network.architecture.find_owner(name) for name in parameters))


# ---- built by name


@every_network
def test_every_network_is_built_by_its_name_for_any_number_of_classes(name):
    network = build_empty(name, 5)
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert network.architecture.name == name
    assert shapes == network.architecture.list_shapes(5)
    # those in the package have their batch normalisations folded
    assert network.architecture is NETWORKS[name] or name in PACKAGED
    side = find_least_side(NETWORKS[name])
    assert network.eval()(torch.zeros(2, 3, side, side, device="meta")).shape == (2, 5)


def test_a_name_without_weights_starts_from_torchs_random_numbers():
    networks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        networks.append(build_network("mobilenet_v3_small", num_classes=5))
    first, same, other = (network.classifier[3].weight for network in networks)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_squeezenet_has_the_weights_of_the_package_by_either_call():
    named, old = export_weights(build_network("squeezenet1_1")), export_weights(build_network())
    assert named.keys() == old.keys()
    assert all(np.array_equal(named[key], old[key]) for key in old)
    assert isinstance(build_network("squeezenet1_0"), SqueezeNet)


def test_weights_are_taken_over_and_the_last_layer_is_new_for_other_classes():
    architecture = NETWORKS["mobilenet_v3_small"]
    # as float16, of which a file may be, and read-only
    weights = {
        key: value.astype(np.float16) for key, value in draw_parameters(architecture).items()
    }
    for value in weights.values():
        value[...] = np.round(value) if value.ndim == 0 else value  # how many batches were seen
        value.setflags(write=False)
    whole = export_weights(build_network("mobilenet_v3_small", weights))
    assert all(np.array_equal(whole[key], value) for key, value in weights.items())
    fewer = export_weights(build_network("mobilenet_v3_small", weights, num_classes=3))
    assert fewer["classifier.3.weight"].shape == (3, 1024)
    kept = [key for key in weights if not key.startswith("classifier.3.")]
    assert "classifier.0.weight" in kept
    assert all(np.array_equal(fewer[key], weights[key]) for key in kept)


def test_the_auxiliary_classifier_of_published_weights_is_left_out():
    architecture = NETWORKS["inception_v3"]
    weights = {
        key: np.broadcast_to(np.float32(1), shape)
        for key, shape in architecture.list_shapes().items()
    }
    weights["AuxLogits.fc.bias"] = np.ones(1000, np.float32)
    network = build_network("inception_v3", weights, num_classes=2)
    assert "AuxLogits" not in dict(network.named_children())
    assert torch.equal(network.Mixed_7c.branch1x1.conv.weight, torch.ones(320, 2048, 1, 1))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (["resnet19"], {}, SettingsError, "no network 'resnet19'"),
        (["resnet18"], {"num_classes": 0}, SettingsError, "num_classes is 0"),
        (["resnet18"], {"version": "1.1"}, SettingsError, "version is '1.1' beside"),
        (
            ["resnet18", {"fc.bias": np.zeros(3)}],
            {},
            WeightsError,
            "weights of ResNet-[0-9]+: missing",
        ),
        (["resnet18", load_weights()], {}, WeightsError, "SqueezeNet 1.1, asked for was ResNet-18"),
    ],
)
def test_what_cannot_be_built_is_told(arguments, options, error, message):
    with pytest.raises(error, match=message) as caught:
        build_network(*arguments, **options)
    assert caught.value.hint


# ---- its classifier, its blocks, what they cost


@every_network
def test_blocks_are_those_of_the_description_and_of_torchvisions_network(name):
    network = build_empty(name)
    owners = [
        list_owners(network, [key for part in parts for key in find_names(network, part)])
        for parts in list_blocks(network).values()
    ]
    assert all(len(owner) == 1 for owner in owners)
    assert list(dict.fromkeys(owner for (owner,) in owners)) == [
        *NETWORKS[name].block_names, "",
    ]  # fmt: skip
    owned = {block: find_names(network, part) for block, part in network.list_blocks().items()}
    assert list(owned) == [*NETWORKS[name].block_names, "classifier"]
    assert all(
        list_owners(network, keys) == [block.replace("classifier", "")]
        for block, keys in owned.items()
    )
    assert [key for keys in owned.values() for key in keys] == [
        key for key, _ in network.named_parameters()
    ]
    if NETWORKS[name] not in LITES:
        with torch.device("meta"):
            known = {"init_weights": False, "aux_logits": False} if "inception" in name else {}
            theirs = getattr(load_models(), name)(weights=None, **known)
        assert list(list_blocks(network)) == list(list_blocks(theirs))


def find_names(network, part):
    """Find the names in a network of the parameters in a part of it."""
    own = {id(value) for value in part.parameters()}
    return [key for key, value in network.named_parameters() if id(value) in own]


@every_network
def test_the_last_blocks_of_a_frozen_network_train_with_a_new_classifier(name):
    network = build_empty(name)
    last = list(network.modules())[-1]
    kind = nn.Conv2d if name.startswith("squeezenet") else nn.Linear
    unfreeze_last(freeze(replace_classifier(network, 3, dropout=0.1)), 0)
    assert not any(value.requires_grad for value in network.parameters())
    classifier = [layer for layer in network.modules() if isinstance(layer, kind)][-1]
    assert classifier is not last
    assert classifier.weight.shape[0] == network.num_classes == 3
    # the dense layers of the classifier, and the last two blocks before them
    count = sum(key.endswith("weight") and not network.architecture.find_owner(key)
                for key, _ in network.named_parameters())  # fmt: skip
    unfreeze_last(network, count + 2)
    trained = [key for key, value in network.named_parameters() if value.requires_grad]
    assert list_owners(network, trained) == [*NETWORKS[name].block_names[-2:], ""]
    assert network.eval()(torch.zeros(1, 3, 96, 96, device="meta")).shape == (1, 3)


# Multiply-adds in milliards as torchvision publishes them, for images of the network's own side.
PUBLISHED = {
    "squeezenet1_0": 0.82, "squeezenet1_1": 0.35, "resnet18": 1.81, "resnet34": 3.66,
    "resnet50": 4.09, "vgg11": 7.61, "vgg16": 15.47, "vgg19": 19.63, "mobilenet_v2": 0.30,
    "mobilenet_v3_small": 0.06, "mobilenet_v3_large": 0.22, "inception_v3": 5.71,
}  # fmt: skip


@every_network
def test_its_layers_are_described(name):
    network = build_empty(name)
    summary = describe(network)
    assert summary.parameters == sum(value.numel() for value in network.parameters())
    if name in PUBLISHED:
        assert summary.multiply_adds / 1e9 == pytest.approx(PUBLISHED[name], abs=0.01)


def test_the_side_of_the_image_is_the_descriptions_own():
    network = build_empty("inception_v3")
    assert (
        describe(network).layers == describe(network, 299).layers != describe(network, 224).layers
    )


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "efficientnet_lite1"])
def test_running_statistics_of_frozen_blocks_stay(name):
    network = unfreeze_last(freeze(build_network(name, num_classes=2)), 2).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network(torch.randn(4, 3, 32, 32)).square().sum().backward()
    changed = [key for key, value in network.state_dict().items()
               if not torch.equal(value, before[key])]  # fmt: skip
    assert changed
    assert all("running" in key or "num_batches" in key for key in changed)
    assert list_owners(network, changed) == [NETWORKS[name].block_names[-1]]


# ---- its last blocks trained from kept activations


@pytest.fixture
def narrow(request, monkeypatch):
    """Make a network of the name narrow, and known as such; give its folded weights."""
    name = request.param
    network = make_narrow(NETWORKS[name])
    monkeypatch.setitem(NETWORKS, name, network)
    return network, fold_norms(draw_parameters(network), network)


@pytest.mark.parametrize("narrow", NETWORKS, indirect=True)
def test_the_last_blocks_train_from_kept_activations(narrow):
    """Cut behind the third block from the end, the rest gives the whole network's features, and its
    gradients by hand are autograd's; a few steps fit the photos.
    """
    network, weights = narrow
    kept, start = network.block_names[-3:-1]
    pixels = draw_photos(6, find_least_side(network))
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    maps, *taps = (
        torch.from_numpy(each[:, 0])
        for each in open_outputs(build_activations(weights, kept), FLOAT, 1)(pixels)
    )
    maps = maps.permute(0, 3, 1, 2)
    torch.manual_seed(0)
    tapped = TappedNetwork(build_layers(weights), 3, start)
    features, steps = run_forward(tapped, maps, *(taps or [None]))
    expected = open_graph(build_backbone(weights), FLOAT, 1)(pixels)[:, 0]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(features.numpy(), expected, rtol=1e-3, atol=1e-4 * scale)
    check_gradients(tapped, maps, taps, steps)
    losses = train_steps(tapped, maps, taps, labels)
    assert losses[-1] < 0.99 * losses[0]


def check_gradients(tapped, maps, taps, steps):
    """Compare the gradients by hand with autograd's, of all that trains."""
    trained = {
        key: value for key, value in tapped.named_parameters()
        if (value.requires_grad and not key.startswith("classifier."))
        or (tapped.architecture.find_owner(key)
        and value.requires_grad)
    }  # fmt: skip
    assert list_owners(tapped, trained) == list(tapped.architecture.block_names[-2:])
    features = tapped.compute_features(maps, *taps)
    slope = torch.randn(features.shape, generator=torch.Generator().manual_seed(3))
    expected = torch.autograd.grad((features * slope).sum(), list(trained.values()))
    found = run_backward(slope, steps)
    assert set(found) == set(trained.values())
    for value, wanted in zip(trained.values(), expected, strict=True):
        close = {"rtol": 1e-3, "atol": 1e-4 * float(wanted.abs().max()) + 1e-7}
        torch.testing.assert_close(found[value], wanted, **close)


def train_steps(tapped, maps, taps, labels):
    """Train a few steps by hand; return the losses."""
    features, _ = run_forward(tapped, maps, *(taps or [None]), is_training=False)
    tapped.classifier.mean.copy_(features.mean(0))
    tapped.classifier.deviation.fill_(features.std())  # one for all: some features hardly differ
    optimiser = torch.optim.Adam([v for v in tapped.parameters() if v.requires_grad], 3e-3)
    losses = []
    for _ in range(12):
        features, steps = run_forward(tapped, maps, *(taps or [None]))
        loss = nn.functional.cross_entropy(tapped.classify(features.requires_grad_()), labels)
        optimiser.zero_grad()
        loss.backward()
        for value, gradient in run_backward(features.grad, steps).items():
            value.grad = gradient
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses
