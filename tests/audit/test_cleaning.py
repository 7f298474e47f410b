import csv
import hashlib
import shutil
import zipfile

import pytest
from test_audit import FIXED, run_check

from squeezetune.audit.cleaning import apply_audit
from squeezetune.data.index import index_photos
from squeezetune.errors import SettingsError, SourceError
from squeezetune.training import train

pytestmark = pytest.mark.usefixtures("no_plots")


def plant(root):
    """Plant a wrong label, a copy, and a file in two classes of which the others tell the right
    one.
    """
    (root / "box" / "000.png").rename(root / "disc" / "wrong.png")
    shutil.copy(root / "disc" / "001.png", root / "disc" / "again.png")
    shutil.copy(root / "disc" / "002.png", root / "spike" / "elsewhere.png")


@pytest.fixture(scope="module")
def planted(write_shapes, tmp_path_factory):
    root = write_shapes(tmp_path_factory.mktemp("planted") / "my photos", 40)
    plant(root)
    return root


@pytest.fixture(scope="module")
def audit(planted, tmp_path_factory):
    return run_check(planted, tmp_path_factory.mktemp("audits") / "check")


def read_table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def hash_files(root):
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in root.rglob("*.*")}


def test_copies_go_and_wrong_labels_change(audit, planted, tmp_path):
    before = hash_files(planted)
    cleaned = apply_audit(audit, tmp_path / "clean.csv", confidence=0.8)
    labels = {
        row["path"].rpartition("my photos/")[2]: row["label"] for row in read_table(cleaned.path)
    }
    assert labels["disc/wrong.png"] == "box"
    assert "disc/001.png" in labels
    assert "disc/again.png" not in labels
    assert "spike/elsewhere.png" not in labels
    assert len(labels) == cleaned.images
    assert len(labels) + sum(not change.class_name for change in cleaned.changes) == audit.images
    assert hash_files(planted) == before


def test_what_is_left_out_and_changed_is_told(audit, tmp_path):
    told = {
        change.image: change.describe()
        for change in apply_audit(audit, tmp_path / "clean.csv").changes
    }
    assert told["disc/again.png"] == "left out: same bytes as disc/001.png"
    assert "spike/elsewhere.png" in told


def test_kinds_and_confidence_choose(audit, tmp_path):
    nothing = apply_audit(audit, tmp_path / "1.csv", kinds=())
    assert (nothing.images, nothing.changes) == (audit.images, ())
    copies = apply_audit(audit, tmp_path / "2.csv", kinds=("copies",))
    assert not [change for change in copies.changes if change.class_name]
    labels = apply_audit(audit, tmp_path / "3.csv", kinds=("wrong-labels",), confidence=1)
    assert labels.images == audit.images


@pytest.mark.slow
def test_train_takes_the_table_on_the_spot(audit, tmp_path):
    cleaned = apply_audit(audit, tmp_path / "deeper" / "clean.csv", confidence=0.8)
    model = train(cleaned.path, tmp_path / "model", effort="quick", **FIXED)
    assert model.report["data"]["images"] == cleaned.images
    assert model.report["data"]["skipped"] == []


def test_parts_and_groups_of_a_table_are_kept(planted, tmp_path, executor):
    names = sorted(path.relative_to(planted.parent).as_posix() for path in planted.rglob("*.png"))
    parts = ("train", "train", "validation", "test")
    lines = [
        f"{name},{name.split('/')[1]},{parts[at % 4]},g{at // 4}" for at, name in enumerate(names)
    ]
    table = planted.parent / "table.csv"
    table.write_text("path,label,split,group\n" + "\n".join(lines))
    audit = run_check(table, tmp_path / "check")
    cleaned = apply_audit(audit, tmp_path / "clean.csv", kinds=())
    before, after = (index_photos(path, executor=executor) for path in (table, cleaned.path))
    assert after.fingerprint == before.fingerprint
    assert after.parts.tolist() == before.parts.tolist()
    assert after.groups == before.groups


def test_odd_names_survive(write_shapes, tmp_path, executor):
    root = write_shapes(tmp_path / "photos", 12)
    for at, name in enumerate(
        (' "quoted", and.png', "back\\slash.png", "new\nline.png", " leading.png", "ünï.png")
    ):
        (root / "box" / f"{at:03d}.png").rename(root / "box" / name)
    cleaned = apply_audit(run_check(root, tmp_path / "check"), tmp_path / "clean.csv", kinds=())
    before, after = (
        index_photos(root, executor=executor),
        index_photos(cleaned.path, executor=executor),
    )
    assert after.skipped == ()
    assert after.fingerprint == before.fingerprint


def test_archives_are_refused_clearly(planted, tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in planted.rglob("*.png"):
            archive.write(path, path.relative_to(planted).as_posix())
    audit = run_check(tmp_path / "photos.zip", tmp_path / "check")
    with pytest.raises(SourceError, match="no files of their own"):
        apply_audit(audit, tmp_path / "clean.csv")


@pytest.mark.parametrize(("name", "options", "said"), [
    ("clean.csv", {"kinds": ("copy",)}, "'copy' cannot be applied"),
    ("clean.csv", {"confidence": 98}, "the confidence is 98"),
    ("clean.jpg", {}, "ends in .csv"),
    ("there.csv", {}, "is there already"),
])  # fmt: skip
def test_what_cannot_be_done_is_refused(audit, tmp_path, name, options, said):
    (tmp_path / "there.csv").write_text("mine")
    with pytest.raises(SettingsError, match=said):
        apply_audit(audit, tmp_path / name, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["there.csv"]


def test_no_table_is_written_among_the_photos(audit, planted):
    with pytest.raises(SettingsError, match="lies inside the photos' folder"):
        apply_audit(audit, planted / "clean.csv")
