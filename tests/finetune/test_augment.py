import math

import numpy as np
import pytest
from PIL import Image

from squeezetune.data.pixels import PixelSettings, fit_image
from squeezetune.finetune.recipe import Augmentation
from squeezetune.network.zoo import LITES, SQUEEZENET1_1

torch = pytest.importorskip("torch", reason="torch is an extra")
from tiny_training import ArrayRows  # noqa: E402

from squeezetune.finetune.batches import (  # noqa: E402
    PixelBatches,
    cut_and_mix,
    draw_images,
    normalise,
    show_images,
    weigh_pixels,
)

MEAN, STD = SQUEEZENET1_1.mean, SQUEEZENET1_1.std
NOTHING = Augmentation(zoom=1.0, mirror=False)


def make_pixels(count=3, height=48, width=40, seed=0):
    """Make smooth noise, so that neighbours have something to do with each other: (count, height,
    width, 3) uint8.
    """
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, height // 4, width // 4, 3), dtype=np.uint8)
    images = [np.asarray(Image.fromarray(image).resize((width, height))) for image in coarse]
    return torch.from_numpy(np.array(images))


def to_greys(images):
    """Turn normalised planes back into pixels (n, height, width, 3), from 0 to 255."""
    return 255 * (images.permute(0, 2, 3, 1) * torch.tensor(STD) + torch.tensor(MEAN))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make_ramps(count, side):
    """Make images whose red and green tell the column and the row of a pixel."""
    columns, rows = np.meshgrid(np.arange(side), np.arange(side))
    image = np.stack([columns, rows, np.full((side, side), 100)], axis=2).astype(np.uint8)
    return torch.from_numpy(np.repeat(image[None], count, axis=0))


def measure_crops(images, axis):
    """Find where crops of ramps begin and how long they are, from the middle two lines; a mirrored
    one is negative.
    """
    greys = to_greys(images)[..., 0 if axis == "x" else 1]
    lines = greys.mean(1) if axis == "x" else greys.mean(2)
    side = lines.shape[1]
    before, after = lines[:, side // 2 - 1], lines[:, side // 2]
    length = (after - before) * side
    return (before + after) / 2 + 0.5 - length.abs() / 2, length


# ---- whole images


@pytest.mark.parametrize("side", [8, 17, 40, 48, 64, 100])
def test_whole_images_are_those_that_pillow_makes(side):
    pixels = make_pixels()
    expected = np.array(
        [fit_image(Image.fromarray(image), PixelSettings(side)) for image in pixels.numpy()]
    )
    found = to_greys(show_images(pixels, side)).numpy()
    assert found.shape == expected.shape
    # Pillow rounds to whole grey levels, once for the columns and once for the rows
    assert np.abs(found - expected).max() <= 1.01


@pytest.mark.parametrize("side", [17, 64])
def test_narrow_numbers_change_images_by_less_than_a_grey_level(side):
    wide, narrow = (draw_images(make_pixels(), side, Augmentation(zoom=0.6), seeded(), kind)
                    for kind in (torch.float32, torch.bfloat16))  # fmt: skip
    assert narrow.dtype == torch.bfloat16
    error = to_greys(narrow.float()) - to_greys(wide)
    assert 0 < error.abs().mean() < 0.5
    assert error.mean().abs() < 0.05


def test_pixels_of_the_right_size_are_only_normalised():
    pixels = make_pixels(height=32, width=32)
    torch.testing.assert_close(show_images(pixels, 32), normalise(pixels))
    torch.testing.assert_close(to_greys(normalise(pixels)), pixels.float(), rtol=0, atol=1e-3)


def test_images_are_normalised_as_a_network_wants_them():
    pixels = make_pixels(height=32, width=32)
    expected = ((pixels.float() - 127) / 128).permute(0, 3, 1, 2)
    torch.testing.assert_close(normalise(pixels, LITES[0]), expected)
    torch.testing.assert_close(show_images(pixels, 32, network=LITES[0]), expected)
    batches = PixelBatches(ArrayRows(pixels.numpy()), NOTHING, LITES[0])
    drawn, _ = batches.draw(np.arange(2), 32, seeded())
    torch.testing.assert_close(drawn, expected[:2], rtol=0, atol=0.5)


def test_mirror_images_are_mirrored():
    pixels = make_pixels()
    torch.testing.assert_close(
        show_images(pixels, 24, mirrored=True), show_images(pixels, 24).flip(3)
    )
    assert not torch.equal(show_images(pixels, 24, mirrored=True), show_images(pixels, 24))


@pytest.mark.parametrize(
    ("start", "length", "size", "side"),
    [
        (0.0, 40.0, 40, 16),
        (0.0, 16.0, 16, 40),
        (12.3, 27.7, 40, 16),
        (0.0, 1.0, 8, 8),
        (7.5, 0.5, 8, 3),
    ],
)
def test_weights_of_every_output_sum_to_one(start, length, size, side):
    weights = weigh_pixels(torch.tensor([start]), torch.tensor([length]), size, side)
    assert weights.shape == (1, side, size)
    assert weights.min() >= 0
    torch.testing.assert_close(weights.sum(2), torch.ones(1, side))


# ---- augmented images


def draw_slowly(pixels, side, augmentation, generator):
    """Crop, resize and mirror one image after another, by Pillow."""
    count, height, width = pixels.shape[:3]
    drawn = torch.rand(7, count, generator=generator)
    is_mirrored = torch.rand(count, generator=generator) < 0.5
    images = []
    for at in range(count):
        share, stretch, top, left = (float(value) for value in drawn[:4, at])
        share = augmentation.zoom + (1 - augmentation.zoom) * share
        ratio = augmentation.stretch ** (stretch - 0.5)
        tall, wide = min(1.0, share / ratio) * height, min(1.0, share * ratio) * width
        x, y = (width - wide) * left, (height - tall) * top
        box = (x, y, min(width, x + wide), min(height, y + tall))
        image = np.asarray(
            Image.fromarray(pixels[at].numpy()).resize((side, side), Image.Resampling.BILINEAR, box)
        )
        images.append(image[:, ::-1] if augmentation.mirror and is_mirrored[at] else image)
    return np.array(images)


@pytest.mark.parametrize("side", [20, 64])
@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(),
        Augmentation(zoom=0.4, stretch=1.7, mirror=False),
        Augmentation(zoom=0.9, stretch=4.0),
    ],
)
def test_a_batch_is_cropped_as_pillow_crops_image_by_image(augmentation, side):
    pixels = make_pixels(count=8)
    found = to_greys(draw_images(pixels, side, augmentation, seeded())).numpy()
    expected = draw_slowly(pixels, side, augmentation, seeded())
    assert np.abs(found - expected).max() <= 1.05


def test_nothing_drawn_shows_the_whole_image():
    pixels = make_pixels()
    torch.testing.assert_close(draw_images(pixels, 24, NOTHING, seeded()), show_images(pixels, 24))


@pytest.mark.parametrize("stretch", [1.0, 1.6])
def test_crops_stay_inside_and_are_as_large_as_allowed(stretch):
    zoom, size = 0.5, 64
    images = draw_images(
        make_ramps(200, size), 16, Augmentation(zoom, stretch, mirror=False), seeded()
    )
    (left, wide), (top, tall) = measure_crops(images, "x"), measure_crops(images, "y")
    for start, length in ((left, wide), (top, tall)):
        assert start.min() > -0.4  # the filter samples a ramp to within a third of a pixel
        assert (start + length).max() < size + 0.4
        assert zoom * size / math.sqrt(stretch) - 0.4 <= length.min() < 0.6 * size
        assert 0.9 * size < length.max() < size + 0.4
        assert (start / (size - length).clamp(min=0.1)).std() > 0.2  # from edge to edge
    ratio = wide / tall
    assert 0.9 / stretch < ratio.min() <= ratio.max() < 1.1 * stretch
    assert ratio.max() > 1 + 0.7 * (stretch - 1)


def test_half_of_the_images_are_mirrored():
    _, wide = measure_crops(
        draw_images(make_ramps(400, 32), 16, Augmentation(zoom=0.8), seeded()), "x"
    )
    assert 160 < int((wide < 0).sum()) < 240
    _, wide = measure_crops(
        draw_images(make_ramps(400, 32), 16, Augmentation(0.8, mirror=False), seeded()), "x"
    )
    assert (wide > 0).all()


def test_the_same_seed_draws_the_same_images():
    strong = Augmentation(zoom=0.6, stretch=1.3, light=0.3, colour=0.3, erase=0.5)
    first, again, other = (
        draw_images(make_pixels(), 24, strong, seeded(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_an_image_does_not_depend_on_its_neighbours():
    strong = Augmentation(zoom=0.6, stretch=1.3, light=0.3, colour=0.3, erase=0.5)
    pixels, changed = make_pixels(6), make_pixels(6)
    changed[2] = 255 - changed[2]
    images, others = (draw_images(batch, 24, strong, seeded()) for batch in (pixels, changed))
    same = [torch.equal(image, other) for image, other in zip(images, others, strict=True)]
    assert same == [True, True, False, True, True, True]


def test_one_image_is_a_batch_too():
    assert draw_images(make_pixels(1), 24, Augmentation(erase=1.0), seeded()).shape == (
        1,
        3,
        24,
        24,
    )


# ---- colours


def make_plain(count, colour):
    return torch.tensor(colour, dtype=torch.uint8).expand(count, 16, 16, 3).clone()


def test_light_changes_brightness_and_contrast_within_its_limit():
    light = 0.3
    pixels = torch.cat([make_plain(300, (124, 116, 104)), make_plain(300, (255, 255, 255))])
    images = draw_images(pixels, 16, Augmentation(zoom=1.0, mirror=False, light=light), seeded())
    before = normalise(pixels)
    assert images[:300].std((1, 2, 3)).max() < 0.02  # mid grey stays plain
    shift = images[:300].mean((1, 2, 3))  # mid grey is near zero, so this is what was added
    assert 0.9 * light < shift.abs().max() < 1.02 * light
    gain = images[300:].mean((1, 2, 3)) / before[300:].mean((1, 2, 3))
    assert 1 - light - light / 2 < gain.min() < 0.8
    assert 1.2 < gain.max() < 1 + light + light / 2


def test_colour_changes_saturation_and_leaves_grey():
    pixels = make_plain(300, (200, 60, 20))
    images = draw_images(pixels, 16, Augmentation(zoom=1.0, mirror=False, colour=0.4), seeded())
    before = normalise(pixels)
    torch.testing.assert_close(images.mean(1), before.mean(1), rtol=0, atol=1e-5)
    gain = ((images - images.mean(1, keepdim=True)) / (before - before.mean(1, keepdim=True))).mean(
        (1, 2, 3)
    )
    assert 0.6 - 1e-4 <= gain.min() < 0.65
    assert 1.35 < gain.max() <= 1.4 + 1e-4


def test_a_square_is_erased_as_often_as_asked_for():
    pixels, side = make_plain(400, (255, 255, 255)), 40
    images = draw_images(pixels, side, Augmentation(zoom=1.0, erase=0.25), seeded())
    blank = (images == 0).all(1)
    area = blank.sum((1, 2))
    assert 70 < int((area > 0).sum()) < 130
    assert area.max() <= (0.4 * side + 1) ** 2
    for mask in blank[area > 0]:
        rows, columns = mask.any(1), mask.any(0)
        assert torch.equal(mask, rows[:, None] & columns[None])
        assert (
            max(rows.sum(), columns.sum()) >= 0.1 * side - 1
        )  # half of it may lie beyond the edge
    assert not (draw_images(pixels, side, NOTHING, seeded()) == 0).any()


# ---- pieces of other images


def test_pieces_of_other_images_are_rectangles_of_the_share_that_is_told():
    images = torch.arange(300.0)[:, None, None, None].expand(300, 3, 20, 30)
    mixed, others, own = cut_and_mix(images, 0.5, seeded())
    assert 100 < int((own < 1).sum()) < 200
    assert own.min() < 0.4
    for at, (image, other, share) in enumerate(zip(mixed, others, own, strict=True)):
        foreign = image[0] != at
        assert (image[0][foreign] == other).all()
        assert torch.equal(foreign, foreign.any(1)[:, None] & foreign.any(0)[None])
        if other != at:
            assert float(share) == pytest.approx(1 - float(foreign.float().mean()))


def test_without_pieces_images_stay_as_they_are():
    images = torch.rand(8, 3, 16, 16, generator=seeded())
    mixed, _, own = cut_and_mix(images, 0.0, seeded())
    assert torch.equal(mixed, images)
    assert (own == 1).all()
