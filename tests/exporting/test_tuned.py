from dataclasses import replace

import numpy as np
import onnx
import pytest

from squeezetune.errors import ExportError
from squeezetune.events import Notice, StageStarted
from squeezetune.exporting.export_inputs import PhotoLocation, TrainingPhotos, open_material
from squeezetune.exporting.exports import export, make_order, read_parameters
from squeezetune.exporting.formats import FORMATS
from squeezetune.exporting.onnx_formats import build_file, compress
from squeezetune.finetune.recipe import EpochPace
from squeezetune.model.classifier import load
from squeezetune.network.float_layers import CodedStore
from squeezetune.network.graph import WeightFormat

pytest.importorskip("torch", reason="torch is an extra")
from squeezetune.exporting import onnx_formats as tuned

pytestmark = pytest.mark.usefixtures("float32")


@pytest.fixture(autouse=True)
def short_training(monkeypatch):
    """Train for two epochs instead of a minute."""
    monkeypatch.setattr(tuned, "make_pace", lambda steps, side: EpochPace(steps, 2.0, side))


@pytest.fixture(scope="module")
def order(model_folder):
    classifier = load(model_folder)
    material = open_material(model_folder, PhotoLocation(), lambda event: None)
    return make_order(classifier, read_parameters(classifier), material)


@pytest.fixture(scope="module")
def compressed(order):
    return compress(order)


@pytest.fixture
def write_plain(compressed):
    """Make a writer of what is compressed already."""

    def write(order, path):
        path.write_bytes(
            build_file(order, compressed.network, WeightFormat(CodedStore(compressed.codes)))
        )

    return write


@pytest.fixture
def write_spoiled(compressed):
    """Make a writer of a file that takes every class for the next one."""

    def write(order, path):
        [(weight, bias)], found = compressed.network.head, compressed.codes["head.0.weight"]
        turned = {name: np.roll(getattr(found, name), 1, axis=1) for name in ("values", "scales")}
        network = replace(
            compressed.network, head=((np.roll(weight, 1, axis=1), np.roll(bias, 1)),)
        )
        form = WeightFormat(
            CodedStore({**compressed.codes, "head.0.weight": replace(found, **turned)})
        )
        path.write_bytes(build_file(order, network, form))

    return write


def list_stages(said):
    return [event.stage for event in said if isinstance(event, StageStarted)]


def test_a_file_that_loses_too_much_is_trained_and_measured_again(
    model_folder, write_spoiled, tmp_path, monkeypatch
):
    monkeypatch.setitem(FORMATS, "onnx-tiny", replace(FORMATS["onnx-tiny"], write=write_spoiled))
    said = []
    found = export(model_folder, ["onnx-tiny"], tmp_path / "out", max_loss=10, listen=said.append)
    assert found["onnx-tiny"].score.agreement >= 0.9
    assert found["onnx-tiny"].byte_count == found.find_path("onnx-tiny").stat().st_size < 0.5e6
    assert tuned.STAGE in list_stages(said)
    [notice] = [event.message for event in said if isinstance(event, Notice)]
    assert "onnx-tiny loses" in notice


@pytest.mark.parametrize("max_loss", [None, 50])
def test_a_file_that_is_good_enough_is_left_alone(
    model_folder, write_plain, tmp_path, monkeypatch, max_loss
):
    monkeypatch.setitem(FORMATS, "onnx-tiny", replace(FORMATS["onnx-tiny"], write=write_plain))
    said = []
    export(model_folder, ["onnx-tiny"], tmp_path / "out", max_loss=max_loss, listen=said.append)
    assert tuned.STAGE not in list_stages(said)


def test_what_still_loses_too_much_is_refused(model_folder, write_spoiled, tmp_path, monkeypatch):
    spoiled = replace(FORMATS["onnx-tiny"], write=write_spoiled, tune=write_spoiled)
    monkeypatch.setitem(FORMATS, "onnx-tiny", spoiled)
    with pytest.raises(ExportError, match="onnx-tiny loses") as caught:
        export(model_folder, ["onnx-tiny"], tmp_path / "out", max_loss=10)
    assert "pip install" not in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_the_trained_file_is_of_the_same_size_and_form(order, write_plain, tmp_path):
    tuned.write_tuned(order, tmp_path / "tuned.onnx")
    write_plain(order, tmp_path / "plain.onnx")
    before, after = (onnx.load(tmp_path / name) for name in ("plain.onnx", "tuned.onnx"))
    assert [node.name for node in after.graph.node] == [node.name for node in before.graph.node]
    assert after.ByteSize() == pytest.approx(before.ByteSize(), abs=2000)


def test_those_that_judge_do_not_train(order):
    sample = tuned.draw_sample(order)
    assert (len(sample.train), len(sample.validation)) == (36, 12)
    pixels = [image.tobytes() for image in sample.pixels]
    assert not set(pixels[:36]) & set(pixels[36:])


def test_without_a_validation_part_some_training_photos_judge(order):
    sample = tuned.draw_sample(
        replace(order, judges=TrainingPhotos(order.photos.index, np.empty(0, np.int64)))
    )
    assert (len(sample.train), len(sample.validation)) == (31, 5)
    pixels = [image.tobytes() for image in sample.pixels]
    assert not set(pixels[:31]) & set(pixels[31:])
