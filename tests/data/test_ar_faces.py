from original_archives import lay_out_ar_faces

from squeezetune.data.datasets.packing import read_ar_faces
from squeezetune.data.sources.registry import open_source


def read(folder):
    source, listing = open_source(folder, {})
    return list(read_ar_faces(source, listing.files, ""))


def test_images_lie_below_persons_and_what_a_mac_adds_is_left_out(make_photo, write_files):
    persons = {f"{sex}-{number:03}": [make_photo(number + at, kind="BMP") for at in range(26)]
               for sex in "MW" for number in (1, 50)}  # fmt: skip
    images = read(write_files(lay_out_ar_faces(persons)))
    expected = {
        f"{person}/{person}-{at:02}.bmp".lower(): content
        for person, contents in persons.items()
        for at, content in enumerate(contents, 1)
    }
    assert images == sorted(expected.items())
    assert len(images) == 4 * 26


def test_small_letters_are_read_and_raw_files_are_not(write_files):
    files = {
        "m-001-01.bmp": b"1",
        "W-002-03.BMP": b"2",
        "M-003-01.raw": b"3",
        "F-01-01.bmp": b"4",
        "M-1-1.bmp": b"5",
    }
    assert read(write_files(files)) == [("m-001/m-001-01.bmp", b"1"), ("w-002/w-002-03.bmp", b"2")]
