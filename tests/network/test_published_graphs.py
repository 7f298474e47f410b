"""Networks that nobody here wrote: those in the wheel of onnx, and timm's as torch exports them."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from foreign_models import draw_photos, normalise

from squeezetune.network.foreign_network import parse_foreign, read_foreign
from squeezetune.network.inference import Runtime, open_graph

FLOAT = Runtime("onnxruntime", "float32")


def extract(network, photos, views=1):
    return open_graph(network.build_features(views), FLOAT, 1)(photos)


# ---- of the year 2018, with operators of version 9, for one image, some layers long since unusual

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
# The penultimate tensor's values, and what the stages before it give.
WIDTHS = {
    "squeezenet": [256, 512],
    "shufflenet": [136, 272, 544],
    "densenet121": [256, 512, 1024],
    "inception_v1": [480, 832, 1024],
    "inception_v2": [320, 576, 1024],
    "bvlc_alexnet": [256, 256, 256, 4096],
    "resnet50": [512, 1024, 2048],
    "vgg19": [512, 512, 512, 4096],
    "zfnet512": [256, 512, 512, 1024],
}
FAST = ("squeezenet",)
SIGNED = ("densenet121",)  # whose transitions end in a convolution


@pytest.mark.parametrize(
    "name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in WIDTHS
                      if name not in FAST)]
)  # fmt: skip
def test_networks_in_the_wheel_of_onnx(name):
    path = LIGHT / f"light_{name}.onnx"
    if not path.exists():
        pytest.skip("this wheel of onnx has no networks")
    network = read_foreign(path)
    assert list(network.widths.values()) == WIDTHS[name]
    assert (network.side, network.batches) == (224, "freed")
    assert network.is_signed == (name in SIGNED)
    assert network.logits
    features = extract(network, draw_photos(2, 224))
    assert features.shape == (2, 1, network.feature_count)
    assert np.isfinite(features).all()


# ---- timm's, beside timm's own features

torch = pytest.importorskip("torch", reason="torch is an extra")
from timm_models import export, make_network  # noqa: E402

# The side that they are exported for, and how many features the stages and the penultimate tensor
# give; of what is no map of channels, timm has the penultimate tensor alone.
TIMM = {
    "mobilenetv3_small_100": (64, [96, 288, 576, 1024]),
    "resnet10t": (64, [128, 256, 512]),
    "efficientvit_b0": (64, [128, 256, 1024, 1280]),
    "convnext_atto": (64, [80, 160, 320, 320]),
    "deit_tiny_patch16_224": (64, [192, 192]),
}


def check_features(name, *, dynamo, batch=2):
    """Compare the features of a network that torch exported with those that it has in torch."""
    side, widths = TIMM[name]
    theirs = make_network(name, side)
    network = parse_foreign(export(theirs, side, batch, dynamo=dynamo), f"{name}.onnx")
    assert list(network.widths.values()) == widths
    assert network.batches == ("free" if batch > 1 else "freed")
    photos = draw_photos(3, side)
    with torch.no_grad():
        maps = theirs.forward_features(torch.from_numpy(normalise(photos)))
        penultimate = theirs.forward_head(maps, pre_logits=True).numpy()
    found = extract(network, photos, views=2)
    size = np.abs(penultimate).max()
    np.testing.assert_allclose(found[:, 0, -widths[-1] :], penultimate, rtol=1e-4, atol=1e-4 * size)
    # a class token and patches, or maps
    means = (maps[:, 1:].mean(dim=1) if maps.ndim == 3 else maps.mean(dim=(2, 3))).numpy()
    last = [tap for tap in network.taps if tap.stride][-1]
    if last.width == means.shape[1]:
        at = sum(widths[: network.taps.index(last)])
        np.testing.assert_allclose(found[:, 0, at : at + last.width], means, rtol=1e-4,
                                   atol=1e-4 * np.abs(means).max())  # fmt: skip
    return network


@pytest.mark.parametrize(
    ("name", "batch"), [("mobilenetv3_small_100", 2), ("deit_tiny_patch16_224", 1)]
)
def test_networks_of_timm_traced(name, batch):
    check_features(name, dynamo=False, batch=batch)


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_networks_of_timm_exported(name):
    check_features(name, dynamo=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet10t", "efficientvit_b0", "convnext_atto"])
@pytest.mark.parametrize("batch", [1, 2])
def test_other_networks_of_timm_traced(name, batch):
    check_features(name, dynamo=False, batch=batch)
