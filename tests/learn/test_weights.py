import hashlib
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image
from slow_network import FIRE_PLACES, classify_slowly

from squeezetune.errors import WeightsError
from squeezetune.learn.weights import WEIGHTS_PATH, WEIGHTS_SHA256, load_weights


def load_photo(name):
    image = Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB")
    return np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR))


# ---- the file


def test_the_file_in_the_package_is_the_pinned_one():
    assert hashlib.sha256(WEIGHTS_PATH.read_bytes()).hexdigest() == WEIGHTS_SHA256


def test_names_and_shapes_are_torchvisions(weights):
    fires = dict(zip(FIRE_PLACES, ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256),
                                   (64, 256)), strict=True))  # fmt: skip
    expected, width = {"features.0": (64, 3, 3, 3)}, 64
    for place, (squeeze, expand) in fires.items():
        expected[f"features.{place}.squeeze1x1"] = (squeeze, width, 1, 1)
        expected[f"features.{place}.expand1x1"] = (expand, squeeze, 1, 1)
        expected[f"features.{place}.expand3x3"] = (expand, squeeze, 3, 3)
        width = 2 * expand
    expected["classifier.1"] = (1000, 512, 1, 1)
    kernels = {f"{name}.weight": shape for name, shape in expected.items()}
    biases = {f"{name}.bias": shape[:1] for name, shape in expected.items()}
    assert {name: value.shape for name, value in weights.items()} == kernels | biases
    assert {value.dtype for value in weights.values()} == {np.dtype(np.float32)}
    assert sum(value.size for value in weights.values()) == 1_235_496  # as torchvision counts them


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
