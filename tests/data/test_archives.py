import io
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from squeezetune.data.sources import archive as archives
from squeezetune.data.sources.archive import open_tar, open_zip
from squeezetune.data.sources.content import hash_image
from squeezetune.errors import ImageError, SourceError


def pack_zip(path, files, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def pack_tar(path, files, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


PACKERS = {
    "zip": (pack_zip, open_zip),
    "tar": (pack_tar, open_tar),
    "tar.gz": (partial(pack_tar, mode="w:gz"), open_tar),
    "tar.bz2": (partial(pack_tar, mode="w:bz2"), open_tar),
    "tar.xz": (partial(pack_tar, mode="w:xz"), open_tar),
}


@pytest.fixture(params=list(PACKERS))
def pack(request, tmp_path):
    """Pack files into an archive, and open it."""
    packer, opener = PACKERS[request.param]
    return lambda files: opener(packer(tmp_path / f"photos.{request.param}", files), {})


@pytest.fixture
def photos(make_photo):
    return {
        f"{animal}/{at}.jpg": make_photo(10 * row + at)
        for row, animal in enumerate(("bee", "cow"))
        for at in range(5)
    }


def test_files_are_read_in_place(pack, photos):
    source, listing = pack(photos)
    assert listing.files == tuple(sorted(photos))
    assert listing.folders == ("bee", "cow")
    assert listing.refused == {}
    for name, photo in photos.items():
        assert source.read(name) == photo
        assert source.digest(name) == hash_image(photo)


def test_several_threads_may_read_at_once(pack, make_photo):
    photos = {f"{at}.png": make_photo(at, 200, 200, "PNG") for at in range(20)}
    source, listing = pack(photos)
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            assert (
                dict(zip(listing.files, pool.map(source.read, listing.files), strict=True))
                == photos
            )


def test_the_folders_around_all_others_go_away(pack, make_photo):
    photos = {
        "my/photos/cow/1.jpg": make_photo(),
        "my/photos/bee/in/2.jpg": make_photo(),
        "my/photos/readme.txt": b"",
    }
    _, listing = pack(photos | {"__MACOSX/my/photos/cow/._1.jpg": b"", "my/.DS_Store": b""})
    assert listing.files == ("bee/in/2.jpg", "cow/1.jpg", "readme.txt")
    assert listing.folders == ("bee", "bee/in", "cow")


@pytest.mark.parametrize(("names", "files"), [
    (("train/cow/1.jpg", "test/cow/2.jpg"), ("test/cow/2.jpg", "train/cow/1.jpg")),
    (("cow/1.jpg", "cow/2.jpg"), ("cow/1.jpg", "cow/2.jpg")),
    (("a/1.jpg", "a/b/2.jpg"), ("1.jpg", "b/2.jpg")),
    (("1.jpg", "a/b/2.jpg"), ("1.jpg", "a/b/2.jpg")),
    (("./cow/1.jpg", "./bee/1.jpg"), ("bee/1.jpg", "cow/1.jpg")),
    (("cow\\1.jpg", "bee\\1.jpg"), ("bee/1.jpg", "cow/1.jpg")),
])  # fmt: skip
def test_names_are_those_of_a_folder(pack, names, files):
    assert pack(dict.fromkeys(names, b"x"))[1].files == files


@pytest.mark.parametrize(
    "name",
    ["../secret.jpg", "/etc/secret.jpg", "cow/../../secret.jpg", "C:/secret.jpg", "C:\\secret.jpg"],
)
@pytest.mark.parametrize("around", ["", "photos/"])
def test_names_that_lead_out_are_refused(pack, photos, name, around, tmp_path):
    _, listing = pack({**{around + photo: data for photo, data in photos.items()}, name: b"x"})
    assert set(listing.files) == set(photos)
    assert listing.refused == {name.replace("\\", "/"): "its path leads out of the archive"}
    assert [path.name for path in tmp_path.iterdir()] in [[f"photos.{kind}"] for kind in PACKERS]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_of_files_of_one_name_the_last_is_used_and_the_others_are_told(
    tmp_path, photos, make_photo
):
    again = [
        f"in/{name}"
        for name in ("bee/0.jpg", "bee/0.jpg", "./cow/1.jpg", "bee/.hidden", "bee/.hidden")
    ]
    pairs = [(f"in/{name}", photo) for name, photo in photos.items()]
    pairs += [(name, make_photo(100 + at)) for at, name in enumerate(again)]
    with (
        zipfile.ZipFile(tmp_path / "photos.zip", "w") as packed,
        tarfile.open(tmp_path / "photos.tgz", "w:gz") as tape,
    ):
        for name, photo in pairs:
            packed.writestr(name, photo)
            info = tarfile.TarInfo(name)
            info.size = len(photo)
            tape.addfile(info, io.BytesIO(photo))
    for source, listing in (
        open_zip(tmp_path / "photos.zip", {}),
        open_tar(tmp_path / "photos.tgz", {}),
    ):
        assert set(listing.files) == set(photos)
        assert source.read("bee/0.jpg") == make_photo(101)
        assert set(listing.refused) == {
            "bee/0.jpg (2 more of this name)",
            "cow/1.jpg (1 more of this name)",
        }


def test_too_large_files_are_refused(pack, photos, monkeypatch):
    monkeypatch.setattr(archives, "MOST_BYTES", 1 << 20)
    _, listing = pack({**photos, "cow/bomb.jpg": b"\xff\xd8\xff" + bytes(1 << 20)})
    assert listing.refused == {"cow/bomb.jpg": "larger than 1 MB"}


def test_a_file_that_is_damaged_in_a_zip_archive_is_an_image_error(tmp_path, photos):
    path = pack_zip(tmp_path / "photos.zip", photos, zipfile.ZIP_STORED)
    packed = bytearray(path.read_bytes())
    packed[packed.index(photos["cow/1.jpg"]) + 20] ^= 1
    path.write_bytes(packed)
    source, _ = open_zip(path, {})
    with pytest.raises(ImageError, match="damaged in the archive"):
        source.read("cow/1.jpg")
    assert source.read("cow/2.jpg") == photos["cow/2.jpg"]


def test_encrypted_files_are_refused(tmp_path, photos):
    path = pack_zip(tmp_path / "photos.zip", photos)
    packed = path.read_bytes()
    at = packed.index(b"PK\1\2") + 8  # the flags in the first entry of the directory at the end
    path.write_bytes(packed[:at] + bytes([packed[at] | 1]) + packed[at + 1 :])
    _, listing = open_zip(path, {})
    assert listing.refused == {"bee/0.jpg": "encrypted with a password"}
    assert len(listing.files) == 9


@pytest.mark.parametrize("content", [b"", b"PK\3\4 no archive", b"x" * 5000])
def test_what_is_no_archive_is_refused(tmp_path, content):
    for name, opener in (("a.zip", open_zip), ("a.tar", open_tar)):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(SourceError, match=f"{name}' cannot be read as an archive"):
            opener(path, {})


def test_what_is_whole_in_a_torn_tar_archive_is_used(tmp_path, photos):
    path = pack_tar(tmp_path / "photos.tar", photos)
    packed = path.read_bytes()
    last = packed.index(photos["cow/4.jpg"])
    path.write_bytes(packed[: last + 10])
    source, listing = open_tar(path, {})
    assert "cow/3.jpg" in listing.files
    if "cow/4.jpg" in listing.files:
        with pytest.raises(ImageError, match="the archive ends before it does"):
            source.read("cow/4.jpg")
    path.write_bytes(packed[: last - 200])  # within the header
    _, listing = open_tar(path, {})
    assert listing.files == tuple(sorted(photos))[:-1]
    assert listing.refused["photos.tar"] == "the archive is torn behind 9 files"


def test_links_in_a_tar_archive_are_refused(tmp_path, photos):
    path = tmp_path / "photos.tar"
    pack_tar(path, photos)
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("cow/link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    _, listing = open_tar(path, {})
    assert listing.refused == {"cow/link.jpg": "not a regular file"}


@pytest.mark.parametrize(
    "size", [b"\xff" * 12, b"\x80" + b"\xff" * 11, b"\x80\0\0\0\x7f" + b"\xff" * 7]
)
def test_a_size_that_cannot_be_is_damage(tmp_path, photos, size):
    path = pack_tar(tmp_path / "photos.tar", photos)
    data = bytearray(path.read_bytes())
    at = data.index(list(photos)[2].encode())
    data[at + 124 : at + 136] = size
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])
    path.write_bytes(data)
    source, listing = open_tar(path, {})
    assert listing.files == tuple(sorted(list(photos)[:2]))
    assert "photos.tar" in listing.refused
    assert source.read(listing.files[0]) == photos[listing.files[0]]


def test_a_damaged_header_in_the_middle_is_told(tmp_path, photos):
    path = pack_tar(tmp_path / "photos.tar", photos)
    data = bytearray(path.read_bytes())
    data[data.index(list(photos)[2].encode())] ^= 1
    path.write_bytes(data)
    _, listing = open_tar(path, {})
    assert listing.files == tuple(sorted(list(photos)[:2]))
    assert listing.refused == {
        "photos.tar": "the archive is damaged behind 2 files: a header is damaged"
    }


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_damage_is_told_whatever_the_compression(tmp_path, photos, method):
    path = pack_zip(tmp_path / "photos.zip", photos, method)
    data = bytearray(path.read_bytes())
    name = next(iter(photos))
    start = 30 + len(name) + (9 if method == zipfile.ZIP_LZMA else 0)
    data[start : start + 40] = bytes(range(200, 240))
    path.write_bytes(data)
    source, listing = open_zip(path, {})
    assert name in listing.files
    with pytest.raises(ImageError, match="damaged in the archive"):
        source.read(name)


def test_a_file_without_a_name_is_refused(tmp_path, photos):
    path = pack_zip(tmp_path / "photos.zip", photos)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(zipfile.ZipInfo(""), b"nothing")
    assert len(open_zip(path, {})[1].files) == len(photos)
