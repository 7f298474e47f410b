import json

import pytest
from click.testing import CliRunner
from test_cleaning import plant

from squeezetune.cli.main import main

FAST = (
    *("--backbone", "squeezenet1_1"),
    *("--image-side", "64"),
    *("--engine", "onnxruntime"),
    *("--precision", "float32"),
)


@pytest.fixture
def run():
    def call(*words):
        return CliRunner().invoke(main, ["check", *(str(word) for word in words), *FAST])

    return call


@pytest.fixture(scope="module")
def planted(write_shapes, tmp_path_factory):
    root = write_shapes(tmp_path_factory.mktemp("planted") / "photos", 40)
    plant(root)
    return root


def test_check_says_what_was_found_and_where_it_is(run, planted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(planted)
    assert result.exit_code == 0, result.output
    assert "122 photos in 3 classes" in result.stdout
    assert "1 file stands in two classes or more" in result.stdout
    assert (tmp_path / "photos-check" / "check.html").is_file()


def test_json_is_what_the_file_says(run, planted, tmp_path):
    result = run(
        planted, "--output", tmp_path / "check", "--apply", tmp_path / "clean.csv", "--json"
    )
    content = json.loads(result.stdout)
    kept = json.loads((tmp_path / "check" / "check.json").read_text())
    assert content["findings"] == kept["findings"]
    assert content["applied"]["path"] == str(tmp_path / "clean.csv")
    doubts = [item for item in content["findings"] if item["confidence"]]
    assert content["expected_mistakes"] == pytest.approx(
        sum(item["confidence"] for item in doubts), abs=0.05
    )
    assert all(item["is_serious"] == (item["confidence"] >= 0.5) for item in doubts)
    assert "disc/again.png" in [change["image"] for change in content["applied"]["changes"]]


def test_strict_returns_1_where_there_is_anything_serious(run, planted, shape_folder, tmp_path):
    assert run(planted, "--output", tmp_path / "1", "--strict").exit_code == 1
    assert run(planted, "--output", tmp_path / "2").exit_code == 0
    calm = run(shape_folder, "--output", tmp_path / "3", "--strict", "--json")
    assert calm.exit_code == int(json.loads(calm.stdout)["has_serious"])


def test_apply_tells_every_change(run, planted, tmp_path):
    words = (
        "--apply",
        tmp_path / "clean.csv",
        "--apply-kinds",
        "copies",
        "--output",
        tmp_path / "check",
    )
    result = run(planted, *words)
    assert "disc/again.png: left out: same bytes as disc/001.png" in result.stdout
    assert "0 labels changed" in result.stdout
    assert (tmp_path / "clean.csv").is_file()


@pytest.mark.parametrize(("words", "status", "said"), [
    (["nowhere"], 1, "there is no folder or file 'nowhere'"),
    (["nowhere", "--image-side", "7"], 2, "image_side is 7"),
])  # fmt: skip
def test_errors_are_two_lines(words, status, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["check", *words])
    assert result.exit_code == status
    assert said in result.stderr.splitlines()[0]
    assert len(result.stderr.splitlines()) == 2
    assert not list(tmp_path.iterdir())
