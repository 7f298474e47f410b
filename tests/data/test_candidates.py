import numpy as np
import pytest
from scipy.fft import dctn

from squeezetune.data.duplicates.candidates import (
    FREQUENCIES,
    LUMA,
    TURNS,
    compose_turns,
    describe_thumbs,
    find_candidates,
    turn_images,
)


def draw_pictures(count, seed=0, side=32):
    """Draw smooth pictures that are unlike each other."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (count, 6, 6, 3))
    return np.stack([resize(picture, side) for picture in coarse])


def resize(picture, side, box=(0.0, 0.0, 1.0, 1.0)):
    """Look at a part of a picture: bilinear, in shares of its sides."""
    height, width = picture.shape[:2]
    ys, xs = (
        np.clip((low + (high - low) * (np.arange(side) + 0.5) / side) * size - 0.5, 0, size - 1)
        for low, high, size in ((box[1], box[3], height), (box[0], box[2], width))
    )
    y, x = (np.minimum(at.astype(int), size - 2) for at, size in ((ys, height), (xs, width)))
    down, right = (ys - y)[:, None, None], (xs - x)[None, :, None]
    top = picture[y][:, x] * (1 - right) + picture[y][:, x + 1] * right
    bottom = picture[y + 1][:, x] * (1 - right) + picture[y + 1][:, x + 1] * right
    return (top * (1 - down) + bottom * down + 0.5).astype(np.uint8)


def test_values_are_those_of_the_cosine_transform():
    thumbs = draw_pictures(5)
    found = describe_thumbs(thumbs)
    order = np.arange(FREQUENCIES)
    for values, thumb in zip(found.values, thumbs, strict=True):
        full = dctn(thumb.astype(float) @ LUMA, norm=None)[:FREQUENCIES, :FREQUENCIES] / 4
        expected = full * np.sqrt(1 + order[:, None] + order)
        expected[0, 0] = 0
        np.testing.assert_allclose(values, expected / np.linalg.norm(expected), atol=1e-4)


def test_turned_images_have_turned_values():
    thumbs = draw_pictures(4)
    values = describe_thumbs(thumbs).values
    for turn in range(TURNS):
        turned = describe_thumbs(np.ascontiguousarray(turn_images(thumbs, turn))).values
        assert np.abs(turned).ravel() == pytest.approx(
            np.abs(values.swapaxes(1, 2) if turn & 4 else values).ravel(), abs=1e-4
        )
    assert len({turn_images(thumbs, turn).tobytes() for turn in range(TURNS)}) == TURNS


def test_composed_turns_do_what_both_do():
    images = np.random.default_rng(0).integers(0, 9, (2, 5, 5))
    for first in range(TURNS):
        for second in range(TURNS):
            both = turn_images(turn_images(images, compose_turns(first, second)), second)
            np.testing.assert_array_equal(both, turn_images(images, first))


@pytest.mark.parametrize("turn", range(TURNS))
def test_copies_are_candidates_however_they_are_turned_and_cropped(turn, executor):
    pictures = draw_pictures(60, side=64)
    originals = np.stack([resize(picture, 32) for picture in pictures])
    cropped = np.stack([resize(picture, 32, (0.0, 0.04, 0.96, 1.0)) for picture in pictures[:20]])
    thumbs = np.concatenate([originals, turn_images(cropped, turn)])
    pairs = find_candidates(describe_thumbs(thumbs), executor)
    found = {
        (first, second): turned
        for first, second, turned in zip(*map(np.ndarray.tolist, vars(pairs).values()), strict=True)
    }
    assert {(at, 60 + at) for at in range(20)} <= set(found)
    assert {found[at, 60 + at] for at in range(20)} == {turn}
    assert len(found) < 60  # of 3,160


def test_candidates_are_in_order_and_once(executor):
    thumbs = np.repeat(draw_pictures(6), 4, axis=0)
    pairs = find_candidates(describe_thumbs(thumbs), executor)
    listed = list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    same = [(a, b) for a in range(24) for b in range(a + 1, 24) if a // 4 == b // 4]
    assert listed == sorted(set(listed))
    assert set(same) <= set(listed)


def test_blank_images_have_no_candidates(executor):
    thumbs = np.full((10, 32, 32, 3), 200, np.uint8)
    thumbs[:5, 3, 3] = 210
    described = describe_thumbs(thumbs)
    assert described.is_blank.all()
    assert len(find_candidates(described, executor)) == 0
