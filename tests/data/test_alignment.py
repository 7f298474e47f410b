import numpy as np
import pytest
from skimage.transform import AffineTransform, warp

from squeezetune.data.duplicates.alignment import join_overlays, overlay_images


def draw(count=6, side=32, seed=0):
    """Draw pictures with edges and shades, as photos have, (n, side, side) float32."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    pictures = []
    for _ in range(count):
        picture = 60 * np.sin(rng.uniform(2, 6) * x + rng.uniform(0, 6)) + 40 * np.cos(
            rng.uniform(2, 6) * y
        )
        for _ in range(4):
            (cx, cy), r = rng.uniform(0.2, 0.8, 2), rng.uniform(0.08, 0.2)
            picture += rng.uniform(-80, 80) / (1 + np.exp(40 * (np.hypot(x - cx, y - cy) - r)))
        pictures.append(picture + 128)
    return np.array(pictures, np.float32)


def lay(first, second, steps=8):
    return overlay_images(first, second, np.zeros((len(first), 4), np.float32), steps)


def test_the_same_image_fits_where_it_is():
    images = draw()
    found = lay(images, images)
    np.testing.assert_allclose(found.place, 0, atol=1e-4)
    np.testing.assert_allclose(found.likeness, 1, atol=1e-5)
    np.testing.assert_allclose(found.detail, 1, atol=1e-4)
    assert found.difference.max() < 0.01
    assert found.patch.max() < 0.01


@pytest.mark.parametrize(
    ("scale", "shift"), [(1.0, (2.0, -1.0)), (0.93, (0.0, 0.0)), (1.06, (-1.0, 1.5))]
)
def test_a_known_place_is_found(scale, shift):
    images, middle = draw(side=64), 31.5
    # what lies at x in the first image lies at scale * x + shift, seen from the middle, in the
    # second
    move = AffineTransform(
        scale=scale, translation=(middle * (1 - scale) + shift[0], middle * (1 - scale) + shift[1])
    )
    second = np.stack(
        [warp(image, move.inverse, order=3, mode="edge", preserve_range=True) for image in images]
    )
    found = lay(images, second.astype(np.float32), steps=12)
    assert found.place[:, 0] == pytest.approx(scale - 1, abs=0.006)
    assert found.place[:, 2] == pytest.approx(scale - 1, abs=0.006)
    assert found.place[:, 1] == pytest.approx(shift[0] / middle, abs=0.008)
    assert found.place[:, 3] == pytest.approx(shift[1] / middle, abs=0.008)
    assert found.likeness.min() > 0.995


def test_contrast_and_brightness_do_not_matter():
    images = draw()
    found = lay(images, images * 0.6 + 40)
    assert found.likeness.min() > 0.9999
    assert found.difference.max() < 0.1


def test_other_images_do_not_fit():
    images = draw()
    found = lay(images, np.roll(images, 1, axis=0))
    assert found.detail.max() < 0.5


def test_something_that_is_in_one_image_only_is_a_patch():
    images = draw()
    other = images.copy()
    other[:, 8:12, 8:12] += 60
    found = lay(images, other)
    assert found.patch.min() > 30
    assert found.difference.max() < 20


def test_parts_of_all_pairs_are_put_into_their_rows():
    images = draw()
    whole = lay(images, np.roll(images, 1, axis=0), steps=3)
    rows = [np.array([5, 0, 3]), np.array([1, 2, 4])]
    parts = [lay(images[row], np.roll(images, 1, axis=0)[row], steps=3) for row in rows]
    joined = join_overlays(6, zip(rows, parts, strict=True))
    for name, values in vars(whole).items():
        np.testing.assert_allclose(getattr(joined, name), values, atol=1e-4)
