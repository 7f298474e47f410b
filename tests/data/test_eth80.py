import pytest
from original_archives import lay_out_eth80

from squeezetune.data.datasets.packing import read_eth80
from squeezetune.data.sources.registry import open_source

CLASSES = ("apple", "car", "cow", "cup", "dog", "horse", "pear", "tomato")


@pytest.fixture
def objects(make_photo):
    return {f"{name}{number}": {view: make_photo(100 * at + number, kind="PNG") + view.encode()
                                for view in ("000-000", "035-045", "090-000")}
            for at, name in enumerate(CLASSES) for number in (1, 10)}  # fmt: skip


def read(folder):
    source, listing = open_source(folder, {})
    return list(read_eth80(source, listing.files, ""))


@pytest.mark.parametrize("layout", ["original", "numbers"])
def test_images_are_kept_as_they_are_and_masks_left_out(objects, write_files, layout):
    images = read(write_files(lay_out_eth80(objects, layout)))
    expected = {f"{name.rstrip('0123456789')}/{name}/{name}-{view}.png": content
                for name, views in objects.items() for view, content in views.items()}  # fmt: skip
    assert images == sorted(expected.items())


def test_an_image_that_comes_twice_is_taken_once(objects, write_files):
    files = lay_out_eth80(objects, "original") | lay_out_eth80(objects, "numbers")
    assert len(read(write_files(files))) == 48


def test_other_files_are_left_out(write_files):
    names = (
        "apple1-000-000.txt",
        "plum1-000-000.png",
        "apple-000-000.png",
        "maps/apple1-000-000.png",
        "apple1-000-000-map.png",
        "Maps/apple1-000-000.png",
    )
    assert read(write_files(dict.fromkeys(names, b"x"))) == []
    assert read(write_files({"apple1/APPLE1-000-000.JPG": b"x"}, "big")) == [
        ("apple/apple1/apple1-000-000.jpg", b"x")
    ]
