import os
import sys

import pytest

from squeezetune.data.sources.folder import list_files, walk_files
from squeezetune.errors import SourceError

# names whose order as paths is not that of their parts
NAMES = (
    "a/c.jpg",
    "a-b.jpg",
    "a/b/c.jpg",
    "a.jpg",
    "a b/x.jpg",
    "a0.jpg",
    "b",
    "Z.jpg",
    "é/1.jpg",
    "a/b-/x",
    "a/b.jpg",
)


@pytest.fixture
def tree(write_files):
    return write_files(dict.fromkeys(NAMES, b"x"))


@pytest.mark.parametrize("at_once", [1, 2, 3, 1000])
def test_the_walk_is_the_listing(tree, monkeypatch, at_once):
    monkeypatch.setattr("squeezetune.data.sources.folder.SORTED_AT_ONCE", at_once)
    assert list(walk_files(tree)) == [(name, "") for name in sorted(NAMES)]
    assert list_files(tree).files == tuple(sorted(NAMES))


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are text there")
def test_names_that_are_no_text(tree, monkeypatch):
    monkeypatch.setattr("squeezetune.data.sources.folder.SORTED_AT_ONCE", 1)
    strange = [b"\xff\xfe.jpg", b"line\nend.jpg", b'"quotes".jpg']
    for name in strange:
        with open(os.fsencode(tree) + b"/" + name, "wb"):  # noqa: PTH123  # pathlib takes no bytes
            pass
    assert [name for name, _ in walk_files(tree)] == list(list_files(tree).files)
    assert {os.fsdecode(name) for name in strange} < {name for name, _ in walk_files(tree)}


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_what_the_listing_refuses_is_told_in_its_place(tree):
    (tree / "a1.jpg").symlink_to(tree / "b")
    (tree / "circle").symlink_to(tree)
    found = list(walk_files(tree))
    assert {name: reason for name, reason in found if reason} == list_files(tree).refused
    assert [name for name, _ in found] == sorted(name for name, _ in found)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or not os.geteuid(), reason="nothing is closed to this user"
)
def test_a_folder_that_is_closed_is_told(tree):
    (tree / "a").chmod(0)
    try:
        assert ("a", "no permission to read it") in list(walk_files(tree))
    finally:
        (tree / "a").chmod(0o700)


def test_a_folder_that_vanishes_meanwhile_is_told(tree):
    walk = walk_files(tree)
    assert next(walk) == ("Z.jpg", "")
    (tree / "é" / "1.jpg").unlink()
    (tree / "é").rmdir()
    assert list(walk)[-1] == ("é", "the file is gone")


@pytest.mark.parametrize("name", ["nowhere", "b"])
def test_no_folder_is_an_error(tree, name):
    with pytest.raises(SourceError):
        list(walk_files(tree / name))
