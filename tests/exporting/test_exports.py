import json
import os
import re
import shutil
import subprocess
import sys
import venv
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from example_orders import make_order
from odd_images import make_odd_images, open_model
from PIL import Image
from sessions import open_session

import squeezetune.exporting.attempt as attempt_module
from squeezetune.cli.main import main
from squeezetune.errors import ArtifactError, ExportError, SettingsError, SourceError
from squeezetune.exporting.export_index import CARD, INDEX, read_exports
from squeezetune.exporting.exports import export
from squeezetune.exporting.formats import FORMATS
from squeezetune.exporting.model_card import name_license, write_card
from squeezetune.exporting.runtimes import READERS
from squeezetune.model.artifact import MODEL
from squeezetune.model.classifier import load
from squeezetune.network.pretrained import load_pretrained
from squeezetune.training import train

pytestmark = pytest.mark.usefixtures("no_plots")

ONNX = ("onnx", "onnx-fp16", "onnx-int8", "onnx-tiny")


@pytest.fixture(scope="module")
def exports(model_folder, tmp_path_factory):
    return export(model_folder, ONNX, tmp_path_factory.mktemp("exports") / "shapes-export")


def run(path, images):
    session = open_session(path)
    return session.run(None, {"image": images})[0]


# ---- what is written


def test_every_file_is_measured_on_the_test_photos(exports, model_folder):
    data = load(model_folder).report["test"]
    assert [item.format for item in exports.items] == list(ONNX)
    for item in exports.items:
        assert item.score.images == data["count"]
        assert item.score.is_honest
        assert item.score.agreement >= 0.9
        assert item.byte_count == exports.find_path(item.format).stat().st_size
        assert set(item.trial.images_per_s) == {"1", "32"}
        assert 0 < item.trial.cold_start_s < 60
    assert exports["onnx"].score.accuracy == data["accuracy"]
    assert exports["onnx"].score.change == 0


def test_the_sizes_are_those_that_the_formats_are_for(exports):
    sizes = {item.format: item.byte_count for item in exports.items}
    assert sizes["onnx-tiny"] < 0.5e6
    assert sizes["onnx-int8"] < 0.85e6
    assert sizes["onnx-fp16"] < 1.6e6 < 2.9e6 < sizes["onnx"]


@pytest.mark.parametrize("name", ONNX)
def test_a_file_says_what_it_is(exports, model_folder, name):
    model = onnx.load(exports.find_path(name))
    onnx.checker.check_model(model, full_check=True)
    about = {item.key: item.value for item in model.metadata_props}
    manifest = load(model_folder).manifest
    assert json.loads(about["class_names"]) == list(manifest.class_names)
    assert json.loads(about["settings"]) == dict(manifest.settings)
    assert about["data_fingerprint"] == manifest.data["fingerprint"]
    assert "BSD" in about["license"]
    assert {node.domain for node in model.graph.node} == {""}


@pytest.mark.parametrize("name", ONNX)
def test_a_file_takes_images_of_any_size(exports, name):
    for height, width in ((1, 1), (5, 300), (64, 64), (200, 90)):
        images = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
        found = run(exports.find_path(name), images)
        assert found.shape == (2, 3)
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-4)


@pytest.mark.parametrize(("name", "tolerance"), [("onnx", 0.01), ("onnx-fp16", 0.01)])
def test_floats_answer_as_the_model_does(exports, model_folder, name, tolerance):
    images = np.random.default_rng(0).integers(0, 256, (4, 80, 70, 3), dtype=np.uint8)
    np.testing.assert_allclose(
        run(exports.find_path(name), images), run(model_folder / MODEL, images), atol=tolerance
    )


# of 553 sure answers to 600 odd images 99 % and 95 % stay the same; 120 images tell it to within
# two points
@pytest.mark.parametrize(("name", "share"), [("onnx-int8", 0.98), ("onnx-tiny", 0.91)])
def test_fewer_bits_seldom_change_a_sure_answer_even_on_odd_images(
    exports, model_folder, name, share
):
    expected, found = (
        open_model(path.read_bytes()) for path in (model_folder / MODEL, exports.find_path(name))
    )
    images = list(make_odd_images(120, large=0))
    rows = [expected(image[None])[0] for image in images]
    # of noise and flat colours the network may be unsure: then anything tips the scale
    is_sure = np.array([np.subtract(*np.sort(row)[:-3:-1]) > 0.5 for row in rows])
    said = [found(image[None])[0].argmax() for image in images]
    is_same = np.array(said) == np.argmax(rows, axis=1)
    assert is_sure.mean() > 0.5
    assert is_same[is_sure].mean() >= share


def test_more_photos_go_through_an_int8_file_together(exports, model_folder):
    """They take less of the processor's cache; what a photo is said to be does not hang on its
    company.
    """
    whole, small = load(model_folder), load(exports.find_path("onnx-int8"))
    assert small.batch_images == 4 * whole.batch_images
    images = [
        np.random.default_rng(seed).integers(0, 256, (50, 60, 3), dtype=np.uint8)
        for seed in range(20)
    ]
    alone = np.concatenate([small.predict_probabilities([image]) for image in images])
    np.testing.assert_array_equal(small.predict_probabilities(images), alone)


def test_the_card_names_every_file_and_figure(exports):
    card = (exports.folder / CARD).read_text()
    header, body = card.split("---\n")[1], card.split("---\n", 2)[2]
    assert "pipeline_tag: image-classification" in header
    assert header.count("type: accuracy") == len(ONNX)
    for item in exports.items:
        assert f"`{item.path}`" in body
    assert "95 % interval" in body
    assert "Licence" in body


def test_the_card_names_the_network(exports, model_folder, tmp_path):
    """Its family, its licence, and its name where there is no report to read it in."""
    header, body = (exports.folder / CARD).read_text().split("---\n", 2)[1:]
    assert '"squeezenet"' in header
    assert 'license: "bsd-2-clause"' in header
    assert "SqueezeNet 1.1" in body
    shutil.copytree(model_folder, tmp_path / "model")
    (tmp_path / "model" / "report.json").unlink()
    order = make_order(load_pretrained(backbone="efficientnet_lite0").weights)
    about = {**order.metadata, "license": "weights Apache-2.0; the photos' owner decides"}
    card = write_card(exports, load(tmp_path / "model"), replace(order, metadata=about))
    assert '"efficientnet_lite0"' in card
    assert 'license: "apache-2.0"' in card
    assert "EfficientNet-Lite0" in card
    assert "squeezenet" not in card.lower()
    assert name_license("weights CC BY-NC 4.0") == "other"


def test_the_program_on_the_card_runs_anywhere(exports, shape_folder, tmp_path):
    """Run it in a process that cannot import anything of ours."""
    program = (exports.folder / CARD).read_text().split("```python\n")[1].split("```")[0]
    blocked = "import sys; sys.modules.update(squeezetune=None, onnx=None, scipy=None)\n"
    (tmp_path / "run.py").write_text(blocked + program)
    photo = shape_folder / "disc" / "003.png"
    done = subprocess.run(
        [sys.executable, tmp_path / "run.py", photo],
        cwd=exports.folder,
        capture_output=True,
        check=True,
    )
    assert b": disc (" in done.stdout


# ---- the program in the README

README = Path(__file__).parents[2] / "README.md"
PACKAGES = ("numpy", "Pillow", "onnxruntime")
# run a program where no package but these can be imported
ALONE = """
import runpy, sys

class Guard:
    def find_spec(name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in {"numpy", "PIL", "onnxruntime"}:
            raise ModuleNotFoundError(f"{name} is kept away")

sys.meta_path.insert(0, Guard)
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def program(tmp_path):
    """Take the program for a file of 4 bits out of the README."""
    codes = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    [code] = [code for code in codes if "-tiny.onnx" in code]
    (tmp_path / "classify.py").write_text(code)
    return tmp_path / "classify.py"


def classify(words, exports, shape_folder, tmp_path):
    """Let a program classify a photo that a camera has turned; check what it says."""
    upright = Image.open(shape_folder / "spike" / "003.png").resize((90, 60))
    exif = Image.Exif()
    exif[0x0112] = 6  # a reader has to turn it by 90 degrees clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    model, names = exports.find_path("onnx-tiny"), ["box", "disc", "spike"]
    done = subprocess.run(
        [*words, model, tmp_path / "turned.png"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    [row, lying] = (
        run(model, np.asarray(image)[None])[0]
        for image in (upright, Image.open(tmp_path / "turned.png"))
    )
    best = [f"    {names[at]} {row[at]:.2%}" for at in np.argsort(-row)]
    assert done.stdout.splitlines() == [str(tmp_path / "turned.png"), *best]
    assert np.abs(row - lying).max() > 1e-3  # else it would not show whether the photo was turned


def test_the_readmes_program_needs_three_packages_and_twenty_lines(
    exports, program, shape_folder, tmp_path
):
    assert len(program.read_text().splitlines()) <= 20
    classify([sys.executable, "-c", ALONE, program], exports, shape_folder, tmp_path)


@pytest.mark.slow
def test_the_readmes_program_runs_in_an_environment_of_its_own(
    exports, program, shape_folder, tmp_path
):
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    listed = subprocess.run(
        [python, "-m", "pip", "list"], capture_output=True, text=True, env=environment, check=True
    )
    assert not {"onnx", "scipy", "squeezetune", "torch"} & set(listed.stdout.split())
    classify([python, "-I", program], exports, shape_folder, tmp_path)


# ---- what stays, and what is refused


def test_exports_of_the_same_model_stay(model_folder, tmp_path):
    first = export(model_folder, ["onnx-fp16"], tmp_path / "out")
    second = export(model_folder, ["onnx"], tmp_path / "out", measure=False)
    assert [item.format for item in second.items] == ["onnx", "onnx-fp16"]
    assert second["onnx-fp16"] == first["onnx-fp16"]
    assert second["onnx"].score is None
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        [CARD, INDEX, "model.onnx", "model-fp16.onnx"]
    )


def test_an_export_that_loses_too_much_is_refused(model_folder, tmp_path, monkeypatch):
    def answer_nothing(path):
        return lambda images: np.tile(np.array([[0.5, 0.3, 0.2]], np.float32), (len(images), 1))

    monkeypatch.setitem(READERS, "onnxruntime", answer_nothing)
    with pytest.raises(
        ExportError, match=r"onnx loses \d+\.\d+ points on 12 test photos .* allowed are 0.5"
    ):
        export(model_folder, ["onnx"], tmp_path / "out", max_loss=0.5)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "advises"), [("onnx-tiny", True), ("onnx", False)])
def test_without_torch_it_says_what_could_be_done_with_it(
    model_folder, tmp_path, monkeypatch, name, advises
):
    def answer_nothing(path):
        return lambda images: np.tile(np.array([[0.5, 0.3, 0.2]], np.float32), (len(images), 1))

    monkeypatch.setitem(READERS, "onnxruntime", answer_nothing)
    monkeypatch.setattr(attempt_module, "find_spec", lambda package: None)
    with pytest.raises(ExportError) as caught:
        export(model_folder, [name], tmp_path / "out", max_loss=0.5)
    assert ("squeezetune[deep]" in caught.value.hint) is advises


def test_photos_are_found_where_they_lie_now(write_shapes, fixed_settings, tmp_path):
    photos = write_shapes(tmp_path / "shapes", 8)
    train(photos, tmp_path / "model", fixed_settings)
    photos.rename(tmp_path / "moved")
    with pytest.raises(SourceError, match="shapes") as caught:
        export(tmp_path / "model", ["onnx"])
    assert "--photos" in caught.value.hint
    found = export(tmp_path / "model", ["onnx"], photos=tmp_path / "moved")
    assert found.folder == tmp_path / "model-export"
    assert found["onnx"].score.is_honest
    for path in (tmp_path / "moved").rglob("*.png"):
        path.write_bytes(path.read_bytes() + b"changed")
    with pytest.raises(SourceError, match="none of the"):
        export(tmp_path / "model", ["onnx"], photos=tmp_path / "moved")


@pytest.mark.parametrize("place", ["photos", "model"])
def test_nothing_is_written_among_the_photos_or_into_the_model(model_folder, shape_folder, place):
    root = {"photos": shape_folder, "model": model_folder}[place]
    before = sorted(root.rglob("*"))
    with pytest.raises(SettingsError, match="inside the photos"):
        export(model_folder, ["onnx"], root / "out")
    assert sorted(root.rglob("*")) == before


@pytest.mark.slow
def test_a_model_that_learnt_from_all_photos_shows_differences_alone(
    write_shapes, fixed_settings, tmp_path
):
    photos = write_shapes(tmp_path / "shapes", 5)
    train(photos, tmp_path / "model", fixed_settings, folds="3")
    found = export(tmp_path / "model", ["onnx"])
    assert not found["onnx"].score.is_honest
    card = (found.folder / CARD).read_text()
    assert "only the differences mean anything" in card
    assert "type: accuracy" not in card


@pytest.mark.parametrize(("formats", "message"), [(["onx"], "no format 'onx'")])
def test_unknown_formats_are_told(model_folder, formats, message):
    with pytest.raises(SettingsError, match=message) as caught:
        export(model_folder, formats)
    assert "onnx-tiny" in caught.value.hint


def test_formats_that_look_at_photos_need_some(model_folder, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(model_folder, model)
    (model / "parts.safetensors").unlink()
    with pytest.raises(ArtifactError, match="does not say which photos"):
        export(model, ["onnx-tiny"], measure=False)
    assert export(model, ["onnx"], measure=False)["onnx"].trial is None


@pytest.mark.parametrize(
    "content", [b"", b"{}", b'{"format": "squeezetune-exports", "format_version": 99}', b"[1]"]
)
def test_a_foreign_folder_is_told_and_left_alone(model_folder, tmp_path, content):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / INDEX).write_bytes(content)
    with pytest.raises(ArtifactError, match="holds no exports"):
        read_exports(folder)


def test_a_folder_with_something_else_is_not_replaced(model_folder, tmp_path):
    (tmp_path / "letters.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="holds something else"):
        export(model_folder, ["onnx"], tmp_path, measure=False)
    assert (tmp_path / "letters.txt").read_text() == "mine"


# ---- what fails by itself


@pytest.fixture
def broken_tiny(monkeypatch):
    """Let the runtime be one that cannot read integers of 4 bits."""
    opened = READERS["onnxruntime"]

    def open_old(path):
        if "tiny" in path.name:
            raise RuntimeError("Could not find an implementation for Cast(21)\nand more")
        return opened(path)

    monkeypatch.setitem(READERS, "onnxruntime", open_old)


@pytest.mark.usefixtures("broken_tiny")
def test_a_format_that_fails_in_its_runtime_is_told_and_the_others_are_written(
    model_folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(attempt_module, "find_version", lambda package: "1.22.1")
    model = shutil.copytree(model_folder, tmp_path / "model")
    words = [
        "export",
        str(model),
        "-f",
        "onnx-tiny",
        "-f",
        "onnx",
        "-o",
        str(tmp_path / "out"),
        "--quiet",
    ]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    told = (
        "onnx-tiny was not written: model-tiny.onnx does not work here: Could not find an "
        "implementation for Cast(21)."
    )
    assert told in done.output.replace("\n", " ").replace("  ", " ")
    assert "It needs onnxruntime >= 1.23.0, and 1.22.1 is installed" in done.output.replace(
        "\n", " "
    )
    found = read_exports(tmp_path / "out")
    assert [item.format for item in found.items] == ["onnx"]
    assert found["onnx"].score
    assert [failure.format for failure in found.failures] == ["onnx-tiny"]
    with pytest.raises(ExportError, match="does not work here"):
        found["onnx-tiny"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        [CARD, INDEX, "model.onnx"]
    )
    assert "onnx-tiny is not here" in (tmp_path / "out" / CARD).read_text()
    assert "onnx-tiny is not there" in (model / "report.html").read_text()


@pytest.mark.usefixtures("broken_tiny")
def test_where_every_format_fails_nothing_is_written(model_folder, tmp_path):
    with pytest.raises(ExportError, match=r"onnx-tiny: model-tiny\.onnx does not work here"):
        export(model_folder, ["onnx-tiny"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_card_says_what_its_files_need(exports):
    card = (exports.folder / CARD).read_text()
    assert "| `model-tiny.onnx` | onnxruntime &gt;= 1.23.0 |".replace("&gt;", "\\>") in card
    assert exports["onnx"].needs == "onnxruntime >= 1.16.3"


# ---- the command


def test_the_command_prints_a_row_for_each(model_folder, tmp_path):
    words = ["export", str(model_folder), "-f", "onnx-fp16", "-o", str(tmp_path / "out"), "--quiet"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert "onnx-fp16" in done.output
    again = CliRunner().invoke(main, [*words, "--json"])
    assert json.loads(again.stdout)["exports"][0]["format"] == "onnx-fp16"
    refused = CliRunner().invoke(main, [*words[:2], "-f", "coreml"])
    assert refused.exit_code == 2
    assert "Known formats" in refused.output


def test_every_format_is_described():
    for found in FORMATS.values():
        assert found.words
        assert found.path
