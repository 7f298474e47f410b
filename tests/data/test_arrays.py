import numpy as np
import pytest

from squeezetune.data.index import index_photos
from squeezetune.data.sources.content import hash_image
from squeezetune.errors import SettingsError, SourceError


def draw(count=12, channels=(3,)):
    return np.random.default_rng(count).integers(0, 256, (count, 9, 8, *channels), np.uint8)


@pytest.fixture
def index(tmp_path, executor):
    """Save arrays as an .npz file and index it."""

    def save(columns="", **arrays):
        np.savez(tmp_path / "photos.npz", **arrays)
        return index_photos(tmp_path / "photos.npz", executor=executor, columns=columns)

    return save


@pytest.mark.parametrize(
    ("images", "labels"), [("images", "labels"), ("X", "y"), ("data", "target"), ("imgs", "label")]
)
@pytest.mark.parametrize("channels", [(), (1,), (3,), (4,)])
def test_images_and_labels_are_found_by_their_names(index, images, labels, channels):
    pixels = draw(channels=channels)
    found = index(**{labels: np.arange(12) % 3, images: pixels, "other": np.zeros(4)})
    assert found.class_names == ("0", "1", "2")
    assert found.names[:2] == (f"{images}/00", f"{images}/01")
    assert found.labels.tolist() == (np.arange(12) % 3).tolist()
    assert found.parts is None
    assert (found.source.read(f"{images}/07") == pixels[7]).all()
    assert found.digests[7].tobytes() == hash_image(pixels[7])


@pytest.mark.parametrize("form", ["{role}_{part}", "{part}_{role}"])
def test_arrays_may_be_the_parts_of_a_split(index, form):
    arrays = {}
    for part, count in (("train", 8), ("val", 4), ("test", 6)):
        arrays[form.format(role="images", part=part)] = draw(count)
        arrays[form.format(role="labels", part=part)] = (
            np.arange(count)[:, None] % 2
        )  # a column, as in MedMNIST
    found = index(**arrays)
    assert np.bincount(found.parts).tolist() == [8, 4, 6]
    assert found.class_names == ("0", "1")


def test_labels_may_be_words_and_arrays_may_be_named(index):
    words = np.array(["bee", "cow"] * 6)
    found = index(
        "path=first,label=second", first=draw(), second=words, images=draw(3), labels=np.arange(3)
    )
    assert found.class_names == ("bee", "cow")
    with pytest.raises(SettingsError, match="has no array 'third'; it has first, second"):
        index("path=third", first=draw(), second=words)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"a": draw(), "b": np.arange(12)},
            "no arrays that are surely images and labels; it has a, b",
        ),
        (
            {"images": draw(), "labels": np.arange(11)},
            r"shape \(11,\); needed is one label for each of 12 images",
        ),
        (
            {"images": draw().astype(np.float32), "labels": np.arange(12)},
            "is float32 of shape .*; needed are images",
        ),
        ({"images": draw()[0, 0], "labels": np.arange(12)}, "needed are images"),
        ({"images": draw(), "labels": np.array([{}] * 12)}, "arrays of objects are not read"),
    ],
)
def test_what_are_no_images_and_labels_is_refused(index, arrays, message):
    with pytest.raises(SourceError, match=message):
        index(**arrays)


LABELS = {
    "nan": (np.array([2.0, np.nan, 10.0] * 4), ("2", "10")),
    "bytes": (np.array([b"s10", b"", b"s2"] * 4), ("s2", "s10")),
    "text": (np.array(["s10", " ", "s2"] * 4), ("s2", "s10")),
    "days": (
        np.array(["2020-01-02", "NaT", "2020-01-01"] * 4, "datetime64[D]"),
        ("2020-01-01", "2020-01-02"),
    ),
}


@pytest.mark.parametrize(("labels", "names"), LABELS.values(), ids=LABELS)
def test_images_without_a_label_are_of_no_class(index, labels, names):
    found = index(images=draw(), labels=labels)
    assert found.class_names == names
    assert [(item.name, item.reason) for item in found.skipped] == [
        (f"images/{at:02d}", "no class") for at in range(1, 12, 3)
    ]


@pytest.mark.parametrize("name", ["labels", "y", "photos_labels", "photos-y"])
def test_labels_lie_beside_a_single_array(tmp_path, executor, name):
    np.save(tmp_path / "photos.npy", draw())
    with pytest.raises(SourceError, match="there are no labels beside"):
        index_photos(tmp_path / "photos.npy", executor=executor)
    np.save(tmp_path / f"{name}.npy", np.arange(12) % 2)
    index = index_photos(tmp_path / "photos.npy", executor=executor)
    assert len(index) == 12
    assert index.class_names == ("0", "1")


def test_the_labels_of_a_single_array_may_be_named(tmp_path, executor):
    np.save(tmp_path / "photos.npy", draw())
    np.save(tmp_path / "kinds.npy", np.arange(12) % 2)
    assert (
        len(index_photos(tmp_path / "photos.npy", executor=executor, columns="label=kinds.npy"))
        == 12
    )


@pytest.mark.parametrize("ending", [".npz", ".npy"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no array",
        b"PK\3\4 torn",
        b"\x93NUMPY\1\0v\0{'descr'",
        b"\x93NUMPY\1\0\x0a\0{'de\0\0\0\0\0\n",
    ],
)
def test_damaged_files_are_refused(tmp_path, executor, ending, content):
    path = tmp_path / f"photos{ending}"
    path.write_bytes(content)
    np.save(tmp_path / "labels.npy", np.arange(3))
    with pytest.raises(SourceError, match="cannot be read as arrays"):
        index_photos(path, executor=executor)


def test_labels_that_are_no_text_are_refused(tmp_path, executor):
    np.save(tmp_path / "photos.npy", np.zeros((3, 4, 4), np.uint8))
    np.save(tmp_path / "labels.npy", np.array([0x7FFFFFFF, 1, 2], "<u4").view("<U1"))
    with pytest.raises(SourceError, match="cannot be read as arrays"):
        index_photos(tmp_path / "photos.npy", executor=executor)
