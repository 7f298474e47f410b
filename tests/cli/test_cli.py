import json
import math
import random
import shutil
import sys
from dataclasses import fields

import numpy as np
import pytest
from click.testing import CliRunner
from example_weights import draw_weights
from fast_options import FAST, SMALL
from safetensors.numpy import save_file

from squeezetune.cli.main import main
from squeezetune.errors import WeightsError
from squeezetune.network import backbone as backbone
from squeezetune.network.inference import Runtime
from squeezetune.pipeline import context as context
from squeezetune.settings import Settings


@pytest.fixture
def run():
    def call(*words, **options):
        return CliRunner().invoke(main, [str(word) for word in words], **options)

    return call


def test_train_prints_the_result_and_where_it_is(run, shape_folder, tmp_path):
    result = run("train", shape_folder, "--output", tmp_path / "model", *FAST)
    assert result.exit_code == 0, result.output
    assert "of 12 test photos are recognised" in result.stdout
    assert str(tmp_path / "model" / "report.html") in result.stdout
    assert (tmp_path / "model" / "report.html").is_file()
    assert result.stderr == ""  # no terminal: no progress


def test_train_json_is_the_report(run, shape_folder, tmp_path):
    result = run("train", shape_folder, "--output", tmp_path / "model", "--json", *FAST)
    content = json.loads(result.stdout)
    assert content["model"]["image_side"] == 64
    assert content["folder"] == str(tmp_path / "model")
    assert content["test"] == json.loads((tmp_path / "model" / "report.json").read_text())["test"]


def test_default_output_is_named_after_the_photos(run, shape_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("train", shape_folder, *FAST).exit_code == 0
    assert (tmp_path / "photos-model" / "model.json").is_file()


def test_command_in_the_report_repeats_the_run(run, shape_folder, tmp_path):
    run("train", shape_folder, "--output", tmp_path / "model", *FAST, "--seed", "3")
    first = (tmp_path / "model" / "network.safetensors").read_bytes()
    command = json.loads((tmp_path / "model" / "report.json").read_text())["command"]
    assert "--seed 3" in command
    assert "--effort" not in command  # the default
    (tmp_path / "model").rename(tmp_path / "earlier")
    assert run(*command.split()[1:]).exit_code == 0
    assert (tmp_path / "model" / "network.safetensors").read_bytes() == first


@pytest.mark.slow
@pytest.mark.parametrize("chosen", ["onnxruntime int8", "onnxruntime float32"])
def test_the_command_repeats_what_a_timing_chose_with_an_empty_cache(
    run, shape_folder, tmp_path, monkeypatch, chosen
):
    engine, precision = chosen.split()
    monkeypatch.setattr(backbone, "choose_runtime", lambda *_: Runtime(engine, precision))
    monkeypatch.setattr(context, "count_cores", lambda: 2)
    monkeypatch.setenv("SQUEEZETUNE_CACHE", str(tmp_path / "cache"))
    assert run("train", shape_folder, "--output", tmp_path / "model", *SMALL).exit_code == 0
    first = (tmp_path / "model" / "model.onnx").read_bytes()
    command = json.loads((tmp_path / "model" / "report.json").read_text())["command"]
    assert f"--engine {engine} --precision {precision} --threads 2" in command
    (tmp_path / "model").rename(tmp_path / "earlier")
    monkeypatch.setattr(backbone, "choose_runtime", lambda *_: pytest.fail("timed"))
    monkeypatch.setattr(context, "count_cores", lambda: 5)  # another machine
    monkeypatch.setenv("SQUEEZETUNE_CACHE", str(tmp_path / "empty"))
    assert run(*command.split()[1:]).exit_code == 0
    assert (tmp_path / "model" / "model.onnx").read_bytes() == first


def test_every_setting_is_an_option(run):
    text = run("train", "--help").output
    for item in fields(Settings):
        assert f"--{item.name.replace('_', '-')}" in text


def test_help_names_the_limits_that_errors_speak_of(run):
    shown = " ".join(run("train", "--help").output.split())
    for item in fields(Settings):
        if high := item.metadata["high"]:
            assert f"[{item.metadata['low']:g} to {high:,}]" in shown, item.name


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["train", "nowhere"], 1, "nowhere"),
        (["train", "nowhere", "--validation", "0.9"], 2, "validation is 0.9"),
        (["train", "nowhere", "--image-side", "7"], 2, "image_side is 7"),
        (["train", "nowhere", "--weights", "squeezenet"], 2, "weights is 'squeezenet'"),
        (
            ["train", "nowhere", "--weights", "none.safetensors"],
            1,
            "There is no file of weights none.safetensors",
        ),
        (
            ["train", "nowhere", "--weights", "none.pth", "--recipe", "original"],
            1,
            "no file of weights none.pth",
        ),
        (["predict", "nowhere", "x.jpg"], 1, "no SqueezeTune model"),
        (["evaluate", "nowhere", "nowhere"], 1, "no SqueezeTune model"),
        (["info", "nowhere"], 1, "no SqueezeTune model"),
    ],
)
def test_errors_are_two_lines_and_an_exit_status(run, words, status, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*words)
    assert result.exit_code == status
    lines = result.stderr.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("Error: ")
    assert said in lines[0]
    assert lines[1].startswith("Hint: ")
    assert result.stdout == ""
    assert not list(tmp_path.iterdir())


def write_other_network(path):
    save_file({"fc.weight": np.zeros((2, 2), np.float32)}, path)


def write_no_number(path):
    weights = draw_weights()
    weights["features.0.bias"][0] = np.inf
    save_file(weights, path)


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda path: path.write_bytes(b"no weights at all"), "no safetensors file"),
        (write_other_network, "not the weights of ResNet-18"),
        (write_no_number, "not finite: features.0.bias"),
    ],
)
def test_bad_weights_are_told_before_an_unfinished_run_is_dropped(
    run, shape_folder, tmp_path, write, said
):
    write(tmp_path / "mine.safetensors")
    (tmp_path / ".model.unfinished").mkdir()
    words = ["--output", tmp_path / "model", "--weights", tmp_path / "mine.safetensors", *FAST]
    words += ["--backbone", "auto"]
    result = run("train", shape_folder, *words)
    assert result.exit_code == WeightsError.exit_status
    shown = " ".join(result.stderr.split())
    assert shown.count("mine.safetensors") == 1
    assert said in shown
    assert "Hint: " in shown
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".model.unfinished",
        "mine.safetensors",
    ]


def test_errors_as_json(run, tmp_path):
    result = run("train", tmp_path / "nowhere", "--json")
    assert result.exit_code == 1
    error = json.loads(result.stdout)["error"]
    assert error["code"] == "source"
    assert error["hint"]


def test_unknown_option_exits_2(run):
    assert run("train", "x", "--epoch", "3").exit_code == 2


def test_interrupt_says_what_was_kept_and_leaves_nothing(run, shape_folder, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("squeezetune.training.measure_file", interrupt)
    result = run("train", shape_folder, "--output", tmp_path / "model", *FAST)
    assert result.exit_code == 130
    assert "The same command with --resume goes on" in result.stderr
    assert not list(tmp_path.iterdir())


def test_evaluate(run, model_folder, shape_folder, write_files, tmp_path):
    result = run("evaluate", model_folder, shape_folder)
    assert result.exit_code == 0
    assert "of 60 photos are recognised" in result.stdout
    assert all(name in result.stdout for name in ("box", "disc", "spike"))
    content = json.loads(run("evaluate", model_folder, shape_folder, "--json").stdout)
    assert content["count"] == 60
    assert content["accuracy"] > 0.8


def test_evaluate_names_skipped_files_and_unknown_classes(
    run, model_folder, write_shapes, write_files, tmp_path
):
    folder = write_shapes(tmp_path / "photos", 2)
    write_files({"box/broken.jpg": b"no image"})
    result = run("evaluate", model_folder, folder)
    assert result.exit_code == 0
    assert "box/broken.jpg" in result.stderr
    (folder / "box").rename(folder / "crate")
    result = run("evaluate", model_folder, folder)
    assert result.exit_code == 1
    assert "crate" in result.stderr


def test_info(run, model_folder):
    result = run("info", model_folder)
    assert result.exit_code == 0
    assert "3 classes: box, disc, spike" in result.stdout
    assert "Pretrained weights: SqueezeNet 1.1 (Iandola et al. 2016" in result.stdout
    assert json.loads(run("info", model_folder, "--json").stdout)["class_names"] == [
        "box",
        "disc",
        "spike",
    ]


def test_info_of_an_exported_file(run, model_folder, tmp_path):
    file = shutil.copy(model_folder / "model.onnx", tmp_path / "my shapes.onnx")
    result = run("info", file)
    assert result.exit_code == 0
    assert "3 classes: box, disc, spike" in result.stdout
    assert "SqueezeNet 1.1, computed in float32, at 64 px (squash)" in result.stdout
    assert f"squeezetune evaluate '{file}' PHOTOS" in result.stdout
    assert json.loads(run("info", file, "--json").stdout)["image_side"] == 64


def test_an_exported_file_is_not_exported_again(run, model_folder, tmp_path):
    file = shutil.copy(model_folder / "model.onnx", tmp_path / "shapes.onnx")
    result = run("export", file)
    assert result.exit_code == 1
    assert "is a file, and exports are made from a model's folder" in result.stderr
    assert list(tmp_path.iterdir()) == [file]


def list_places(value, place=()):
    """List the places of all values in JSON, the first three of each list."""
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value[:3])
        if isinstance(value, list)
        else ()
    )
    return [place, *(found for key, item in inner for found in list_places(item, (*place, key)))]


JUNK = (
    None,
    True,
    [],
    {},
    "",
    "x",
    -1,
    0,
    10**400,
    math.inf,
    math.nan,
    3.5,
    [1, 2],
    {"a": [1]},
    "\x1b\n",
    ["a", "a"],
)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.json", "report.json"])
def test_json_that_was_edited_by_hand_is_read_or_refused(
    run, model_folder, shape_folder, tmp_path, name
):
    rng, folder = random.Random(5), shutil.copytree(model_folder, tmp_path / "edited")
    text = (model_folder / name).read_text()
    shown = [
        place
        for place in list_places(json.loads(text))
        if place and place[0] not in ("settings", "libraries")
    ]
    for _ in range(60):
        content = target = json.loads(text)
        *way, last = rng.choice(shown)
        for key in way:
            target = target[key]
        junk = rng.choice([*JUNK, "gone"])
        if junk == "gone" and isinstance(target, dict):
            del target[last]
        else:
            target[last] = junk
        (folder / name).write_text(json.dumps(content))
        commands = [["info", folder], ["info", folder, "--json"]]
        if name == "model.json":
            commands.append(
                ["predict", folder, shape_folder / "box" / "000.png", "--none-of-these", "20%"]
            )
        for words in commands:
            result = run(*words)
            assert result.exit_code in (0, 1, 2), (words, way, last, junk)
            assert result.exception is None or isinstance(result.exception, SystemExit), (
                words,
                way,
                last,
                junk,
            )


def test_info_of_a_report_that_lacks_what_is_shown(run, model_folder, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "edited")
    (folder / "report.json").write_text("{}")
    result = run("info", folder)
    assert result.exit_code == 1
    assert "does not say what it was trained on" in result.stderr
    assert "report.json or model.json is damaged" in result.stderr


def test_info_draws_the_plots_for_papers(run, model_folder, tmp_path):
    assert run("info", model_folder, "--plots", tmp_path / "plots").exit_code == 0
    for path in (model_folder / "plots").iterdir():
        assert (tmp_path / "plots" / path.name).read_bytes() == path.read_bytes()
    (tmp_path / "taken").write_bytes(b"")
    refused = run("info", model_folder, "--plots", tmp_path / "taken")
    assert refused.exit_code == 1
    assert "cannot be written" in refused.stderr
    assert run("info", model_folder / "model.onnx", "--plots", tmp_path / "plots").exit_code == 2


def test_plots_say_which_extra_they_need(run, model_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "squeezetune.report.plots", raising=False)
    refused = run("info", model_folder, "--plots", tmp_path / "plots")
    assert refused.exit_code == 1
    assert "pip install 'squeezetune[plots]'" in refused.stderr
    assert run("info", model_folder).exit_code == 0


@pytest.mark.slow
def test_demo_ends_with_a_report(run, tmp_path, monkeypatch):
    # the first 30 of each digit keep this fast; CI runs the whole
    from squeezetune.data.datasets import digits as module

    few = module.Digits(*(array[:300] for array in module.load_digits()))
    monkeypatch.setattr(module, "load_digits", lambda: few)
    result = run("demo", tmp_path / "demo", "--json")
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content["data"]["images"] == 300
    assert content["test"]["accuracy"] > 0.6
    assert (tmp_path / "demo" / "digits-model" / "report.html").is_file()
    assert run("demo", tmp_path / "demo", "--json").exit_code == 0  # the digits are there already
