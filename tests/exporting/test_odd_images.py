"""The set of odd images itself, and the file that all formats are compared with against the pixels
of training.
"""

import numpy as np
import pytest
from odd_images import (
    KINDS,
    keep_pixels_only,
    make_odd_files,
    make_odd_images,
    measure_pixel_gap,
    open_model,
)
from PIL import Image

from squeezetune.data.pixels import PixelSettings, fit_image
from squeezetune.data.sources.content import recognise_format
from squeezetune.network.trained import TrainedNetwork


def test_the_images_are_of_every_size_and_kind():
    shapes = [image.shape for image in make_odd_images(120)]
    pixels = [height * width for height, width, channels in shapes if channels == 3]
    assert len(pixels) == 120
    assert min(pixels) == 1
    assert sum(count >= 12_000_000 for count in pixels) == 2
    assert max(max(h / w, w / h) for h, w, _ in shapes) >= 500
    formats = [recognise_format(file[:32]) for file in make_odd_files(len(KINDS), large=0)]
    assert set(formats) == {"JPEG", "PNG"}


def test_the_same_seed_makes_the_same_images():
    assert list(make_odd_files(50, large=0)) == list(make_odd_files(50, large=0))
    assert list(make_odd_files(50, large=0)) != list(make_odd_files(50, large=0, seed=1))


# with "pad", Pillow cannot make the last line of an image that rounding has made longer: see
# `fit_image`
@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_the_models_own_pixels_are_those_of_training(weights, resize):
    head = ((np.ones((2048, 2), np.float32), np.zeros(2, np.float32)),)
    model = TrainedNetwork(weights, head, views=1, side=64, resize=resize).build_model({})
    settings = PixelSettings(64, resize)

    def fit(images):
        return np.stack([fit_image(Image.fromarray(image), settings) for image in images])

    assert (
        measure_pixel_gap(fit, open_model(keep_pixels_only(model)), make_odd_images(80, large=1))
        <= 1
    )
