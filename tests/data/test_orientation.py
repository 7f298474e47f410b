import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from squeezetune.data.decoding import open_image
from squeezetune.data.sources.content import hash_image
from squeezetune.data.sources.orientation import find_orientation, read_orientation

XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description {}/></x:xmpmeta>'
PIXELS = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)


def make_exif(orientation=None):
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    if orientation is not None:
        exif[0x0112] = orientation
    return exif.tobytes()


def make_xmp(orientation, is_element=False):
    if is_element:
        return XMP.format("").replace(
            "/>", f"><tiff:Orientation>{orientation}</tiff:Orientation></rdf:Description>", 1
        )
    return XMP.format(f'tiff:Orientation="{orientation}"')


def save(kind, exif=None, xmp=None, raw_profile=None):
    """Write a photo with metadata where programs put them."""
    options = {} if exif is None else {"exif": exif}
    if kind == "PNG":
        chunks = PngImagePlugin.PngInfo()
        if xmp:
            chunks.add_itxt("XML:com.adobe.xmp", xmp)
        if raw_profile:
            chunks.add_text(
                "Raw profile type exif",
                f"\nexif\n{len(raw_profile):8}\n{raw_profile.hex()}\n",
                zip=True,
            )
        options["pnginfo"] = chunks
    elif xmp and kind == "TIFF":
        options["tiffinfo"] = {700: xmp.encode()}
    elif xmp:
        options["xmp"] = xmp.encode()
    buffer = BytesIO()
    Image.fromarray(PIXELS).save(buffer, kind, **options)
    return buffer.getvalue()


def turn_as_others_do(data):
    return np.asarray(ImageOps.exif_transpose(Image.open(BytesIO(data))).convert("RGB"))


PLACES = {
    "xmp": lambda kind, turn: save(kind, xmp=make_xmp(turn)),
    "xmp, as an element": lambda kind, turn: save(kind, xmp=make_xmp(turn, is_element=True)),
    "exif without it, and xmp": lambda kind, turn: save(kind, exif=make_exif(), xmp=make_xmp(turn)),
    "exif before xmp": lambda kind, turn: save(kind, exif=make_exif(turn), xmp=make_xmp(9 - turn)),
    "exif": lambda kind, turn: save(kind, exif=make_exif(turn)),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "TIFF", "AVIF"])
def test_photos_are_turned_as_pillow_turns_them(kind, place):
    for turn in range(1, 9):
        data = PLACES[place](kind, turn)
        found = np.asarray(open_image(data))
        assert np.array_equal(found, turn_as_others_do(data)), turn
        assert found.shape == ((50, 30, 3) if turn >= 5 else (30, 50, 3)) or "before" in place


def test_the_raw_profile_of_a_png_is_obeyed():
    for turn in range(1, 9):
        data = save("PNG", raw_profile=make_exif(turn))
        assert np.array_equal(np.asarray(open_image(data)), turn_as_others_do(data))
    assert open_image(save("PNG", raw_profile=make_exif(6))).size == (30, 50)
    assert open_image(save("PNG", raw_profile=b"\xff" * 9)).size == (50, 30)


def test_damaged_metadata_are_as_none():
    good = make_exif(6)
    assert read_orientation(good) == 6
    assert read_orientation(good.removeprefix(b"Exif\0\0")) == 6
    assert read_orientation(b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\x08\0\0\0\0\0\0") == 8
    for junk in (
        b"",
        b"Exif\0\0",
        b"\xff" * 40,
        b"II*\0\xff\xff\xff\xff",
        b"II*\0\x08\0\0\0\xff\xff",
        "text",
        None,
    ):
        assert read_orientation(junk) is None
    assert find_orientation({"exif": make_exif(9)}) == 1
    assert find_orientation({"exif": make_exif(0), "xmp": make_xmp(6).encode()}) == 1
    assert find_orientation({"Raw profile type exif": "\n\n\nno digits"}) == 1
    assert find_orientation({"xmp": b"tiff:Orientation>9<"}) == 1
    assert find_orientation({}) == 1


def test_exif_that_is_cut_short_is_as_none():
    exif = Image.Exif()
    exif[0x0112] = 6
    good = exif.tobytes()
    assert all(read_orientation(good[:length]) is None for length in range(len(good) - 6))


def test_images_that_differ_in_which_side_is_up_have_other_digests():
    image = Image.fromarray(PIXELS)
    seen = {hash_image(image)}
    for turn in range(2, 9):
        turned = image.copy()
        turned.info["exif"] = make_exif(turn)
        seen.add(hash_image(turned))
    assert len(seen) == 8
    upright = image.copy()
    upright.info |= {"exif": make_exif(1), "dpi": (72, 72)}
    assert hash_image(upright) in seen


def test_images_that_differ_in_what_is_transparent_have_other_digests():
    image = Image.new("P", (4, 4), 1)
    keyed, other = image.copy(), image.copy()
    keyed.info["transparency"], other.info["transparency"] = 1, b"\xff\x80"
    assert len({hash_image(each) for each in (image, keyed, other)}) == 3
    assert zlib.crc32(open_image(image).tobytes()) != zlib.crc32(open_image(keyed).tobytes())
