import csv
import io
import json
import warnings
import zipfile
from pathlib import Path
from unittest import mock

import pytest
import skimage
from click.testing import CliRunner

from squeezetune.cli.main import main
from squeezetune.system.executor import ThreadExecutor


@pytest.fixture
def run():
    def call(*words, **options):
        return CliRunner().invoke(main, [str(word) for word in words], **options)

    return call


def test_predict_files_and_folders(run, model_folder, shape_folder):
    files = sorted((shape_folder / "disc").glob("*.png"))[:3]
    result = run("predict", model_folder, *files)
    assert result.exit_code == 0
    assert [line.rsplit(None, 1)[1] for line in result.stdout.splitlines()] == [
        str(path) for path in files
    ]
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
    rows = list(
        csv.DictReader(io.StringIO(run("predict", model_folder, path, path, "--csv").stdout))
    )
    assert len(rows) == 2
    assert list(rows[0]) == ["file", "label", "confidence", "box", "disc", "spike", "error"]


def test_predict_top(run, model_folder, shape_folder):
    line = run("predict", model_folder, shape_folder / "box" / "000.png", "--top", "3").stdout
    assert all(name in line for name in ("box", "disc", "spike"))


def test_predict_standard_input_is_a_photo_or_a_list(run, model_folder, shape_folder):
    path = shape_folder / "spike" / "001.png"
    direct = json.loads(run("predict", model_folder, path, "--json").stdout)
    piped = json.loads(run("predict", model_folder, "-", "--json", input=path.read_bytes()).stdout)
    listed = json.loads(
        run("predict", model_folder, "-", "--json", input=f"{path}\n".encode()).stdout
    )
    assert piped["probabilities"] == direct["probabilities"] == listed["probabilities"]
    assert (piped["file"], listed["file"]) == ("-", str(path))
    assert run("predict", model_folder, "-", input=b"").exit_code == 1


def read_lines(result):
    return [
        (line["file"], line.get("error", ""))
        for line in map(json.loads, result.stdout.splitlines())
    ]


@pytest.mark.parametrize("mark", ["utf-8", "utf-8-sig", "utf-16"])
def test_predict_takes_a_list_of_paths_from_windows(run, model_folder, shape_folder, mark):
    paths = [str(shape_folder / "spike" / f"00{at}.png") for at in range(3)]
    result = run(
        "predict",
        model_folder,
        "-",
        "--json",
        input="".join(f"{path}\r\n" for path in paths).encode(mark),
    )
    assert read_lines(result) == [(path, "") for path in paths]
    assert result.exit_code == 0


@pytest.fixture
def table(shape_folder, tmp_path):
    """Write a table as people have them: rows without a class or a path, the same photo twice, a
    part of one's own.
    """
    box = shape_folder / "box"
    path = tmp_path / "photos.csv"
    path.write_text(
        f"path,label,split\n{box}/002.png,,\n{box}/000.png,box,train\n,box,\n"
        f"{box}/000.png,disc,mine\n{box}/none.png,box,test\n{box}/001.png\n"
    )
    return path


def test_predict_writes_a_line_for_every_row_of_a_table_in_its_order(
    run, model_folder, shape_folder, table
):
    box = shape_folder / "box"
    result = run("predict", model_folder, table, "--json")
    assert [name for name, _ in read_lines(result)] == [
        f"{table}/{name}"
        for name in (
            box / "002.png",
            box / "000.png",
            "line 4",
            box / "000.png",
            box / "none.png",
            box / "001.png",
        )
    ]
    reasons = [reason for _, reason in read_lines(result)]
    assert [bool(reason) for reason in reasons] == [False, False, True, False, True, False]
    assert reasons[2] == "no path"
    assert result.exit_code == 1


def test_predict_goes_on_in_a_table_where_it_stopped(run, model_folder, table, tmp_path):
    whole, cut = tmp_path / "whole.csv", tmp_path / "cut.csv"
    assert run("predict", model_folder, table, "-o", whole).exit_code == 1
    for lines in range(7):
        assert run("predict", model_folder, table, "-o", cut).exit_code == 1
        cut.write_bytes(b"".join(whole.read_bytes().splitlines(keepends=True)[:lines]))
        (tmp_path / ".cut.csv.unfinished").write_text(
            json.dumps(
                {
                    "format": "csv",
                    "rate of none of these": None,
                    "model": json.loads((model_folder / "model.json").read_text())["files"][
                        "model.onnx"
                    ],
                }
            )
        )
        result = run("predict", model_folder, table, "-o", cut, "--resume")
        assert "6 images, 2 of which could not be read" in result.stdout
        assert cut.read_bytes() == whole.read_bytes()
        cut.unlink()


@pytest.mark.parametrize(
    ("header", "words"), [("path", []), ("", []), ("picture,number", ["--columns", "path=picture"])]
)
def test_predict_needs_no_classes(run, model_folder, shape_folder, tmp_path, header, words):
    names = [f"box/{at:03d}.png" for at in (3, 1, 2)]
    rows = [f"{shape_folder / name}{',7' * header.count(',')}" for name in names]
    path = tmp_path / "photos.csv"
    path.write_text("\n".join([*([header] if header else []), *rows]))
    result = run("predict", model_folder, path, "--json", *words)
    assert read_lines(result) == [(f"{path}/{shape_folder / name}", "") for name in names]
    assert result.exit_code == 0


def test_predict_says_which_column_it_needs(run, model_folder, tmp_path):
    (tmp_path / "photos.csv").write_text("a,b\n1,2\n")
    result = run("predict", model_folder, tmp_path / "photos.csv")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no column that is surely the path; it has a, b" in result.stderr
    assert '--columns "path=a".' in result.stderr
    result = run("predict", model_folder, tmp_path / "photos.csv", "--columns", "path=c")
    assert result.exit_code == 2


def test_predict_writes_a_line_for_everything_in_an_archive(
    run, model_folder, shape_folder, tmp_path
):
    path, photo = tmp_path / "photos.zip", (shape_folder / "box" / "000.png").read_bytes()
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the name that stands twice
        for name in (
            "in/b.png",
            "in/c.png",
            "in/a.png",
            "../out.png",
            "C:/d.png",
            "in/b.png",
            "in/.hidden.png",
        ):
            archive.writestr(name, photo)
        archive.writestr("in/e.txt", "no photo")
    packed = path.read_bytes()
    at = (
        packed.index(b"PK\1\2", packed.index(b"PK\1\2") + 4) + 8
    )  # the flags of the second entry: encrypted
    path.write_bytes(packed[:at] + bytes([packed[at] | 1]) + packed[at + 1 :])
    result = run("predict", model_folder, path, "--json")
    assert read_lines(result) == [
        (f"{path}/../out.png", "its path leads out of the archive"),
        (f"{path}/C:/d.png", "its path leads out of the archive"),
        (f"{path}/in/a.png", ""),
        (f"{path}/in/b.png", ""),
        (f"{path}/in/b.png (1 more of this name)",
         "its name stands in the archive more than once; the last file of it is used"),
        (f"{path}/in/c.png", "encrypted with a password"),
        (f"{path}/in/e.txt", mock.ANY),
    ]  # fmt: skip
    assert result.exit_code == 1


def test_predict_writes_a_line_for_every_row_of_a_parquet_file(
    run, model_folder, shape_folder, tmp_path
):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is an extra")
    parquet = pytest.importorskip("pyarrow.parquet")
    photo, path = (shape_folder / "box" / "000.png").read_bytes(), tmp_path / "photos.parquet"
    for labels in ({"label": ["box", None, "", "disc"]}, {}):
        parquet.write_table(pyarrow.table({"image": [photo, photo, None, photo], **labels}), path)
        result = run("predict", model_folder, path, "--json")
        reasons = ["", "", "no image in this row", ""]
        assert read_lines(result) == [(f"{path}/{at}", reason) for at, reason in enumerate(reasons)]
        assert result.exit_code == 1


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
    [line] = run(
        "predict", model_folder, path, "--json", "--none-of-these", "20%"
    ).stdout.splitlines()
    assert isinstance(json.loads(line)["is_known"], bool)
    rows = list(
        csv.DictReader(
            io.StringIO(run("predict", model_folder, path, "--csv", "--none-of-these", ".2").stdout)
        )
    )
    assert rows[0]["is_known"] == str(json.loads(line)["is_known"]).lower()
    lines = run("predict", model_folder, shape_folder, "--none-of-these", "50%").stdout.splitlines()
    assert 0 < sum(line.startswith("none of these") for line in map(str.lstrip, lines)) < 60


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        ("0.01%", "needed is a share from"),
        ("some", "needed is a share such as"),
        ("1%", "photos tell what is unusual"),
    ],
)
def test_predict_refuses_a_rate_that_cannot_be(run, model_folder, shape_folder, rate, said):
    result = run("predict", model_folder, shape_folder, "--none-of-these", rate)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""


# ---- into a file


@pytest.mark.parametrize(
    ("name", "words"), [("p.csv", ["--csv"]), ("p.jsonl", ["--json"]), ("p.txt", ["--csv"])]
)
def test_predict_writes_a_file(run, model_folder, shape_folder, tmp_path, name, words):
    output = tmp_path / name
    shown = run("predict", model_folder, shape_folder, *words)
    result = run(
        "predict",
        model_folder,
        shape_folder,
        "--output",
        output,
        *(words if name == "p.txt" else []),
    )
    assert result.exit_code == 0
    assert "60 images, 0 of which could not be read" in result.stdout
    assert output.read_text() == shown.stdout
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_predict_goes_on_where_it_was_interrupted(
    run, model_folder, write_shapes, tmp_path, monkeypatch
):
    photos, output = write_shapes(tmp_path / "photos", 20), tmp_path / "p.csv"
    (photos / "box" / "bad.png").write_bytes(b"no image")
    whole = run("predict", model_folder, photos, "--csv").stdout
    do_map = ThreadExecutor.map

    def stop_early(self, function, items):
        for number, result in enumerate(do_map(self, function, items)):
            if number == 2:
                raise KeyboardInterrupt
            yield result

    with monkeypatch.context() as patch:
        patch.setattr(ThreadExecutor, "map", stop_early)
        stopped = run("predict", model_folder, photos, "--output", output)
    assert stopped.exit_code == 130
    assert "--resume" in stopped.stderr
    assert whole.startswith(output.read_text())
    assert 1 < output.read_text().count("\n") < 62
    assert (
        run("predict", model_folder, photos, "--output", output).exit_code == 1
    )  # not without --resume
    other = run(
        "predict", model_folder, photos, "--output", output, "--resume", "--none-of-these", "50%"
    )
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
def test_predict_says_what_an_output_needs(
    run, model_folder, shape_folder, monkeypatch, words, said
):
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


# ---- with no model: a network as it was published


def test_predict_with_imagenets_classes(run):
    cat, coffee = (
        Path(skimage.__file__).parent / "data" / name for name in ("chelsea.png", "coffee.png")
    )
    lines = run("predict", "--imagenet", cat, coffee, "--top", 2).stdout.splitlines()
    assert "Egyptian cat" in lines[0]
    assert "espresso" in lines[1]
    found = json.loads(run("predict", cat, "--imagenet", "--json").stdout)
    assert (found["file"], found["label"]) == (str(cat), "Egyptian cat")
    assert len(found["probabilities"]) == 1000
    other = json.loads(
        run("predict", "--imagenet", "--backbone", "squeezenet1_1", cat, "--json").stdout
    )
    assert other["label"] == "Egyptian cat"
    assert other["confidence"] != found["confidence"]
    rows = list(csv.DictReader(io.StringIO(run("predict", "--imagenet", cat, "--csv").stdout)))
    assert float(rows[0]["Egyptian cat"]) == pytest.approx(found["confidence"], abs=1e-4)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--imagenet"], "Missing argument 'IMAGES...'"),
        ([], "Missing argument 'MODEL'"),
        (["model"], "Missing argument 'IMAGES...'"),
        (["model", "a.jpg", "--backbone", "resnet18"], "--backbone goes with --imagenet"),
        (["--imagenet", "a.jpg", "--backbone", "lenet"], "no network 'lenet'"),
        (["--imagenet", "a.jpg", "--explain", "why"], "--explain needs a model that was trained"),
    ],
)
def test_predict_tells_what_is_missing_or_does_not_fit(run, words, said):
    result = run("predict", *words)
    assert result.exit_code == 2
    assert said in result.stderr
