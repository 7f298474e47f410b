import json
import sys

import pytest

from squeezetune.data.index import index_photos
from squeezetune.data.sources.content import hash_image
from squeezetune.errors import ImageError, MissingExtraError, SettingsError, SourceError

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is an extra")
parquet = pytest.importorskip("pyarrow.parquet")

NAMES = ["bee", "cow", "owl"]


def write_table(path, photos, labels, *, names=None, nested=True, column="image", **others):
    """Write a file as the `datasets` library does."""
    images = (
        [{"bytes": photo, "path": f"{at}.jpg"} for at, photo in enumerate(photos)]
        if nested
        else photos
    )
    table = pyarrow.table({column: images, "label": labels, **others})
    if names:
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata(
            {"huggingface": json.dumps({"info": {"features": features}})}
        )
    path.parent.mkdir(exist_ok=True)
    parquet.write_table(table, path, row_group_size=4)
    return path


@pytest.fixture
def photos(make_photo):
    return [make_photo(at) for at in range(12)]


@pytest.mark.parametrize("nested", [True, False])
def test_classes_have_the_names_that_the_file_says(tmp_path, photos, executor, nested):
    path = write_table(
        tmp_path / "photos.parquet",
        photos,
        [at % 3 for at in range(12)],
        names=NAMES,
        nested=nested,
    )
    index = index_photos(path, executor=executor)
    assert index.class_names == tuple(NAMES)
    assert index.labels.tolist() == [at % 3 for at in range(12)]
    assert index.names[11] == "photos.parquet/11"
    for at, photo in enumerate(photos):
        assert index.source.read(f"photos.parquet/{at:02}") == photo
        assert index.digests[at].tobytes() == hash_image(photo)


def test_without_names_a_class_is_called_by_its_value(tmp_path, photos, executor):
    path = write_table(tmp_path / "photos.parquet", photos, [at % 2 for at in range(12)])
    assert index_photos(path, executor=executor).class_names == ("0", "1")


def test_rows_without_class_or_image_are_told(tmp_path, photos, executor):
    photos = [*photos[:10], None, b"no image"]
    labels = [-1, None, *(at % 2 for at in range(10))]
    index = index_photos(
        write_table(tmp_path / "a.parquet", photos, labels, names=NAMES, nested=False),
        executor=executor,
    )
    assert {skipped.name: skipped.reason[:12] for skipped in index.skipped} == {
        "a.parquet/00": "no class",
        "a.parquet/01": "no class",
        "a.parquet/10": "no image in ",
        "a.parquet/11": "not an image",
    }
    assert len(index) == 8


def test_several_files_are_one_source_and_perhaps_a_split(tmp_path, photos, executor):
    labels = [at % 3 for at in range(12)]
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        write_table(tmp_path / "data" / f"{name}.parquet", photos, labels, names=NAMES)
    index = index_photos(tmp_path / "data", executor=executor)
    assert len(index) == 36
    assert index.parts.tolist() == [2] * 12 + [0] * 24


def test_columns_are_guessed_and_may_be_named(tmp_path, photos, executor):
    heard = []
    others = {"kind": ["x", "y"] * 6, "patient_id": [at // 2 for at in range(12)]}
    path = write_table(tmp_path / "a.parquet", photos, [0, 1, 2] * 4, column="img", **others)
    index = index_photos(path, executor=executor, listen=heard.append)
    assert index.groups == tuple(str(at // 2) for at in range(12))
    assert heard[0].message.startswith(
        'a.parquet: path=img, label=label, group=patient_id; --columns "path=img'
    )
    assert index_photos(path, executor=executor, columns="label=kind,group=").class_names == (
        "x",
        "y",
    )
    with pytest.raises(SettingsError, match="has no column 'sort'; it has img, label"):
        index_photos(path, executor=executor, columns="label=sort")


def test_what_holds_no_images_is_refused(tmp_path, executor):
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": ["a"], "label": [1]}), path)
    with pytest.raises(SourceError, match="no column that is surely the path; it has text, label"):
        index_photos(path, executor=executor)
    path.write_bytes(b"PAR1 torn")
    with pytest.raises(SourceError, match="cannot be read as Parquet"):
        index_photos(path, executor=executor)


def test_a_file_that_is_damaged_later_is_an_image_error(tmp_path, photos, executor):
    path = write_table(tmp_path / "a.parquet", photos, [0, 1, 2] * 4)
    index = index_photos(path, executor=executor)
    index.source._held.clear()
    path.write_bytes(b"PAR1 torn")
    with pytest.raises(ImageError, match="cannot be read there"):
        index.source.read("a.parquet/05")


def test_without_pyarrow_it_is_said_how_to_install_it(tmp_path, photos, executor, monkeypatch):
    path = write_table(tmp_path / "a.parquet", photos, [0, 1, 2] * 4)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match="pyarrow is not installed") as caught:
        index_photos(path, executor=executor)
    assert "squeezetune[parquet]" in caught.value.hint
