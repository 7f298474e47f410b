import shutil
import tarfile
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from squeezetune.data.sources.folder import walk_files
from squeezetune.errors import CheckpointError, ImageError, SourceError
from squeezetune.model.batch import identify_lines, predict_files, predict_to_file, read_arguments
from squeezetune.model.classifier import load
from squeezetune.model.output import CsvLines, LineFile, LineOptions


@pytest.fixture(scope="module")
def classifier(model_folder):
    return load(model_folder)


@pytest.fixture
def open_file(classifier, tmp_path):
    """Open the file of predictions, as an interrupted run left it or anew."""

    def open_lines(name="predictions.csv"):
        lines = CsvLines(LineOptions(classifier.class_names))
        file = LineFile(tmp_path / name, lines, identify_lines(classifier, "csv", None))
        file.check(resume=True)
        return file

    return open_lines


def list_titles(words):
    return [batch.name_title(name) for batch in read_arguments(words) for name in batch.names]


# ---- which images are meant


def test_arguments_keep_their_order(shape_folder):
    box = str(shape_folder / "box" / "000.png")
    batches = list(read_arguments([box, box, str(shape_folder / "disc"), box]))
    assert [len(list(batch.names)) for batch in batches] == [2, 20, 1]
    assert list_titles([str(shape_folder / "disc")])[0] == str(shape_folder / "disc" / "000.png")


def test_archives_and_tables_are_read_in_place(shape_folder, tmp_path, classifier):
    archive = shutil.make_archive(str(tmp_path / "photos"), "zip", shape_folder)
    table = tmp_path / "photos.csv"
    table.write_text(
        "path,label\n"
        + "".join(f"{path},box\n" for path in sorted((shape_folder / "box").iterdir()))
    )
    (folder_row, *_), (archive_row, *_), (table_row, *_) = (
        list(predict_files(classifier, read_arguments([str(word)])))
        for word in (shape_folder, archive, table)
    )
    assert archive_row[0] == f"{archive}/box/000.png"
    assert folder_row[1] == archive_row[1] == table_row[1]


def draw_images(count):
    return np.random.default_rng(count).integers(0, 256, (count, 30, 30, 3), dtype=np.uint8)


def encode(image):
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def write_arrays(folder):
    np.save(folder / "x.npy", draw_images(3))
    return folder / "x.npy", [f"{folder}/x.npy/x/{at}" for at in range(3)]


def write_zipped_arrays(folder):
    np.savez(folder / "x.npz", photos=draw_images(3))
    return folder / "x.npz", [f"{folder}/x.npz/photos/{at}" for at in range(3)]


def write_shards(folder):
    for shard in range(2):
        with tarfile.open(folder / f"{shard}.tar", "w") as file:
            for name, content in (
                ("a.png", encode(draw_images(1)[0])),
                ("a.cls", b"3"),
                ("b.png", b"none"),
            ):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                file.addfile(entry, BytesIO(content))
    return folder, [f"{folder}/{shard}.tar/{name}.png" for shard in range(2) for name in "ab"]


def write_tables(folder):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for part in range(2):
        rows = [{"bytes": encode(image), "path": None} for image in draw_images(2)]
        parquet.write_table(pyarrow.table({"image": rows}), folder / f"{part}.parquet")
    return folder, [f"{folder}/{part}.parquet/{at}" for part in range(2) for at in range(2)]


@pytest.mark.parametrize("write", [write_arrays, write_zipped_arrays, write_shards, write_tables])
def test_what_has_no_labels_has_a_line_for_every_image(write, classifier, tmp_path):
    path, titles = write(tmp_path)
    rows = list(predict_files(classifier, read_arguments([str(path)])))
    assert [title for title, _ in rows] == titles
    assert [isinstance(outcome, ImageError) for _, outcome in rows] == [
        title.endswith("b.png") for title in titles
    ]


def test_one_table_is_named_once(classifier, tmp_path):
    folder, titles = write_tables(tmp_path)
    assert list_titles([str(folder / "0.parquet")]) == titles[:2]


def test_archives_among_photos_are_files_like_others(classifier, tmp_path):
    folder, _ = write_shards(tmp_path)
    (folder / "photo.png").write_bytes(encode(draw_images(1)[0]))
    assert list_titles([str(folder)]) == [
        f"{folder}/{name}" for name in ("0.tar", "1.tar", "photo.png")
    ]


def test_a_folder_is_not_listed_before_its_photos_are_asked_for(
    classifier, shape_folder, monkeypatch
):
    seen = []

    def watch(root):
        for name, refusal in walk_files(root):
            seen.append(name)
            yield name, refusal

    monkeypatch.setattr("squeezetune.data.sources.registry.walk_files", watch)
    monkeypatch.setattr("squeezetune.model.classifier.CHUNK", 2)
    stream = predict_files(classifier, read_arguments([str(shape_folder)]))
    next(stream)
    assert len(seen) < 60
    stream.close()


def test_many_files_are_read_as_they_are_needed(classifier, shape_folder):
    path = str(shape_folder / "box" / "000.png")
    stream = predict_files(classifier, read_arguments([path] * 5000))
    assert next(stream)[0] == path
    stream.close()  # ends at once: nothing was read far ahead


def test_a_missing_folder_in_an_archives_place(classifier, tmp_path):
    (tmp_path / "photos.zip").write_bytes(b"no archive")
    with pytest.raises(SourceError, match=r"photos\.zip"):
        list(predict_files(classifier, read_arguments([str(tmp_path / "photos.zip")])))


# ---- what becomes of them


def test_outcomes_are_in_order_and_bad_images_are_errors(classifier, shape_folder, tmp_path):
    good = [str(path) for path in sorted((shape_folder / "disc").glob("*.png"))]
    (tmp_path / "bad.png").write_bytes(b"no image")
    words = [*good, str(tmp_path / "bad.png"), *good]
    outcomes = list(predict_files(classifier, read_arguments(words)))
    assert [title for title, _ in outcomes] == words
    assert isinstance(outcomes[len(good)][1], ImageError)
    assert [o.label for _, o in outcomes[: len(good)]] == [
        o.label for _, o in outcomes[len(good) + 1 :]
    ]


def test_what_must_not_be_read_in_a_folder_is_an_error_in_its_place(
    classifier, write_shapes, tmp_path
):
    folder = write_shapes(tmp_path / "photos", {"box": 2})
    (folder / "box" / "0005.png").symlink_to(folder / "box" / "000.png")
    outcomes = list(predict_files(classifier, read_arguments([str(folder)])))
    assert [isinstance(outcome, ImageError) for _, outcome in outcomes] == [False, True, False]
    assert "symbolic link" in outcomes[1][1].message


# ---- a file of them


def test_a_file_that_was_cut_at_any_byte_is_gone_on_with(classifier, shape_folder, open_file):
    def predict(name):
        with open_file(name) as file:
            return predict_to_file(
                classifier, read_arguments([str(shape_folder / "box")]), file
            ), file

    (count, failed), whole = predict("whole.csv")
    assert (count, failed) == (20, 0)
    content = whole.path.read_bytes()
    assert content.count(b"\n") == 21
    for at in (0, 1, 30, 60, len(content) // 2, len(content) - 1, len(content)):
        with open_file("cut.csv") as cut:
            cut.path.write_bytes(content[:at])
            cut.state.write_bytes(cut.encode_identity())
        assert predict("cut.csv")[0] == (20, 0)
        assert cut.path.read_bytes() == content
        assert not cut.state.exists()
        cut.path.unlink()


def test_bad_images_are_counted_again(classifier, shape_folder, tmp_path, open_file):
    (tmp_path / "bad.png").write_bytes(b"no image")
    words = [str(tmp_path / "bad.png"), str(shape_folder / "box" / "000.png")]
    with open_file() as file:
        file.append(file.lines.write(words[0], ImageError("not an image")))
    with open_file() as file:
        assert predict_to_file(classifier, read_arguments(words), file) == (2, 1)
    assert file.path.read_text().count("\n") == 3


@pytest.mark.parametrize("change", ["renamed", "gone", "added"])
def test_a_folder_that_has_changed_is_noticed(
    classifier, write_shapes, tmp_path, open_file, change
):
    folder = write_shapes(tmp_path / "photos", {"box": 4})
    with open_file() as file:
        for number in range(3):
            title = str(folder / "box" / f"{number:03}.png")
            file.append(file.lines.write(title, classifier.predict(title)))
    before = file.path.read_bytes()
    if change == "gone":
        for number in (2, 3):
            (folder / "box" / f"{number:03}.png").unlink()
    else:
        changed = folder / "box" / "001.png"
        changed.rename(folder / "box" / "001b.png") if change == "renamed" else None
        if change == "added":
            (folder / "box" / "0005.png").write_bytes(changed.read_bytes())
    with (
        open_file() as file,
        pytest.raises(CheckpointError, match=r"is of other images: its line [23] is of"),
    ):
        predict_to_file(classifier, read_arguments([str(folder)]), file)
    assert file.path.read_bytes() == before
