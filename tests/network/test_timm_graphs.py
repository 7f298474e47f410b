"""timm's networks as torch exports them, beside timm's own features."""

import numpy as np
import pytest
from foreign_models import draw_photos, normalise

from squeezetune.network.foreign_reading import parse_foreign
from squeezetune.network.inference import Runtime, open_graph

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
    run = open_graph(network.build_features(2), Runtime("onnxruntime", "float32"), 1)
    found = run(photos)
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


def test_a_network_of_timm_traced():
    check_features("mobilenetv3_small_100", dynamo=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_networks_of_timm_exported(name):
    check_features(name, dynamo=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TIMM if "mobilenet" not in name])
@pytest.mark.parametrize("batch", [1, 2])
def test_other_networks_of_timm_traced(name, batch):
    check_features(name, dynamo=False, batch=batch)
