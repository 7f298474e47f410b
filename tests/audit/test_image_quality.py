from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from squeezetune.audit.image_quality import find_flaws
from squeezetune.data.index import index_images
from squeezetune.data.pixels import PixelSettings
from squeezetune.data.thumbnails import load_thumbnails, open_look_store
from squeezetune.events import ignore_event

SPOILT = {
    "blank": lambda image: Image.new("RGB", image.size, (90, 120, 80)),
    "dark": lambda image: image.point(lambda level: 0.25 * level),
    "bright": lambda image: image.point(lambda level: 255 - 0.14 * (255 - level)),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(max(1.5, max(image.size) / 40))),
    "tiny": lambda image: image.resize((20, 20)),
    "shape": lambda image: image.resize((4 * image.width, image.height)),
}


@pytest.fixture
def look(executor, tmp_path):
    """Look at images as a run does."""

    def at(images):
        index = index_images(images, np.arange(len(images)) % 2, executor=executor)
        pixels = PixelSettings(128)
        return load_thumbnails(
            index, pixels, open_look_store(tmp_path, pixels), executor, ignore_event
        )

    return at


@pytest.fixture(scope="module")
def photos():
    """Draw 30 scenes of boxes in strong colours."""
    draw = np.random.default_rng(0)

    def paint():
        image = Image.new("RGB", (160, 144), tuple(draw.integers(0, 60, 3).tolist()))
        for _ in range(12):
            left, top, width, height = draw.integers(0, 120, 4).tolist()
            box = (left, top, left + 10 + width // 3, top + 10 + height // 3)
            ImageDraw.Draw(image).rectangle(box, fill=tuple(draw.integers(100, 256, 3).tolist()))
        return image

    return [paint() for _ in range(30)]


def test_photos_as_they_are_have_no_flaw(look, photos):
    assert find_flaws(look(photos)) == []


@pytest.mark.parametrize("kind", SPOILT)
def test_a_spoilt_photo_is_found_and_no_other(look, photos, kind):
    spoilt = list(photos)
    spoilt[7] = SPOILT[kind](spoilt[7])
    assert [(flaw.kind, flaw.position) for flaw in find_flaws(look(spoilt))] == [(kind, 7)]


def test_the_worst_come_first_and_are_explained(look, photos):
    spoilt = list(photos)
    spoilt[3], spoilt[9] = (spoilt[at].resize((side, side)) for at, side in ((3, 30), (9, 16)))
    flaws = find_flaws(look(spoilt))
    assert [(flaw.position, flaw.evidence) for flaw in flaws] == [
        (9, "16 x 16 pixels"),
        (3, "30 x 30 pixels"),
    ]


def test_what_is_usual_here_is_no_flaw(look, photos):
    assert find_flaws(look([photo.resize((960, 144)) for photo in photos])) == []
    assert find_flaws(look([photo.filter(ImageFilter.GaussianBlur(3)) for photo in photos])) == []


@pytest.mark.parametrize("name", ["eth80", "cifar10"])
def test_real_photos_have_few_flaws_and_spoilt_ones_are_found(look, real_photos, name):
    photos = real_photos(name, 120)
    assert len(find_flaws(look(photos))) <= 2
    spoilt = list(photos)
    kinds = ("dark", "bright", "blurred")
    for at in range(30):
        spoilt[4 * at] = SPOILT[kinds[at % 3]](spoilt[4 * at])
    # what a dark or bright photo has left of its contrast may be none
    found = Counter(flaw.kind for flaw in find_flaws(look(spoilt)) if flaw.position % 4 == 0)
    assert found["dark"] + found["bright"] + found["blank"] >= 19
    assert found["blurred"] >= 7
