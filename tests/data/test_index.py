import hashlib
import os
import sys
import time
from io import FileIO

import numpy as np
import pytest
from PIL import Image

from squeezetune.data import digests as digests_module
from squeezetune.data.index import Skipped, index_images, index_photos
from squeezetune.data.sources import folder as folders
from squeezetune.data.sources.content import FORMATS, hash_image
from squeezetune.data.sources.image_formats import NEEDS_HEIF
from squeezetune.errors import ClassesError, SettingsError, SourceError
from squeezetune.events import StageAdvanced, StageFinished, StageStarted
from squeezetune.system.executor import ThreadExecutor

TRAIN, VALIDATION, TEST = 0, 1, 2


def list_skipped(index):
    return {skipped.name: skipped.reason for skipped in index.skipped}


def list_classes(index):
    return {
        name: index.class_names[label]
        for name, label in zip(index.names, index.labels, strict=True)
    }


def test_folder_of_classes(photo_folder, executor):
    index = index_photos(photo_folder, executor=executor)
    assert len(index) == 30
    assert index.class_names == ("bee", "cow", "owl")
    assert list(index.names) == sorted(index.names)
    assert list_classes(index)["cow/3.jpg"] == "cow"
    assert index.parts is None
    assert index.skipped == ()
    assert index.labels.dtype == np.int64
    assert index.digests.shape == (30, 16)
    assert index.digests.dtype == np.uint8
    row = index.names.index("owl/7.jpg")
    assert index.digests[row].tobytes() == hash_image((photo_folder / "owl/7.jpg").read_bytes())
    assert index.class_counts.tolist() == [10, 10, 10]


def test_images_may_lie_deeper_in_the_class_folder(write_files, make_photo, executor):
    root = write_files(
        {"cat/a/b/1.jpg": make_photo(0), "cat/2.jpg": make_photo(1), "dog/old/3.jpg": make_photo(2)}
    )
    index = index_photos(str(root), executor=executor)
    assert list_classes(index) == {
        "cat/2.jpg": "cat",
        "cat/a/b/1.jpg": "cat",
        "dog/old/3.jpg": "dog",
    }


def test_every_hostile_file_is_skipped_with_its_reason(
    photo_folder, write_files, make_photo, executor, monkeypatch, without_heif
):
    hostile = {
        "bee/empty.jpg": b"",
        "bee/text.jpg": b"this is a text, not a photo",
        "bee/really.jpg.png": make_photo(77),
        "cow/photo.heic": b"\0\0\0\x18ftypheic\0\0\0\0",
        "cow/secret.jpg": make_photo(78),
        "in_root.jpg": make_photo(79),
        "readme.txt": b"my photos",
        ".DS_Store": b"\0\0\0\1Bud1",
        "owl/Thumbs.db": b"clutter",
        "owl/desktop.ini": b"clutter",
    }
    write_files(hostile)
    (photo_folder / "bee" / "loop").symlink_to(photo_folder)
    refuse_file(monkeypatch, "secret.jpg")
    index = index_photos(photo_folder, executor=executor)
    assert len(index) == 31  # the JPEG called .png is one of them
    assert "bee/really.jpg.png" in index.names
    assert list_skipped(index) == {
        "bee/empty.jpg": "the file is empty",
        "bee/loop": "a symbolic link, which is not followed",
        "bee/text.jpg": f"not an image; {FORMATS} are read",
        "cow/photo.heic": NEEDS_HEIF,
        "cow/secret.jpg": "no permission to read it",
        "in_root.jpg": "not in the folder of a class",
        "readme.txt": f"not an image; {FORMATS} are read",
    }
    assert [skipped.name for skipped in index.skipped] == sorted(list_skipped(index))


def refuse_file(monkeypatch, ending):
    """Make files of this name unreadable, also for a superuser, whom permissions do not stop."""

    class GuardedFile(FileIO):
        def __init__(self, path: str) -> None:
            if path.endswith(ending):
                raise PermissionError(13, "Permission denied")
            super().__init__(path)

    monkeypatch.setattr(folders, "FileIO", GuardedFile)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_odd_names_of_classes_and_files_survive(write_files, make_photo, executor):
    names = ['it\'s a "cat"/new\nline.jpg', "кот 猫/ü.jpg", os.fsdecode(b"caf\xe9/\xff.jpg")]
    index = index_photos(
        write_files({name: make_photo(i) for i, name in enumerate(names)}), executor=executor
    )
    assert set(index.names) == set(names)
    assert set(index.class_names) == {name.split("/")[0] for name in names}
    assert len(index.fingerprint) == 32  # undecodable bytes do not stop it
    assert index.source.read(names[2]) == make_photo(2)


def test_scan_writes_nothing(photo_folder, executor):
    def look():
        return {
            str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
            for path in [photo_folder, *photo_folder.rglob("*")]
        }

    before = look()
    index_photos(photo_folder, executor=executor)
    assert look() == before


def test_class_pattern_joins_folders(write_files, make_photo, executor):
    files = {
        f"{name}{i}/{name}{i}-{j}.png": make_photo(100 * i + 10 * k + j, kind="PNG")
        for k, name in enumerate(("apple", "pear"))
        for i in (1, 2)
        for j in range(3)
    }
    root = write_files(
        {
            **files,
            "apple9.png": make_photo(999, kind="PNG"),
            "42/x.png": make_photo(998, kind="PNG"),
        }
    )
    (root / "nothing").mkdir()
    index = index_photos(root, executor=executor, class_pattern="^([a-z]+)[0-9]")
    assert index.class_names == ("apple", "pear")
    assert index.class_counts.tolist() == [7, 6]
    assert list_classes(index)["apple9.png"] == "apple"  # a file in the root is as good as any
    assert list_skipped(index) == {"42/x.png": "its path does not match class_pattern"}
    whole = index_photos(root, executor=executor, class_pattern="apple|pear")
    assert whole.class_names == ("apple", "pear")


def test_class_pattern_that_is_wrong_or_matches_nothing(photo_folder, executor):
    with pytest.raises(SettingsError, match="no regular expression"):
        index_photos(photo_folder, executor=executor, class_pattern="(")
    with pytest.raises(SettingsError, match=r"for example, 'bee/0\.jpg'"):
        index_photos(photo_folder, executor=executor, class_pattern="^zebra")


@pytest.mark.parametrize("validation", ["", "val", "Valid", "validation"])
def test_split_folder(write_files, make_photo, executor, validation):
    tops = [top for top in ("Train", "TEST", validation) if top]
    files = {
        f"{top}/{name}/{i}.jpg": make_photo(100 * t + 10 * c + i)
        for t, top in enumerate(tops)
        for c, name in enumerate(("cat", "dog"))
        for i in range(2)
    }
    index = index_photos(
        write_files({**files, "Train/stray.jpg": make_photo(999)}), executor=executor
    )
    assert index.class_names == ("cat", "dog")
    assert sorted(index.names) == sorted(files)
    expected = {"Train": TRAIN, "TEST": TEST, validation: VALIDATION}
    assert index.parts.dtype == np.int8
    assert index.parts.tolist() == [expected[name.split("/")[0]] for name in index.names]
    assert list_skipped(index) == {"Train/stray.jpg": "not in the folder of a class"}


def test_class_in_only_one_part_is_a_class(write_files, make_photo, executor):
    files = {
        f"{name}.jpg": make_photo(i)
        for i, name in enumerate(["train/a/1", "train/b/1", "test/c/1"])
    }
    assert index_photos(write_files(files), executor=executor).class_names == ("a", "b", "c")


@pytest.mark.parametrize(
    "names",
    [
        ["train/1", "bus/1", "test/1"],  # vehicles
        ["train/old/1", "bus/old/1"],
        ["train/1", "test/1"],  # two classes, unlikely as they are
        ["train/a/1", "other/b/1", "test/c/1"],
        ["val/a/1", "test/b/1"],  # no train
    ],
)
def test_class_called_train_is_no_split(write_files, make_photo, executor, names):
    index = index_photos(
        write_files({f"{n}.jpg": make_photo(i) for i, n in enumerate(names)}), executor=executor
    )
    assert index.parts is None
    assert index.class_names == tuple(sorted({name.split("/")[0] for name in names}))


def test_test_part_without_classes_is_refused(write_files, make_photo, executor):
    root = write_files(
        {
            "train/a/1.jpg": make_photo(0),
            "train/b/1.jpg": make_photo(1),
            "test/1.jpg": make_photo(2),
        }
    )
    with pytest.raises(ClassesError, match="the images in 'test' lie in no class folder"):
        index_photos(root, executor=executor)


def test_class_pattern_keeps_a_given_split(write_files, make_photo, executor):
    names = ["train/cat1", "train/dog1", "test/cat2", "test/dog2"]
    root = write_files({f"{name}.jpg": make_photo(i) for i, name in enumerate(names)})
    index = index_photos(root, executor=executor, class_pattern="/([a-z]+)")
    assert index.class_names == ("cat", "dog")
    assert index.parts.tolist() == [TEST, TEST, TRAIN, TRAIN]


def test_folder_without_images(write_files, executor, tmp_path):
    root = write_files({"cat/a.txt": b"text", "cat/b.txt": b"more", "dog/c.txt": b""})
    with pytest.raises(SourceError, match=r"no image in '.*photos': 3 files were seen") as caught:
        index_photos(root, executor=executor)
    assert "photos/<class>/<image>" in caught.value.hint
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(SourceError, match="0 files were seen"):
        index_photos(empty, executor=executor)


def test_missing_folder(executor, tmp_path):
    with pytest.raises(SourceError, match="there is no folder"):
        index_photos(tmp_path / "nowhere", executor=executor)


def test_one_class_only(write_files, make_photo, executor):
    root = write_files(
        {f"all/{name}/{i}.jpg": make_photo(i) for i, name in enumerate(("cat", "dog"))}
    )
    with pytest.raises(
        ClassesError, match=r"has one class, 'all', of 2 images; needed are two"
    ) as caught:
        index_photos(root, executor=executor)
    assert "If the folders in 'all' are the classes" in caught.value.hint
    with pytest.raises(ClassesError, match="lies in a class folder"):
        index_photos(root / "all" / "cat", executor=executor)


def test_empty_class_folders_are_named(photo_folder, write_files, executor):
    write_files({"dog/1.jpg": b"", "dog/2.jpg": b"text"})
    (photo_folder / "ant").mkdir()
    with pytest.raises(ClassesError) as caught:
        index_photos(photo_folder, executor=executor)
    assert caught.value.message == (
        "2 class folders have no image: 'ant', 'dog' (2 skipped, e.g. 'dog/1.jpg': the file is "
        "empty)"
    )
    assert caught.value.hint == "Add photos to these folders, or remove them."


def test_many_empty_class_folders_are_counted(photo_folder, executor):
    for number in range(2000):
        (photo_folder / f"empty{number:04}").mkdir()
    with pytest.raises(
        ClassesError, match="2,000 class folders have no image: 'empty0000', "
    ) as caught:
        index_photos(photo_folder, executor=executor)
    assert caught.value.message.endswith("'empty0004' and 1,995 more")


def test_unreadable_class_folder_is_named_with_the_reason(photo_folder, executor, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("cow"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ClassesError, match=r"'cow' \(no permission to read it\)"):
        index_photos(photo_folder, executor=executor)


def test_fingerprint_follows_content_and_class_alone(write_files, make_photo, executor):
    def take_fingerprint(folder, *names):
        files = {name: make_photo(seed) for seed, name in enumerate(names)}
        return index_photos(write_files(files, folder), executor=executor).fingerprint

    first = take_fingerprint("first", "cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/2.jpg")
    assert take_fingerprint("renamed", "cat/b.jpg", "cat/a.jpg", "dog/d.jpg", "dog/c.jpg") == first
    assert take_fingerprint("swapped", "cat/1.jpg", "dog/2.jpg", "dog/1.jpg", "cat/2.jpg") != first


def test_fingerprint_is_that_of_all_rows_in_order(write_files, make_photo, executor):
    classes = ("鼠", "b", "a", "é")
    files = {
        f"{label}/{i}.png": make_photo((i + at) % 7, 4, 4, "PNG")
        for at, label in enumerate(classes)
        for i in range(5)
    }
    index = index_photos(write_files(files), executor=executor)
    rows = sorted(
        digest.tobytes() + index.class_names[label].encode(errors="surrogatepass")
        for label, digest in zip(index.labels, index.digests, strict=True)
    )
    assert index.fingerprint == hashlib.blake2b(b"\0".join(rows), digest_size=16).hexdigest()
    assert len(rows) > len(
        set(index.digests.view("V16").ravel().tolist())
    )  # some contents are there twice


def test_without_moves_images_to_skipped(write_files, make_photo, executor):
    names = [
        f"{part}/{label}/{i}.jpg" for part in ("test", "train") for label in "ab" for i in range(2)
    ]
    files = {name: make_photo(i) for i, name in enumerate(names)}
    index = index_photos(write_files({**files, "train/a/empty.jpg": b""}), executor=executor)
    fewer = index.without({6: "the file is cut short", 1: "damaged"})
    kept = [0, 2, 3, 4, 5, 7]
    assert fewer.names == tuple(index.names[i] for i in kept)
    assert fewer.labels.tolist() == index.labels[kept].tolist()
    assert fewer.parts.tolist() == index.parts[kept].tolist()
    assert np.array_equal(fewer.digests, index.digests[kept])
    assert fewer.skipped == (
        Skipped("train/a/empty.jpg", "the file is empty"),
        Skipped(index.names[1], "damaged"),
        Skipped(index.names[6], "the file is cut short"),
    )
    assert fewer.fingerprint != index.fingerprint
    assert len(index) == 8  # as it was
    assert index.without({}).names == index.names


class SlowEngine:
    def map(self, function, items):
        for item in items:
            time.sleep(0.01)
            yield function(item)


def test_events_are_few_and_in_order(photo_folder, monkeypatch):
    monkeypatch.setattr(digests_module, "BATCH_FILES", 1)
    events = []
    index_photos(photo_folder, executor=SlowEngine(), listen=events.append)
    assert events[0] == StageStarted("reading", 30, "files")
    assert isinstance(events[-1], StageFinished)
    assert events[-1].stage == "reading"
    assert all(isinstance(event, StageAdvanced) for event in events[1:-1])
    advances = [event.done for event in events[1:-1]]
    assert advances == sorted(set(advances))
    assert 2 <= len(advances) <= 1 + events[-1].seconds / 0.05  # not one for each of 30 files


def test_engines_of_any_width_agree(photo_folder):
    one, four = (index_photos(photo_folder, executor=ThreadExecutor(threads)) for threads in (1, 4))
    assert one.names == four.names
    assert np.array_equal(one.digests, four.digests)


def test_memory_of_any_kind(photo_folder, make_photo, executor):
    path = photo_folder / "bee" / "0.jpg"
    images = [
        make_photo(50),
        np.zeros((4, 4, 3), np.uint8),
        Image.new("L", (3, 3)),
        path,
        str(path),
    ]
    index = index_images(images, ["x", "y", "x", "y", "y"], executor=executor)
    assert index.names == ("0", "1", "2", "3", "4")
    assert index.class_names == ("x", "y")
    assert index.labels.tolist() == [0, 1, 0, 1, 1]
    assert index.digests[3].tobytes() == index.digests[4].tobytes() == hash_image(path.read_bytes())


@pytest.mark.parametrize(
    ("labels", "class_names", "positions"),
    [
        ([10, 9, 10], ("9", "10"), [1, 0, 1]),
        (np.array([2, 1, 1]), ("1", "2"), [1, 0, 0]),
        (["b", "a", "b"], ("a", "b"), [1, 0, 1]),
        ([("a", 1), "b", "b"], ("('a', 1)", "b"), [0, 1, 1]),
    ],
)
def test_labels_of_any_kind(labels, class_names, positions, executor):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
    index = index_images(pixels, labels, executor=executor)
    assert index.class_names == class_names
    assert index.labels.tolist() == positions


def test_unusable_image_in_memory_is_skipped_and_its_class_with_it(make_photo, executor):
    images = [make_photo(0), make_photo(1), np.zeros((2, 2)), b"text", "/no/such/file.jpg"]
    index = index_images(images, ["a", "b", "c", "a", "b"], executor=executor)
    assert index.names == ("0", "1")
    assert index.class_names == ("a", "b")
    assert list(list_skipped(index)) == ["2", "3", "4"]
    assert "float64" in list_skipped(index)["2"]
    assert list_skipped(index)["4"] == "there is no such file"


def test_wrong_input_in_memory(make_photo, executor):
    photos = [make_photo(0), make_photo(1)]
    with pytest.raises(SourceError, match="2 images and 3 labels"):
        index_images(photos, ["a", "b", "c"], executor=executor)
    with pytest.raises(SourceError, match=r"none of 2 images can be used; 2 skipped, e\.g\. '0': "):
        index_images([b"text", b""], ["a", "b"], executor=executor)
    with pytest.raises(SourceError, match="none of 0 images"):
        index_images([], [], executor=executor)
    with pytest.raises(ClassesError, match="all images are of one class, 'a'"):
        index_images(photos, ["a", "a"], executor=executor)
    with pytest.raises(ClassesError, match="different labels have the same name: '1'"):
        index_images(photos, [1, "1"], executor=executor)
