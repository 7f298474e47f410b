import doctest
import hashlib
from pathlib import Path

import numpy as np
import pytest
import skimage
from described_network import draw_parameters
from PIL import Image
from slow_network import FIRE_PLACES, OLD_FIRE_PLACES, classify_slowly

from squeezetune.errors import SettingsError, WeightsError
from squeezetune.network import weights as module
from squeezetune.network.layers import MaxPool
from squeezetune.network.weights import (
    WEIGHTS_PATH,
    WEIGHTS_SHA256,
    find_architecture,
    fold_norms,
    identify_architecture,
    identify_version,
    load_weights,
    parse_safetensors,
)
from squeezetune.network.zoo import ARCHITECTURES, NETWORKS


def load_photo(name):
    image = Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB")
    return np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR))


# ---- the file


def test_the_file_in_the_package_is_the_pinned_one():
    assert hashlib.sha256(WEIGHTS_PATH.read_bytes()).hexdigest() == WEIGHTS_SHA256


def test_names_and_shapes_are_torchvisions(weights):
    fires = dict(
        zip(
            FIRE_PLACES,
            ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256)),
            strict=True,
        )
    )
    expected, width = {"features.0": (64, 3, 3, 3)}, 64
    for place, (squeeze, expand) in fires.items():
        expected[f"features.{place}.squeeze"] = (squeeze, width, 1, 1)
        expected[f"features.{place}.expand1x1"] = (expand, squeeze, 1, 1)
        expected[f"features.{place}.expand3x3"] = (expand, squeeze, 3, 3)
        width = 2 * expand
    expected["classifier.1"] = (1000, 512, 1, 1)
    kernels = {f"{name}.weight": shape for name, shape in expected.items()}
    biases = {f"{name}.bias": shape[:1] for name, shape in expected.items()}
    assert {name: value.shape for name, value in weights.items()} == kernels | biases
    assert {value.dtype for value in weights.values()} == {np.dtype(np.float32)}
    assert sum(value.size for value in weights.values()) == 1_235_496  # as torchvision counts them


def test_the_squeeze_layers_have_torchvisions_name_though_the_file_has_caffes(weights):
    stored = parse_safetensors(WEIGHTS_PATH.read_bytes())
    assert "features.3.squeeze1x1.weight" in stored
    assert not any("squeeze1x1" in name for name in weights)
    np.testing.assert_array_equal(
        weights["features.3.squeeze.weight"], stored["features.3.squeeze1x1.weight"]
    )


def test_weights_cannot_be_replaced(weights):
    with pytest.raises(TypeError):
        weights["features.0.bias"] = np.zeros(64)


def test_missing_weights_are_an_error_with_a_way_out(tmp_path):
    with pytest.raises(WeightsError, match="cannot be read") as caught:
        load_weights(tmp_path / "none.safetensors")
    assert "pip install" in caught.value.hint


@pytest.mark.parametrize("place", [0, 100, -1])
def test_one_damaged_byte_is_found(tmp_path, place):
    payload = bytearray(WEIGHTS_PATH.read_bytes())
    payload[place] ^= 1
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(payload)
    with pytest.raises(WeightsError, match="damaged"):
        load_weights(path)


def test_a_file_cut_short_is_found(tmp_path):
    path = tmp_path / "short.safetensors"
    path.write_bytes(WEIGHTS_PATH.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="damaged"):
        load_weights(path)


def test_a_foreign_file_is_an_error_even_under_its_own_checksum(tmp_path):
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(b"not weights at all")
    with pytest.raises(WeightsError, match="no safetensors"):
        load_weights(path, hashlib.sha256(path.read_bytes()).hexdigest())


# ---- which network's they are


def make_weights(version, num_classes=1000):
    return {
        name: np.zeros(shape, np.float32)
        for name, shape in find_architecture(version).list_shapes(num_classes).items()
    }


@pytest.mark.parametrize("version", ARCHITECTURES)
@pytest.mark.parametrize("num_classes", [1000, 1, 7])
def test_the_version_is_found_for_any_number_of_classes(version, num_classes):
    assert identify_version(make_weights(version, num_classes)) == version


def test_the_shapes_are_those_of_the_weights(weights):
    assert find_architecture("1.1").list_shapes() == {
        name: value.shape for name, value in weights.items()
    }
    assert (
        sum(np.prod(shape) for shape in find_architecture("1.0").list_shapes().values())
        == 1_248_424
    )  # as torchvision counts them


def list_places(version):
    return [int(block.path.split(".")[1]) for block in ARCHITECTURES[version].blocks[1:]]


def list_pooled(version):
    blocks = ARCHITECTURES[version].blocks
    return [block.name for block in blocks if isinstance(block.layers[-1], MaxPool)]


def test_fires_stand_where_torchvision_has_them():
    assert list_places("1.1") == list(FIRE_PLACES)
    assert list_places("1.0") == list(OLD_FIRE_PLACES)


def test_pools_follow_where_the_paper_and_its_repository_have_them():
    assert list_pooled("1.0") == ["conv1", "fire4", "fire8"]
    assert list_pooled("1.1") == ["conv1", "fire3", "fire5"]


def drop(weights):
    del weights["features.6.expand3x3.bias"]


def add(weights):
    weights["head.0.weight"] = np.zeros((2, 2), np.float32)


def reshape(weights):
    weights["features.3.squeeze.weight"] = np.zeros((16, 96, 1, 1), np.float32)


def spoil(weights):
    weights["features.12.expand1x1.bias"][3] = np.nan


def widen(weights):
    weights["classifier.1.bias"] = np.zeros(3, np.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, r"missing: features\.6\.expand3x3\.bias\.\n"),
        (add, r"unknown: head\.0\.weight\.\n"),
        (
            reshape,
            r"of another shape: features\.3\.squeeze\.weight \(16, 96, 1, 1\) instead of \(16, "
            r"64, 1, 1\)\.\n",
        ),
        (spoil, r"not finite: features\.12\.expand1x1\.bias\.\n"),
        (
            widen,
            r"of another shape: classifier\.1\.weight \(1000, 512, 1, 1\) instead of \(3, 512, 1, "
            r"1\)\.\n",
        ),
        (
            lambda weights: [weights.pop(name) for name in list(weights)[2:40]],
            r"missing: .*, .*, .* and 35 more\.\n",
        ),
    ],
)
def test_weights_that_are_wrong_are_told_where(change, message):
    weights = make_weights("1.1")
    change(weights)
    with pytest.raises(WeightsError, match=rf"SqueezeNet 1\.1: {message}") as caught:
        identify_version(weights)
    assert "squeezenet1_1" in caught.value.hint


@pytest.mark.parametrize(
    ("weights", "found"),
    [
        ({}, "of no known network: nothing"),
        ({"a": np.zeros(3), "b": np.zeros(3)}, r"of no known network: a, b\."),
        (
            {"conv1.weight": np.zeros((64, 3, 7, 7)), "other": np.zeros(3)},
            r"not the weights of ResNet-18: missing: .* and 38 more; unknown: other",
        ),
        (
            {"features.0.weight": np.zeros((32, 3, 3, 3))},
            r"VGG-11: .* features\.0\.weight \(32, 3, 3, 3\) instead of \(64, 3, 3, 3\)",
        ),
    ],
)
def test_weights_of_other_networks_are_refused(weights, found):
    with pytest.raises(WeightsError, match=found) as caught:
        identify_architecture(weights)
    assert "Known are squeezenet1_0" in caught.value.hint


def test_a_network_without_its_first_layer_is_told_by_the_others():
    weights = draw_parameters(NETWORKS["mobilenet_v2"])
    del weights["features.0.0.weight"]
    with pytest.raises(WeightsError, match=r"MobileNetV2: missing: features\.0\.0\.weight\."):
        identify_architecture(weights)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0", "mobilenet_v3_small"])
def test_other_networks_are_known_with_norms_and_without(name):
    network = NETWORKS[name]
    weights = draw_parameters(network)
    assert identify_architecture(weights) is network
    assert identify_architecture(fold_norms(weights, network)) is network.without_norms()
    old = {key: value for key, value in weights.items() if not key.endswith("_tracked")}
    assert identify_architecture(old) is network
    missing = f"{network.norms[3]}.running_var"
    del weights[missing]
    with pytest.raises(WeightsError, match=f"{network.title}: missing: {missing}"):
        identify_architecture(weights)


def test_a_part_of_a_network_is_not_taken_for_another():
    # every parameter of ResNet-18 but the last is one of ResNet-34 too
    weights = {name: value for name, value in draw_parameters(NETWORKS["resnet34"]).items()
               if not name.startswith("layer4.2.")}  # fmt: skip
    with pytest.raises(WeightsError, match=r"ResNet-34: missing: layer4\.2"):
        identify_architecture(weights)


def test_there_is_no_other_version():
    with pytest.raises(SettingsError, match=r"no network '1\.2'") as caught:
        find_architecture("1.2").list_shapes()
    assert "1.0 and 1.1" in caught.value.hint


def test_examples_in_the_documentation_run():
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed


# ---- what they know: photos of known things, in the slow network with its ImageNet classifier


def test_the_cat_is_a_cat(weights):
    assert set(classify_slowly(weights, load_photo("chelsea.png"))[:3]) <= set(range(281, 286))


def test_the_coffee_is_an_espresso(weights):
    assert classify_slowly(weights, load_photo("coffee.png"))[0] == 967


def test_the_motorcycle_is_a_moped_or_a_scooter(weights):
    assert set(classify_slowly(weights, load_photo("motorcycle_left.png"))[:2]) == {665, 670}


def test_the_cameraman_has_a_tripod(weights):
    assert classify_slowly(weights, load_photo("camera.png"))[0] == 872


def test_the_rocket_is_a_missile_or_a_space_shuttle(weights):
    assert {657, 812} <= set(classify_slowly(weights, load_photo("rocket.jpg"))[:5])
