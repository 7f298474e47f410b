import numpy as np
import pytest

from squeezetune.finetune.recipe import Augmentation

torch = pytest.importorskip("torch", reason="torch is an extra")
from tiny_training import ArrayRows, make_pixels  # noqa: E402

from squeezetune.finetune.batches import (  # noqa: E402
    PixelBatches,
    draw_images,
    show_images,
)

POSITIONS = np.array([3, 0, 3, 5])


@pytest.fixture
def feed():
    return PixelBatches(ArrayRows(make_pixels(8)[0]), Augmentation(zoom=0.5))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("view", [0, 1])
def test_images_are_shown_in_the_order_of_the_positions(feed, view):
    images, taps = feed.show(POSITIONS, 48, view)
    assert taps is None
    assert torch.equal(
        images, show_images(torch.from_numpy(feed.rows.values[POSITIONS]), 48, mirrored=view == 1)
    )
    assert torch.equal(images[0], images[2])
    assert not torch.equal(images[0], images[1])


def test_images_are_drawn_by_the_generator(feed):
    images, taps = feed.draw(POSITIONS, 24, seeded())
    assert taps is None
    expected = draw_images(
        torch.from_numpy(feed.rows.values[POSITIONS]), 24, feed.augmentation, seeded()
    )
    assert torch.equal(images, expected)
    assert not torch.equal(images[0], images[2])  # the same photo, changed anew


def test_rows_stay_as_they_are(feed):
    before = feed.rows.values.copy()
    feed.draw(POSITIONS, 32, seeded())
    feed.show(POSITIONS, 32, 1)
    np.testing.assert_array_equal(feed.rows.values, before)
