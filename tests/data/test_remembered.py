import os
import time
import zipfile

import numpy as np
import pytest

from squeezetune.data import digests as remembered_module
from squeezetune.data.digests import read_digests
from squeezetune.data.index import index_photos
from squeezetune.data.sources import folder as folders_module
from squeezetune.data.sources.folder import FolderSource, list_files
from squeezetune.data.sources.registry import MemorySource, open_source
from squeezetune.events import Notice, StageAdvanced, ignore_event
from squeezetune.system.executor import ThreadExecutor
from squeezetune.training import train

pytestmark = pytest.mark.usefixtures("no_plots")


class CountingSource(FolderSource):
    """Notes what is read."""

    def digest(self, name):
        READ.append(name)
        if name == STOP[0]:
            raise KeyboardInterrupt
        return super().digest(name)


ONE_THREAD = ThreadExecutor(1)
READ, STOP = [], [""]


@pytest.fixture(autouse=True)
def all_files_are_old(monkeypatch):
    """Let no test wait until its files are trusted."""
    monkeypatch.setattr("squeezetune.data.sources.source.RACY_NS", -60_000_000_000)
    READ.clear()
    STOP[0] = ""


@pytest.fixture
def read(photo_folder, tmp_path):
    """Read the digests of the folder with a cache; return them and the names of the files that were
    read.
    """

    def run(listen=ignore_event, cache=tmp_path / "cache", executor=ONE_THREAD):
        READ.clear()
        digests = read_digests(
            CountingSource(photo_folder), list_files(photo_folder).files, executor, listen, cache
        )
        return digests, sorted(READ)

    return run


def test_a_second_run_reads_nothing(read):
    first, names = read()
    assert len(names) == 30
    events = []
    second, names = read(events.append)
    assert names == []
    assert np.array_equal(second.values, first.values)
    assert second.is_image.all()
    assert StageAdvanced("reading", 30) in events
    assert np.array_equal(read(cache=None)[0].values, first.values)
    assert len(READ) == 30


def test_only_new_and_changed_files_are_read(read, photo_folder, make_photo):
    read()
    (photo_folder / "bee" / "3.jpg").write_bytes(make_photo(500))
    (photo_folder / "bee" / "new.jpg").write_bytes(make_photo(501))
    (photo_folder / "cow" / "0.jpg").unlink()
    digests, names = read()
    assert names == ["bee/3.jpg", "bee/new.jpg"]
    assert np.array_equal(digests.values, read(cache=None)[0].values)


def test_files_of_a_moment_ago_are_read_again(read, monkeypatch):
    monkeypatch.setattr("squeezetune.data.sources.source.RACY_NS", 60_000_000_000)
    read()
    assert len(read()[1]) == 30


def test_a_file_that_is_written_while_it_is_read_is_read_again(
    read, photo_folder, make_photo, monkeypatch
):
    monkeypatch.setattr("squeezetune.data.sources.source.RACY_NS", 0)
    for path in photo_folder.rglob("*.jpg"):
        os.utime(path, (1, 1))
    time.sleep(0.05)
    digest, late = FolderSource.digest, photo_folder / "bee" / "3.jpg"

    def write_then_read(source, name):
        if name == "bee/3.jpg":
            late.write_bytes(make_photo(500))
        return digest(source, name)

    monkeypatch.setattr(FolderSource, "digest", write_then_read)
    read()
    monkeypatch.setattr(FolderSource, "digest", digest)
    late.write_bytes(make_photo(501))
    digests, names = read()
    assert names == ["bee/3.jpg"]
    assert np.array_equal(digests.values, read(cache=None)[0].values)


def test_what_is_no_image_is_looked_at_again(read, photo_folder):
    (photo_folder / "bee" / "text.jpg").write_bytes(b"text")
    first, _ = read()
    second, names = read()
    assert names == ["bee/text.jpg"]
    assert second.reasons == first.reasons
    assert len(second.reasons) == 1


def test_an_interrupted_run_goes_on(read):
    STOP[0] = "cow/5.jpg"
    with pytest.raises(KeyboardInterrupt):
        read(executor=Straight())
    read_before = sorted(set(READ) - {"cow/5.jpg"})
    assert len(read_before) == 15
    STOP[0] = ""
    digests, names = read()
    assert len(names) == 15
    assert not set(names) & set(read_before)
    assert np.array_equal(digests.values, read(cache=None)[0].values)


def test_a_killed_run_goes_on(read, monkeypatch, tmp_path):
    """A kill leaves what was saved until then; here the last saving never happens."""
    monkeypatch.setattr(remembered_module, "SAVE_EVERY_S", 0)
    monkeypatch.setattr(remembered_module, "SAVE_EVERY_SHARE", 0)
    STOP[0] = "cow/5.jpg"
    save, left = remembered_module.RememberedDigests.save, [12]

    def save_until_the_kill(self, digests):
        left[0] -= 1
        if left[0] >= 0:
            save(self, digests)

    monkeypatch.setattr(remembered_module.RememberedDigests, "save", save_until_the_kill)
    with pytest.raises(KeyboardInterrupt):
        read(executor=Straight())
    monkeypatch.setattr(remembered_module.RememberedDigests, "save", save)
    STOP[0] = ""
    assert len(read()[1]) == 30 - 12


class Straight:
    """Does one thing after the other in the caller's thread, file by file."""

    def map(self, function, items):
        for item in items:
            if isinstance(item, list):
                yield from (function([each]) for each in item)
            else:
                yield function(item)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:100], lambda data: b"", lambda data: data[:-3] + b"abc"]
)
def test_a_damaged_cache_is_read_again(read, tmp_path, damage):
    first, _ = read()
    [path] = (tmp_path / "cache").rglob("*.npy")
    path.write_bytes(damage(path.read_bytes()))
    second, names = read()
    assert names
    assert np.array_equal(second.values, first.values)


def test_a_cache_that_cannot_be_written_is_told_once(read, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file where the folder should be")
    events = []
    digests, names = read(events.append)
    assert len(names) == 30
    assert digests.is_image.all()
    [notice] = [event for event in events if isinstance(event, Notice)]
    assert "cannot be remembered" in notice.message


def test_files_in_an_archive_are_remembered_until_it_changes(
    tmp_path, make_photo, executor, monkeypatch
):
    path, cache, read = tmp_path / "photos.zip", tmp_path / "cache", []
    open_file = zipfile.ZipFile.open

    def note_and_open(self, entry, *more):
        read.append(entry)
        return open_file(self, entry, *more)

    def index(seed, name="dog/1.jpg"):
        if seed is not None:
            with zipfile.ZipFile(path, "w") as archive:
                for at, file in enumerate(("cat/1.jpg", "cat/2.jpg", name)):
                    archive.writestr(file, make_photo(seed + at))
        read.clear()
        monkeypatch.setattr(zipfile.ZipFile, "open", note_and_open)
        found = index_photos(path, executor=executor, cache=cache)
        monkeypatch.setattr(zipfile.ZipFile, "open", open_file)
        return found.digests.tolist(), len(read)

    first, count = index(0)
    assert count == 3
    assert index(None) == (first, 0)
    second, count = index(10)
    assert count == 3
    assert second != first


def test_images_in_memory_are_not_remembered(make_photo, executor, tmp_path):
    source = MemorySource([make_photo(0), make_photo(1)])
    read_digests(source, source.names, executor, ignore_event, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_source_without_stamps_is_read(photo_folder, executor, tmp_path):
    source, listing = open_source(photo_folder, {})

    class Plain:
        digest = staticmethod(source.digest)

    digests = read_digests(Plain(), listing.files, executor, ignore_event, tmp_path / "cache")
    assert digests.is_image.all()
    assert not (tmp_path / "cache").exists()


def test_training_again_hashes_no_file_again(
    shape_folder, fixed_settings, empty_cache, tmp_path, monkeypatch
):
    hashed, hash_file = [], folders_module.hash_file

    def note_and_hash(path, **options):
        hashed.append(path)
        return hash_file(path, **options)

    def train_and_count(**options):
        hashed.clear()
        train(shape_folder, tmp_path / "model", fixed_settings, effort="quick", **options)
        return len(hashed)

    monkeypatch.setattr(folders_module, "hash_file", note_and_hash)
    assert train_and_count() == 60
    assert train_and_count() == 0
    assert train_and_count(use_cache=False) == 60
