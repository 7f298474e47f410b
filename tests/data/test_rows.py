import errno
from dataclasses import replace

import numpy as np
import pytest

from squeezetune.data import image_cache as rows_module
from squeezetune.data.image_cache import RowWork, compute_rows, load_batch
from squeezetune.data.index import index_images, index_photos
from squeezetune.data.pixels import PixelSettings, load_pixels
from squeezetune.errors import DataError, SourceError
from squeezetune.events import StageAdvanced, StageFinished, StageStarted, ignore_event
from squeezetune.system.store import RowStore

PIXELS = PixelSettings(8)


@pytest.fixture
def store(tmp_path):
    return RowStore(tmp_path / "rows", (8, 8, 3), "u1")


@pytest.fixture
def photos(photo_folder, executor):
    return index_photos(photo_folder, executor=executor)


@pytest.fixture
def compute(executor):
    """Compute the rows of an index, and note what was computed."""

    def run(index, store, *, listen=ignore_event, positions=None):
        def compute_batch(part):
            run.computed += part.tolist()
            return load_batch(index, part, PIXELS)

        def open_work():
            run.opened += 1
            return compute_batch

        work = RowWork("stage", 4, open_work)
        return compute_rows(index, work, store, executor, listen, positions)[0]

    run.computed, run.opened = [], 0
    return run


def load_all(index):
    return np.stack([load_pixels(index.source, name, PIXELS)[0] for name in index.names])


def test_rows_are_those_of_each_image(photos, store, compute):
    rows = compute(photos, store)
    order = np.random.default_rng(0).permutation(30)
    np.testing.assert_array_equal(rows.gather(order), load_all(photos)[order])
    assert rows.sizes.tolist() == [[16, 12]] * 30


def test_a_second_run_computes_nothing_and_opens_nothing(photos, store, compute):
    compute(photos, store)
    compute.computed, compute.opened, said = [], 0, []
    rows = compute(photos, store, listen=said.append)
    assert (compute.computed, compute.opened, said) == ([], 0, [])
    np.testing.assert_array_equal(rows.gather(np.arange(30)), load_all(photos))


def test_only_the_positions_asked_for_are_computed(photos, store, compute):
    rows = compute(photos, store, positions=np.array([7, 3, 29, 3]))
    assert sorted(compute.computed) == [3, 7, 29]
    assert np.flatnonzero(rows.is_known).tolist() == [3, 7, 29]
    np.testing.assert_array_equal(rows.gather(np.array([29, 3])), load_all(photos)[[29, 3]])
    compute(photos, store)
    assert sorted(compute.computed) == list(range(30))


def test_the_same_content_is_computed_once(store, executor, make_photo, compute):
    images = [make_photo(seed) for seed in (1, 2, 1, 1, 3, 2)]
    index = index_images(images, list("ababab"), executor=executor)
    rows = compute(index, store)
    assert compute.computed == [0, 1, 4]
    np.testing.assert_array_equal(rows.gather(np.arange(6)), load_all(index))


def test_new_photos_cost_what_is_new(photo_folder, store, executor, make_photo, compute):
    compute(index_photos(photo_folder, executor=executor), store)
    compute.computed.clear()
    (photo_folder / "cow" / "new.jpg").write_bytes(make_photo(500))
    index = index_photos(photo_folder, executor=executor)
    rows = compute(index, store)
    assert [index.names[position] for position in compute.computed] == ["cow/new.jpg"]
    np.testing.assert_array_equal(rows.gather(np.arange(31)), load_all(index))


def test_a_damaged_segment_is_computed_again(photos, store, compute, monkeypatch):
    monkeypatch.setattr(rows_module, "SEGMENT_BYTES", 8 * store.row_bytes)
    compute(photos, store)
    compute.computed.clear()
    path, *others = sorted(store.folder.glob("*.npy"))
    assert len(others) == 3
    path.write_bytes(path.read_bytes()[:-1])
    rows = compute(photos, store)
    assert len(compute.computed) in (6, 8)
    np.testing.assert_array_equal(rows.gather(np.arange(30)), load_all(photos))


def test_a_run_that_breaks_off_keeps_what_it_has(photos, store, compute):
    def stop(event):
        if isinstance(event, StageAdvanced) and event.done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compute(photos, store, listen=stop)
    assert len(store.open_rows(photos.digests).missing) == 10


def test_a_long_run_saves_ever_more_rarely(photos, store, compute, monkeypatch):
    seconds = iter(range(10**6))
    monkeypatch.setattr(rows_module.time, "monotonic", lambda: 10.0 * next(seconds))
    compute(photos, store)
    assert len(list(store.folder.glob("*.npy"))) == 8  # every batch: ten seconds have passed
    other = replace(store, folder=store.folder.with_name("other"))
    monkeypatch.setattr(rows_module, "SAVE_EVERY_SHARE", 0.5)
    compute(photos, other)
    assert len(list(other.folder.glob("*.npy"))) < 8


def test_an_image_that_is_gone_is_named(photos, photo_folder, store, compute):
    (photo_folder / "cow/4.jpg").unlink()
    with pytest.raises(SourceError, match=r"cow/4\.jpg .* the file is gone"):
        compute(photos, store)
    assert 0 < len(store.open_rows(photos.digests).missing) < 30  # what was done before is kept


def test_too_little_room_is_said_before_anything_is_computed(photos, store, compute, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: (0, 0, 30 * store.row_bytes))
    with pytest.raises(DataError, match="GB are free"):
        compute(photos, store)
    assert not compute.computed


def test_a_disk_that_fills_up_is_an_error(photos, store, compute, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RowStore, "save", fail)
    with pytest.raises(DataError, match="No space left on device") as caught:
        compute(photos, store)
    assert "Free some space" in caught.value.hint


def test_progress_is_told_from_nothing_to_all(photos, store, compute):
    said = []
    compute(photos, store, listen=said.append)
    assert said[0] == StageStarted("stage", 30)
    assert [event.done for event in said[1:-1]] == [4, 8, 12, 16, 20, 24, 28, 30]
    assert isinstance(said[-1], StageFinished)
