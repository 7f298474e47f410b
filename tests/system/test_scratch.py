import numpy as np
import pytest

from squeezetune.errors import DataError
from squeezetune.system import scratch as module
from squeezetune.system.scratch import BLOCK_IMAGES, IN_MEMORY, Scratch, Selection, list_blocks


def has_file_behind(values):
    while values is not None and not isinstance(values, np.memmap):
        values = values.base
    return values is not None


def test_small_arrays_are_in_memory_and_large_ones_in_a_file_that_nobody_sees(tmp_path):
    scratch = Scratch(tmp_path / "scratch", held_bytes=4000)
    held, mapped = scratch.make_zeros((10, 100), np.float32), scratch.make_zeros((11, 100), "<f4")
    assert not has_file_behind(held)
    assert has_file_behind(mapped)
    assert (mapped.shape, mapped.dtype) == ((11, 100), np.float32)
    assert not mapped.any()
    mapped[:] = np.arange(1100).reshape(11, 100)
    np.testing.assert_array_equal(mapped.ravel(), np.arange(1100))
    assert [path.name for path in tmp_path.iterdir()] == ["scratch"]


@pytest.mark.skipif(module.os.name == "nt", reason="Windows shows a file until it is closed")
def test_nothing_is_left_in_the_folder_even_while_the_array_lives(tmp_path):
    mapped = Scratch(tmp_path, held_bytes=0).make_zeros((3,), np.int64)
    assert list(tmp_path.iterdir()) == []
    mapped += 7
    assert mapped.tolist() == [7, 7, 7]


def test_without_a_folder_the_system_says_where(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "find_large_temporary_folder", lambda: tmp_path / "roomy")
    assert has_file_behind(Scratch(held_bytes=0).make_zeros((3,), np.int64))
    assert (tmp_path / "roomy").is_dir()


def test_a_file_can_be_reserved_where_the_system_has_no_call_for_it(tmp_path, monkeypatch):
    monkeypatch.delattr(module.os, "posix_fallocate", raising=False)
    mapped = Scratch(tmp_path, held_bytes=0).make_zeros((2**20 + 5,), np.uint8)
    assert len(mapped) == 2**20 + 5
    assert not mapped.any()


def test_a_full_disk_takes_memory_unless_it_must_not(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: (100, 99, 1))
    values = Scratch(tmp_path, held_bytes=0).make_zeros((3,), np.int64)
    assert values.tolist() == [0, 0, 0]
    assert not has_file_behind(values)
    with pytest.raises(DataError, match="needed are"):
        Scratch(tmp_path, held_bytes=0, is_strict=True).make_zeros((3,), np.int64)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    assert len(Scratch(tmp_path / "file" / "folder", held_bytes=0).make_zeros((3,), np.int64)) == 3
    with pytest.raises(DataError, match="folder") as caught:
        Scratch(tmp_path / "file" / "folder", held_bytes=0, is_strict=True).make_zeros(
            (3,), np.int64
        )
    assert "SQUEEZETUNE_CACHE" in caught.value.hint


def test_memory_alone_never_takes_a_file():
    assert not has_file_behind(IN_MEMORY.make_zeros((1000, 1000), np.float64))


def test_a_selection_is_its_rows_without_copying_them_before():
    values = np.arange(24).reshape(6, 2, 2)
    chosen = Selection(values, np.array([5, 0, 3]))
    assert len(chosen) == 3
    assert chosen.shape == (3, 2, 2)
    np.testing.assert_array_equal(chosen[1:], values[[0, 3]])
    np.testing.assert_array_equal(chosen[np.array([2, 0])], values[[3, 5]])
    values[0] = -1
    assert (chosen[1] == -1).all()


@pytest.mark.parametrize("count", [0, 1, BLOCK_IMAGES, 3 * BLOCK_IMAGES + 7])
def test_blocks_cover_all_rows_once_and_in_order(count):
    blocks = list(list_blocks(count))
    assert [row for block in blocks for row in range(count)[block]] == list(range(count))
    assert all(block.stop - block.start <= BLOCK_IMAGES for block in blocks)
