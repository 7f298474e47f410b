"""Networks of timm and modules of torch as backbones of whole trainings, by the command line and in
Python.
"""

import importlib.util

import numpy as np
import pytest
from click.testing import CliRunner
from fast_options import FAST_WITH_NETWORK
from foreign_models import draw_photos, normalise

from squeezetune.cli.main import main
from squeezetune.errors import SettingsError
from squeezetune.evaluation.measurement import evaluate
from squeezetune.events import Notice
from squeezetune.exporting.exports import export
from squeezetune.model.classifier import load
from squeezetune.model.explanation import explain
from squeezetune.training import train

torch = pytest.importorskip("torch", reason="torch is an extra")
from timm_models import export as export_foreign  # noqa: E402
from timm_models import load_timm, make_network  # noqa: E402

pytestmark = pytest.mark.usefixtures("no_plots")
FIXED = {"validation": 0.2, "test": 0.2, "folds": "none", "engine": "onnxruntime",
         "precision": "float32", "threads": 2}  # fmt: skip
# With the side that they are exported for.
TIMM = {
    "mobilenetv3_small_100": 64,
    "resnet10t": 64,
    "efficientvit_b0": 64,
    "convnext_atto": 64,
    "deit_tiny_patch16_224": 64,
}


@pytest.fixture
def with_onnxscript():
    if importlib.util.find_spec("onnxscript") is None:
        pytest.skip("onnxscript, with which torch exports, is not installed")


def write_network(name, path):
    """Write a network with random parameters; its statistics are those of coloured patches."""
    network = make_network(name, TIMM[name]).train()
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(
                layer, torch.nn.Conv2d
            ):  # else biases drown what differs (He et al. 2015)
                torch.nn.init.kaiming_normal_(layer.weight)
        for seed in range(8):
            network(torch.from_numpy(normalise(draw_photos(16, TIMM[name], seed))))
    path.write_bytes(export_foreign(network.eval(), TIMM[name], dynamo=True))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_a_network_of_timm_becomes_a_classifier(name, shape_folder, tmp_path):
    file, model = write_network(name, tmp_path / f"{name}.onnx"), tmp_path / "model"
    words = ["train", shape_folder, "--backbone", file, "-o", model, *FAST_WITH_NETWORK]
    done = CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    file.unlink()
    classifier = load(model)
    assert classifier.report["model"]["network"] == f"{name}.onnx, frozen"
    assert classifier.report["model"]["agreement"]["mean_difference"] < 0.01
    found = evaluate(model, shape_folder).evaluation
    assert found.count == 60
    assert found.accuracy > 0.5  # of three shapes, most of them learnt, by random layers
    photo = next((shape_folder / "disc").iterdir())
    assert explain(model, photo).heat.shape == (72, 80)
    exports = export(model, ["onnx", "onnx-fp16"], tmp_path / "export")
    assert exports["onnx"].score.mean_difference < 0.01
    assert exports["onnx-fp16"].score.mean_difference < 0.05


# ---- modules of torch


def make_module():
    torch.manual_seed(0)
    layers = []
    for inputs, outputs in ((3, 8), (8, 16), (16, 24)):
        layers += [torch.nn.Conv2d(inputs, outputs, 3, 2, 1), torch.nn.ReLU()]
    ending = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(24, 5)]
    return torch.nn.Sequential(*layers, *ending)


@pytest.mark.usefixtures("with_onnxscript")
def test_a_module_is_a_backbone(shape_folder, tmp_path):
    module = make_module().train()
    classifier = train(shape_folder, tmp_path / "model", backbone=module, image_side=64, **FIXED)
    assert module.training
    assert classifier.report["model"]["network"] == "Sequential, frozen"
    assert classifier.manifest.image_side == 64
    assert "modules/Sequential-" in classifier.report["command"]
    assert evaluate(tmp_path / "model", shape_folder).evaluation.accuracy > 0.4
    again = train(shape_folder, tmp_path / "again", backbone=module, image_side=64, **FIXED)
    assert again.manifest.weights == classifier.manifest.weights
    first, second = (tmp_path / name / "model.onnx" for name in ("model", "again"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("with_onnxscript")
def test_a_module_of_timm_says_how_it_is_read(shape_folder, tmp_path):
    load_timm()
    network = make_network("resnet10t")
    heard = []
    train(shape_folder, tmp_path / "model", backbone=network, listen=heard.append, **FIXED)
    [words] = [event.message for event in heard
               if isinstance(event, Notice) and "resnet10t" in event.message]  # fmt: skip
    assert "176 px" in words
    assert "mean 0.485 0.456 0.406, deviation 0.229 0.224 0.225 (as the file says)" in words


@pytest.mark.slow
@pytest.mark.usefixtures("with_onnxscript")
def test_a_module_is_a_parameter_of_the_estimator(draw_shape):
    pytest.importorskip("sklearn", reason="scikit-learn is an extra")
    from sklearn.base import clone

    from squeezetune.integrations.estimator import SqueezeTuneClassifier

    images = [np.asarray(draw_shape(shape, n)) for n in range(12) for shape in ("disc", "box")]
    labels = ["disc", "box"] * 12
    estimator = SqueezeTuneClassifier(backbone=make_module(), image_side=64, engine="onnxruntime",
                                      precision="float32", threads=2)  # fmt: skip
    fitted = clone(estimator).fit(images, labels)
    assert fitted.score(images, labels) > 0.6


# ---- timm by name


def test_a_licence_that_is_not_commercial_is_refused_at_once(shape_folder, tmp_path):
    load_timm()
    name = "timm:convnextv2_atto.fcmae_ft_in1k"
    with pytest.raises(SettingsError, match=r"commercially: their licence is cc-by-nc") as caught:
        train(shape_folder, tmp_path / "model", backbone=name, **FIXED)
    assert "--licenses any" in caught.value.hint
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("with_onnxscript")
def test_a_network_of_timm_by_its_name(shape_folder, tmp_path, monkeypatch):
    timm = load_timm()
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: create(name))
    heard = []
    classifier = train(shape_folder, tmp_path / "model", backbone="timm:resnet10t.c3_in1k",
                       listen=heard.append, **FIXED)  # fmt: skip
    words = [event.message for event in heard if isinstance(event, Notice)]
    assert words[0] == "the weights of timm's resnet10t.c3_in1k are fetched; licence apache-2.0"
    assert classifier.manifest.weights["license"] == "apache-2.0"
    assert classifier.manifest.image_side == 176
