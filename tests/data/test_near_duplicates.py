from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageOps

from squeezetune.data.duplicates.near_duplicates import (
    find_near_duplicates,
    join_pairs,
    load_pictures,
    name_contents,
    save_pictures,
)
from squeezetune.data.index import index_images
from squeezetune.data.pixels import PixelSettings
from squeezetune.data.thumbnails import load_thumbnails, open_look_store
from squeezetune.events import ignore_event

COUNT = 40


def draw_scene(seed, side):
    """Draw a picture with shades, edges and fine structure."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side][..., None] / side
    picture = (
        128
        + 50 * np.sin(rng.uniform(2, 7, 3) * x + rng.uniform(0, 6, 3))
        + 30 * np.cos(rng.uniform(2, 7, 3) * y)
    )
    for _ in range(12):
        (cx, cy), r = rng.uniform(0.1, 0.9, 2), rng.uniform(0.03, 0.15)
        picture = picture + rng.uniform(-90, 90, 3) / (
            1 + np.exp(60 * (np.hypot(x - cx, y - cy) - r))
        )
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))


def encode(image, kind="JPEG", **options):
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turn_by_exif(image, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(image, exif=exif)


def crop(image, left, top, right, bottom):
    width, height = image.size
    return image.crop(
        (round(left * width), round(top * height), round(right * width), round(bottom * height))
    )


WAYS = {
    "another format": lambda image: encode(image, "PNG"),
    "a lower quality": lambda image: encode(image, quality=50),
    "another size": lambda image: encode(
        image.resize((image.width * 2 // 3, image.height * 2 // 3)), quality=85
    ),
    "cropped at one corner": lambda image: encode(crop(image, 0, 0.05, 0.95, 1)),
    "cropped all around": lambda image: encode(crop(image, 0.025, 0.025, 0.975, 0.975)),
    "mirrored by EXIF": lambda image: turn_by_exif(image, 2),
    "upright by EXIF": lambda image: turn_by_exif(image.transpose(Image.Transpose.ROTATE_90), 6),
    "lying": lambda image: encode(image.transpose(Image.Transpose.ROTATE_90)),
    "upside down": lambda image: encode(ImageOps.flip(ImageOps.mirror(image))),
    "darker": lambda image: encode(image.point(lambda value: int(0.9 * value))),
}


def find(images, executor, folder, labels=None):
    index = index_images(images, labels or [at % 2 for at in range(len(images))], executor=executor)
    pixels = PixelSettings(128)
    looks = load_thumbnails(index, pixels, open_look_store(folder, pixels), executor, ignore_event)
    return find_near_duplicates(index, looks, "squash", executor)


@pytest.fixture(scope="module")
def scenes():
    return {side: [draw_scene(seed, side) for seed in range(COUNT)] for side in (32, 160)}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("side", [32, 160])
def test_copies_are_found_and_nothing_else(way, side, scenes, executor, tmp_path):
    originals = [encode(scene, quality=90) for scene in scenes[side]]
    copies = [WAYS[way](scene) for scene in scenes[side][:20]]
    found = find(originals + copies, executor, tmp_path)
    pairs = set(zip(found.first.tolist(), found.second.tolist(), strict=True))
    expected = {(at, COUNT + at) for at in range(20)}
    assert len(expected & pairs) >= 19
    assert not pairs - expected
    assert (found.turned == 0).all() == (way not in {"mirrored by EXIF", "lying", "upside down"})


def test_a_thing_that_is_gone_makes_another_picture(scenes, executor, tmp_path):
    others = []
    for scene in scenes[160][:10]:
        other = scene.copy()
        other.paste((250, 250, 250), (60, 60, 90, 90))
        others.append(encode(other, quality=90))
    assert (
        len(find([encode(scene, quality=90) for scene in scenes[160]] + others, executor, tmp_path))
        == 0
    )


def test_images_of_the_same_bytes_count_as_one(scenes, executor, tmp_path):
    original, copy = encode(scenes[32][0]), encode(scenes[32][0], "PNG")
    found = find(
        [encode(scenes[32][1]), original, original, copy, original, copy], executor, tmp_path
    )
    assert (found.first.tolist(), found.second.tolist()) == ([1], [3])


def test_a_photo_that_vanishes_is_like_no_other(scenes, executor, tmp_path):
    paths = []
    for number, scene in enumerate([*scenes[160][:5], *scenes[160][:5]]):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(encode(scene, quality=90 - number))
        paths.append(path)
    index = index_images(paths, [0, 1] * 5, executor=executor)
    pixels = PixelSettings(128)
    looks = load_thumbnails(
        index, pixels, open_look_store(tmp_path / "cache", pixels), executor, ignore_event
    )
    paths[7].unlink()
    found = find_near_duplicates(index, looks, "squash", executor)
    assert (found.first.tolist(), found.second.tolist()) == ([0, 1, 3, 4], [5, 6, 8, 9])


def test_joined_pairs_have_one_number(scenes, executor, tmp_path):
    scene = scenes[160][0]
    images = [
        encode(scenes[160][1]),
        encode(scene),
        encode(scenes[160][2]),
        encode(scene, "PNG"),
        encode(scene, quality=60),
    ]
    numbers = join_pairs(5, find(images, executor, tmp_path))
    assert len(set(numbers.tolist())) == 3
    assert numbers[1] == numbers[3] == numbers[4]


def test_pictures_are_kept_by_content(tmp_path):
    digests = np.random.default_rng(0).integers(0, 256, (6, 16), np.uint8)
    digests[5] = digests[2]
    numbers, everything, pixels = np.array([0, 1, 2, 1, 3, 2]), np.arange(6), PixelSettings(128)
    path = tmp_path / "kept" / f"{name_contents(digests, everything, pixels)}.npy"
    assert load_pictures(path, digests) is None
    save_pictures(path, digests, numbers)
    order = np.array([5, 3, 1, 0, 4])
    assert name_contents(digests[order], everything[:5], pixels) == path.stem
    assert load_pictures(path, digests[order]).tolist() == numbers[order].tolist()
    others = [
        (digests[:5], everything[:5], PixelSettings(64)),
        (digests[:4], everything[:4], pixels),
        (digests, everything[:4], pixels),
    ]
    assert len({path.stem, *(name_contents(*other) for other in others)}) == 4
    path.write_bytes(path.read_bytes()[:-3])
    assert load_pictures(path, digests) is None
