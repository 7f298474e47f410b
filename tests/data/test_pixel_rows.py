import doctest

import numpy as np
import pytest

from squeezetune.data import image_cache as pixel_rows
from squeezetune.data.image_cache import (
    choose_pixel_side,
    compute_pixel_rows,
    find_pixel_rows,
    open_pixel_store,
)
from squeezetune.data.index import index_photos
from squeezetune.data.pixels import PixelSettings, load_pixels
from squeezetune.events import StageStarted, ignore_event


@pytest.fixture
def photos(photo_folder, executor):
    return index_photos(photo_folder, executor=executor)


@pytest.mark.parametrize(
    "pixels", [PixelSettings(32), PixelSettings(37, "crop"), PixelSettings(9, "pad")]
)
def test_rows_are_the_pixels_of_each_image(photos, executor, tmp_path, pixels):
    store = open_pixel_store(tmp_path, pixels)
    rows = compute_pixel_rows(photos, pixels, store, executor, ignore_event)
    order = np.random.default_rng(0).permutation(30)[:20]
    expected = [load_pixels(photos.source, photos.names[position], pixels)[0] for position in order]
    np.testing.assert_array_equal(rows.gather(order), expected)
    assert rows.gather(order).dtype == np.uint8
    assert rows.sizes.tolist() == [[16, 12]] * 30


def test_the_stage_has_its_name(photos, executor, tmp_path):
    said, pixels = [], PixelSettings(16)
    compute_pixel_rows(
        photos, pixels, open_pixel_store(tmp_path, pixels), executor, said.append, np.arange(5)
    )
    assert said[0] == StageStarted("pixels", 5)


def test_images_that_cannot_be_decoded_are_named_with_the_reason(
    write_files, make_photo, executor, tmp_path
):
    broken = make_photo(3, 64, 48)[:-200]
    files = {f"{name}/{i}.jpg": make_photo(i) for i, name in enumerate("aabb")}
    root = write_files(
        files | {"a/broken.jpg": broken, "b/copy.jpg": broken, "b/unseen.jpg": make_photo(9)[:-100]}
    )
    photos, pixels = index_photos(root, executor=executor), PixelSettings(16)
    wanted = np.array([at for at, name in enumerate(photos.names) if "unseen" not in name])
    store = open_pixel_store(tmp_path, pixels)
    for _ in range(2):  # computed, and then found in the store
        rows, failures = find_pixel_rows(photos, pixels, store, executor, ignore_event, wanted)
        assert {photos.names[at] for at in failures} == {"a/broken.jpg", "b/copy.jpg"}
        assert all("cut short" in reason for reason in failures.values())
    good = [at for at in wanted if at not in failures]
    expected = [load_pixels(photos.source, photos.names[at], pixels)[0] for at in good]
    np.testing.assert_array_equal(rows.gather(np.array(good)), expected)


def test_other_pixels_have_another_place(tmp_path, monkeypatch):
    settings = [PixelSettings(16), PixelSettings(17), PixelSettings(16, "crop")]
    folders = {open_pixel_store(tmp_path, pixels).folder for pixels in settings}
    monkeypatch.setattr("PIL.__version__", "99.0")
    folders.add(open_pixel_store(tmp_path, settings[0]).folder)
    assert len(folders) == 4
    assert all(folder.parent == tmp_path / "pixels" for folder in folders)


@pytest.mark.parametrize(
    ("side", "sizes", "chosen"),
    [
        (128, [(32, 32)] * 3, 32),
        (224, [(640, 480), (480, 640), (100, 90)], 264),
        (224, [(240, 100)] * 3, 240),
        (64, [(640, 480)], 80),
        (128, [(1, 1)], 1),
    ],
)
def test_the_side_is_a_little_more_than_training_needs_and_no_more_than_there_is(
    side, sizes, chosen
):
    assert choose_pixel_side(side, np.array(sizes, np.int32)) == chosen


def test_the_examples_are_right():
    results = doctest.testmod(pixel_rows, extraglobs={"np": np})
    assert results.attempted
    assert not results.failed
