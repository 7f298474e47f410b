import os
import zipfile

import pytest

from squeezetune.data.datasets.packing import copy_images, pack_images
from squeezetune.data.sources.folder import FolderSource
from squeezetune.errors import SourceError
from squeezetune.events import StageAdvanced, StageFinished, StageStarted, ignore_event

IMAGES = [("b/2.png", b"png" * 50), ("a/10.bmp", bytes(5000)), ("a/1.jpg", b"jpg")]


def test_the_file_is_sorted_and_the_same_whenever_it_is_made(tmp_path, monkeypatch):
    assert pack_images(tmp_path / "1.zip", IMAGES, 3, ignore_event) == [
        "a/1.jpg",
        "a/10.bmp",
        "b/2.png",
    ]
    monkeypatch.setattr("time.time", lambda: 4e9)
    pack_images(tmp_path / "2.zip", iter(IMAGES), 3, ignore_event)
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "1.zip") as archive:
        assert archive.testzip() is None
        assert [(entry.filename, entry.compress_type) for entry in archive.infolist()] == [
            ("a/1.jpg", zipfile.ZIP_STORED),
            ("a/10.bmp", zipfile.ZIP_DEFLATED),
            ("b/2.png", zipfile.ZIP_STORED),
        ]
        assert {name: archive.read(name) for name in archive.namelist()} == dict(IMAGES)


def test_events_tell_how_far_it_is(tmp_path):
    events = []
    pack_images(tmp_path / "1.zip", ((f"{at}.png", b"x") for at in range(130)), 100, events.append)
    assert events[:-1] == [
        StageStarted("packing", 100),
        StageAdvanced("packing", 64),
        StageAdvanced("packing", 128),
    ]
    assert isinstance(events[-1], StageFinished)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupt_leaves_what_was_there(tmp_path, error):
    def interrupted():
        yield IMAGES[0]
        raise error

    (tmp_path / "1.zip").write_bytes(b"before")
    with pytest.raises(error):
        pack_images(tmp_path / "1.zip", interrupted(), 3, ignore_event)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("1.zip", b"before")]


def test_nothing_makes_no_file(tmp_path):
    assert pack_images(tmp_path / "new" / "1.zip", [], 3, ignore_event) == []
    assert list((tmp_path / "new").iterdir()) == []


def test_what_a_killed_run_left_is_removed(tmp_path):
    old, fresh, other = (
        tmp_path / name for name in (".1.zip.old.tmp", ".1.zip.new.tmp", ".2.zip.old.tmp")
    )
    for path in (old, fresh, other):
        path.write_bytes(b"half")
    for path in (old, other):
        os.utime(path, (0, 0))
    pack_images(tmp_path / "1.zip", IMAGES, 3, ignore_event)
    assert not old.exists()
    assert fresh.exists()  # somebody may be writing it now
    assert other.exists()


def test_images_are_copied_once_in_order(write_files):
    source = FolderSource(
        write_files({"x/2.png": b"2", "a/1.png": b"1", "b/1.png": b"other", "c.txt": b"no"})
    )
    names = ("a/1.png", "b/1.png", "c.txt", "x/2.png")
    copied = copy_images(
        source, names, lambda name: name.rpartition("/")[2] if name.endswith("png") else ""
    )
    assert list(copied) == [("1.png", b"1"), ("2.png", b"2")]


def test_an_image_that_cannot_be_read_is_an_error(write_files):
    source = FolderSource(write_files({"1.png": b"1"}))
    with pytest.raises(
        SourceError, match=r"'2.png' in '.*photos' cannot be read: the file is gone"
    ):
        list(copy_images(source, ("1.png", "2.png"), str))
