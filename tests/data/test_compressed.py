import bz2
import gc
import gzip
import io
import lzma
import os
import sys
import tarfile

import pytest

from squeezetune.data.index import index_photos
from squeezetune.data.sources import archive as compressed
from squeezetune.data.sources.archive import find_opener, open_tar, unpack_file
from squeezetune.data.sources.webdataset import open_shard
from squeezetune.errors import DataError, ImageError, SourceError

PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


@pytest.fixture
def roomy(tmp_path, monkeypatch):
    """Have temporary files in a folder for this test."""
    folder = tmp_path / "roomy"
    folder.mkdir()
    monkeypatch.setattr(compressed, "find_large_temporary_folder", lambda: folder)
    return folder


@pytest.fixture
def photos(make_photo):
    return {f"{animal}/{at}.jpg": make_photo(10 * row + at)
            for row, animal in enumerate(("bee", "cow")) for at in range(5)}  # fmt: skip


def make_tar(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize("ending", PACKERS)
@pytest.mark.parametrize("has_pread", [True, False])
def test_a_compressed_archive_is_read_and_told_of(
    photos, tmp_path, roomy, executor, ending, has_pread, monkeypatch
):
    if not has_pread:  # as on Windows
        monkeypatch.delattr(os, "pread", raising=False)
    path = tmp_path / f"photos.tar.{ending}"
    path.write_bytes(PACKERS[ending](make_tar(photos)))
    notes = []
    index = index_photos(
        path, executor=executor, listen=lambda event: notes.append(getattr(event, "message", ""))
    )
    assert index.names == tuple(sorted(photos))
    assert {name: index.source.read(name) for name in photos} == photos
    assert any("compressed as a whole" in note for note in notes)
    assert index.source.describe() == str(path)


def test_what_is_compressed_is_told_by_content(photos, tmp_path):
    packed = make_tar(photos)
    for name, data in {
        "a.tar": gzip.compress(packed),
        "a.tgz": packed,
        "b.tgz": lzma.compress(packed),
    }.items():
        (tmp_path / name).write_bytes(data)
        _, listing = open_tar(tmp_path / name, {})
        assert listing.files == tuple(sorted(photos))
        assert bool(listing.notes) == (data != packed)


@pytest.mark.skipif(sys.platform == "win32", reason="there the file has a name until it is closed")
def test_nothing_of_it_can_be_seen_and_nothing_is_left(photos, tmp_path, roomy):
    path = tmp_path / "a.tgz"
    path.write_bytes(gzip.compress(make_tar(photos)))
    unpacked = unpack_file(path, find_opener(path))
    assert list(roomy.iterdir()) == []
    descriptor = unpacked.file.fileno()
    del unpacked
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


@pytest.mark.slow
@pytest.mark.parametrize("ending", PACKERS)
def test_what_is_whole_in_a_cut_archive_is_used(photos, tmp_path, ending):
    path = tmp_path / f"a.tar.{ending}"
    noise = {f"noise/{at}.jpg": b"\xff\xd8\xff" + os.urandom(1_000_000) for at in range(4)}
    packed = PACKERS[ending](make_tar(photos | noise))
    path.write_bytes(packed[: len(packed) // 2])
    source, listing = open_tar(path, {})
    assert set(photos) < set(listing.files)
    assert {name: source.read(name) for name in photos} == photos
    assert "the archive is damaged behind" in listing.refused[path.name]
    with pytest.raises(ImageError, match="the archive ends before it does"):
        source.read([name for name in listing.files if name in noise][-1])


def test_a_wrong_checksum_is_told(photos, tmp_path):
    packed = bytearray(gzip.compress(make_tar(photos)))
    packed[-6] ^= 1
    (tmp_path / "a.tgz").write_bytes(packed)
    _, listing = open_tar(tmp_path / "a.tgz", {})
    assert len(listing.files) == len(photos)
    assert "CRC check failed" in listing.refused["a.tgz"]


@pytest.mark.parametrize(
    "content",
    [
        b"\x1f\x8b",
        b"\x1f\x8b no gzip at all",
        b"BZh9 nor this",
        b"\xfd7zXZ\0 neither",
        gzip.compress(b"no tar", mtime=0),
        lzma.compress(b""),
    ],
)
def test_what_is_no_archive_is_refused(tmp_path, content):
    (tmp_path / "a.tgz").write_bytes(content)
    with pytest.raises(SourceError, match="cannot be read as an archive"):
        open_tar(tmp_path / "a.tgz", {})


@pytest.mark.parametrize("pack", PACKERS.values())
def test_a_bomb_is_not_unpacked(tmp_path, roomy, monkeypatch, pack):
    monkeypatch.setattr(compressed, "UNSUSPICIOUS_BYTES", 1 << 20)
    (tmp_path / "a.tgz").write_bytes(pack(bytes(16 << 20)))
    with pytest.raises(SourceError, match="more than 200 times its size") as caught:
        open_tar(tmp_path / "a.tgz", {})
    assert "by hand" in caught.value.hint
    assert list(roomy.iterdir()) == []


def test_a_disk_that_becomes_full_is_told(photos, tmp_path, roomy, monkeypatch):
    rooms = iter([1 << 30, 1 << 20])
    monkeypatch.setattr(compressed, "measure_room", lambda folder: next(rooms))
    (tmp_path / "a.tgz").write_bytes(gzip.compress(bytes(3 << 20)))
    with pytest.raises(DataError, match="no room for more than") as caught:
        open_tar(tmp_path / "a.tgz", {})
    assert "TMPDIR" in caught.value.hint


def test_a_compressed_shard_says_its_classes(make_photo, tmp_path, executor):
    for shard in range(2):
        files = {f"{at}.jpg": make_photo(10 * shard + at) for at in range(10)}
        files |= {f"{at}.cls": str(at % 2).encode() for at in range(10)}
        path = tmp_path / "shards" / f"{('train', 'val')[shard]}-0.tar.gz"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gzip.compress(make_tar(files)))
    _, listing = open_shard(path, {})
    assert listing.columns.labels == ("0", "1") * 5
    index = index_photos(path.parent, executor=executor)
    assert index.names[0] == "train-0.tar.gz/0.jpg"
    assert index.parts.tolist() == [0] * 10 + [1] * 10
    assert index.source.read("val-0.tar.gz/3.jpg") == make_photo(13)
