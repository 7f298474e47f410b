import hashlib
import json
import re
import shlex
import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from fast_options import FAST
from original_archives import (
    CIFAR_BATCHES,
    lay_out_ar_faces,
    lay_out_eth80,
    make_batches,
    make_rows,
    write_cifar10,
    write_tar,
    write_zip,
)
from PIL import Image

from squeezetune.cli.main import main
from squeezetune.data.sources import catalog
from squeezetune.data.sources.catalog import Archive

pytestmark = pytest.mark.usefixtures("no_plots")


@pytest.fixture
def run(tmp_path, monkeypatch, empty_cache):
    """Run a command in a folder where nothing is, with a cache that holds nothing."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def call(*words):
        return CliRunner().invoke(main, [str(word) for word in words])

    return call


@pytest.fixture
def publish(web_site, monkeypatch):
    """Put an archive of a data set on the web site, in place of the published one."""

    def put(name, file, content, **checksums):
        web_site.files[file] = content
        archive = Archive(f"{web_site.address}/moved/{file}", 1, checksums)
        dataset = replace(
            catalog.DATA_SETS[name], archives={"python" if name == "cifar10" else "": archive}
        )
        monkeypatch.setattr(catalog, "DATA_SETS", {**catalog.DATA_SETS, name: dataset})

    return put


def read_photos(archive, chosen, side):
    """Read some images of an archive in a smaller size, as (n, side, side, 3)."""
    with zipfile.ZipFile(archive) as packed:
        opened = [Image.open(BytesIO(packed.read(name))).convert("RGB") for name in chosen]
    return np.stack(
        [np.asarray(image.resize((side, side), Image.Resampling.BOX)) for image in opened]
    )


def list_photos(archive):
    with zipfile.ZipFile(archive) as packed:
        return sorted(name for name in packed.namelist() if name.endswith(".jpg"))


def encode(image, kind):
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def train_and_predict(run, name, classes):
    """Train on a data set by its name, and predict one of its images; return the report."""
    done = run("train", name, "--effort", "quick", *FAST)
    assert done.exit_code == 0, done.output
    model = f"{name}-model"
    report = json.loads(run("info", model, "--json").stdout)
    assert report["class_names"] == classes
    with zipfile.ZipFile(catalog.find_dataset(name).path) as packed:
        image = packed.namelist()[0]
        packed.extract(image, "photo")
    predicted = json.loads(run("predict", model, f"photo/{image}", "--json").stdout)
    assert predicted["label"] in classes
    return json.loads((Path(model) / "report.json").read_text())


# ---- each of the three, from its original archive to a prediction


@pytest.mark.slow
def test_cifar10_by_name(run, publish, real_data, web_site):
    names = list_photos(real_data / "cifar10.zip")
    classes = sorted({name.split("/")[-2] for name in names})
    chosen = names[:: len(names) // 120][:120]
    labels = np.array([classes.index(name.split("/")[-2]) for name in chosen])
    rows, order = (
        make_rows(read_photos(real_data / "cifar10.zip", chosen, 32)),
        np.arange(120).reshape(20, 6),
    )
    batches = {
        name: (rows[order[:, at]], labels[order[:, at]]) for at, name in enumerate(CIFAR_BATCHES)
    }
    content = write_cifar10(batches, "python")
    refused = run("train", "cifar10")
    assert refused.exit_code == 1
    assert "Hint: Fetch it, 170 MB from https://www.cs.toronto.edu" in refused.stderr
    publish("cifar10", "cifar-10-python.tar.gz", content, md5=hashlib.md5(content).hexdigest())
    fetched = run("data", "cifar10")
    assert fetched.exit_code == 0, fetched.output
    assert "squeezetune train cifar10" in fetched.stdout
    assert "Note: cifar10: 120 images in 20 folders" in fetched.stderr
    report = train_and_predict(run, "cifar10", classes)
    assert report["test"]["count"] == 20  # its own test part
    assert run("evaluate", "cifar10-model", "cifar10").exit_code == 0
    assert len(web_site.asked) == 1


@pytest.mark.slow
def test_eth80_by_name(run, publish, real_data):
    names = [
        name for name in list_photos(real_data / "eth80.zip") if re.search("/[a-z]+[1357]-", name)
    ]
    views = [
        name for name in names if name.endswith(("-000-000.jpg", "-066-117.jpg", "-090-000.jpg"))
    ]
    objects = {}
    for name, image in zip(views, read_photos(real_data / "eth80.zip", views, 64), strict=True):
        item, _, view = name.rpartition("/")[2].removesuffix(".jpg").partition("-")
        objects.setdefault(item, {})[view] = encode(image, "PNG")
    publish("eth80", "eth80-cropped256.tgz", write_tar(lay_out_eth80(objects, "original")))
    assert run("data", "eth80").exit_code == 0
    report = train_and_predict(
        run, "eth80", ["apple", "car", "cow", "cup", "dog", "horse", "pear", "tomato"]
    )
    assert report["settings"]["group_by"] == "/([a-z]+[0-9]+)/"
    assert report["command"].startswith("squeezetune train eth80 ")
    assert report["data"]["groups"] == 32
    assert report["test"]["count"] == 24  # one object of each class, from all three sides
    again = shlex.split(report["command"].replace("--output eth80-model", "--output again"))
    assert run(*again[1:]).exit_code == 0
    for file in ("model.onnx", "network.safetensors"):
        assert (Path("eth80-model") / file).read_bytes() == (Path("again") / file).read_bytes()


def test_ar_faces_by_name(run, draw_shape, tmp_path):
    persons = {
        f"{sex}-{number:03}": [
            encode(np.asarray(draw_shape(shape, 9 * number + at)), "BMP") for at in range(9)
        ]
        for sex, shape in (("M", "box"), ("W", "disc"))
        for number in (1, 50)
    }
    refused = run("data", "ar-faces")
    assert refused.exit_code == 1
    assert "ARdatabase.html" in refused.stderr
    assert "ARdatabase.html" in run("train", "ar-faces").stderr
    (tmp_path / "AR.zip").write_bytes(write_zip(lay_out_ar_faces(persons)))
    done = run("data", "ar-faces", "--from", tmp_path / "AR.zip")
    assert done.exit_code == 0, done.output
    train_and_predict(run, "ar-faces", ["m-001", "m-050", "w-001", "w-050"])


# ---- the command


def test_all_are_listed_with_what_is_here(run, tmp_path):
    shown = run("data").stdout
    for name, dataset in catalog.DATA_SETS.items():
        assert dataset.title in shown
        assert dataset.conditions in shown
        assert f"not here: squeezetune data {name}" in shown
    assert "60,000 images" in shown
    (tmp_path / "cifar.tgz").write_bytes(write_cifar10(make_batches(), "binary"))
    assert run("data", "cifar10", "--from", tmp_path / "cifar.tgz").exit_code == 0
    assert "here: 24 images in" in run("data").stdout
    listed = {each["name"]: each for each in json.loads(run("data", "--json").stdout)}
    assert listed["cifar10"]["images_here"] == 24
    assert listed["cifar10"]["addresses"].keys() == {"binary", "python"}


def test_the_file_may_be_written_anywhere(run, tmp_path):
    (tmp_path / "cifar.tgz").write_bytes(write_cifar10(make_batches(), "python"))
    done = run(
        "data",
        "cifar10",
        "--from",
        tmp_path / "cifar.tgz",
        "-o",
        "mine.zip",
        "--format",
        "python",
        "-q",
    )
    assert done.exit_code == 0
    assert "squeezetune train mine.zip" in done.stdout
    assert done.stderr == ""
    assert zipfile.is_zipfile("mine.zip")


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["cifar100"], 2, "did you mean 'cifar10'"),
        (["cifar10", "--format", "npz"], 2, "no format 'npz'"),
        (["--from", "nowhere"], 2, "no data set is named"),
        (["eth80", "--from", "nowhere"], 1, "nowhere"),
        (["eth80", "--url", "http://127.0.0.1:1/a.zip"], 1, "be reached"),
    ],
)
def test_mistakes_are_two_lines_and_an_exit_status(run, words, status, said):
    done = run("data", *words)
    assert done.exit_code == status
    assert len(done.stderr.splitlines()) == 2
    assert said in done.stderr.splitlines()[0]
