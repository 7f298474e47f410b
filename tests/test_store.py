import os
import sys
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from squeezetune.store import RowStore, find_cache_folder, write_file


def make_rows(first, count, shape=(2, 3)):
    """Make `count` rows, known by the numbers from `first` on: digests, values, sizes."""
    numbers = np.arange(first, first + count)
    digests = np.zeros((count, 16), np.uint8)
    digests[:, :4] = numbers.astype("<u4").view(np.uint8).reshape(-1, 4)
    values = (numbers.reshape(-1, *[1] * len(shape)) + np.arange(np.prod(shape)).reshape(shape) / 8).astype(np.float16)
    return digests, values, np.stack([numbers, numbers + 1], axis=1).astype(np.int32)


def load_rows(store, digests):
    values = np.full((len(digests), *store.shape), -1, np.float16)
    sizes = np.full((len(digests), 2), -1, np.int32)
    return store.load(digests, values, sizes), values, sizes


@pytest.fixture
def store(tmp_path):
    return RowStore(tmp_path / "rows", (2, 3))


# ---- where caches are


def test_the_cache_folder_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("SQUEEZETUNE_CACHE", str(tmp_path))
    assert find_cache_folder() == tmp_path


@pytest.mark.parametrize(
    ("system", "variable", "expected"),
    [
        ("linux", "XDG_CACHE_HOME", "base/squeezetune"),
        ("win32", "LOCALAPPDATA", "base/squeezetune"),
        ("linux", "", "home/.cache/squeezetune"),
        ("darwin", "", "home/Library/Caches/squeezetune"),
    ],
)
def test_the_cache_folder_is_the_systems(monkeypatch, tmp_path, system, variable, expected):
    for name in ("SQUEEZETUNE_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    if variable:
        monkeypatch.setenv(variable, str(tmp_path / "base"))
    assert find_cache_folder() == tmp_path / expected


# ---- one file, whole or not at all


def test_a_file_is_written_and_replaced(tmp_path):
    path = tmp_path / "deep" / "file.bin"
    for content in (b"first", b""):
        write_file(path, content)
        assert path.read_bytes() == content
    assert [item.name for item in path.parent.iterdir()] == ["file.bin"]


@pytest.mark.parametrize("broken", ["os.fsync", "pathlib.Path.replace"])
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, broken):
    def fail(*_):
        raise OSError(28, "No space left on device")

    path = tmp_path / "file.bin"
    write_file(path, b"old")
    monkeypatch.setattr(broken, fail)
    with pytest.raises(OSError, match="No space left"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["file.bin"]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (steps.append(f"sync {os.fstat(handle).st_size}"), fsync(handle)))
    monkeypatch.setattr(Path, "replace", lambda old, new: (steps.append("rename"), replace(old, new)))
    write_file(tmp_path / "file.bin", b"12345")
    assert steps == ["sync 5", "rename"]


# ---- rows


def test_rows_come_back_as_they_were(store):
    digests, values, sizes = make_rows(0, 5)
    store.save(digests, values, sizes)
    known, found, found_sizes = load_rows(store, digests)
    assert known.all()
    np.testing.assert_array_equal(found, values)
    np.testing.assert_array_equal(found_sizes, sizes)


def test_rows_are_found_over_several_segments_in_any_order_and_twice(store):
    store.save(*make_rows(0, 4))
    store.save(*make_rows(4, 4))
    wanted, values, _ = make_rows(0, 10)
    order = np.array([9, 7, 0, 7, 3, 8])
    known, found, _ = load_rows(store, wanted[order])
    assert known.tolist() == [False, True, True, True, True, False]
    np.testing.assert_array_equal(found[known], values[order][known])
    assert (found[~known] == -1).all()


def test_an_empty_store_and_empty_questions(store):
    assert not load_rows(store, make_rows(0, 3)[0])[0].any()
    store.save(*make_rows(0, 3))
    assert load_rows(store, make_rows(0, 0)[0])[0].shape == (0,)


def test_the_first_segment_that_knows_a_row_is_right(store):
    digests, values, sizes = make_rows(0, 2)
    store.save(digests, values, sizes)
    store.save(digests, values, sizes)
    known, found, _ = load_rows(store, digests)
    assert known.all()
    np.testing.assert_array_equal(found, values)


def damage_short(payload):
    return payload[:-1]


def damage_header(payload):
    return payload[:20]


def damage_magic(payload):
    return b"x" + payload[1:]


def damage_empty(payload):
    return b""


def damage_zip(payload):
    return b"PK\x03\x04" + payload[4:]


@pytest.mark.parametrize("damage", [damage_short, damage_header, damage_magic, damage_empty, damage_zip])
def test_a_damaged_segment_is_ignored(store, damage):
    store.save(*make_rows(0, 4))
    [path] = store.folder.glob("*.npy")
    store.save(*make_rows(4, 4))
    path.write_bytes(damage(path.read_bytes()))
    assert load_rows(store, make_rows(0, 8)[0])[0].tolist() == [False] * 4 + [True] * 4


@pytest.mark.parametrize("place", range(8, 128, 4))  # numpy's header
def test_a_damaged_header_is_never_an_error(store, place):
    store.save(*make_rows(0, 4))
    [path] = store.folder.glob("*.npy")
    payload = bytearray(path.read_bytes())
    for byte in b"({'\0":
        payload[place] = byte
        path.write_bytes(payload)
        load_rows(store, make_rows(0, 4)[0])


def test_what_a_kill_leaves_is_ignored(store):
    store.save(*make_rows(0, 4))
    [path] = store.folder.glob("*.npy")
    path.rename(path.with_suffix(".tmp"))
    assert not load_rows(store, make_rows(0, 4)[0])[0].any()


@pytest.mark.parametrize("other", [((3, 2), "<f2"), ((2, 3), "<f4"), ((6,), "<f2")])
def test_rows_of_another_shape_or_type_are_ignored(store, other):
    store.save(*make_rows(0, 4))
    foreign = RowStore(store.folder, *other)
    values, sizes = np.zeros((4, *foreign.shape), foreign.dtype), np.zeros((4, 2), np.int32)
    assert not foreign.load(make_rows(0, 4)[0], values, sizes).any()


def test_a_failed_save_leaves_nothing(store, monkeypatch):
    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        store.save(*make_rows(0, 4))
    assert not list(store.folder.iterdir())


def test_several_runs_may_write_and_read_at_once(store):
    def write(worker):
        for part in range(10):
            store.save(*make_rows(100 * worker + 5 * part, 5))
            assert load_rows(store, make_rows(100 * worker + 5 * part, 5)[0])[0].all()

    threads = [Thread(target=write, args=(worker,)) for worker in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for worker in range(3):
        digests, values, _ = make_rows(100 * worker, 50)
        known, found, _ = load_rows(store, digests)
        assert known.all()
        np.testing.assert_array_equal(found, values)
