"""Networks of torch and timm become ONNX files, which are then read as any other."""

import importlib.util

import numpy as np
import pytest
from foreign_models import draw_photos, normalise

from squeezetune.errors import MissingExtraError, SettingsError, WeightsError

torch = pytest.importorskip("torch", reason="torch is an extra")
from timm_models import load_timm  # noqa: E402

from squeezetune.network import torch_export  # noqa: E402
from squeezetune.network.inference import Runtime, open_graph  # noqa: E402
from squeezetune.network.preprocessing import PreprocessingOptions  # noqa: E402
from squeezetune.network.torch_export import (  # noqa: E402
    NONCOMMERCIAL,
    export_network,
    read_network,
    read_timm,
)

SIDE64 = PreprocessingOptions(side=64)


class TinyNetwork(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.maps = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, 4, 1),
            torch.nn.BatchNorm2d(8),
            torch.nn.ReLU(),
            torch.nn.Conv2d(8, 16, 3, 2, 1),
            torch.nn.Hardswish(),
        )
        self.dropout, self.dense = torch.nn.Dropout(), torch.nn.Linear(16, 10)

    def forward(self, images):
        return self.dense(self.dropout(self.maps(images).mean((2, 3))))


@pytest.fixture
def with_onnxscript():
    pytest.importorskip("onnxscript", reason="torch exports with it")


@pytest.mark.slow
@pytest.mark.usefixtures("with_onnxscript")
def test_any_network_of_torch_can_be_frozen_layers():
    theirs, photos = TinyNetwork(), draw_photos()
    network = read_network(theirs, SIDE64)
    assert theirs.training  # as it was
    assert (network.name, network.batches) == ("TinyNetwork", "free")
    with torch.no_grad():
        expected = theirs.eval().maps(torch.from_numpy(normalise(photos))).mean((2, 3)).numpy()
    run = open_graph(network.build_features(), Runtime("onnxruntime", "float32"), 1)
    np.testing.assert_allclose(run(photos)[:, 0], expected, rtol=1e-4, atol=1e-5)


class Deciding(torch.nn.Module):
    def forward(self, images):
        return images.mean((2, 3)) if images.sum() > 0 else images.amax((2, 3))


@pytest.mark.slow
@pytest.mark.usefixtures("with_onnxscript")
def test_a_network_that_cannot_be_exported_is_refused():
    with pytest.raises(WeightsError, match="torch cannot export this network") as caught:
        export_network(Deciding(), 32)
    assert "may not decide by their values" in caught.value.hint


def test_a_side_has_to_be_named():
    with pytest.raises(SettingsError, match="how large its images are"):
        read_network(TinyNetwork(), PreprocessingOptions())


def hide(monkeypatch, package):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else find_spec(name)
    )


def test_what_is_not_installed_is_told(monkeypatch):
    hide(monkeypatch, "onnxscript")
    with pytest.raises(MissingExtraError, match="onnxscript") as caught:
        export_network(TinyNetwork(), 32)
    assert "pip install onnxscript" in caught.value.hint


@pytest.mark.parametrize(
    ("error", "match"),
    [
        (ImportError("no timm"), "timm is not installed"),
        (RuntimeError("operator torchvision::nms does not exist"), "timm cannot be imported: op"),
    ],
)
def test_timm_that_cannot_be_imported_is_told(monkeypatch, error, match):
    def fail(name):
        raise error

    monkeypatch.setattr(torch_export.importlib, "import_module", fail)
    with pytest.raises(MissingExtraError, match=match) as caught:
        read_timm("resnet10t")
    assert "download.pytorch.org/whl/cpu" in caught.value.hint


def test_licences_that_are_not_commercial_are_known():
    licenses = ["cc-by-nc-4.0", "apple-amlr", "fair-noncommercial-research-license", "seer-license"]
    assert all(NONCOMMERCIAL.search(each) for each in licenses)
    assert not any(NONCOMMERCIAL.search(each) for each in ("apache-2.0", "mit", "cc-by-4.0"))


# ---- timm's, without their weights, which would be fetched


class FakeHub:
    """Counts the networks that are asked for with their weights, and makes them without."""

    def __init__(self, timm, monkeypatch):
        self.asked, self._create = [], timm.create_model
        monkeypatch.setattr(timm, "create_model", self.create)

    def create(self, name, *, pretrained):
        assert pretrained
        self.asked.append(name)
        torch.manual_seed(0)
        return self._create(name, pretrained=False)


@pytest.fixture
def hub(monkeypatch):
    return FakeHub(load_timm(), monkeypatch)


def test_a_licence_that_is_not_commercial_is_refused_before_anything_is_fetched(hub):
    with pytest.raises(SettingsError, match=r"commercially: their licence is cc-by-nc-4\.0"):
        read_timm("convnextv2_atto.fcmae_ft_in1k")
    assert not hub.asked


def test_a_network_that_timm_does_not_have_is_told_with_some_like_it(hub):
    with pytest.raises(SettingsError, match=r"no pretrained network 'resnet10t\.none'") as caught:
        read_timm("resnet10t.none")
    assert "resnet10t.c3_in1k" in caught.value.hint
    assert not hub.asked


def test_weights_that_cannot_be_had_are_told(monkeypatch):
    def fail(name, *, pretrained):
        raise OSError("We couldn't connect\nto the hub")

    monkeypatch.setattr(load_timm(), "create_model", fail)
    with pytest.raises(WeightsError, match=r"'resnet10t' cannot be had: We couldn't connect\n"):
        read_timm("resnet10t")


@pytest.mark.slow
@pytest.mark.usefixtures("with_onnxscript")
def test_a_network_of_timm_is_exported_once_and_says_all_of_itself(hub, tmp_path):
    first, second = (read_timm("resnet10t.c3_in1k", cache=tmp_path) for _ in range(2))
    assert hub.asked == ["resnet10t.c3_in1k"]
    assert first.sha256 == second.sha256
    assert (first.side, first.license, first.name) == (176, "apache-2.0", "resnet10t.c3_in1k")
    assert list(first.widths.values()) == [128, 256, 512]
    assert first.preprocessing.reasons["normalisation"] == "as the file says"
