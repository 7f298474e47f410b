"""A network that somebody else wrote, from its file to a model that needs the file no more:
trained, measured, explained, exported, and what it cannot in words.
"""

import hashlib
import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from fast_options import FAST_WITH_NETWORK
from foreign_models import SIDE, WIDTHS, ModelWriter, write_cnn

from squeezetune.audit.audit import check
from squeezetune.cli.main import main
from squeezetune.errors import ExportError, SettingsError, WeightsError
from squeezetune.evaluation.measurement import evaluate
from squeezetune.events import Notice, StageStarted
from squeezetune.exporting.exports import export
from squeezetune.model.classifier import load
from squeezetune.model.explanation import Explainer, explain
from squeezetune.network.inference import Runtime, open_graph
from squeezetune.network.trained import read_network
from squeezetune.training import forecast, train

OPTIONS = {"validation": 0.2, "test": 0.2, "folds": "none", "threads": 2}
FIXED = {**OPTIONS, "engine": "onnxruntime", "precision": "float32"}
METADATA = {"mean": "0.5", "std": "0.25", "license": "MIT", "name": "Little net"}

pytestmark = pytest.mark.usefixtures("no_plots")


@pytest.fixture(scope="module")
def payload():
    return write_cnn(metadata=METADATA)


@pytest.fixture(scope="module")
def said():
    return []


@pytest.fixture(scope="module")
def folder(payload, said, shape_folder, tmp_path_factory):
    """Train a model on a small network's file, which is removed then."""
    place = tmp_path_factory.mktemp("foreign")
    file = place / "theirs.onnx"
    file.write_bytes(payload)
    train(shape_folder, place / "model", backbone=file, listen=said.append, **FIXED)
    file.unlink()
    return place / "model"


@pytest.fixture
def file(payload, tmp_path):
    path = tmp_path / "theirs.onnx"
    path.write_bytes(payload)
    return path


# ---- what a model on it is


def test_a_model_needs_the_file_no_more(folder, shape_folder):
    classifier = load(folder)
    photo = next((shape_folder / "disc").iterdir())
    assert set(classifier.predict(photo).probabilities) == {"box", "disc", "spike"}
    found = evaluate(folder, shape_folder).evaluation
    assert found.count == 60
    assert found.accuracy > 0.5  # of three shapes, by random layers
    assert classifier.report["model"]["agreement"]["top1"] == 1


def test_report_and_file_name_the_network_by_its_content(folder, payload):
    sha256 = hashlib.sha256(payload).hexdigest()
    classifier = load(folder)
    expected = {"network": "Little net", "origin": "written by elsewhere", "license": "MIT",
                "sha256": sha256}  # fmt: skip
    assert classifier.report["model"]["weights"] == dict(classifier.manifest.weights) == expected
    assert classifier.report["model"]["network"] == "Little net, frozen"
    assert classifier.manifest.image_side == SIDE
    metadata = {item.key: item.value for item in onnx.load(folder / "model.onnx").metadata_props}
    assert (metadata["network"], metadata["weights_sha256"]) == ("Little net", sha256)
    page = (folder / "report.html").read_text()
    assert sha256[:16] in page
    assert "the published ones" not in page  # of weights


def test_what_was_found_is_told_once(folder, said):
    [notice] = [event.message for event in said
                if isinstance(event, Notice) and "Little net" in event.message]  # fmt: skip
    assert notice == (
        "Little net: 36 features of 't5' (mean of positions, 8), 't7' (mean of positions, 12), "
        "'t11' (values, 16); images of 64 px (the only one that the network takes), channels RGB, "
        "mean 0.5 0.5 0.5, deviation 0.25 0.25 0.25 (as the file says); licence MIT"
    )


def test_a_run_again_gives_the_same_bytes(folder, file, shape_folder, tmp_path):
    again = tmp_path / "model"
    train(shape_folder, again, backbone=file, use_cache=False, **FIXED)
    for name in ("model.onnx", "network.safetensors"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_settings_say_how_it_is_read(file, shape_folder, tmp_path):
    classifier = train(shape_folder, tmp_path / "model", backbone=file, pixel_mean="0.4 0.5 0.6",
                       pixel_std="0.2", taps="t9, t11", **FIXED)  # fmt: skip
    kept = read_network((tmp_path / "model" / "network.safetensors").read_bytes()).foreign
    assert (kept.preprocessing.mean, kept.preprocessing.std) == ((0.4, 0.5, 0.6), (0.2,) * 3)
    assert [tap.tensor for tap in kept.taps] == ["t9", "t11"]
    words = classifier.report["command"]
    assert "--pixel-mean '0.4 0.5 0.6' --pixel-std 0.2 --taps 't9, t11'" in words


def test_another_file_of_the_same_name_is_another_network(file, shape_folder, tmp_path):
    first = train(shape_folder, tmp_path / "first", backbone=file, **FIXED)
    file.write_bytes(write_cnn(classes=9, metadata=METADATA))
    second = train(shape_folder, tmp_path / "second", backbone=file, **FIXED)
    assert first.manifest.weights["sha256"] != second.manifest.weights["sha256"]


@pytest.mark.parametrize("knobs", [{"effort": "thorough"}, {"budget": "2m"}])
def test_the_head_alone_is_trained_where_nobody_asks_for_layers(
    file, shape_folder, tmp_path, knobs
):
    classifier = train(shape_folder, tmp_path / "model", backbone=file, **FIXED, **knobs)
    assert classifier.report["stages"] == []
    assert classifier.report["model"]["network"] == "Little net, frozen"


def test_folds_measure_it(file, shape_folder, tmp_path):
    settings = {**FIXED, "folds": "3"}
    classifier = train(shape_folder, tmp_path / "model", backbone=file, **settings)
    assert classifier.report["test"]["count"] == 60


def test_time_and_memory_are_forecast(file, shape_folder):
    plan = forecast(shape_folder, backbone=file, **FIXED)
    assert 1 < plan.total_s < 120
    assert 100e6 < plan.peak_memory < 800e6


def test_photos_are_checked_by_it(file, shape_folder, tmp_path):
    found = check(shape_folder, tmp_path / "check", backbone=file, engine="onnxruntime")
    assert found.images == 60


# ---- explanations


def test_the_heat_is_where_the_shape_is(folder, draw_shape):
    heat = explain(folder, draw_shape("disc", 900), "disc").heat
    assert heat.shape == (72, 80)
    assert heat.max() == 1


def test_maps_are_those_that_the_features_are_the_means_of(folder, shape_folder):
    """In first order a class's map adds up to the slopes times the means."""
    mapper = Explainer(load(folder))._mapper
    pixels = np.full((SIDE, SIDE, 3), 200, np.uint8)
    pixels[10:40, 20:50] = (200, 30, 30)
    layers = mapper.run(pixels[None])
    assert [maps.shape[1:] for maps in layers] == [(8, 8, 8), (12, 4, 4), (16, 2, 2)]
    means = np.concatenate([maps.mean(axis=(2, 3)) for maps in layers], axis=1)
    foreign = mapper.network.foreign
    run = open_graph(foreign.build_features(len(means)), Runtime("onnxruntime", "float32"), 1)
    np.testing.assert_allclose(means, run(pixels[None])[0], rtol=1e-4, atol=1e-5)


def test_a_network_without_maps_cannot_be_explained(shape_folder, tmp_path):
    writer = ModelWriter()
    x = writer.add("GlobalAveragePool", writer.stages("photo"))
    x = writer.add("Relu", writer.dense(writer.add("Flatten", x), WIDTHS[-1], 40))
    path = tmp_path / "theirs.onnx"
    path.write_bytes(writer.write(writer.dense(x, 40, 10)))
    train(shape_folder, tmp_path / "model", backbone=path, taps="t13", **FIXED)
    with pytest.raises(SettingsError, match=r"theirs\.onnx has no maps among its features"):
        explain(tmp_path / "model", next((shape_folder / "disc").iterdir()))


# ---- exports


def test_formats_of_a_graph_are_written_unasked(folder, shape_folder, tmp_path):
    exports = export(folder, output=tmp_path / "export")
    assert [item.format for item in exports.items] == ["onnx", "onnx-fp16"]
    assert all(item.score.agreement > 0.9 for item in exports.items)
    assert exports["onnx"].score.agreement == 1
    assert exports["onnx-fp16"].byte_count < exports["onnx"].byte_count
    assert "Little net" in (tmp_path / "export" / "README.md").read_text()
    assert not exports.failures


def test_openvino_is_written(folder, tmp_path):
    pytest.importorskip("openvino", reason="openvino is an extra")
    [item] = export(folder, ["openvino"], tmp_path / "export").items
    assert item.score.agreement > 0.9


def test_formats_that_need_a_description_are_refused_in_words(folder, tmp_path):
    exports = export(folder, ["onnx", "onnx-int8"], tmp_path / "export", measure=False)
    [failure] = exports.failures
    assert failure.format == "onnx-int8"
    assert "made of a description of every layer, and Little net is a graph" in failure.message
    with pytest.raises(ExportError, match="onnx-tiny: it is made of a description") as caught:
        export(folder, ["onnx-tiny", "onnx-int8"], tmp_path / "other")
    assert "onnx, onnx-fp16, openvino" in caught.value.hint
    assert not (tmp_path / "other").exists()


# ---- what cannot be, said before anything is computed


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"no network", "This is no ONNX file"), (None, "The network cannot be read")],
)
def test_a_bad_file_is_refused_before_photos_are_looked_at(content, words, shape_folder, tmp_path):
    path, heard = tmp_path / "theirs.onnx", []
    if content:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=words):
        train(shape_folder, tmp_path / "model", backbone=path, listen=heard.append, **FIXED)
    assert not [event for event in heard if isinstance(event, StageStarted)]
    assert not (tmp_path / "model").exists()


def test_a_tensor_that_is_not_there_is_refused(file, shape_folder, tmp_path):
    with pytest.raises(WeightsError, match="has no tensor 'nothing'"):
        train(shape_folder, tmp_path / "model", backbone=file, cut="nothing", **FIXED)


def test_another_side_than_the_networks_is_refused(file, shape_folder, tmp_path):
    with pytest.raises(WeightsError, match="takes images of 64 x 64 pixels alone; asked for is 96"):
        train(shape_folder, tmp_path / "model", backbone=file, image_side=96, **FIXED)


# ---- the command line


def run(*words):
    return CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)


def test_the_command_line_trains_predicts_and_describes(file, shape_folder, tmp_path):
    model = tmp_path / "model"
    done = run("train", shape_folder, "--backbone", file, "-o", model, *FAST_WITH_NETWORK)
    assert done.exit_code == 0
    assert "36 features of 't5'" in done.output.replace("\n", " ")
    photo = next((shape_folder / "box").iterdir())
    assert run("predict", model, photo).exit_code == 0
    assert "Little net, frozen" in run("info", model).output
    told = run("backbones", file).output
    assert "36 features are read from:" in told
    [plain] = json.loads(run("backbones", file, "--json", "--cut", "t9").output)
    assert [tap["tensor"] for tap in plain["taps"]][-1] == "t9"
    assert plain["mean"] == [0.5, 0.5, 0.5]


def test_the_command_line_refuses_what_belongs_to_graphs_alone():
    done = run("backbones", "resnet18", "--taps", "a")
    assert done.exit_code == SettingsError.exit_status
