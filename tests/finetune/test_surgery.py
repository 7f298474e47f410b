import copy
import doctest

import pytest
from torchvision_models import load_models

from squeezetune.errors import SettingsError

torch = pytest.importorskip("torch", reason="torch is an extra")
from torch import nn  # noqa: E402

from squeezetune.finetune import surgery as module  # noqa: E402
from squeezetune.finetune.surgery import freeze, list_blocks, replace_classifier, unfreeze_last  # noqa: E402
from squeezetune.finetune.torch_network import SqueezeNet, build_network  # noqa: E402


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x):
        return x + self.norm(self.conv(x))


class ResidualNetwork(nn.Module):
    """As torchvision's ResNets are built: a Linear as an attribute."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.norm1 = nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(Residual(4), Residual(4))
        self.fc = nn.Linear(4, num_classes)

    def forward(self, x):
        return self.fc(self.layer1(self.norm1(self.conv1(x))).mean((2, 3)))


class InceptionNetwork(nn.Module):
    """As torchvision's Inception and GoogLeNet are built: the Dropout is given maps, the Linear
    vectors.
    """

    def __init__(self, num_classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.dropout = nn.Dropout(0.4)
        self.fc = nn.Linear(4, num_classes)

    def forward(self, x):
        return self.fc(torch.flatten(self.dropout(self.conv1(x).mean((2, 3), keepdim=True)), 1))


def make_linear():
    """Make a network as torchvision's MobileNets are: Dropout and Linear in a Sequential."""
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    return nn.Sequential(
        backbone,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Sequential(nn.Dropout(0.4), nn.Linear(4, 10)),
    )


def make_nested():
    backbone = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Sequential(nn.Sequential(nn.Conv2d(4, 10, 1, bias=False)))
    )
    return nn.Sequential(backbone, nn.AdaptiveAvgPool2d(1), nn.Flatten())


NETWORKS = {
    "squeezenet": SqueezeNet,
    "residual": ResidualNetwork,
    "linear": make_linear,
    "nested": make_nested,
}
IMAGES = torch.ones(2, 3, 64, 64)


@pytest.fixture(params=NETWORKS)
def network(request):
    torch.manual_seed(0)
    return NETWORKS[request.param]()


def find_last(network):
    """Find the last layer with parameters, and what runs before it, by the order of the modules."""
    leaves = [layer for layer in network.modules() if not any(layer.children())]
    at = max(at for at, layer in enumerate(leaves) if any(True for _ in layer.parameters()))
    return leaves[at], leaves[:at]


def list_trainable(network):
    return [name for name, value in network.named_parameters() if value.requires_grad]


def train_a_step(network):
    network.train()
    values = [value for value in network.parameters() if value.requires_grad]
    optimizer = torch.optim.SGD(values, 0.1)
    network(torch.randn(4, 3, 64, 64)).square().sum().backward()
    optimizer.step()


# ---- the classifier is replaced


def test_the_trap_setting_the_number_of_outputs_changes_nothing():
    network = ResidualNetwork().eval()
    network.fc.out_features = 4
    assert network(IMAGES).shape == (2, 10)
    assert replace_classifier(network, 4)(IMAGES).shape == (2, 4)


def test_the_trap_setting_the_number_of_channels_changes_nothing():
    network = build_network().eval()
    network.classifier[1].out_channels = network.num_classes = 4
    assert network(IMAGES).shape == (2, 1000)
    assert replace_classifier(network, 4)(IMAGES).shape == (2, 4)


@pytest.mark.parametrize("dropout", [None, 0.0, 0.3])
@pytest.mark.parametrize("norm", [None, "batch"])
def test_any_network_gets_the_number_of_classes(network, dropout, norm):
    result = replace_classifier(network, 4, dropout=dropout, norm=norm)
    assert result is network
    assert network.train()(IMAGES).shape == (2, 4)
    assert network.eval()(IMAGES).shape == (2, 4)


@pytest.mark.parametrize(
    "name", ["squeezenet1_1", "resnet18", "mobilenet_v3_small", "densenet121", "vgg11_bn"]
)
def test_torchvisions_networks_get_the_number_of_classes(name):
    network = getattr(load_models(), name)(weights=None, num_classes=10)
    replace_classifier(network, 4, dropout=0.25, norm="batch")
    assert network.train()(IMAGES).shape == (2, 4)
    layer, before = find_last(network)
    assert isinstance(before[-1], nn.Dropout)
    assert before[-1].p == 0.25
    assert isinstance(before[-2], (nn.BatchNorm1d, nn.BatchNorm2d))
    assert layer.weight.requires_grad


def test_the_other_layers_are_untouched(network):
    before = copy.deepcopy(network.state_dict())
    last = list(before)[-1].rpartition(".")[0]
    replace_classifier(network, 4)
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(
        torch.equal(after[name], before[name]) for name in before if not name.startswith(last)
    )


def test_the_new_layer_starts_afresh():
    torch.manual_seed(0)
    conv = replace_classifier(build_network(), 50).classifier[1]
    assert conv.weight.std().item() == pytest.approx(0.01, rel=0.05)
    linear = replace_classifier(nn.Sequential(nn.Linear(100, 10)), 50)[0]
    assert linear.weight.abs().max().item() == pytest.approx(
        0.1, rel=0.05
    )  # torch's way: 1 / sqrt(inputs)
    for layer in (conv, linear):
        assert not layer.bias.any()
        assert layer.weight.requires_grad


def test_the_new_convolution_reads_its_input_as_the_old_one():
    old = nn.Conv2d(4, 10, 3, stride=2, padding=1, dilation=2, padding_mode="reflect", bias=False)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), old)
    shape = network(IMAGES).shape[2:]
    new = replace_classifier(network, 5)[1]
    assert network(IMAGES).shape == (2, 5, *shape)
    assert (new.stride, new.padding, new.dilation, new.padding_mode, new.bias) == (
        (2, 2),
        (1, 1),
        (2, 2),
        "reflect",
        None,
    )


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_type_and_memory_format_are_kept(network, dtype, memory_format):
    network.to(dtype=dtype, memory_format=memory_format)
    old, _ = find_last(network)
    replace_classifier(network, old.weight.shape[0], norm="batch")
    new, _ = find_last(network)
    assert new.weight.stride() == old.weight.stride()
    assert {value.dtype for value in network.parameters()} == {dtype}
    assert network(IMAGES.to(dtype)).dtype == dtype


def test_the_device_is_kept():
    network = SqueezeNet().to("meta")
    assert (
        replace_classifier(network, 4, dropout=0.1, norm="batch").classifier[1].weight.device.type
        == "meta"
    )
    assert {value.device.type for value in network.state_dict().values()} == {"meta"}


@pytest.mark.parametrize("mode", [True, False])
def test_the_mode_is_kept(network, mode):
    network.train(mode)
    replace_classifier(network, 4, dropout=0.1, norm="batch")
    assert {layer.training for layer in network.modules()} == {mode}


def test_the_number_of_classes_is_told_where_it_is_kept():
    assert replace_classifier(SqueezeNet(), 4).num_classes == 4
    assert not hasattr(replace_classifier(ResidualNetwork(), 4), "num_classes")


# ---- dropout and norm before it


def test_a_dropout_is_set_where_there_is_one():
    network = replace_classifier(SqueezeNet(), 4, dropout=0.2)
    assert [type(layer) for layer in network.classifier] == [
        nn.Dropout,
        nn.Conv2d,
        nn.ReLU,
        nn.AdaptiveAvgPool2d,
    ]
    assert network.classifier[0].p == 0.2


def test_a_dropout_is_put_where_there_is_none():
    network = replace_classifier(ResidualNetwork(), 4, dropout=0.2)
    assert [type(layer) for layer in network.fc] == [nn.Dropout, nn.Linear]
    assert network.fc[0].p == 0.2


def test_a_dropout_outside_of_a_sequential_is_set_and_the_norm_stands_behind_it():
    network = replace_classifier(InceptionNetwork(), 4, dropout=0.2, norm="batch")
    assert network.dropout.p == 0.2
    assert [type(layer) for layer in network.fc] == [nn.BatchNorm1d, nn.Linear]
    assert network(IMAGES).shape == (2, 4)


def test_without_dropout_the_old_one_stays():
    assert replace_classifier(SqueezeNet(dropout=0.4), 4).classifier[0].p == 0.4


def test_the_norm_comes_before_the_dropout_which_would_disturb_its_statistics(network):
    replace_classifier(network, 4, dropout=0.2, norm="batch")
    layer, before = find_last(network)
    norm = {nn.Conv2d: nn.BatchNorm2d, nn.Linear: nn.BatchNorm1d}[type(layer)]
    assert [type(part) for part in before[-2:]] == [norm, nn.Dropout]
    assert before[-2].num_features == layer.weight.shape[1]


def test_a_second_time_adds_nothing(network):
    replace_classifier(network, 4, dropout=0.2, norm="batch")
    first = [type(layer) for layer in network.modules()]
    replace_classifier(network, 5, dropout=0.3, norm="batch")
    assert [type(layer) for layer in network.modules()] == first
    assert find_last(network)[1][-1].p == 0.3
    assert network(IMAGES).shape == (2, 5)


def test_squeezenets_last_convolution_keeps_its_name():
    network = replace_classifier(SqueezeNet(), 4, dropout=0.2, norm="batch")
    assert network.state_dict()["classifier.1.weight"].shape == (4, 512, 1, 1)


# ---- networks and values that it cannot be done with


@pytest.mark.parametrize(("make", "message"), [
    (lambda: nn.Sequential(nn.ReLU()), "no layer with parameters"),
    (lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), "'1', is a BatchNorm1d"),
    (lambda: nn.Sequential(nn.Linear(3, 4), nn.Embedding(4, 3)), "'1', is a Embedding"),
    (lambda: nn.Linear(3, 4), "single Linear"),
])  # fmt: skip
def test_networks_with_another_end_are_refused(make, message):
    network = make()
    before = str(network)
    with pytest.raises(SettingsError, match=message) as caught:
        replace_classifier(network, 2)
    assert caught.value.hint
    assert str(network) == before


@pytest.mark.parametrize(
    ("count", "options", "message"),
    [
        (0, {}, "num_classes is 0"),
        (-1, {}, "num_classes is -1"),
        (2, {"dropout": 1.0}, r"dropout is 1\.0"),
        (2, {"dropout": -0.1}, r"dropout is -0\.1"),
        (2, {"norm": "layer"}, "norm is 'layer'"),
    ],
)
def test_values_out_of_their_limits_are_refused(count, options, message):
    network = SqueezeNet()
    with pytest.raises(SettingsError, match=message) as caught:
        replace_classifier(network, count, **options)
    assert caught.value.hint
    assert network.classifier[1].out_channels == 1000


# ---- frozen


def test_frozen_networks_have_nothing_to_train(network):
    assert freeze(network) is network
    assert list_trainable(network) == []


def test_the_trap_statistics_follow_the_images_without_any_gradient():
    network = ResidualNetwork().requires_grad_(False).train()
    before = network.norm1.running_mean.clone()
    network(IMAGES)
    assert not torch.equal(network.norm1.running_mean, before)


def test_frozen_statistics_stay_also_in_training():
    network = freeze(ResidualNetwork())
    unfreeze_last(network, 1)
    before = copy.deepcopy(network.state_dict())
    for _ in range(2):
        train_a_step(network)
    changed = {
        name for name, value in network.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {"fc.weight", "fc.bias"}


def test_frozen_norms_compute_the_same_in_both_modes():
    network = freeze(ResidualNetwork())
    images = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(network.train()(images), network.eval()(images))


def test_a_copy_is_frozen_too():
    network = copy.deepcopy(freeze(ResidualNetwork())).train()
    before = network.norm1.running_mean.clone()
    network(IMAGES)
    torch.testing.assert_close(network.norm1.running_mean, before)


def test_freezing_twice_is_freezing_once():
    network = freeze(freeze(ResidualNetwork()))
    assert len(network.norm1._forward_pre_hooks) == 1


# ---- the last blocks train again


def test_squeezenets_last_blocks_are_counted_from_the_classifier():
    blocks = list(SqueezeNet().list_blocks())
    for count in range(len(blocks) + 1):
        network = unfreeze_last(freeze(SqueezeNet()), count)
        found = [
            name
            for name, block in network.list_blocks().items()
            if next(block.parameters()).requires_grad
        ]
        assert found == blocks[len(blocks) - count :]
    assert len(list_trainable(network)) == len(list(network.parameters()))


def test_the_trap_a_slice_that_ends_at_minus_one_takes_one_block_less():
    blocks = list(list_blocks(SqueezeNet()))
    assert blocks[-2:-1] == ["features.12"]
    network = unfreeze_last(freeze(SqueezeNet()), 2)
    assert {name.rsplit(".", 2)[0] for name in list_trainable(network)} == {
        "features.12",
        "classifier",
    }


def test_the_trap_a_slice_from_minus_zero_takes_all():
    assert len([1, 2, 3][-0:]) == 3
    assert list_trainable(unfreeze_last(freeze(SqueezeNet()), 0)) == []


def test_blocks_that_train_again_learn_their_statistics_too():
    network = unfreeze_last(freeze(ResidualNetwork()).train(), 2)
    network(IMAGES)
    before = copy.deepcopy(network.state_dict())
    train_a_step(network)
    changed = {
        name for name, value in network.state_dict().items() if not torch.equal(value, before[name])
    }
    assert {".".join(name.split(".")[:2]) for name in changed} == {
        "layer1.1",
        "fc.weight",
        "fc.bias",
    }
    assert {"layer1.1.norm.running_mean", "layer1.1.norm.running_var"} <= changed


def test_a_new_norm_trains_with_its_classifier(network):
    freeze(replace_classifier(network, 4, dropout=0.1, norm="batch"))
    unfreeze_last(network, 1)
    layer, (*_, norm, dropout) = find_last(network)
    assert isinstance(dropout, nn.Dropout)
    expected = {id(value) for part in (norm, layer) for value in part.parameters()}
    assert {id(value) for value in network.parameters() if value.requires_grad} == expected
    before = norm.running_mean.clone()
    train_a_step(network)
    assert not torch.equal(norm.running_mean, before)


@pytest.mark.parametrize("count", [11, 1000, -1])
def test_more_blocks_than_there_are_is_an_error(count):
    with pytest.raises(
        SettingsError, match=f"n is {count}, and the network has 10 blocks"
    ) as caught:
        unfreeze_last(SqueezeNet(), count)
    assert "0 to 10" in caught.value.hint


# ---- what a block is


def test_containers_are_opened_and_norms_belong_to_their_layers():
    blocks = list_blocks(ResidualNetwork())
    assert list(blocks) == ["conv1", "layer1.0", "layer1.1", "fc"]
    assert [type(part) for part in blocks["conv1"]] == [nn.Conv2d, nn.BatchNorm2d]
    assert list(list_blocks(make_linear())) == ["0.0", "3.1"]


def test_a_norm_at_the_end_belongs_to_the_last_block():
    blocks = list_blocks(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.BatchNorm1d(4)))
    assert [type(part) for part in blocks["0"]] == [nn.Linear, nn.BatchNorm1d]


def test_every_parameter_is_in_one_block(network):
    held = [
        id(value)
        for block in list_blocks(network).values()
        for part in block
        for value in part.parameters()
    ]
    assert sorted(held) == sorted(id(value) for value in network.parameters())


@pytest.mark.parametrize(
    ("name", "count"),
    [("squeezenet1_1", 10), ("resnet18", 10), ("mobilenet_v3_small", 15), ("vgg11_bn", 11)],
)
def test_torchvisions_networks_have_their_blocks(name, count):
    blocks = list_blocks(getattr(load_models(), name)(weights=None))
    assert len(blocks) == count


def test_a_network_without_parameters_has_no_blocks():
    assert list_blocks(nn.Sequential(nn.BatchNorm2d(3, affine=False), nn.ReLU())) == {}


def test_examples_in_the_documentation_run():
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed
