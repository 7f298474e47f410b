"""The benchmarks: they start, they read the photos' layouts rightly, and the recipe's network is ours."""

import argparse
import importlib
import importlib.util
import re
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from squeezetune.learn.graph import build_trunk
from squeezetune.learn.inference import Runtime, open_graph
from squeezetune.learn.weights import load_weights

FOLDER = Path(__file__).parents[1] / "benchmarks"
PROGRAMS = ("photos", "accuracy", "memory", "head_time")
TORCH_PROGRAMS = ("seed_recipe", "first_light", "trunk_speed", "activations", "depth_speed")

needs_torch = pytest.mark.skipif(
    not importlib.util.find_spec("torch"), reason="torch is not installed; this compares with it"
)
needs_wait4 = pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot wait4")

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the benchmarks are not part of this installation")


@pytest.fixture
def load_program(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


@pytest.fixture
def eth80_zip(tmp_path, make_photo):
    """Two classes of ten objects with two views each, in the original archive's layout."""
    data = tmp_path / "data"
    data.mkdir()
    with zipfile.ZipFile(data / "eth80.zip", "w") as archive:
        for seed in range(40):
            thing = f"{('apple', 'car')[seed % 2]}{seed // 4 + 1}"
            archive.writestr(f"eth80-cropped256/{thing}/{thing}-0{seed % 4 // 2}5-000.jpg", make_photo(seed))
    return data


def open_eth80(load_program, data, work, *more):
    photos = load_program("photos")
    parser = argparse.ArgumentParser()
    photos.add_photo_options(parser)
    root = photos.prepare_photos("eth80", parser.parse_args(["--data", str(data), "--work", str(work), *more]))
    return root, photos.scan_photos("eth80", root)


@pytest.mark.parametrize("name", [*PROGRAMS, *(pytest.param(name, marks=needs_torch) for name in TORCH_PROGRAMS)])
def test_every_program_explains_itself(name, load_program, capsys):
    with pytest.raises(SystemExit) as stop:
        load_program(name).main(["--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert f"python benchmarks/{name}.py" in said
    assert "--data" in said


def test_the_readme_names_every_program():
    text = (FOLDER / "README.md").read_text()
    assert {path.name for path in FOLDER.glob("*.py")} == set(re.findall(r"`(\w+\.py)`", text))


def test_eth80_is_read_by_class_and_by_object(load_program, eth80_zip, tmp_path):
    root, index = open_eth80(load_program, eth80_zip, tmp_path / "work")
    assert index.class_names == ("apple", "car")
    assert index.class_counts.tolist() == [20, 20]
    assert all(name.startswith(index.class_names[label]) for name, label in zip(index.names, index.labels, strict=True))
    pattern = load_program("photos").PHOTO_SETS["eth80"].group_pattern
    groups = {re.search(pattern, name)[1] for name in index.names}
    assert groups == {f"{thing}{number}" for thing in ("apple", "car") for number in range(1, 11)}
    assert root == tmp_path / "work" / "eth80-cropped256"


def test_photos_are_unpacked_once_and_thinned_evenly(load_program, eth80_zip, tmp_path):
    _, index = open_eth80(load_program, eth80_zip, tmp_path / "work", "--images", "20")
    assert index.class_counts.tolist() == [10, 10]
    (eth80_zip / "eth80.zip").unlink()
    _, again = open_eth80(load_program, eth80_zip, tmp_path / "work", "--images", "20")
    assert again.fingerprint == index.fingerprint


def test_a_fold_holds_whole_objects_out(load_program, eth80_zip, tmp_path):
    _, index = open_eth80(load_program, eth80_zip, tmp_path / "work")
    accuracy = load_program("accuracy")
    objects = accuracy.read_objects(index)
    for test in (1, 10):
        split = accuracy.cut_objects(index, test)
        assert set(objects[split.test]) == {test}
        assert set(objects[split.validation]) == {test % 10 + 1}
        assert set(objects[split.train]) == set(range(1, 11)) - {test, test % 10 + 1}
        assert len(split.train) + len(split.validation) + len(split.test) == len(index)


def test_spread_is_median_ends_and_number(load_program):
    figures = load_program("figures")
    assert figures.format_spread([4.0, 1.0, 2.0]) == "2.0 (1.0–4.0, n=3)"
    assert figures.format_mean([0.5, 0.7]) == "60.00% ± 14.14% (n=2)"
    assert figures.format_accuracy(97, 100) == "97.00% [91.55%, 98.97%] of 100"


@needs_wait4
def test_a_process_is_weighed_without_its_parent(load_program, tmp_path):
    ballast = np.ones(200 << 20, np.uint8)  # would count as the child's memory if it were forked from here
    processes = load_program("processes")
    run = processes.run_process(["-c", "pass"], tmp_path)
    assert ballast.nbytes / 2**20 > 3 * run.peak_mb
    with pytest.raises(SystemExit, match="exit status 3"):
        processes.run_process(["-c", "raise SystemExit(3)"], tmp_path)


@needs_torch
def test_the_torch_network_equals_our_graph(load_program):
    recipe = load_program("seed_recipe")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), dtype=np.uint8)
    ours = open_graph(build_trunk(load_weights()), Runtime("onnxruntime", "float32"), 1)(pixels)[:, 0]
    theirs = recipe.pool_taps(recipe.build_trunk(), recipe.normalise_pixels(pixels)).numpy()
    assert np.abs(theirs - ours).max() <= 1e-3


@needs_torch
def test_the_recipe_learns_its_classifier_alone(load_program):
    recipe = load_program("seed_recipe")
    torch = load_program("torch")
    trunk, classifier = recipe.build_trunk(), recipe.build_classifier(2, 0)
    before = torch.nn.utils.parameters_to_vector(trunk.parameters())
    images, labels = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 0, 1])
    model, first = torch.nn.Sequential(trunk, classifier), classifier[1].weight.clone()
    recipe.train_model(model, torch.optim.Adam(classifier.parameters(), 1e-3), iter([(images, labels)]))
    assert torch.equal(before, torch.nn.utils.parameters_to_vector(trunk.parameters()))
    assert not torch.equal(first, classifier[1].weight)


@needs_torch
def test_every_depth_is_timed_beside_the_plain_loop(load_program, tmp_path, capsys, monkeypatch):
    program = load_program("depth_speed")
    monkeypatch.setattr(program, "ROWS", 128)
    contenders = program.list_contenders(tmp_path, steps=1, sides=(64, 48))
    speeds = program.run_rounds(contenders, rounds=1)
    program.print_speeds(speeds)
    names = ["plain loop, 64 px", "all layers, 64 px", "plain loop, 48 px", "all layers, 48 px",
             "last 4 Fire modules, 64 px", "last 2 Fire modules, 64 px"]  # fmt: skip
    assert list(speeds) == names
    assert all(value > 0 for values in speeds.values() for value in values)
    assert [line.split(" | ")[0].strip("| ") for line in capsys.readouterr().out.splitlines() if " px" in line] == names
