import pytest

from squeezetune.data.index import index_photos
from squeezetune.data.sources.table import open_manifest, parse_columns
from squeezetune.data.split import split_index
from squeezetune.errors import ClassesError, SettingsError, SourceError
from squeezetune.events import Notice


@pytest.fixture
def write_table(tmp_path):
    """Write a table beside the photos; return its path."""

    def write(text, name="photos.csv", encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes(text.encode(encoding))
        return path

    return write


def read(table, **columns):
    return open_manifest(table, columns)[1]


@pytest.mark.parametrize(("header", "roles"), [
    ("path,label", "path=path, label=label"),
    ("id,Image Path,Species", "path=Image Path, label=Species"),
    ("file_name;class_name;subset;patient_id",
     "path=file_name, label=class_name, split=subset, group=patient_id"),
    ("category\timage\tgroup", "path=image, label=category, group=group"),
    ("label,name,image", "path=image, label=label"),
])  # fmt: skip
def test_columns_are_guessed_by_their_names(write_table, header, roles):
    delimiter = next(sign for sign in ";\t," if sign in header)
    row = delimiter.join(
        "a.jpg" if "ima" in cell.lower() or cell in ("path", "file_name") else "train"
        for cell in header.split(delimiter)
    )
    listing = read(write_table(f"{header}\n{row}\n"))
    assert listing.files == ("a.jpg",)
    assert listing.notes[0].startswith(f"photos.csv: {roles}; --columns ")


def test_a_guess_names_the_flag_that_would_say_so(write_table):
    (note,) = read(write_table("file,species\na.jpg,bee\n")).notes
    assert (
        note
        == 'photos.csv: path=file, label=species; --columns "path=file,label=species" would say so'
    )


@pytest.mark.parametrize("text", ["a.jpg,bee\nb.jpg,cow\n", "bee,a.jpg\ncow,b.jpg\n"])
def test_a_table_without_a_header_is_read_by_what_is_in_it(write_table, text):
    listing = read(write_table(text))
    assert listing.files == ("a.jpg", "b.jpg")
    assert listing.columns.labels == ("bee", "cow")


def test_a_path_is_found_by_what_is_in_it(write_table):
    listing = read(write_table("x,label\nphotos/a.PNG,bee\nphotos/b.tiff,cow\n"))
    assert listing.files == ("photos/a.PNG", "photos/b.tiff")


def test_what_a_column_is_may_be_said(write_table):
    path = write_table("path,label,which,kind,g\na.jpg,1,b.jpg,bee,x\n")
    listing = read(path, path="which", label="kind", group="5")
    assert listing.files == ("b.jpg",)
    assert listing.columns.labels == ("bee",)
    assert listing.columns.groups == ("x",)
    split = write_table("path,label,split\na.jpg,bee,everywhere\n", "split.csv")
    assert read(split, split="").columns.parts is None
    with pytest.raises(
        SettingsError, match="has no column 'species'; it has path, label, which, kind, g"
    ):
        read(path, label="species")


def test_parts_and_groups_are_read(write_table):
    text = "path,label,split,group\na.jpg,bee,Train,1\nb.jpg,cow,VAL,2\nc.jpg,cow,testing,\n"
    text += "d.jpg,cow,,3\ne.jpg,cow,x,3\n"
    listing = read(write_table(text))
    assert listing.columns.parts == (0, 1, 2)
    assert listing.columns.groups == ("1", "2", "")
    assert listing.refused == {
        "d.jpg": "its part is ''; needed is train, validation or test",
        "e.jpg": "its part is 'x'; needed is train, validation or test",
    }


def test_rows_that_cannot_be_used_are_told(write_table):
    text = "path,label\na.jpg,bee\n,bee\nb.jpg,\na.jpg,bee\na.jpg,cow\nc.jpg\n\nd.jpg,cow\n"
    listing = read(write_table(text))
    assert listing.files == ("a.jpg", "d.jpg")
    assert listing.refused == {
        "photos.csv, line 3": "no path",
        "b.jpg": "no class",
        "a.jpg (photos.csv, line 5)": "named before",
        "a.jpg (photos.csv, line 6)": "named before as another class",
        "c.jpg": "no class",
    }


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_tables_come_in_several_encodings(write_table, encoding):
    listing = read(write_table('path,label\n"dir\\a b.jpg",Käfer\n', encoding=encoding))
    assert listing.files == ("dir/a b.jpg",)
    assert listing.columns.labels == ("Käfer",) or encoding == "latin-1"


@pytest.mark.parametrize(("text", "message"), [
    ("", "is empty"),
    ("\n\n \n", "is empty"),
    ("a,b,c\n1,2,3\n", "no column that is surely the path; it has a, b, c"),
    ("path,b,c\na.jpg,2,3\n", "no column that is surely the label"),
    ("path,label\n" + '"' + "x" * 200_000, "is not a table"),
])  # fmt: skip
def test_what_is_no_table_of_images_is_refused(write_table, text, message):
    with pytest.raises(SourceError, match=message):
        read(write_table(text))


def test_empty_lines_are_no_rows(write_table):
    listing = read(write_table("\n\npath;label\n\na.jpg;x\n\nb.jpg;y\n"))
    assert listing.files == ("a.jpg", "b.jpg")
    assert listing.columns.labels == ("x", "y")
    assert listing.refused == {}


def test_a_path_that_can_be_none_is_told(photo_folder, write_table, executor):
    rows = [f"photos/{name}/0.jpg,{name}" for name in ("bee", "cow")]
    index = index_photos(
        write_table("path,label\n" + "\n".join([*rows, "photos/\0.jpg,owl"])), executor=executor
    )
    assert len(index) == 2
    assert index.skipped[0].reason.startswith("its path is none")


def test_a_table_is_indexed_as_its_folder_is(photo_folder, write_table, executor):
    whole = index_photos(photo_folder, executor=executor)
    rows = [f"{photo_folder.name}/{name},{name.split('/')[0]}" for name in reversed(whole.names)]
    heard = []
    index = index_photos(
        write_table("file,kind\n" + "\n".join(rows)), executor=executor, listen=heard.append
    )
    assert index.class_names == whole.class_names
    assert index.labels.tolist() == whole.labels.tolist()
    assert index.digests.tolist() == whole.digests.tolist()
    assert index.fingerprint == whole.fingerprint
    assert next(event.message for event in heard if isinstance(event, Notice)).startswith(
        "photos.csv: path=file"
    )


def test_paths_may_lead_anywhere_the_user_says(photo_folder, tmp_path, executor):
    (tmp_path / "tables").mkdir()
    path = tmp_path / "tables" / "photos.tsv"
    path.write_text(
        f"path\tlabel\n../{photo_folder.name}/bee/1.jpg\tbee\n{photo_folder}/cow/1.jpg\tcow\ngone.jpg\tcow\n"
    )
    index = index_photos(path, executor=executor)
    assert len(index) == 2
    assert [(item.name, item.reason) for item in index.skipped] == [
        ("gone.jpg", "there is no such file")
    ]


def test_the_groups_of_a_table_stay_together(photo_folder, write_table, executor):
    names = index_photos(photo_folder, executor=executor).names
    rows = [
        f"{photo_folder.name}/{name},{name[:3]},{name[:3]}{int(name[4]) // 2}" for name in names
    ]
    index = index_photos(write_table("path,label,group\n" + "\n".join(rows)), executor=executor)
    split = split_index(index, validation=0.2, test=0.2, seed=0)
    assert split.groups == 15
    parts = {
        group: {
            part
            for part, positions in enumerate((split.train, split.validation, split.test))
            if any(index.groups[at] == group for at in positions)
        }
        for group in index.groups
    }
    assert all(len(found) == 1 for found in parts.values())
    assert index.without({0: "gone"}).groups == index.groups[1:]


def test_the_split_of_a_table_is_kept(photo_folder, write_table, executor):
    names = index_photos(photo_folder, executor=executor).names
    parts = ["train", "train", "train", "test", "val"]
    rows = [
        f"{photo_folder.name}/{name},{name[:3]},{parts[at % 5]}" for at, name in enumerate(names)
    ]
    index = index_photos(write_table("path,label,split\n" + "\n".join(rows)), executor=executor)
    split = split_index(index, validation=0.1, test=0.1, seed=0)
    assert (len(split.train), len(split.validation), len(split.test)) == (18, 6, 6)


def test_one_class_is_not_enough(photo_folder, write_table, executor):
    with pytest.raises(ClassesError, match="has one class, 'bee'"):
        index_photos(
            write_table(f"path,label\n{photo_folder.name}/bee/1.jpg,bee\n"), executor=executor
        )


def test_columns_are_written_as_pairs():
    assert parse_columns("path=file, label=my species,split=") == {
        "path": "file",
        "label": "my species",
        "split": "",
    }
    assert parse_columns("") == {}
    for text, word in (("file", "'file'"), ("class=x", "'class'")):
        with pytest.raises(SettingsError, match=f"{word} is none of path, label, split, group"):
            parse_columns(text)


def test_a_folder_has_no_columns(photo_folder, executor):
    with pytest.raises(SettingsError, match="is no table"):
        index_photos(photo_folder, executor=executor, columns="label=x")
