import io

import numpy as np
import pytest
from original_archives import CIFAR_BATCHES, make_batches, write_batch, write_cifar10
from PIL import Image

from squeezetune.data.datasets.cifar10 import CLASSES, FORMATS, read_cifar10
from squeezetune.data.sources.registry import open_source
from squeezetune.errors import SourceError


def read(path, archive_format=""):
    source, listing = open_source(path, {})
    return list(read_cifar10(source, listing.files, archive_format))


@pytest.fixture
def batches():
    return make_batches()


@pytest.mark.parametrize("form", FORMATS)
def test_every_image_is_read_in_the_official_order(tmp_path, batches, form):
    path = tmp_path / f"cifar-10-{form}.tar.gz"
    path.write_bytes(write_cifar10(batches, form))
    images = read(path)
    assert images == read(path, form)
    rows, labels = (np.concatenate([batches[name][at] for name in CIFAR_BATCHES]) for at in (0, 1))
    numbers = [*range(1, 21), *range(1, 5)]
    parts = ["train"] * 20 + ["test"] * 4
    names = [
        f"{part}/{CLASSES[label]}/{number:05}.png"
        for part, label, number in zip(parts, labels, numbers, strict=True)
    ]
    assert [name for name, _ in images] == names
    for (_, content), row in zip(images, rows, strict=True):
        with Image.open(io.BytesIO(content)) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "RGB", (32, 32))
            pixels = np.asarray(image)
        np.testing.assert_array_equal(pixels[:, :, 0].ravel(), row[:1024])
        np.testing.assert_array_equal(pixels[:, :, 2].ravel(), row[2048:])


def test_all_formats_give_the_same_images(tmp_path, batches, write_files):
    found = []
    for form, (ending, _) in FORMATS.items():
        files = {f"{name}{ending}": write_batch(*batch, form) for name, batch in batches.items()}
        found.append(read(write_files(files, form)))
        write_files(files, "all")
    assert found[0] == found[1] == read(tmp_path / "all")


def test_the_format_that_is_asked_for_is_taken(tmp_path, write_files):
    files = {f"data_batch_1{ending}": write_batch(*make_batches(seed=at)["data_batch_1"], form)
             for at, (form, (ending, _)) in enumerate(FORMATS.items())}  # fmt: skip
    folder = write_files(files)
    assert len({tuple(read(folder, form)) for form in FORMATS}) == 2


def test_a_part_of_the_batches_will_do(write_files, batches):
    folder = write_files(
        {"data_batch_3.bin": write_batch(*batches["data_batch_3"], "binary"), "x/readme.html": b""}
    )
    assert [name[-9:] for name, _ in read(folder)] == [
        "00001.png",
        "00002.png",
        "00003.png",
        "00004.png",
    ]
    assert read(write_files({"data_batch_9.bin": b"x", "data_batch": b"x"}, "other")) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("data_batch_1.bin", b""),
        ("data_batch_1.bin", bytes(3072)),
        ("data_batch_1.bin", b"\x0a" + bytes(3072)),
        ("data_batch_1", b"no pickle"),
        ("data_batch_1", b""),
        ("data_batch_1", b"\x80\x02]."),
    ],
)
def test_a_damaged_batch_is_an_error(write_files, name, content):
    with pytest.raises(SourceError, match=f"'{name}' is no batch of CIFAR-10"):
        read(write_files({name: content}))


@pytest.mark.parametrize(
    ("pixels", "labels"),
    [
        (np.zeros((3, 3073), np.uint8), np.zeros(3, np.int64)),
        (np.zeros((3, 3072), np.uint8), np.zeros(2, np.int64)),
        (np.zeros((3, 3072), np.uint8), np.full(3, 10)),
        (np.zeros((3, 3072), np.int16), np.zeros(3, np.int64)),
    ],
)
def test_a_batch_of_something_else_is_an_error(write_files, pixels, labels):
    with pytest.raises(SourceError, match="is no batch of CIFAR-10"):
        read(write_files({"data_batch_1": write_batch(pixels, labels, "python")}))
