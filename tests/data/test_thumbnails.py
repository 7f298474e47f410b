import numpy as np
import pytest
from PIL import Image, ImageFilter

import squeezetune.data.image_cache as rows_module
from squeezetune.data.index import index_photos
from squeezetune.data.pixels import PixelSettings, load_pixels
from squeezetune.data.thumbnails import (
    LOOK_SIDE,
    ROW_BYTES,
    load_thumbnails,
    make_look_rows,
    open_look_store,
    read_look_rows,
)
from squeezetune.events import ignore_event

PIXELS = PixelSettings(64)


@pytest.fixture
def photos(photo_folder, executor):
    return index_photos(photo_folder, executor=executor)


def look(index, executor, folder, **how):
    return load_thumbnails(
        index, PIXELS, open_look_store(folder, PIXELS), executor, ignore_event, **how
    )


def test_thumbnails_are_means_of_areas(photos, executor, tmp_path):
    looks = look(photos, executor, tmp_path)
    assert looks.thumbs.shape == (30, LOOK_SIDE, LOOK_SIDE, 3)
    for row, name in enumerate(photos.names):
        pixels = load_pixels(photos.source, name, PIXELS)[0].astype(float)
        means = pixels.reshape(LOOK_SIDE, 2, LOOK_SIDE, 2, 3).mean(axis=(1, 3))
        assert np.abs(looks.thumbs[row] - means).max() <= 1
    assert set(map(tuple, looks.sizes.tolist())) == {(16, 12)}


def test_rows_are_read_as_they_were_made():
    images = np.repeat(
        np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8), 3, axis=0
    )
    sizes = np.array([[64, 64], [640, 480], [20, 10]], np.int32)
    rows = make_look_rows(images, sizes)
    assert rows.shape == (3, ROW_BYTES)
    looks = read_look_rows(rows, sizes)
    assert looks.sharpness[0] == looks.sharpness[1] != looks.sharpness[2]
    assert looks.sizes is sizes


def test_a_blurred_photo_is_less_sharp_and_an_enlarged_one_is_not():
    rng = np.random.default_rng(1)
    sharp = Image.fromarray(rng.integers(0, 256, (96, 96, 3), np.uint8))
    blurred, small = sharp.filter(ImageFilter.GaussianBlur(2)), sharp.resize((48, 48))
    images = np.stack(
        [
            np.asarray(each.resize((96, 96), Image.Resampling.BILINEAR))
            for each in (sharp, blurred, small)
        ]
    )
    found = read_look_rows(
        make_look_rows(images, np.array([[96, 96], [96, 96], [48, 48]])), np.zeros((3, 2))
    ).sharpness
    assert found[1] < found[0] / 10
    assert found[2] > 3 * found[1]


def test_images_are_looked_at_once(photos, executor, tmp_path, monkeypatch):
    first = look(photos, executor, tmp_path)
    monkeypatch.setattr(rows_module, "load_indexed", lambda *_: pytest.fail("an image was decoded"))
    again = look(photos, executor, tmp_path)
    np.testing.assert_array_equal(again.thumbs, first.thumbs)
    np.testing.assert_array_equal(again.sharpness, first.sharpness)


def test_what_is_not_looked_at_or_cannot_be_is_black(photos, photo_folder, executor, tmp_path):
    (photo_folder / photos.names[4]).write_bytes(b"no image")
    looks = look(photos, executor, tmp_path, positions=np.arange(10))
    assert looks.thumbs.max(axis=(1, 2, 3)).astype(bool).tolist() == [
        at < 10 and at != 4 for at in range(30)
    ]
    assert looks.sizes.min(axis=1).tolist() == [
        12 if at < 10 and at != 4 else 0 for at in range(30)
    ]
