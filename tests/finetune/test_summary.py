import doctest

import pytest
from torchvision_models import load_models

from squeezetune.errors import SettingsError

torch = pytest.importorskip("torch", reason="torch is an extra")
from torch import nn  # noqa: E402

from squeezetune.finetune import summary as module  # noqa: E402
from squeezetune.finetune.summary import describe  # noqa: E402
from squeezetune.finetune.surgery import freeze, replace_classifier, unfreeze_last  # noqa: E402
from squeezetune.finetune.torch_network import SqueezeNet  # noqa: E402

# Of SqueezeNet 1.1 at 224 pixels, by hand: the side of the output, (inputs, squeeze, each expand)
# of its Fire modules.
FIRES_BY_HAND = [
    (55, 64, 16, 64), (55, 128, 16, 64), (27, 128, 32, 128), (27, 256, 32, 128),
    (13, 256, 48, 192), (13, 384, 48, 192), (13, 384, 64, 256), (13, 512, 64, 256),
]  # fmt: skip


class Twice(nn.Module):
    """Uses one layer twice and another not at all; the third holds its parameter itself."""

    def __init__(self):
        super().__init__()
        self.used = nn.Conv2d(3, 3, 1, bias=False)
        self.unused = nn.Linear(5, 2)
        self.scale = nn.Parameter(torch.ones(3, 1, 1))

    def forward(self, x):
        return self.scale * self.used(self.used(x))


def count_by_hand(fires, num_classes=1000):
    first = 111 * 111 * 64 * (3 * 3 * 3)
    return first + 13 * 13 * num_classes * 512 + sum(
        side * side * (squeeze * inputs + expand * squeeze + expand * squeeze * 9)
        for side, inputs, squeeze, expand in fires
    )  # fmt: skip


def test_squeezenet_is_counted_as_by_hand():
    summary = describe(SqueezeNet("1.1"))
    assert summary.parameters == summary.trainable_parameters == 1_235_496
    assert (
        summary.multiply_adds == count_by_hand(FIRES_BY_HAND) == 349_151_936
    )  # torchvision says 0.349 G


def test_the_other_version_is_counted_as_torchvision_does():
    summary = describe(SqueezeNet("1.0"))
    assert summary.parameters == 1_248_424
    assert round(summary.multiply_adds / 1e9, 3) == 0.819


@pytest.mark.parametrize(("name", "parameters", "multiply_adds"), [
    ("resnet18", 11_689_512, 1.814), ("mobilenet_v3_small", 2_542_856, 0.057),
])  # fmt: skip
def test_torchvisions_networks_are_counted_as_it_does(name, parameters, multiply_adds):
    summary = describe(getattr(load_models(), name)(weights=None))
    assert summary.parameters == parameters
    assert summary.multiply_adds / 1e9 == pytest.approx(multiply_adds, abs=2e-3)


def test_every_layer_has_its_row():
    network = replace_classifier(SqueezeNet(), 4)
    layers = {layer.name: layer for layer in describe(network, 64).layers}
    assert list(layers) == [
        name for name, layer in network.named_modules() if not any(layer.children())
    ]
    squeeze = layers["features.6.squeeze"]
    assert (squeeze.kind, squeeze.output_shape, squeeze.parameters) == (
        "Conv2d",
        (32, 7, 7),
        128 * 32 + 32,
    )
    assert squeeze.multiply_adds == 7 * 7 * 32 * 128
    assert layers["classifier.3"].output_shape == (4, 1, 1)
    assert sum(layer.parameters for layer in layers.values()) == sum(
        p.numel() for p in network.parameters()
    )


def test_what_trains_is_told():
    summary = describe(unfreeze_last(freeze(replace_classifier(SqueezeNet(), 4)), 1), 64)
    assert [layer.name for layer in summary.layers if layer.is_trainable] == ["classifier.1"]
    assert summary.trainable_parameters == 4 * 512 + 4


def test_layers_used_twice_or_never_are_counted_so():
    summary = describe(Twice(), 10)
    root, used, unused = summary.layers
    assert (used.name, used.parameters, used.multiply_adds) == ("used", 9, 2 * 900)
    assert (unused.name, unused.parameters, unused.multiply_adds, unused.output_shape) == (
        "unused",
        12,
        0,
        (),
    )
    assert (root.kind, root.parameters, summary.parameters) == ("Twice", 3, 24)


def test_the_text_is_a_table():
    lines = str(describe(freeze(SqueezeNet()))).splitlines()
    assert lines[0].split() == ["layer", "kind", "output", "parameters", "multiply-adds", "trains"]
    assert lines[1].split() == [
        "features.0",
        "Conv2d",
        "64",
        "x",
        "111",
        "x",
        "111",
        "1,792",
        "21,290,688",
        "no",
    ]
    assert lines[-1].split() == ["total", "1,235,496", "349,151,936", "0"]
    ends = {
        line.index(number) + len(number)
        for line, number in [(lines[1], "1,792"), (lines[-1], "1,235,496")]
    }
    assert len(ends) == 1


# ---- the network stays as it was


def test_modes_and_statistics_are_kept_and_hooks_removed():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()).train()
    network[1].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    describe(network, 8)
    assert [layer.training for layer in network.modules()] == [True, True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(layer._forward_hooks for layer in network.modules())


def test_the_network_is_kept_also_when_it_fails():
    network = SqueezeNet().train()
    with pytest.raises(SettingsError, match="cannot run on an RGB image of 2 x 2 pixels") as caught:
        describe(network, 2)
    assert "image_side" in caught.value.hint
    assert all(layer.training and not layer._forward_hooks for layer in network.modules())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_networks_of_other_types_are_described(dtype):
    assert describe(SqueezeNet().to(dtype), 32).parameters == 1_235_496


def test_examples_in_the_documentation_run():
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed
