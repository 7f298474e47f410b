import os
import time

import pytest

from squeezetune.data.sources.source import RACY_NS, Stamp, stamp_file, stamp_inner

LATER = 10_000_000_000


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"photo")
    return path


def test_a_stamp_stays_while_the_file_does(file):
    assert stamp_file(str(file)) == stamp_file(str(file))


def test_a_stamp_changes_with_size_time_number_and_path(file):
    first = stamp_file(str(file))
    marks = {first.mark}
    file.write_bytes(b"longer photo")
    marks.add(stamp_file(str(file)).mark)
    os.utime(file, ns=(0, first.changed_ns + 1))
    marks.add(stamp_file(str(file)).mark)
    other = file.with_name("b.jpg")
    other.write_bytes(b"longer photo")
    os.utime(other, ns=(0, first.changed_ns + 1))
    marks.add(stamp_file(str(other)).mark)
    other.replace(file)
    marks.add(stamp_file(str(file)).mark)
    assert len(marks) == 5


@pytest.mark.skipif(
    os.name == "nt", reason="Windows keeps no time of the last change of a file's notes"
)
def test_a_time_that_was_set_back_is_noticed(file):
    first = stamp_file(str(file))
    file.write_bytes(b"other")
    os.utime(file, ns=(first.changed_ns, first.changed_ns))
    assert stamp_file(str(file)).mark != first.mark


def test_a_stamp_does_not_depend_on_how_the_path_is_written(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    assert stamp_file("a.jpg") == stamp_file(str(file))


def test_a_file_that_was_written_a_moment_ago_is_not_settled(file):
    stamp = stamp_file(str(file))
    assert not stamp.is_settled(time.time_ns())
    assert not stamp.is_settled(stamp.changed_ns + RACY_NS)
    assert stamp.is_settled(time.time_ns() + LATER)
    os.utime(file, ns=(0, time.time_ns() + 10 * LATER))  # a clock that goes wrong
    assert not stamp_file(str(file)).is_settled(time.time_ns() + LATER)


def test_a_file_that_is_gone_has_no_stamp(tmp_path):
    assert stamp_file(str(tmp_path / "nothing.jpg")) is None
    assert stamp_file("a\0b") is None
    assert stamp_inner(None, "a.jpg") is None


def test_files_in_an_archive_have_stamps_of_their_own():
    outer = Stamp(b"archive", 7)
    assert stamp_inner(outer, "a.jpg") != stamp_inner(outer, "b.jpg")
    assert stamp_inner(outer, "\udcff.jpg").changed_ns == 7
