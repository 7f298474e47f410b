from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from math import floor

import numpy as np
import pytest
from PIL import Image

from squeezetune.data import pixels as pixels_module
from squeezetune.data.pixels import (
    PixelSettings,
    fit_image,
    load_pixels,
    make_thumbnail,
    open_image,
    prepare_pixels,
)
from squeezetune.data.sources.folder import FolderSource
from squeezetune.data.sources.registry import MemorySource
from squeezetune.errors import ImageError, SettingsError

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def encode(image, kind, **options):
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def make_smooth(width, height, detail=4):
    """Make an image with structures of about `detail` pixels, as photos have."""
    coarse = np.random.default_rng(0).integers(
        0, 256, (height // detail + 2, width // detail + 2, 3), dtype=np.uint8
    )
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


# ---- the reduced decoding of large JPEGs


@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
@pytest.mark.parametrize("size", [(1024, 768), (1031, 777), (820, 515)])
def test_reduced_decoding_is_nearly_the_full_one(size, orientation, fit):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(make_smooth(*size, detail=24), "JPEG", quality=90, exif=exif)
    settings = PixelSettings(96, fit)
    full = open_image(data)
    assert open_image(data, settings.side).width < full.width
    pixels, full_size = load_pixels(MemorySource([data]), "0", settings)
    assert full_size == full.size
    difference = np.abs(pixels.astype(int) - fit_image(full, settings))
    assert difference.mean() < 0.8
    assert np.percentile(difference, 99) <= 3


# ---- made square


def resize_slowly(image, out, scale):
    """Resize (h, w, 3) floats to out = (h, w) by triangles of the width of an output pixel: one sum
    a pixel.
    """
    for axis in (0, 1):
        length, result = image.shape[axis], []
        stretch = max(1.0, 1 / scale[axis])
        for i in range(out[axis]):
            centre = (i + 0.5) / scale[axis]
            weights = np.maximum(0, 1 - np.abs(np.arange(length) + 0.5 - centre) / stretch)
            result.append(np.tensordot(weights / weights.sum(), image, (0, axis)))
        image = np.stack(result, axis)
    return image


def fit_slowly(image, side, fit):
    """Make an image square as the ONNX operators Resize and CenterCropPad are specified, in
    floats.
    """
    pixels = np.asarray(image).astype(float)
    height, width = pixels.shape[:2]
    if fit == "squash":
        return resize_slowly(pixels, (side, side), (side / height, side / width))
    scale = (max if fit == "crop" else min)(side / height, side / width)
    out = [max(1, floor(length * scale + 0.5)) for length in (height, width)]
    resized = resize_slowly(pixels, out, (scale, scale))
    if fit == "crop":
        top, left = ((length - side) // 2 for length in out)
        return resized[top : top + side, left : left + side]
    square = np.zeros((side, side, 3))
    top, left = ((side - length) // 2 for length in out)
    square[top : top + out[0], left : left + out[1]] = resized
    return square


SIZES = [(50, 33), (30, 31), (31, 30), (100, 37), (20, 20), (9, 14), (12, 5), (24, 24), (47, 24)]


@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
@pytest.mark.parametrize("size", SIZES)
def test_fit_agrees_with_the_slow_twin(size, fit):
    image, side = make_smooth(*size), 24
    fast, slow = fit_image(image, PixelSettings(side, fit)), fit_slowly(image, side, fit)
    assert fast.shape == (side, side, 3)
    assert fast.dtype == np.uint8
    difference = np.abs(fast - slow)
    if fit == "pad":  # the line that rounding may have added is made of the image's last pixels
        used = [floor(length * side / max(size) + 0.5) for length in size]
        end = [(side - length) // 2 + length for length in used]
        difference[end[1] - 1] = difference[:, end[0] - 1] = 0
    assert difference.max() <= 1.1  # two roundings


def test_crop_takes_the_middle_and_pad_puts_black_around():
    stripes = np.zeros((10, 30, 3), np.uint8)
    stripes[:, :10], stripes[:, 10:20], stripes[:, 20:] = RED, GREEN, BLUE
    image = Image.fromarray(stripes)
    assert np.all(fit_image(image, PixelSettings(10, "crop")) == GREEN)
    padded = fit_image(image, PixelSettings(30, "pad"))
    assert np.array_equal(padded[10:20], stripes)
    assert not padded[:10].any()
    assert not padded[20:].any()
    squashed = fit_image(image, PixelSettings(9, "squash"))
    assert np.all(squashed[:, 1] == RED)
    assert np.all(squashed[:, 7] == BLUE)


@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
@pytest.mark.parametrize("size", [(1, 1), (1, 1000), (1000, 1), (3, 2)])
def test_extreme_shapes(fit, size):
    assert fit_image(Image.new("RGB", size, RED), PixelSettings(32, fit)).max() == 255


@pytest.mark.parametrize(("side", "fit"), [(0, "squash"), (8, "stretch")])
def test_wrong_settings(side, fit):
    with pytest.raises(SettingsError, match="squash or crop or pad"):
        PixelSettings(side, fit)


# ---- from a source


def test_load_pixels_from_a_folder(write_files, make_photo):
    source = FolderSource(write_files({"cat/1.jpg": make_photo(3, 60, 40)}))
    pixels, size = load_pixels(source, "cat/1.jpg", PixelSettings(20, "crop"))
    assert size == (60, 40)
    assert np.array_equal(
        pixels, fit_image(open_image(make_photo(3, 60, 40)), PixelSettings(20, "crop"))
    )
    with pytest.raises(ImageError, match="the file is gone"):
        load_pixels(source, "cat/2.jpg", PixelSettings(20))


def test_threads_agree_with_one_by_one(make_photo):
    kinds = ("JPEG", "PNG", "WebP", "GIF", "TIFF", "BMP")
    source = MemorySource([make_photo(i, 200, 150, kinds[i % 6]) for i in range(60)])
    settings = PixelSettings(48)
    with ThreadPoolExecutor(8) as pool:
        together = list(
            pool.map(lambda name: load_pixels(source, name, settings)[0], source.names * 3)
        )
    for name, pixels in zip(source.names * 3, together, strict=True):
        assert np.array_equal(pixels, load_pixels(source, name, settings)[0])


@pytest.mark.parametrize(
    ("size", "expected"), [((640, 320), (160, 80)), ((3, 1000), (1, 160)), ((50, 40), (50, 40))]
)
def test_thumbnail(size, expected):
    data = make_thumbnail(MemorySource([make_smooth(*size)]), "0")
    thumbnail = Image.open(BytesIO(data))
    assert thumbnail.format == "JPEG"
    assert thumbnail.size == expected


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
@pytest.mark.parametrize("size", [(3, 900), (900, 3), (40, 700), (700, 40)])
def test_very_long_images_are_made_square_before_a_model_sees_them(resize, size, monkeypatch):
    """Their rows are made fewer first, which changes nothing but the order of rounding."""
    image, settings = make_smooth(*size), PixelSettings(24, resize)
    expected = fit_image(image, settings).astype(int)
    assert prepare_pixels(image, settings).shape == (
        size[1],
        size[0],
        3,
    )  # as it is: the model resizes it
    monkeypatch.setattr(pixels_module, "LARGE_PIXELS", 1000)
    found = prepare_pixels(image, settings)
    assert found.shape == (24, 24, 3)
    assert np.abs(found - expected).max() <= 1
