import os
import sys
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from squeezetune.errors import DataError
from squeezetune.system import store as store_module
from squeezetune.system.disk import cache_or_temporary, check_room, find_cache_folder, write_file
from squeezetune.system.store import RowStore


def make_rows(first, count, shape=(2, 3)):
    """Make `count` rows, known by the numbers from `first` on: digests, values, sizes."""
    numbers = np.arange(first, first + count)
    digests = np.zeros((count, 16), np.uint8)
    digests[:, :4] = numbers.astype("<u4").view(np.uint8).reshape(-1, 4)
    values = (
        numbers.reshape(-1, *[1] * len(shape)) + np.arange(np.prod(shape)).reshape(shape) / 8
    ).astype(np.float16)
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


def test_the_cache_is_lent_as_it_is(tmp_path):
    with cache_or_temporary(tmp_path) as folder:
        assert folder == tmp_path
    assert tmp_path.is_dir()


def test_without_a_cache_a_folder_is_lent_and_deleted():
    with cache_or_temporary(None) as folder:
        RowStore(folder / "rows", (2, 3)).save(*make_rows(0, 4))
    assert not folder.exists()


def test_temporary_rows_go_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with cache_or_temporary(None) as folder:
        assert folder.parent == tmp_path


def test_room_is_needed_and_a_tenth_more(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "shutil.disk_usage", lambda path: (0, 0, 11 * 10**9) if path == tmp_path else None
    )
    check_room(tmp_path / "not" / "yet", 10 * 10**9)
    with pytest.raises(DataError, match=r"needed are 22\.0 GB, and 11\.0 GB are free") as caught:
        check_room(tmp_path / "not" / "yet", 20 * 10**9)
    assert "SQUEEZETUNE_CACHE" in caught.value.hint


# ---- one file, whole or not at all


def test_a_file_is_written_and_replaced(tmp_path):
    path = tmp_path / "deep" / "file.bin"
    for content in (b"first", b""):
        write_file(path, content)
        assert path.read_bytes() == content
    assert [item.name for item in path.parent.iterdir()] == ["file.bin"]


def test_parts_of_a_file_follow_each_other(tmp_path):
    write_file(tmp_path / "file.bin", b"one", memoryview(b"two"), b"")
    assert (tmp_path / "file.bin").read_bytes() == b"onetwo"


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
    monkeypatch.setattr(
        os,
        "fsync",
        lambda handle: (steps.append(f"sync {os.fstat(handle).st_size}"), fsync(handle)),
    )
    monkeypatch.setattr(
        Path, "replace", lambda old, new: (steps.append("rename"), replace(old, new))
    )
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


@pytest.mark.parametrize(
    "damage", [damage_short, damage_header, damage_magic, damage_empty, damage_zip]
)
def test_a_damaged_segment_is_ignored(store, damage):
    store.save(*make_rows(0, 4))
    [path] = store.folder.glob("*.npy")
    store.save(*make_rows(4, 4))
    path.write_bytes(damage(path.read_bytes()))
    assert load_rows(store, make_rows(0, 8)[0])[0].tolist() == [False] * 4 + [True] * 4


def test_a_flipped_bit_is_noticed_and_its_segment_deleted(store):
    store.save(*make_rows(0, 4))
    [path] = store.folder.glob("*.npy")
    payload = bytearray(path.read_bytes())
    payload[-3] ^= 16
    path.write_bytes(payload)
    assert not load_rows(store, make_rows(0, 4)[0])[0].any()
    assert not path.exists()


@pytest.mark.parametrize("place", range(8, 512, 4))  # numpy's headers and the columns between them
def test_a_damaged_column_is_never_an_error(store, place):
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


# ---- rows that stay on disk


@pytest.fixture
def filled(store):
    """Fill a store with 12 rows in three segments."""
    for first in (0, 4, 8):
        store.save(*make_rows(first, 4))
    return store


@pytest.mark.parametrize("max_open", [64, 1])
def test_rows_are_gathered_by_position(filled, monkeypatch, max_open):
    monkeypatch.setattr(store_module, "MAX_OPEN", max_open)
    digests, values, sizes = make_rows(0, 12)
    order = np.array([9, 7, 0, 7, 3, 11])
    rows = filled.open_rows(digests[order])
    np.testing.assert_array_equal(rows.sizes, sizes[order])
    for positions in ([5, 0, 1, 1], [2], []):
        positions = np.array(positions, np.int64)
        found = rows.gather(positions)
        assert (found.shape, found.dtype) == ((len(positions), 2, 3), np.float16)
        np.testing.assert_array_equal(found, values[order[positions]])
        found[:] = 0  # a copy: what is kept does not change


def test_what_is_missing_is_known(filled):
    rows = filled.open_rows(make_rows(10, 4)[0])
    assert (len(rows), rows.missing.tolist(), rows.is_known.tolist()) == (
        4,
        [2, 3],
        [True, True, False, False],
    )
    assert rows.sizes[2:].tolist() == [[-1, -1], [-1, -1]]
    with pytest.raises(ValueError, match="not in the store"):
        rows.gather(np.array([0, 2]))


def test_nothing_can_be_opened(store):
    assert store.open_rows(make_rows(0, 3)[0]).missing.tolist() == [0, 1, 2]
    assert len(store.open_rows(make_rows(0, 0)[0])) == 0


@pytest.mark.parametrize(
    ("shape", "dtype"), [((5, 5, 3), "u1"), ((3,), "<f4"), ((), "<f8"), ((0,), "u1"), ((9,), "u1")]
)
def test_rows_of_any_shape_come_back(tmp_path, shape, dtype):
    store = RowStore(tmp_path / "rows", shape, dtype)
    digests, _, sizes = make_rows(0, 6)
    values = np.random.default_rng(0).integers(0, 200, (6, *shape)).astype(dtype)
    store.save(digests, values, sizes)
    rows = store.open_rows(digests)
    np.testing.assert_array_equal(rows.gather(np.arange(6)[::-1]), values[::-1])
    assert store.row_bytes == values[:1].nbytes


def test_every_bit_of_a_row_is_checked(tmp_path):
    store = RowStore(tmp_path / "rows", (11,), "u1")  # a word and three bytes
    digests, _, sizes = make_rows(0, 1)
    store.save(digests, np.arange(11, dtype=np.uint8)[None], sizes)
    [path] = store.folder.glob("*.npy")
    whole = path.read_bytes()
    for bit in range(8 * 11):
        damaged = bytearray(whole)
        damaged[-1 - bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="is damaged"):
            store.open_rows(digests).gather(np.array([0]))


def make_store(tmp_path, place="rows/key", row=(2048,), count=8):
    """Fill a store of one segment with rows of 4 KiB; returns it, the digests of its rows and the
    segment.
    """
    store = RowStore(tmp_path / place, row)
    digests, values, sizes = make_rows(0, count, row)
    store.save(digests, values, sizes)
    [path] = store.folder.glob("*.npy")
    return store, digests, path


def find_known(store, digests):
    """Say which rows are there, and whole, as `load` and `drop_damaged` see it."""
    dropped = store.open_rows(digests).drop_damaged(np.arange(len(digests))).is_known.tolist()
    values, sizes = (
        np.zeros((len(digests), *store.shape), store.dtype),
        np.zeros((len(digests), 2), np.int32),
    )
    assert store.load(digests, values, sizes).tolist() == dropped
    return dropped


@pytest.mark.parametrize("size", [512, 4096])
def test_blocks_of_zeros_are_noticed_wherever_they_are(tmp_path, size):
    store, digests, path = make_store(tmp_path, count=4)
    whole = path.read_bytes()
    for at in range(0, len(whole), size):
        path.write_bytes(whole[:at] + bytes(len(whole[at : at + size])) + whole[at + size :])
        known = store.open_rows(digests).drop_damaged(np.arange(4)).is_known
        assert not known.all()


def test_a_row_of_zeros_needs_more_than_zeros_for_a_checksum(store):
    digests = np.zeros((1, 16), np.uint8)
    store.save(digests, np.zeros((1, 2, 3)), np.zeros((1, 2)))
    assert find_known(store, digests) == [True]
    [path] = store.folder.glob("*.npy")
    payload = path.read_bytes()
    start = payload.index(b"\n") + 1  # behind numpy's header: the checksum
    path.write_bytes(payload[:start] + bytes(8) + payload[start + 8 :])
    assert find_known(store, digests) == [False]


def test_blocks_that_changed_places_are_noticed(tmp_path):
    store, digests, path = make_store(tmp_path)
    payload = path.read_bytes()
    head, last = payload[:-8192], payload[-8192:]
    path.write_bytes(head + last[4096:] + last[:4096])
    assert not all(find_known(store, digests))


def test_rows_of_another_store_are_noticed(tmp_path):
    store, digests, path = make_store(tmp_path, "features/one")
    other, _, foreign = make_store(tmp_path, "features/two")
    foreign.write_bytes(path.read_bytes())
    assert find_known(store, digests) == [True] * 8
    assert find_known(other, digests) == [False] * 8


def test_a_digest_that_is_damaged_finds_no_foreign_row(tmp_path):
    store, digests, path = make_store(tmp_path)
    payload = path.read_bytes()
    path.write_bytes(payload.replace(digests[3].tobytes(), make_rows(99, 1)[0].tobytes()))
    assert find_known(store, make_rows(99, 1)[0]) == [False]


def test_a_cache_may_be_moved(tmp_path):
    store, digests, _ = make_store(tmp_path / "here", "features/one")
    (tmp_path / "here").rename(tmp_path / "there")
    assert (
        find_known(RowStore(tmp_path / "there" / "features" / "one", store.shape), digests)
        == [True] * 8
    )


def test_what_cannot_be_deleted_is_missing_all_the_same(filled, monkeypatch):
    path = sorted(filled.folder.glob("*.npy"))[1]
    path.write_bytes(path.read_bytes()[:-1] + b"x")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    rows = filled.open_rows(make_rows(0, 12)[0]).drop_damaged(np.arange(12))
    assert len(rows.missing) == 4
    rows.gather(np.flatnonzero(rows.is_known))


def test_what_is_gone_since_it_was_found_is_missing(filled):
    rows = filled.open_rows(make_rows(0, 12)[0])
    sorted(filled.folder.glob("*.npy"))[0].unlink()
    assert len(rows.drop_damaged(np.arange(12)).missing) == 12
    assert len(rows.drop_damaged(np.arange(0)).missing) == 0


def test_a_damaged_row_is_an_error_and_computed_next_time(filled):
    digests = make_rows(0, 12)[0]
    path = sorted(filled.folder.glob("*.npy"))[1]
    payload = bytearray(path.read_bytes())
    payload[-1] ^= 1
    path.write_bytes(payload)
    rows = filled.open_rows(digests)
    with pytest.raises(DataError, match="is damaged") as caught:
        rows.gather(np.arange(12))
    assert "Run again" in caught.value.hint
    assert len(filled.open_rows(digests).missing) == 4


def test_a_cache_that_is_deleted_meanwhile_is_an_error(filled):
    rows = filled.open_rows(make_rows(0, 12)[0])
    for path in filled.folder.glob("*.npy"):
        path.unlink()
    with pytest.raises(DataError, match="is gone"):
        rows.gather(np.arange(12))


def test_many_threads_gather_at_once(filled, monkeypatch):
    monkeypatch.setattr(store_module, "MAX_OPEN", 2)
    digests, values, _ = make_rows(0, 12)
    rows, wrong = filled.open_rows(digests), []

    def read(seed):
        rng = np.random.default_rng(seed)
        for _ in range(200):
            positions = rng.integers(0, 12, 8)
            if not np.array_equal(rows.gather(positions), values[positions]):
                wrong.append(positions)

    threads = [Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_finding_equals_looking_one_by_one():
    rng = np.random.default_rng(3)
    known, wanted = (rng.integers(0, 2, (count, 16), dtype=np.uint8) for count in (40_000, 3000))
    known[:, 3:] = wanted[:, 3:] = 0  # eight digests, many times
    known[:, 15] = rng.integers(0, 4, len(known))
    wanted[:, 15] = rng.integers(0, 6, len(wanted))
    first = {}
    for row, digest in enumerate(known):
        first.setdefault(digest.tobytes(), row)
    expected = [first.get(digest.tobytes(), -1) for digest in wanted]
    np.testing.assert_array_equal(store_module._find_rows(known, wanted), expected)


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="only Linux tells what memory is used for"
)
def test_gathered_rows_take_memory_and_others_none(tmp_path):
    def measure_own_kb():
        [line] = [
            line
            for line in Path("/proc/self/status").read_text().splitlines()
            if line.startswith("RssAnon")
        ]
        return int(line.split()[1])

    store = RowStore(tmp_path / "rows", (1_000_000,), "u1")
    digests = make_rows(0, 96)[0]
    for at in range(0, 96, 8):
        part = digests[at : at + 8]
        store.save(
            part, np.full((len(part), 1_000_000), at, np.uint8), np.zeros((len(part), 2), np.int32)
        )
    rows = store.open_rows(digests)
    before = measure_own_kb()
    for at in range(0, 96, 4):
        assert rows.gather(np.arange(at, at + 4))[0, 0] == at // 8 * 8
    assert measure_own_kb() - before < 30_000  # of 96 MB
