import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from squeezetune.data.sources.content import hash_image, recognise_format
from squeezetune.data.sources.folder import FolderSource, list_files
from squeezetune.data.sources.registry import MemorySource
from squeezetune.data.sources.source import quote_name
from squeezetune.errors import ImageError, SourceError


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "BMP", "GIF", "TIFF", "AVIF", "TGA"])
def test_recognises_each_format_by_content(make_photo, kind):
    assert recognise_format(make_photo(kind=kind)[:32]) == kind


@pytest.mark.usefixtures("without_heif")
@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"", "the file is empty"),
        (b"BMX bikes are not bitmaps, though they begin so", "not an image"),
        (b"RIFF\0\0\0\0WAVEfmt ", "not an image"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", r"its format is HEIC, .*squeezetune\[heif\]"),
        (b"\0\0\0\x1cftypmp42\0\0\0\0", "its format is video"),
        (b"P1 is not the pole position", "not an image"),
        (b"%PDF-1.7", "its format is PDF"),
    ],
)
def test_says_what_is_no_image(head, reason):
    with pytest.raises(ImageError, match=reason):
        recognise_format(head)


def test_folder_reads_and_hashes_by_name(write_files, make_photo):
    photo = make_photo()
    source = FolderSource(write_files({"cat/a b's.jpg": photo}))
    assert source.read("cat/a b's.jpg") == photo
    assert source.digest("cat/a b's.jpg") == hash_image(photo)
    assert source.describe().endswith("photos")


def test_large_file_is_read_whole(write_files, make_photo):
    photo = make_photo() + os.urandom(1_000_000)
    source = FolderSource(write_files({"a.jpg": photo}))
    assert source.read("a.jpg") == photo
    assert source.digest("a.jpg") == hash_image(photo)


@pytest.mark.parametrize("name", ["../secret.jpg", "cat/../../secret.jpg", "/etc/hostname"])
def test_folder_reads_nothing_outside(write_files, make_photo, name):
    source = FolderSource(write_files({"../secret.jpg": make_photo(), "cat/a.jpg": make_photo()}))
    with pytest.raises(ImageError, match="outside the folder"):
        source.read(name)


def test_vanished_file_is_an_image_error(write_files, make_photo):
    source = FolderSource(write_files({"a.jpg": make_photo()}))
    with pytest.raises(ImageError, match="the file is gone") as caught:
        source.read("b.jpg")
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_listing_refuses_links_pipes_and_clutter(write_files, make_photo, tmp_path):
    root = write_files(
        {
            "cat/a.jpg": make_photo(),
            "cat/.hidden.jpg": b"x",
            "cat/Thumbs.db": b"x",
            "__MACOSX/cat/a.jpg": b"x",
            ".git/x": b"x",
            "../outside/b.jpg": make_photo(1),
        }
    )
    (root / "cat" / "loop").symlink_to(root, target_is_directory=True)
    (root / "dog").symlink_to(tmp_path / "outside", target_is_directory=True)
    (root / "cat" / "link.jpg").symlink_to(root / "cat" / "a.jpg")
    if hasattr(os, "mkfifo"):
        os.mkfifo(root / "cat" / "pipe.jpg")  # opening it would wait for ever
    listing = list_files(root)
    assert listing.files == ("cat/a.jpg",)
    assert listing.folders == ("cat",)
    assert {name for name, reason in listing.refused.items() if "symbolic link" in reason} == {
        "cat/loop", "cat/link.jpg", "dog"}  # fmt: skip
    assert not hasattr(os, "mkfifo") or listing.refused["cat/pipe.jpg"] == "not a regular file"


def test_root_may_itself_be_a_link(photo_folder, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(photo_folder, target_is_directory=True)
    assert list_files(link) == list_files(photo_folder)


def test_folder_without_permission_is_refused_by_name(photo_folder, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("cow"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    listing = list_files(photo_folder)
    assert listing.refused == {"cow": "no permission to read it"}
    assert len(listing.files) == 20


def test_missing_root_and_file_as_root(write_files, make_photo, tmp_path):
    root = write_files({"a.jpg": make_photo()})
    with pytest.raises(SourceError, match=r"there is no folder .*nowhere") as caught:
        list_files(tmp_path / "nowhere")
    assert caught.value.hint
    with pytest.raises(SourceError, match="is a file; needed is a folder"):
        list_files(root / "a.jpg")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_odd_names_survive(write_files, make_photo):
    names = [
        b'cat/it\'s "odd".jpg',
        b"cat/new\nline.jpg",
        "cat/кот 猫.jpg".encode(),
        b"cat/caf\xe9.jpg",
    ]
    photos = {os.fsdecode(name): make_photo(i) for i, name in enumerate(names)}
    source = FolderSource(write_files(photos))
    assert list_files(source.root).files == tuple(sorted(photos))
    assert {name: source.read(name) for name in photos} == photos
    for name in photos:
        quote_name(name).encode("utf-8")  # can be printed
        assert "\n" not in quote_name(name)


def test_memory_names_are_padded_and_paths_read_late(write_files, make_photo):
    path = write_files({"a.jpg": make_photo(1)}) / "a.jpg"
    source = MemorySource([make_photo(0), path, str(path), *[Image.new("L", (2, 2))] * 8])
    assert source.names[:2] == ("00", "01")
    assert source.names[-1] == "10"
    assert source.read("01") == source.read("02") == make_photo(1)
    path.write_bytes(make_photo(2))
    assert source.read("01") == make_photo(2)
    assert MemorySource([make_photo()]).names == ("0",)
    assert MemorySource([]).names == ()


def test_digest_of_memory_covers_shape_mode_and_palette():
    pixels = np.arange(24, dtype=np.uint8)
    grey = Image.fromarray(pixels.reshape(4, 6))
    palette = grey.copy()
    palette.putpalette(bytes(reversed(range(256))) * 3)
    other_palette = grey.copy()
    other_palette.putpalette(bytes(range(256)) * 3)
    images = [
        pixels.reshape(4, 6),
        pixels.reshape(6, 4),
        pixels.reshape(4, 2, 3),
        pixels.reshape(2, 4, 3),
        grey,
        grey.transpose(Image.Transpose.ROTATE_90),
        palette,
        other_palette,
    ]
    assert len({hash_image(image) for image in images}) == len(images)
    assert hash_image(np.asfortranarray(pixels.reshape(4, 6))) == hash_image(images[0])


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.zeros((4, 4, 3)), "float64; needed is uint8"),
        (np.zeros((4, 4, 2), np.uint8), r"shape \(4, 4, 2\)"),
        (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\)"),
        (np.zeros(4, np.uint8), r"shape \(4,\)"),
        (None, "a NoneType; needed is a path"),
        (b"text", "not an image"),
    ],
)
def test_what_is_no_image_in_memory_is_said(image, reason):
    with pytest.raises(ImageError, match=reason):
        MemorySource([image]).digest("0")


def test_truncated_pillow_image_is_an_image_error(make_photo, tmp_path):
    path = tmp_path / "cut.png"
    path.write_bytes(make_photo(kind="PNG", width=64, height=64)[:200])
    with Image.open(Path(path)) as image, pytest.raises(ImageError, match="cannot be decoded"):
        hash_image(image)
