import csv
import io
import json

import pytest
from click.testing import CliRunner

from squeezetune.cli import main
from squeezetune.engine import ThreadEngine


@pytest.fixture
def run():
    def call(*words, **options):
        return CliRunner().invoke(main, [str(word) for word in words], **options)

    return call


def test_predict_files_and_folders(run, model_folder, shape_folder):
    files = sorted((shape_folder / "disc").glob("*.png"))[:3]
    result = run("predict", model_folder, *files)
    assert result.exit_code == 0
    assert [line.rsplit(None, 1)[1] for line in result.stdout.splitlines()] == [str(path) for path in files]
    result = run("predict", model_folder, shape_folder)
    assert len(result.stdout.splitlines()) == 60


def test_predict_json_lines(run, model_folder, shape_folder):
    path = shape_folder / "box" / "000.png"
    lines = run("predict", model_folder, path, path, "--json").stdout.splitlines()
    first, second = (json.loads(line) for line in lines)
    assert first == second
    assert first["file"] == str(path)
    assert sum(first["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert first["confidence"] == first["probabilities"][first["label"]]


def test_predict_csv(run, model_folder, shape_folder):
    path = shape_folder / "box" / "000.png"
    rows = list(csv.DictReader(io.StringIO(run("predict", model_folder, path, path, "--csv").stdout)))
    assert len(rows) == 2
    assert list(rows[0]) == ["file", "label", "confidence", "box", "disc", "spike", "error"]


def test_predict_top(run, model_folder, shape_folder):
    line = run("predict", model_folder, shape_folder / "box" / "000.png", "--top", "3").stdout
    assert all(name in line for name in ("box", "disc", "spike"))


def test_predict_standard_input_is_a_photo_or_a_list(run, model_folder, shape_folder):
    path = shape_folder / "spike" / "001.png"
    direct = json.loads(run("predict", model_folder, path, "--json").stdout)
    piped = json.loads(run("predict", model_folder, "-", "--json", input=path.read_bytes()).stdout)
    listed = json.loads(run("predict", model_folder, "-", "--json", input=f"{path}\n".encode()).stdout)
    assert piped["probabilities"] == direct["probabilities"] == listed["probabilities"]
    assert (piped["file"], listed["file"]) == ("-", str(path))
    assert run("predict", model_folder, "-", input=b"").exit_code == 1


def test_predict_goes_on_past_bad_images(run, model_folder, shape_folder, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes((shape_folder / "box" / "000.png").read_bytes()[:300])
    good = shape_folder / "box" / "001.png"
    result = run("predict", model_folder, bad, good, tmp_path / "missing.jpg", good)
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 2
    assert str(bad) in result.stderr
    assert "missing.jpg" in result.stderr


# ---- none of these


def test_predict_says_none_of_these(run, model_folder, shape_folder):
    path = shape_folder / "box" / "000.png"
    [line] = run("predict", model_folder, path, "--json", "--none-of-these", "20%").stdout.splitlines()
    assert isinstance(json.loads(line)["is_known"], bool)
    rows = list(
        csv.DictReader(io.StringIO(run("predict", model_folder, path, "--csv", "--none-of-these", ".2").stdout))
    )
    assert rows[0]["is_known"] == str(json.loads(line)["is_known"]).lower()
    lines = run("predict", model_folder, shape_folder, "--none-of-these", "50%").stdout.splitlines()
    assert 0 < sum(line.startswith("none of these") for line in map(str.lstrip, lines)) < 60


@pytest.mark.parametrize(("rate", "said"), [("0.01%", "needed is a share from"), ("some", "needed is a share such as"),
                                            ("1%", "photos tell what is unusual")])  # fmt: skip
def test_predict_refuses_a_rate_that_cannot_be(run, model_folder, shape_folder, rate, said):
    result = run("predict", model_folder, shape_folder, "--none-of-these", rate)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""


# ---- into a file


@pytest.mark.parametrize(("name", "words"), [("p.csv", ["--csv"]), ("p.jsonl", ["--json"]), ("p.txt", ["--csv"])])
def test_predict_writes_a_file(run, model_folder, shape_folder, tmp_path, name, words):
    output = tmp_path / name
    shown = run("predict", model_folder, shape_folder, *words)
    result = run("predict", model_folder, shape_folder, "--output", output, *(words if name == "p.txt" else []))
    assert result.exit_code == 0
    assert "60 images, 0 of which could not be read" in result.stdout
    assert output.read_text() == shown.stdout
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_predict_goes_on_where_it_was_interrupted(run, model_folder, write_shapes, tmp_path, monkeypatch):
    photos, output = write_shapes(tmp_path / "photos", 20), tmp_path / "p.csv"
    (photos / "box" / "bad.png").write_bytes(b"no image")
    whole = run("predict", model_folder, photos, "--csv").stdout
    do_map = ThreadEngine.map

    def stop_early(self, function, items):
        for number, result in enumerate(do_map(self, function, items)):
            if number == 2:
                raise KeyboardInterrupt
            yield result

    with monkeypatch.context() as patch:
        patch.setattr(ThreadEngine, "map", stop_early)
        stopped = run("predict", model_folder, photos, "--output", output)
    assert stopped.exit_code == 130
    assert "--resume" in stopped.stderr
    assert whole.startswith(output.read_text())
    assert 1 < output.read_text().count("\n") < 62
    assert run("predict", model_folder, photos, "--output", output).exit_code == 1  # not without --resume
    other = run("predict", model_folder, photos, "--output", output, "--resume", "--none-of-these", "50%")
    assert "begun with another rate of none of these" in other.stderr
    result = run("predict", model_folder, photos, "--output", output, "--resume")
    assert result.exit_code == 1  # one cannot be read, whenever that was
    assert "61 images, 1 of which could not be read" in result.stdout
    assert output.read_text() == whole


@pytest.mark.parametrize(("words", "said"), [
    (["--resume"], "--resume goes on with a file"),
    (["--output", "p.txt"], "ends in none of"),
    (["--output", "photos/p.csv"], "lies inside the photos' folder"),
])  # fmt: skip
def test_predict_says_what_an_output_needs(run, model_folder, shape_folder, monkeypatch, words, said):
    monkeypatch.chdir(shape_folder.parent)
    result = run("predict", model_folder, shape_folder, *words)
    assert result.exit_code == 2
    assert said in result.stderr


# ---- pictures


def test_predict_explains(run, model_folder, shape_folder, tmp_path):
    path = shape_folder / "box" / "000.png"
    assert run("predict", model_folder, path, "--explain", tmp_path / "why").exit_code == 0
    [picture] = (tmp_path / "why").iterdir()
    assert picture.name.startswith("000.png-")
    for place in (shape_folder / "why", shape_folder / "box"):
        assert run("predict", model_folder, shape_folder, "--explain", place).exit_code == 2
    assert run("predict", model_folder, path, "--explain", shape_folder / "box").exit_code == 2
