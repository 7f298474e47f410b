import io
import json
import tarfile

import pytest

from squeezetune.data.index import index_photos
from squeezetune.data.sources.content import hash_image
from squeezetune.data.sources.webdataset import open_shard, open_shards
from squeezetune.errors import SourceError


@pytest.fixture
def pack(tmp_path):
    """Pack samples, each a mapping from ending to bytes, into a shard; return its path."""

    def write(name, samples):
        path = tmp_path / "shards" / name
        path.parent.mkdir(exist_ok=True)
        with tarfile.open(path, "w") as archive:
            for key, files in samples.items():
                for ending, data in files.items():
                    info = tarfile.TarInfo(key + ending)
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
        return path

    return write


def test_a_sample_says_its_class(pack, make_photo):
    photo = make_photo()
    path = pack(
        "a.tar",
        {
            "000": {".jpg": photo, ".cls": b"3\n"},
            "in/001.x": {
                ".png": make_photo(1, kind="PNG"),
                ".json": json.dumps({"label": "bee", "size": 3}).encode(),
            },
            "002": {
                ".left.jpg": photo,
                ".right.jpg": photo,
                ".cls": b"cow",
                ".json": b'{"label": 7}',
                ".txt": b"a cow",
            },
            "003": {".jpg": photo, ".json": b'{"author": "me"}'},
            "004": {".jpg": photo, ".json": b"{broken"},
            "005": {".jpg": photo, ".cls": b""},
        },
    )
    source, listing = open_shard(path, {})
    found = dict(zip(listing.files, listing.columns.labels, strict=True))
    assert found == {"000.jpg": "3", "002.left.jpg": "cow", "002.right.jpg": "cow"}
    without = ("003.jpg", "004.jpg", "005.jpg", "in/001.x.png")
    assert listing.unlabelled == dict.fromkeys(without, "its sample does not say its class")
    assert [name for name, _ in listing.list_members()] == sorted([*found, *without])
    assert source.read("000.jpg") == photo
    assert source.digest("000.jpg") == hash_image(photo)


@pytest.mark.parametrize(
    "about", [{}, {".json": b'{"author": "me"}'}, {".json": b"[]"}, {".json": b"[" * 100_000}]
)
def test_an_archive_without_classes_is_read_by_its_folders(pack, make_photo, executor, about):
    files = {
        f"{animal}/{at}": {".jpg": make_photo(at), **about}
        for animal in ("bee", "cow")
        for at in range(3)
    }
    index = index_photos(pack("photos.tar", files), executor=executor)
    assert index.class_names == ("bee", "cow")
    assert len(index) == 6


def pack_shards(pack, make_photo, names):
    """Pack shards of ten photos each, of two classes; return their folder."""
    for shard, name in enumerate(names):
        photos = {
            f"{at:03}": (make_photo(10 * shard + at), str(at % 2).encode()) for at in range(10)
        }
        path = pack(
            name, {key: {".jpg": photo, ".cls": label} for key, (photo, label) in photos.items()}
        )
    return path.parent


def test_a_folder_of_shards_is_one_source(pack, make_photo, executor):
    index = index_photos(pack_shards(pack, make_photo, ("x-0.tar", "x-1.TAR")), executor=executor)
    assert index.class_names == ("0", "1")
    assert index.names[0] == "x-0.tar/000.jpg"
    assert len(index) == 20
    assert index.parts is None
    assert index.source.read("x-1.TAR/003.jpg") == make_photo(13)


def test_shards_may_be_the_parts_of_a_split(pack, make_photo, executor):
    index = index_photos(
        pack_shards(pack, make_photo, ("train-0.tar", "train-1.tar", "val-0.tar")),
        executor=executor,
    )
    assert index.parts.tolist() == [0] * 20 + [1] * 10
    assert (
        index_photos(pack_shards(pack, make_photo, ("other-0.tar",)), executor=executor).parts
        is None
    )


def test_archives_that_are_no_shards_are_no_source(pack, make_photo, executor):
    pack("a.tar", {"0": {".jpg": make_photo(), ".cls": b"1"}})
    folder = pack("b.tar", {"cow/0": {".jpg": make_photo()}}).parent
    assert open_shards(folder, [folder / "a.tar", folder / "b.tar"], {}) is None
    with pytest.raises(SourceError, match="no image in"):
        index_photos(folder, executor=executor)
