import csv
import json
import re
import shutil
from html.parser import HTMLParser
from io import StringIO

import numpy as np
import pytest
from PIL import Image, ImageFilter

from squeezetune.audit.audit import TABLE_COLUMNS, check
from squeezetune.errors import ArtifactError, SettingsError
from squeezetune.events import StageStarted

pytestmark = pytest.mark.usefixtures("no_plots")

FIXED = {
    "backbone": "squeezenet1_1",
    "image_side": 64,
    "engine": "onnxruntime",
    "precision": "float32",
    "threads": 2,
}


def run_check(photos, folder, **options):
    return check(photos, folder, **FIXED, **options)


def select(audit, kind):
    return [finding for finding in audit.findings if finding.kind == kind]


def spoil(root):
    """Plant one thing of nearly every kind among the shapes."""
    (root / "box" / "000.png").rename(root / "disc" / "wrong.png")
    shutil.copy(root / "disc" / "001.png", root / "disc" / "again.png")
    shutil.copy(root / "disc" / "002.png", root / "spike" / "elsewhere.png")
    shutil.copy(root / "spike" / "003.png", root / "spike" / "003-again.png")
    Image.open(root / "box" / "004.png").resize((160, 144)).save(
        root / "box" / "larger.jpg", quality=95
    )
    Image.open(root / "box" / "005.png").filter(ImageFilter.GaussianBlur(6)).save(
        root / "box" / "blurred.png"
    )
    Image.new("RGB", (80, 72), (90, 90, 90)).save(root / "spike" / "blank.png")
    Image.open(root / "box" / "006.png").resize((600, 72)).save(root / "box" / "wide.png")
    data = (root / "box" / "007.png").read_bytes()
    (root / "box" / "007.png").write_bytes(data[: len(data) // 2])
    (root / "box" / "notes.txt").write_text("no image")


@pytest.fixture(scope="module")
def spoilt_folder(write_shapes, tmp_path_factory):
    root = write_shapes(tmp_path_factory.mktemp("spoilt") / "photos", 30)
    spoil(root)
    return root


@pytest.fixture(scope="module")
def audit(spoilt_folder, tmp_path_factory):
    return run_check(spoilt_folder, tmp_path_factory.mktemp("audits") / "photos-check")


def test_what_was_planted_is_found(audit):
    assert {finding.images for finding in select(audit, "copies")} == {
        ("disc/001.png", "disc/again.png"), ("spike/003-again.png", "spike/003.png"),
    }  # fmt: skip
    [conflict] = select(audit, "copies-across-classes")
    assert conflict.images == ("disc/002.png", "spike/elsewhere.png")
    assert conflict.classes == ("disc", "spike")
    assert ("box/004.png", "box/larger.jpg") in {
        finding.images for finding in select(audit, "near-copies")
    }
    assert {finding.images[0] for finding in select(audit, "unreadable")} == {
        "box/007.png",
        "box/notes.txt",
    }
    assert [finding.images for finding in select(audit, "blank")] == [("spike/blank.png",)]
    assert ("box/blurred.png",) in [finding.images for finding in select(audit, "blurred")]
    assert [finding.images for finding in select(audit, "shape")] == [("box/wide.png",)]
    assert audit.has_serious


def test_a_wrong_label_is_found_with_the_right_one(audit):
    [finding] = [
        finding for finding in select(audit, "wrong-label") if finding.images == ("disc/wrong.png",)
    ]
    assert (finding.classes, finding.suggested) == (("disc",), "box")
    assert 0.8 <= finding.confidence <= 1


def test_the_folder_holds_page_json_and_table(audit):
    assert sorted(path.name for path in audit.folder.iterdir()) == [
        "check.csv",
        "check.html",
        "check.json",
    ]
    content = json.loads((audit.folder / "check.json").read_text())
    assert content["format"] == "squeezetune-check"
    assert [item["kind"] for item in content["findings"]] == [
        finding.kind for finding in audit.findings
    ]
    rows = list(csv.DictReader(StringIO((audit.folder / "check.csv").read_text())))
    assert tuple(rows[0]) == TABLE_COLUMNS
    assert len(rows) == len(audit.findings)
    assert [row["image"] for row in rows if row["kind"] == "blank"] == ["spike/blank.png"]


def test_the_page_shows_it_and_needs_nothing_else(audit):
    page = (audit.folder / "check.html").read_text()
    assert "1 file stands in two classes or more" in page
    assert page.count("data:image/jpeg;base64,") >= 8
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page)
    assert "<script" not in page
    HTMLParser().feed(page)


def test_photos_as_they_are_have_nothing_serious(shape_folder, tmp_path):
    audit = run_check(shape_folder, tmp_path / "check")
    assert {finding.kind for finding in audit.findings} <= {"wrong-label", "doubtful-label"}
    assert len(audit.findings) <= 2


def test_small_classes_are_told(write_shapes, tmp_path):
    root = write_shapes(tmp_path / "photos", {"box": 120, "disc": 11, "spike": 3})
    audit = run_check(root, tmp_path / "check")
    assert [finding.classes for finding in select(audit, "few-images")] == [("spike",)]
    assert [finding.classes for finding in select(audit, "imbalance")] == [("disc",)]
    doubts = [*select(audit, "wrong-label"), *select(audit, "doubtful-label")]
    assert not [finding for finding in doubts if finding.classes == ("spike",)]


def test_leaks_of_an_own_split_are_told(write_shapes, tmp_path):
    root = tmp_path / "photos"
    write_shapes(root / "train", 12)
    write_shapes(root / "test", 6, first=50)
    shutil.copy(root / "train" / "box" / "003.png", root / "test" / "box" / "copy.png")
    [leak] = select(run_check(root, tmp_path / "check"), "copies-across-parts")
    assert leak.images == ("test/box/copy.png", "train/box/003.png")
    assert leak.parts == ("test", "train")


def test_an_interrupted_check_goes_on(write_shapes, tmp_path, empty_cache):
    """What was looked at before a stop is not looked at again."""
    root, seen = write_shapes(tmp_path / "photos", 30), []

    def stop_early(event):
        if isinstance(event, StageStarted) and event.stage == "labels":
            raise KeyboardInterrupt

    def count(event):
        if isinstance(event, StageStarted):
            seen.append((event.stage, event.total))

    with pytest.raises(KeyboardInterrupt):
        run_check(root, tmp_path / "check", listen=stop_early)
    assert not (tmp_path / "check").exists()
    run_check(root, tmp_path / "check", listen=count)
    assert "features" not in dict(seen)
    assert "looks" not in dict(seen)
    root = write_shapes(root, 2, first=80)
    seen.clear()
    run_check(root, tmp_path / "check", listen=count)
    assert dict(seen)["features"] == 6


def test_hostile_names_are_escaped(write_shapes, tmp_path):
    root = write_shapes(tmp_path / "photos", 12)
    evil = "<img src=x onerror=alert(1)>&\"'"
    (root / "box").rename(root / evil)
    shutil.copy(root / evil / "001.png", root / evil / "<b>.png")
    audit = run_check(root, tmp_path / "check")
    page = (audit.folder / "check.html").read_text()
    assert "<img src=x" not in page
    assert "<b>" not in page
    assert "&lt;b&gt;.png" in page


def test_nothing_is_written_among_the_photos_nor_over_others(shape_folder, tmp_path):
    before = sorted(shape_folder.rglob("*"))
    with pytest.raises(SettingsError, match="lies inside the photos' folder"):
        run_check(shape_folder, shape_folder / "check")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear diary")
    with pytest.raises(ArtifactError, match="something else than an audit"):
        run_check(shape_folder, tmp_path / "mine")
    assert sorted(shape_folder.rglob("*")) == before


def test_images_in_memory_are_checked_too(draw_shape, tmp_path):
    pairs = [
        (np.asarray(draw_shape(shape, seed)), shape)
        for seed in range(12)
        for shape in ("box", "disc")
    ]
    audit = run_check([*pairs, (pairs[0][0], "disc")], tmp_path / "check")
    [conflict] = select(audit, "copies-across-classes")
    assert conflict.images == ("00", "24")
