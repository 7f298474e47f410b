"""Every format that people keep photos in, through index and decoding."""

import subprocess
import sys
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image, features

from squeezetune.data.decoding import open_image
from squeezetune.data.index import index_photos
from squeezetune.data.pixels import PixelSettings, fit_image, load_pixels
from squeezetune.data.sources.content import recognise_format
from squeezetune.data.sources.image_formats import DECODERS, NEEDS_HEIF
from squeezetune.data.sources.registry import MemorySource
from squeezetune.errors import ImageError
from squeezetune.events import Notice

PHOTOS = Path(__file__).parents[1] / "photos"
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)).resize(
    (64, 48)
)


def save(kind, image=PICTURE, **options):
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


FILES = {
    "AVIF": lambda: save("AVIF", quality=95),
    "JPEG 2000": lambda: save("JPEG2000"),
    "JPEG 2000, codestream": lambda: save("JPEG2000", no_jp2=True),
    "PNM": lambda: save("PPM"),
    "TGA": lambda: save("TGA"),
    "TGA, packed": lambda: save("TGA", compression="tga_rle"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_photo_is_recognised_and_decoded(name):
    if name == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    data = FILES[name]()
    assert recognise_format(data[:64]) == name.partition(",")[0]
    found = np.asarray(open_image(data)).astype(int)
    assert np.abs(found - np.asarray(PICTURE)).mean() < (6 if name == "AVIF" else 0.01)
    with pytest.raises(ImageError):
        open_image(data[: len(data) // 2])


@pytest.mark.parametrize(("data", "expected"), [
    (b"P1\n3 1\n1 0 1\n", [0, 255, 0]),
    (b"P2 # words\n3 1 15\n0 5 15", [0, 85, 255]),
    (b"P5 3 1 4095 " + b"\0\0\x08\0\x0f\xff", [0, 128, 255]),
    (b"P5 3 1 65535 " + b"\0\0\x80\0\xff\xff", [0, 128, 255]),
])  # fmt: skip
def test_portable_maps_of_any_depth(data, expected):
    assert np.asarray(open_image(data))[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    "data",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"%PDF-1.7\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\xd7\xcd\xc6\x9a" + bytes(60),
        b"8BPS\0\1" + bytes(60),
        b"GRIB" + bytes(60),
        bytes(64),
        b"\xff" * 64,
    ],
)
def test_what_runs_programs_or_is_made_of_layers_is_never_read(data):
    with pytest.raises(ImageError):
        recognise_format(data)
    assert {decoder.module.partition(".")[0] for decoder in DECODERS.values()} == {"PIL", "pi_heif"}


def test_a_turned_heic_photo_stands_upright_once():
    pytest.importorskip("pi_heif", reason="HEIC needs the extra heif")
    corners = {}
    for name in ("upright", "turned"):
        image = np.asarray(open_image((PHOTOS / f"{name}.heic").read_bytes())).astype(int)
        corners[name] = [image[row, column].argmax() if image[row, column].max() > 100 else -1
                         for row, column in ((5, 5), (5, -5), (-5, -5), (-5, 5))]  # fmt: skip
        assert image.shape == ((48, 64, 3) if name == "upright" else (64, 48, 3))
    red, green, blue, black = 0, 1, 2, -1
    assert corners == {"upright": [red, green, black, blue], "turned": [blue, red, green, black]}


@pytest.mark.usefixtures("without_heif")
def test_where_heic_cannot_be_read_the_extra_is_named(write_files, make_photo, executor):
    heic = (PHOTOS / "upright.heic").read_bytes()
    photos = {
        f"{label}/{at}.jpg": make_photo(at + len(label))
        for label in ("cat", "wolf")
        for at in range(2)
    }
    events = []
    root = write_files(photos | {f"cat/{at}.heic": heic for at in range(3)})
    index = index_photos(root, executor=executor, listen=events.append)
    assert {each.reason for each in index.skipped} == {NEEDS_HEIF}
    notices = [event.message for event in events if isinstance(event, Notice)]
    assert notices == ["3 HEIC photos were skipped: pip install 'squeezetune[heif]'"]


def test_large_images_of_other_formats_are_made_smaller_as_jpegs_are(monkeypatch):
    """In strips and by a whole number, never below twice the side that is wanted; the resized
    pixels hardly differ.
    """
    rng = np.random.default_rng(1)
    smooth = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).resize(
        (805, 603), Image.Resampling.BICUBIC
    )
    glass = smooth.convert("RGBA")
    glass.putalpha(smooth.convert("L"))
    deep = Image.fromarray(np.asarray(smooth.convert("L"), np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    for image in (smooth, glass, deep, smooth.convert("P"), smooth.convert("L")):
        data = save("PNG", image, exif=exif)
        settings = PixelSettings(64)
        whole = fit_image(open_image(data), settings).astype(int)
        monkeypatch.setattr("squeezetune.data.decoding.LARGE_PIXELS", 100_000)
        small = open_image(data, 64)
        found, size = load_pixels(MemorySource([data]), "0", settings)
        monkeypatch.undo()
        assert small.size == (151, 202)
        assert size == (603, 805)
        assert np.abs(found - whole).mean() < 1.5, image.mode


@pytest.mark.parametrize("kind", ["zip", "parquet"])
def test_photos_of_iphones_are_read_out_of_archives_and_tables(kind, tmp_path, executor):
    pytest.importorskip("pi_heif", reason="HEIC needs the extra heif")
    photos = [(PHOTOS / f"{name}.heic").read_bytes() for name in ("upright", "turned")]
    if kind == "zip":
        path = tmp_path / "photos.zip"
        with ZipFile(path, "w") as archive:
            for label in ("cat", "wolf"):
                for at, photo in enumerate(photos):
                    archive.writestr(f"{label}/{at}.HEIC", photo)
    else:
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        path = tmp_path / "photos.parquet"
        rows = [{"bytes": photo, "path": f"{at}.heic"} for at, photo in enumerate(photos * 2)]
        parquet.write_table(pyarrow.table({"image": rows, "label": [0, 0, 1, 1]}), path)
    index = index_photos(path, executor=executor)
    assert [len(index), list(index.skipped)] == [4, []]
    for at in range(4):
        upright = np.asarray(open_image(photos[at % 2]))
        np.testing.assert_array_equal(
            np.asarray(open_image(index.source.read(index.names[at]))), upright
        )


def test_a_damaged_tiff_is_told_by_its_error_alone(tmp_path):
    """libtiff itself writes a line to the standard error of the process, past Python: seen from
    outside.
    """
    data = bytearray(save("TIFF", compression="tiff_lzw"))
    data[40:200] = bytes(255 - value for value in data[40:200])
    (tmp_path / "photo.tif").write_bytes(data)
    opening = f"Image.open({str(tmp_path / 'photo.tif')!r}).load()"
    plain = run_python(
        f"from PIL import Image\ntry: {opening}\nexcept Exception as error: print(error)"
    )
    assert plain.stderr
    ours = run_python(
        "from squeezetune.data.decoding import open_image\nfrom squeezetune.errors import "
        "ImageError\n"
        f"try: open_image(open({str(tmp_path / 'photo.tif')!r}, 'rb').read())\n"
        "except ImageError as error: print(error)"
    )
    assert ours.stdout
    assert not ours.stderr


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
