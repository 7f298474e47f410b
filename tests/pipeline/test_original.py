import hashlib
import importlib.util
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from example_weights import draw_weights
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from sessions import open_session

from squeezetune.cli.main import main
from squeezetune.data.pixels import PixelSettings, load_pixels
from squeezetune.data.sources.folder import FolderSource
from squeezetune.errors import CheckpointError, SettingsError, SourceError
from squeezetune.evaluation.measurement import evaluate
from squeezetune.events import EpochFinished, StageStarted, ignore_event
from squeezetune.integrations.estimator import SqueezeTuneClassifier
from squeezetune.model.artifact import read_manifest, read_report
from squeezetune.network.published import find_weights
from squeezetune.network.trained import read_network
from squeezetune.settings import Settings
from squeezetune.training import forecast, train

needs_torch = pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="torch is an extra")

SETTINGS = Settings(recipe="original", image_side=64, epochs=2, validation=0.2, test=0.2, threads=1)


def test_without_torch_it_says_how_to_install_it(shape_folder, tmp_path):
    code = (
        "import sys; sys.modules['torch'] = None\nimport squeezetune\n"
        f"try: squeezetune.train({str(shape_folder)!r}, {str(tmp_path / 'model')!r}, "
        f"recipe='original')\n"
        "except squeezetune.MissingExtraError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torch is not installed" in done.stdout
    assert not (tmp_path / "model").exists()


def test_it_has_no_forecast(shape_folder):
    with pytest.raises(SettingsError, match="the original recipe cannot be forecast"):
        forecast(shape_folder, SETTINGS)


@pytest.fixture(scope="module")
def folder(shape_folder, tmp_path_factory):
    """Train the last Fire module too; only to be read."""
    folder = tmp_path_factory.mktemp("original") / "model"
    train(shape_folder, folder, replace(SETTINGS, last_blocks=1, epochs=8))
    return folder


# ---- the model


@needs_torch
def test_shapes_are_learnt_and_measured(folder, shape_folder):
    report = read_report(folder)
    assert report["test"]["accuracy"] > 0.5
    measured = evaluate(folder, shape_folder).evaluation
    assert measured.count == 60
    assert measured.accuracy > 0.7


@needs_torch
def test_the_report_says_what_it_is(folder):
    report = read_report(folder)
    model = report["model"]
    assert model["network"] == "SqueezeNet 1.1, the original recipe"
    assert model["head"] == "batch normalisation and convolution"
    assert (model["views"], model["image_side"], model["resize"]) == ("image", 64, "squash")
    assert (model["engine"], model["temperature"], model["regularisation"]) == ("torch", 1.0, None)
    assert [item["name"] for item in model["candidates"]] == [f"{model['head']}, fire9 trained"]
    assert model["agreement"]["top1"] == 1
    assert (
        model["agreement"]["mean_difference"] < 1e-3
    )  # Resize in the file and Pillow differ by a grey level
    assert report["stages"] == []
    assert [(epoch["stage"], epoch["epoch"]) for epoch in report["history"]] == [
        ("original recipe", number) for number in range(1, 9)
    ]
    assert "--recipe original" in report["command"]
    assert (folder / "plots" / "training.png").is_file()
    assert b"original recipe" in (folder / "report.html").read_bytes()


@needs_torch
def test_the_manifest_says_what_it_is(folder):
    manifest = read_manifest(folder)
    assert (manifest.image_side, manifest.resize, manifest.views) == (64, "squash", 1)
    assert manifest.settings["recipe"] == "original"
    assert manifest.data | {"fingerprint": ""} == {
        "fingerprint": "",
        "train": 36,
        "validation": 12,
        "test": 12,
    }


@needs_torch
@pytest.mark.parametrize("words", [("info",), ("info", "--json")])
def test_the_command_line_knows_it(folder, words):
    result = CliRunner().invoke(main, [words[0], str(folder), *words[1:]])
    assert result.exit_code == 0, result.output
    assert "original" in result.output


@pytest.fixture(scope="module")
def old_folder(shape_folder, tmp_path_factory):
    """Train the classifier of SqueezeNet 1.0, from a file of torch; only to be read."""
    torch = pytest.importorskip("torch", reason="torch is an extra")
    folder = tmp_path_factory.mktemp("old")
    torch.save(
        {name: torch.from_numpy(value) for name, value in draw_weights("1.0").items()},
        folder / "mine.pth",
    )
    train(shape_folder, folder / "model", SETTINGS, weights=folder / "mine.pth")
    return folder / "model"


@needs_torch
def test_it_says_which_weights_it_began_with(old_folder):
    manifest, report = read_manifest(old_folder), read_report(old_folder)
    sha256 = hashlib.sha256((old_folder.parent / "mine.pth").read_bytes()).hexdigest()
    assert manifest.weights == report["model"]["weights"] == {
        "network": "SqueezeNet 1.0", "origin": "mine.pth", "license": "unknown", "sha256": sha256,
    }  # fmt: skip
    assert report["model"]["network"] == "SqueezeNet 1.0, the original recipe"
    assert f"--weights {old_folder.parent / 'mine.pth'}" in report["command"]
    assert sha256[:16].encode() in (old_folder / "report.html").read_bytes()
    about = {item.key: item.value for item in onnx.load(old_folder / "model.onnx").metadata_props}
    assert (about["network"], about["weights"], about["weights_sha256"]) == (
        "SqueezeNet 1.0",
        "mine.pth",
        sha256,
    )


@needs_torch
@pytest.mark.parametrize("name", ["folder", "old_folder"])
def test_the_file_gives_what_the_stored_network_gives_in_torch(request, name, shape_folder):
    import torch

    from squeezetune.finetune.batches import normalise
    from squeezetune.finetune.torch_network import SqueezeNet

    folder = request.getfixturevalue(name)
    tensors = load_file(folder / "network.safetensors")
    with safe_open(folder / "network.safetensors", "numpy") as file:
        network = SqueezeNet(
            json.loads(file.metadata()["squeezetune"])["squeezenet"], num_classes=3
        )
    network.classifier[0] = torch.nn.BatchNorm2d(512)
    network.load_state_dict(
        {name: torch.from_numpy(value).float() for name, value in tensors.items()}
    )
    network.eval()
    graph = onnx.load(folder / "model.onnx")
    assert {node.op_type for node in graph.graph.node} >= {"Conv", "Relu", "ReduceMean", "Softmax"}
    names = [
        f"{shape}/{number:03d}.png" for shape in ("box", "disc", "spike") for number in range(4)
    ]
    pixels = np.stack(
        [load_pixels(FolderSource(shape_folder), name, PixelSettings(64))[0] for name in names]
    )
    with torch.inference_mode():
        expected = network(normalise(torch.from_numpy(pixels)).contiguous()).softmax(1).numpy()
    session = open_session(folder / "model.onnx")
    [found] = session.run(
        None, {"image": pixels}
    )  # already of the right size, so that nothing is resized
    np.testing.assert_allclose(found, expected, atol=1e-5)
    again = read_network((folder / "network.safetensors").read_bytes()).build_model({})
    session = open_session(again)
    np.testing.assert_allclose(session.run(None, {"image": pixels})[0], found, atol=1e-5)


@needs_torch
def test_what_was_trained_keeps_all_its_digits(folder, weights):
    tensors = load_file(folder / "network.safetensors")
    assert set(tensors) == {name for name in weights if name.startswith("features.")} | {
        *(
            f"classifier.0.{part}"
            for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        ),
        *(f"classifier.1.{part}" for part in ("weight", "bias")),
    }
    for name, value in tensors.items():
        if name.startswith("features."):
            is_trained = name.startswith("features.12.")
            assert value.dtype == (np.float32 if is_trained else np.float16)
            assert np.array_equal(value, weights[name]) is not is_trained


# ---- the run


@needs_torch
def test_the_same_seed_gives_the_same_bytes(shape_folder, tmp_path):
    for name, settings in (("a", SETTINGS), ("b", SETTINGS), ("c", replace(SETTINGS, seed=1))):
        train(shape_folder, tmp_path / name, settings, use_cache=name != "b")
    files = {name: (tmp_path / name / "network.safetensors").read_bytes() for name in "abc"}
    assert files["a"] == files["b"] != files["c"]
    assert (tmp_path / "a" / "model.onnx").read_bytes() == (
        tmp_path / "b" / "model.onnx"
    ).read_bytes()
    assert not list(tmp_path.glob(".*"))


@needs_torch
def test_photos_are_seen_at_224_pixels_ten_times(shape_folder, tmp_path):
    said = []

    def stop(event):
        said.append(event)
        if isinstance(event, EpochFinished):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(shape_folder, tmp_path / "model", recipe="original", threads=1, listen=stop)
    assert said[-1].of == 10
    [store] = [
        event for event in said if isinstance(event, StageStarted) and event.stage == "pixels"
    ]
    assert store.total == 48 + 6  # of 60 photos, all but the test part


@needs_torch
def test_an_unfinished_run_goes_on_to_the_same_bytes(shape_folder, tmp_path):
    settings = replace(SETTINGS, classifier_norm="none", epochs=3)
    train(shape_folder, tmp_path / "whole", settings)
    with pytest.raises(KeyboardInterrupt):
        train(shape_folder, tmp_path / "model", settings, listen=stop_at(2))
    assert (tmp_path / ".model.unfinished").is_dir()
    said = []
    train(shape_folder, tmp_path / "model", settings, resume=True, listen=said.append)
    assert [event.epoch for event in said if isinstance(event, EpochFinished)] == [2, 3]
    for name in ("network.safetensors", "model.onnx"):
        assert (tmp_path / "model" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / ".model.unfinished").exists()


@needs_torch
def test_an_unfinished_run_does_not_go_on_with_other_weights(shape_folder, tmp_path):
    save_file(draw_weights("1.1"), tmp_path / "mine.safetensors")
    settings = replace(SETTINGS, weights=str(tmp_path / "mine.safetensors"))
    with pytest.raises(KeyboardInterrupt):
        train(shape_folder, tmp_path / "model", settings, listen=stop_at(2))
    save_file(draw_weights("1.1", seed=1), tmp_path / "mine.safetensors")
    with pytest.raises(CheckpointError, match=r"settings\.weights is"):
        train(shape_folder, tmp_path / "model", settings, resume=True)


@needs_torch
def test_weights_of_another_network_are_refused(shape_folder, tmp_path):
    lite = find_weights("efficientnet_lite0").find()
    settings = replace(SETTINGS, weights=str(lite))
    with pytest.raises(SettingsError, match="those of EfficientNet-Lite0; the original recipe is"):
        train(shape_folder, tmp_path / "model", settings)


def stop_at(epoch):
    """Make a listener that stops everything at the end of an epoch, before it is kept."""

    def listen(event):
        if isinstance(event, EpochFinished) and event.epoch == epoch:
            raise KeyboardInterrupt

    return listen


@needs_torch
def test_photos_that_cannot_be_decoded_are_left_out(write_shapes, tmp_path):
    photos = write_shapes(tmp_path / "photos", 10)
    for number in range(0, 10, 3):
        path = photos / "disc" / f"{number:03d}.png"
        path.write_bytes(path.read_bytes()[:-2000])
    train(photos, tmp_path / "model", replace(SETTINGS, epochs=1))
    report = read_report(tmp_path / "model")
    assert len(report["data"]["skipped"]) == 4
    assert sum(report["data"]["parts"].values()) + len(report["data"]["skipped"]) >= 30


@needs_torch
def test_no_photo_that_can_be_decoded_is_an_error(write_shapes, tmp_path):
    photos = write_shapes(tmp_path / "photos", 5)
    for path in photos.rglob("*.png"):
        path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(SourceError, match="none of 12 images can be decoded"):
        train(photos, tmp_path / "model", SETTINGS, listen=ignore_event)


@needs_torch
def test_the_estimator_knows_it(draw_shape):
    images = [draw_shape(shape, number) for shape in ("box", "disc") for number in range(12)]
    labels = ["box"] * 12 + ["disc"] * 12
    model = SqueezeTuneClassifier(
        recipe="original", image_side=64, epochs=12.0, last_blocks=1, threads=1
    )
    assert model.fit(images, labels).score(images, labels) > 0.7
    assert json.dumps(model.get_params())


@needs_torch
def test_where_images_are_too_few_the_training_ones_judge(draw_shape):
    images = [draw_shape(shape, 0) for shape in ("box", "disc")]
    model = SqueezeTuneClassifier(recipe="original", image_side=64, epochs=3.0, threads=1).fit(
        images, ["box", "disc"]
    )
    assert model.predict_proba(images).shape == (2, 2)
