import os
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from squeezetune.data.decoding import open_image
from squeezetune.data.pixels import PixelSettings, load_pixels
from squeezetune.data.reading import CHANGED, read_image
from squeezetune.data.sources import folder as folders
from squeezetune.data.sources.archive import open_zip
from squeezetune.data.sources.content import hash_bytes
from squeezetune.data.sources.folder import FileSource, FolderSource
from squeezetune.data.sources.registry import MemorySource
from squeezetune.errors import ImageError


def test_a_file_that_has_changed_is_refused(write_files, make_photo):
    photo = make_photo(1)
    source = FolderSource(write_files({"a.jpg": photo}))
    with read_image(source, "a.jpg", hash_bytes(photo)) as raw:
        assert raw == photo
    (source.root / "a.jpg").write_bytes(make_photo(2))
    with pytest.raises(ImageError, match=CHANGED), read_image(source, "a.jpg", hash_bytes(photo)):
        pytest.fail("it was read")
    with pytest.raises(ImageError, match=CHANGED):
        load_pixels(source, "a.jpg", PixelSettings(8), hash_bytes(photo))


def test_large_files_are_read_one_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("squeezetune.data.reading.LARGE_FILE_BYTES", 1000)
    for at in range(6):
        (tmp_path / f"{at}.jpg").write_bytes(b"\xff\xd8\xff" + bytes(5000))
    together, lock, seen = [], threading.Lock(), []

    def read(at):
        with read_image(FolderSource(tmp_path), f"{at}.jpg") as raw:
            with lock:
                together.append(at)
                seen.append(len(together))
            assert len(raw) == 5003
            with lock:
                together.remove(at)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(read, range(6)))
    assert seen == [1] * 6


# ---- what has no end, and what is no image


@pytest.fixture
def opened(monkeypatch):
    """Count the bytes that are read of files."""
    count = [0]

    class Counted(folders.FileIO):
        def read(self, size=-1):
            part = super().read(size)
            count[0] += len(part)
            return part

    monkeypatch.setattr(folders, "FileIO", Counted)
    return count


def test_what_is_no_image_is_left_after_its_first_bytes(tmp_path, opened):
    path = tmp_path / "video.jpg"
    with path.open("wb") as file:
        file.write(b"\0\0\0\x20ftypisom")
        file.truncate(300_000_000)
    for read in (FileSource().read, FileSource().digest, MemorySource([path]).read):
        opened[0] = 0
        with pytest.raises(ImageError, match="its format is video"):
            read("0" if read.__self__.__class__ is MemorySource else str(path))
        assert opened[0] == folders.READ_BYTES


def test_no_member_of_an_archive_is_unpacked_that_is_no_image(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/zeros.jpg", bytes(50_000_000))
    source, listing = open_zip(tmp_path / "a.zip", {})
    parts = source.read_parts("zeros.jpg" if "zeros.jpg" in listing.files else listing.files[0])
    assert len(next(parts)) == folders.READ_BYTES
    with pytest.raises(ImageError, match="not an image"):
        source.read(listing.files[0])


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
@pytest.mark.parametrize(("make", "reason"), [
    (os.mkfifo, "a pipe, not a file"),
    (lambda path: path.symlink_to("/dev/zero"), "a device, not a file"),
    (lambda path: path.symlink_to("/dev/urandom"), "a device, not a file"),
    (os.mkdir, "a folder, not a file"),
])  # fmt: skip
def test_special_files_are_refused_without_being_opened(make, reason, tmp_path, opened):
    path = tmp_path / "a.jpg"
    make(path)
    for read in (FileSource().read, FileSource().digest):
        with pytest.raises(ImageError, match=reason):
            read(str(path))
    assert opened[0] == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
def test_a_socket_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as door:
        door.bind("a.jpg")
        with pytest.raises(ImageError, match="a socket, not a file"):
            FileSource().read("a.jpg")


def test_a_file_larger_than_any_photo_is_refused(tmp_path, monkeypatch, opened):
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xff" + bytes(1 << 20))
    monkeypatch.setattr(folders, "MOST_BYTES", 1 << 20)
    with pytest.raises(ImageError, match="larger than 1 MB"):
        FileSource().read(str(tmp_path / "a.jpg"))
    assert opened[0] == 0


# ---- Pillow images that are opened and not yet read


def test_the_same_lazy_image_in_many_threads(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (400, 300, 3), np.uint8)
    for kind in ("PNG", "TIFF", "WEBP"):
        Image.fromarray(pixels).save(
            tmp_path / f"a.{kind}", **({"lossless": True} if kind == "WEBP" else {})
        )
        for _ in range(10):
            with Image.open(tmp_path / f"a.{kind}") as image, ThreadPoolExecutor(8) as pool:
                for found in pool.map(open_image, [image] * 8):
                    assert np.array_equal(np.asarray(found), pixels)
