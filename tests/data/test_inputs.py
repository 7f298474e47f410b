import os
import subprocess
import sys
from io import BytesIO, StringIO

import numpy as np
import pytest
from PIL import Image

from squeezetune.data.inputs import parse_input
from squeezetune.errors import ClassesError, ImageError, SourceError
from squeezetune.evaluation.measurement import evaluate
from squeezetune.events import ignore_event
from squeezetune.training import train


def scan(photos, executor):
    return parse_input(photos, "", "").scan(executor, ignore_event, None)


@pytest.fixture
def shapes(shape_folder):
    """Take the images of the three shapes, with their names."""
    return [
        (Image.open(path).convert("RGB"), path.parent.name)
        for path in sorted(shape_folder.rglob("*.png"))
    ]


WAYS = {
    "tuple": tuple,
    "list": list,
    "iterator": iter,
    "generator": lambda pairs: (pair for pair in pairs),
    "zip": lambda pairs: zip(*zip(*pairs, strict=True), strict=True),
}


@pytest.mark.parametrize("wrap", WAYS.values(), ids=WAYS)
def test_pairs_come_in_any_number_of_ways(make_photo, executor, wrap):
    index = scan(wrap([(make_photo(at), f"s{at % 3 * 5}") for at in range(6)]), executor)
    assert index.class_names == ("s0", "s5", "s10")
    assert index.labels.tolist() == [0, 1, 2, 0, 1, 2]


def test_open_files_are_read_once(make_photo, executor, tmp_path):
    (tmp_path / "1.jpg").write_bytes(make_photo(1))
    with (tmp_path / "1.jpg").open("rb") as file:
        origin = parse_input([(BytesIO(make_photo(0)), "a"), (file, "b")], "", "")
    for _ in range(2):
        assert len(origin.scan(executor, ignore_event, None)) == 2


@pytest.mark.parametrize(
    ("photos", "message"),
    [
        (None, "the photos are a NoneType"),
        (5, "the photos are a int"),
        (b"photos", "the photos are a bytes"),
        ({"a.jpg": "cat"}, "the photos are a dict"),
        (
            [("a.jpg", "cat"), "b.jpg"],
            "item 1 of the photos is a str; needed is an image and its label",
        ),
        ([("a.jpg", "cat", "train")], "item 0 of the photos is a tuple of 3"),
        ([()], "item 0 of the photos is a tuple of 0"),
        ([None], "item 0 of the photos is a NoneType"),
        (["ab", "cd"], "item 0 of the photos is a str"),
        (np.zeros((3, 8, 8, 3), np.uint8), "item 0 of the photos is a ndarray"),
    ],
)
def test_what_are_no_pairs_is_refused(photos, message):
    with pytest.raises(SourceError, match=message) as caught:
        parse_input(photos, "", "")
    assert "[(image, label), ...]" in caught.value.hint


@pytest.mark.parametrize("file", [StringIO("text"), BytesIO()])
def test_a_file_that_is_no_image_is_skipped(make_photo, executor, file):
    index = scan([(make_photo(0), "a"), (file, "b"), (make_photo(1), "b")], executor)
    assert [item.name for item in index.skipped] == ["1"]


def test_a_file_that_is_closed_is_refused(make_photo):
    file = BytesIO(make_photo(0))
    file.close()
    with pytest.raises(
        ImageError, match="an open file cannot be read: I/O operation on closed file"
    ):
        parse_input([(file, "a")], "", "")


def test_a_missing_label_is_told_before_photos_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "squeezetune.data.index.read_digests", lambda *_: pytest.fail("photos were read")
    )
    with pytest.raises(
        ClassesError, match="2 of 4 labels cannot be used: image 1 has None, image 3 has a missing"
    ):
        train(
            [
                (tmp_path / f"{at}.jpg", label)
                for at, label in enumerate(["a", None, "b", float("nan")])
            ]
        )


@pytest.mark.slow  # two whole trainings
def test_the_same_pairs_are_the_same_model_under_any_hash_seed(shape_folder, tmp_path):
    program = (
        "import sys; from pathlib import Path; import squeezetune\n"
        "names = {'box': '1', 'disc': '01', 'spike': '001'}\n"
        "photos = [(path, names[path.parent.name]) for path in "
        "sorted(Path(sys.argv[1]).rglob('*.png'))]\n"
        "squeezetune.train(photos, sys.argv[2], image_side=48, engine='onnxruntime', "
        "precision='float32', threads=2,\n"
        "                  effort='quick', folds='none')"
    )
    found = []
    for seed in ("0", "1"):
        environment = os.environ | {
            "PYTHONHASHSEED": seed,
            "SQUEEZETUNE_CACHE": str(tmp_path / "cache"),
        }
        target = tmp_path / f"model-{seed}"
        subprocess.run(
            [sys.executable, "-c", program, str(shape_folder), str(target)],
            env=environment,
            check=True,
        )
        found.append(
            ((target / "model.onnx").read_bytes(), (target / "network.safetensors").read_bytes())
        )
    assert found[0] == found[1]


def test_a_model_is_measured_on_pairs_too(model_folder, shapes, shape_folder):
    assert (
        evaluate(model_folder, shapes).evaluation.accuracy
        == evaluate(model_folder, shape_folder).evaluation.accuracy
    )
    with pytest.raises(
        ClassesError, match=r"the model does not know the class s2, s10; it knows box, disc, spike"
    ):
        evaluate(
            model_folder,
            [(image, f"s{10 if at % 2 else 2}") for at, (image, _) in enumerate(shapes)],
        )
