"""Layers of networks that nobody has described, trained from their graphs: modules of torch, and
ONNX files, by the command line and in Python.
"""

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from fast_options import FAST_WITH_NETWORK
from foreign_models import ModelWriter
from onnx import numpy_helper

from squeezetune.cli.main import main
from squeezetune.errors import MissingExtraError, WeightsError
from squeezetune.evaluation.measurement import evaluate
from squeezetune.events import EpochFinished, StageStarted
from squeezetune.exporting.exports import export
from squeezetune.model.classifier import load
from squeezetune.model.explanation import explain
from squeezetune.network.foreign_reading import parse_foreign
from squeezetune.network.trained import read_network
from squeezetune.settings import Settings
from squeezetune.training import forecast, train

torch = pytest.importorskip("torch", reason="torch is an extra")
from test_timm_training import TIMM, with_onnxscript, write_network  # noqa: E402, F401

pytestmark = pytest.mark.usefixtures("no_plots")
FIXED = {"validation": 0.2, "test": 0.2, "folds": "none", "engine": "onnxruntime",
         "precision": "float32", "threads": 2}  # fmt: skip


def read_constants(model):
    return {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}


WIDTHS = (16, 24, 32, 48, 64)


@pytest.fixture(scope="module")
def payload():
    writer = ModelWriter()
    x = writer.add("GlobalAveragePool", writer.stages("photo", WIDTHS))
    x = writer.dense(writer.add("Flatten", x), WIDTHS[-1], 10)
    return writer.write(x, metadata={"name": "Little net"})


@pytest.fixture(scope="module")
def photos(write_shapes, tmp_path_factory):
    """Write so many photos that there is something to learn; only to be read."""
    return write_shapes(tmp_path_factory.mktemp("shapes") / "photos", 60)


@pytest.fixture
def file(payload, tmp_path):
    path = tmp_path / "theirs.onnx"
    path.write_bytes(payload)
    return path


@pytest.fixture(scope="module")
def folder(payload, photos, tmp_path_factory):
    """Train all layers of a small network's file, which is removed then."""
    place = tmp_path_factory.mktemp("graph")
    file = place / "theirs.onnx"
    file.write_bytes(payload)
    train(photos, place / "model", backbone=file, layers="all", epochs=20, **FIXED)
    file.unlink()
    return place / "model"


# ---- what a model is whose layers were trained


def test_trained_layers_are_better_than_random_ones(folder, photos):
    classifier = load(folder)
    assert classifier.report["model"]["network"] == "Little net, all layers trained"
    frozen, trained = classifier.report["stages"]
    assert trained["chosen"]
    assert trained["validation"]["accuracy"] > frozen["validation"]["accuracy"]
    assert evaluate(folder, photos).evaluation.accuracy > 0.7


def test_the_model_says_what_the_training_did(folder):
    agreement = load(folder).report["model"]["agreement"]
    assert agreement["mean_difference"] < 0.01


def test_parameters_are_kept_with_their_new_values(folder, payload):
    kept = read_network((folder / "network.safetensors").read_bytes())
    before = read_constants(parse_foreign(payload, "theirs.onnx").model)
    after = read_constants(kept.foreign.model)
    assert np.array_equal(before["c0"], after["c0"])  # the first block stays as it is
    for name in ("c1", "c2", "c3", "c4"):
        assert not np.allclose(before[name], after[name], rtol=1e-3)
    inside = read_constants(onnx.load(folder / "model.onnx"))
    np.testing.assert_array_equal(inside["backbone.c4"].astype(np.float32), after["c4"])


def test_it_is_explained_and_exported(folder, photos, tmp_path):
    photo = next((photos / "disc").iterdir())
    assert explain(folder, photo).heat.shape == (72, 80)
    exports = export(folder, ["onnx", "onnx-fp16"], tmp_path / "export")
    assert exports["onnx"].score.agreement == 1
    assert exports["onnx-fp16"].score.mean_difference < 0.01


@pytest.mark.parametrize(("knobs", "name", "changed"),
                         [({}, "last 2 blocks", {"c3", "c4"}),
                          ({"last_blocks": 1}, "last block", {"c4"})])  # fmt: skip
def test_the_last_blocks_alone(knobs, name, changed, file, payload, photos, tmp_path):
    heard = []
    classifier = train(photos, tmp_path / "model", backbone=file, layers="last", epochs=20,
                       listen=heard.append, **knobs, **FIXED)  # fmt: skip
    stages = {event.stage for event in heard if isinstance(event, EpochFinished)}
    assert stages - {"head"} == {name}
    results = {item["name"]: item for item in classifier.report["stages"]}
    assert results[name]["chosen"]
    kept = read_network((tmp_path / "model" / "network.safetensors").read_bytes())
    before = read_constants(parse_foreign(payload, "theirs.onnx").model)
    after = read_constants(kept.foreign.model)
    assert {key for key in after if not np.array_equal(before[key], after[key])} == changed


# ---- the same twice, and gone on with


def test_a_run_that_is_stopped_goes_on_to_the_same_end(folder, file, photos, tmp_path):
    class PullTheCableError(Exception):
        pass

    def stop(event):
        is_there = isinstance(event, EpochFinished) and event.stage == "all layers"
        if is_there and event.epoch == 12:
            raise PullTheCableError

    options = {"backbone": file, "layers": "all", "epochs": 20, **FIXED}
    with pytest.raises(PullTheCableError):
        train(photos, tmp_path / "model", listen=stop, **options)
    heard = []
    train(photos, tmp_path / "model", listen=heard.append, resume=True, **options)
    epochs = [event.epoch for event in heard
              if isinstance(event, EpochFinished) and event.stage == "all layers"]  # fmt: skip
    assert 1 < epochs[0] <= 13
    for name in ("model.onnx", "network.safetensors"):
        assert (tmp_path / "model" / name).read_bytes() == (folder / name).read_bytes()


def test_a_budget_is_planned_for(file, photos):
    plan = forecast(photos, backbone=file, layers="all", budget="2m", **FIXED)
    [stage] = plan.stages
    assert [phase.side for phase in stage.phases] == [64]  # the network takes no other
    assert stage.epochs > 1
    assert "all layers at 64 px" in [item.part for item in plan.forecasts]


# ---- what is refused


def test_an_operator_that_cannot_be_trained_is_refused_at_once(photos, tmp_path):
    writer = ModelWriter()
    x = writer.stages("photo")
    best = writer.add("Cast", writer.add("ArgMax", x, axis=1, keepdims=1), to=1)
    x = writer.add("Flatten", writer.add("GlobalAveragePool", writer.add("Mul", x, best)))
    path, heard = tmp_path / "theirs.onnx", []
    path.write_bytes(writer.write(writer.dense(x, 16, 10)))
    with pytest.raises(WeightsError, match="not known here: ArgMax") as caught:
        train(photos, tmp_path / "m", backbone=path, layers="all", listen=heard.append,
              **FIXED)  # fmt: skip
    assert "Leave --layers out" in caught.value.hint
    assert not [event for event in heard if isinstance(event, StageStarted)]
    train(photos, tmp_path / "m", backbone=path, **FIXED)


def test_without_torch_it_is_said_what_to_install(file, photos, tmp_path, monkeypatch):
    for module in ("squeezetune.planning.planner", "squeezetune.pipeline.context"):
        monkeypatch.setattr(f"{module}.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="torch, which trains the layers themselves"):
        train(photos, tmp_path / "model", backbone=file, layers="all", **FIXED)


def test_layers_of_a_graph_may_be_asked_for():
    for layers in ("head", "last", "all"):
        assert Settings(backbone="theirs.onnx", layers=layers).layers == layers
    assert Settings(backbone="theirs.onnx", layers="last", last_blocks=2).last_blocks == 2


# ---- modules of torch, and networks of timm


@pytest.mark.usefixtures("with_onnxscript")
def test_layers_of_a_module_are_trained(photos, tmp_path):
    torch.manual_seed(0)
    layers = []
    for inputs, outputs in ((3, 16), (16, 24), (24, 32)):
        layers += [torch.nn.Conv2d(inputs, outputs, 3, 2, 1), torch.nn.BatchNorm2d(outputs),
                   torch.nn.ReLU()]  # fmt: skip
    ending = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(32, 5)]
    module = torch.nn.Sequential(*layers, *ending)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    classifier = train(photos, tmp_path / "model", backbone=module, image_side=64,
                       layers="all", epochs=20, **FIXED)  # fmt: skip
    assert classifier.report["model"]["network"] == "Sequential, all layers trained"
    frozen, trained = classifier.report["stages"]
    assert trained["validation"]["accuracy"] > frozen["validation"]["accuracy"]
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_layers_of_timms_networks_are_trained(name, shape_folder, tmp_path):
    """Random layers that few photos teach little: the way there and back is what is tried."""
    file, model = write_network(name, tmp_path / f"{name}.onnx"), tmp_path / "model"
    words = ["train", shape_folder, "--backbone", file, "--layers", "all", "--epochs", "4", "-o",
             model, *FAST_WITH_NETWORK]  # fmt: skip
    done = CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    file.unlink()
    classifier = load(model)
    frozen, trained = classifier.report["stages"]
    assert (frozen["name"], trained["name"]) == ("frozen layers", "all layers")
    assert classifier.report["model"]["agreement"]["mean_difference"] < 0.02
    assert evaluate(model, shape_folder).evaluation.count == 60
