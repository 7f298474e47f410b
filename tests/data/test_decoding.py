import struct
import subprocess
import sys
import warnings
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageFile

from squeezetune.data import decoding as decoding_module
from squeezetune.data import decoding as grey_levels
from squeezetune.data.decoding import (
    BYTES_A_PIXEL,
    MAX_PIXELS,
    estimate_memory,
    open_image,
    open_photo,
    read_size,
)
from squeezetune.data.sources.image_formats import ROW_BYTES
from squeezetune.errors import ImageError

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encode(image, kind, **options):
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def make_smooth(width, height, seed=0):
    """Make an image with structures of several pixels, as photos have."""
    coarse = np.random.default_rng(seed).integers(
        0, 256, (height // 4 + 2, width // 4 + 2, 3), dtype=np.uint8
    )
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def make_png_header(width, height, depth=8, colour=2):
    """Make a PNG that has a header and hardly any pixels."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 64))
        + chunk(b"IEND", b"")
    )


@pytest.fixture(autouse=True)
def no_warning_leaks():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# ---- what cannot be read


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "BMP", "GIF", "TIFF"])
def test_cut_short_anywhere_is_an_image_error_or_whole(kind):
    data = encode(make_smooth(40, 30), kind)
    for length in {20, 40, len(data) // 2, len(data) - 40}:
        with pytest.raises(ImageError) as caught:
            open_image(data[:length])
        assert caught.value.message
        assert "<" not in caught.value.message  # no object's address or class
    assert open_image(data).size == (40, 30)


def test_truncated_jpeg_has_a_plain_reason():
    data = encode(make_smooth(200, 150), "JPEG")
    with pytest.raises(ImageError, match=r"^the file is cut short$") as caught:
        open_image(data[: len(data) // 2])
    assert isinstance(caught.value.__cause__, OSError)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "the file is empty"), (b"this is a text", "not an image"), (b"\xff\xd8\xff" * 9, ".")],
)
def test_what_is_no_image(data, reason):
    with pytest.raises(ImageError, match=reason):
        open_image(data)


def test_damaged_bytes_never_raise_anything_else(make_photo):
    random = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "WebP", "BMP", "GIF", "TIFF"):
        clean = np.frombuffer(make_photo(kind=kind), np.uint8)
        for _ in range(60):
            dirty = clean.copy()
            dirty[random.integers(8, len(dirty), 6)] = random.integers(0, 256, 6)
            try:
                image = open_image(dirty.tobytes())
            except ImageError as error:
                assert error.message  # noqa: PT017 - either outcome is right
            else:
                assert image.mode == "RGB"


def test_bomb_is_refused_by_its_header():
    with pytest.raises(
        ImageError, match=r"^50,000 x 50,000 pixels; at most 178,956,970 pixels are read$"
    ):
        open_image(make_png_header(50_000, 50_000))
    side = int(MAX_PIXELS**0.5) + 1
    with pytest.raises(ImageError, match="pixels are read"):
        open_image(make_png_header(side, side))


def test_large_image_below_the_limit_is_tried_without_a_warning(monkeypatch):
    monkeypatch.setattr(decoding_module, "PIXELS_A_BYTE", MAX_PIXELS)
    side = int((MAX_PIXELS / 2) ** 0.5) + 10  # where Pillow would warn
    with pytest.raises(ImageError, match=r"^the file is cut short$"):
        open_image(make_png_header(side, side, depth=1, colour=0), 224)


@pytest.mark.parametrize("image", [np.zeros((4, 4)), np.zeros((4, 4, 2), np.uint8), "text", None])
def test_what_is_no_image_in_memory(image):
    with pytest.raises(ImageError, match="needed is"):
        open_image(image)


# ---- modes


def test_cmyk_jpeg_is_not_inverted():
    data = encode(Image.new("RGB", (16, 16), (200, 30, 30)).convert("CMYK"), "JPEG", quality=95)
    pixel = open_image(data).getpixel((8, 8))
    assert np.allclose(pixel, (200, 30, 30), atol=6)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(kind):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(4, 0)
    grey = np.asarray(open_image(encode(Image.fromarray(ramp), kind)))
    assert np.array_equal(grey[0, :, 0], np.arange(256))
    assert open_image(encode(Image.fromarray(ramp // 5), kind)).getpixel((255, 0)) == (51, 51, 51)
    assert np.array_equal(grey[..., 0], grey[..., 2])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),
        (np.array([[0, 100, 200]], np.float32), [0, 100, 200]),
        (np.array([[-1, 0, 1]], np.float32), [0, 128, 255]),
        (np.array([[0, 500, 1000]], np.float32), [0, 128, 255]),
        (np.array([[7, 7, 7]], np.float32), [7, 7, 7]),
        (np.array([[-7, -7, -7]], np.float32), [0, 0, 0]),
        (np.array([[0, np.nan, 1]], np.float32), [0, 0, 255]),
        (np.array([[0, np.inf, 1]], np.float32), [0, 0, 255]),
        (np.array([[0, 32768, 65535]], np.int32), [0, 128, 255]),
        (
            np.array([[0, 2570, 25700]], np.int32),
            [0, 10, 100],
        ),  # a dark image of 16 bits stays dark
        (np.array([[0, 257, 2570, 4095]], np.int32), [0, 16, 160, 255]),  # of 12 bits
        (np.array([[0, 100, 200]], np.int32), [0, 100, 200]),  # of 8 bits
        (np.array([[0, 100_000, 200_000]], np.int32), [0, 128, 255]),
        (np.array([[-100, 0, 100]], np.int32), [0, 128, 255]),
    ],
)
def test_32_bits_are_scaled(values, expected):
    image = open_image(encode(Image.fromarray(values), "TIFF"))
    assert np.asarray(image)[0, :, 0].tolist() == expected


def test_deep_images_are_reduced_in_strips_as_at_once(monkeypatch):
    values = np.random.default_rng(0).integers(0, 60_000, (50, 7), np.uint16)
    values[0, 0] = 65_535
    data = encode(Image.fromarray(values), "PNG")
    monkeypatch.setattr(grey_levels, "STRIP_ROWS", 50)
    whole = np.asarray(open_image(data))
    monkeypatch.setattr(grey_levels, "STRIP_ROWS", 3)
    assert np.array_equal(np.asarray(open_image(data)), whole)
    assert np.array_equal(whole[..., 0], np.rint(values / 257))


def test_a_bomb_of_few_bytes_is_refused(monkeypatch):
    blank = encode(Image.new("L", (400, 400)), "PNG")
    assert open_image(blank).size == (400, 400)
    monkeypatch.setattr(decoding_module, "BLANK_PIXELS", 1000)
    monkeypatch.setattr(decoding_module, "PIXELS_A_BYTE", 10)
    with pytest.raises(ImageError, match=rf"160,000 pixels in {len(blank):,} bytes"):
        open_image(blank)


def test_one_bit_grey_and_other_modes():
    colour = make_smooth(20, 10)
    for mode in ("1", "L", "P", "YCbCr", "HSV"):
        expected = np.asarray(colour.convert(mode).convert("RGB"))
        assert np.array_equal(np.asarray(open_image(colour.convert(mode))), expected), mode


def test_transparency_becomes_white():
    half = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    clear = Image.new("LA", (4, 4), (10, 0))
    keyed = Image.new("RGB", (4, 4), (1, 2, 3))
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    assert open_image(encode(half, "PNG")).getpixel((0, 0)) == (255, 127, 127)
    assert open_image(encode(clear, "PNG")).getpixel((0, 0)) == WHITE
    assert open_image(encode(keyed, "PNG", transparency=(1, 2, 3))).getpixel((0, 0)) == WHITE
    assert open_image(encode(palette, "PNG", transparency=b"\xff\0")).getpixel((0, 0)) == WHITE
    assert open_image(encode(palette, "GIF", transparency=1)).getpixel((0, 0)) == WHITE
    assert open_image(encode(palette, "PNG")).getpixel((0, 0)) == (9, 9, 9)
    assert open_image(np.full((2, 2, 4), 0, np.uint8)).getpixel((0, 0)) == WHITE


@pytest.mark.parametrize("kind", ["GIF", "WebP", "PNG", "TIFF"])
def test_first_frame_of_several(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    options = {"lossless": True} if kind == "WebP" else {}
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert open_image(data).getpixel((4, 4)) == RED


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 1), (3, 5, 3), (3, 5, 4)])
def test_arrays_of_each_shape(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    if shape[2:] == (4,):
        pixels[..., 3] = 255
    image = np.asarray(open_image(pixels))
    assert image.shape == (3, 5, 3)
    assert np.array_equal(image, np.broadcast_to(pixels.reshape(3, 5, -1)[..., :3], (3, 5, 3)))


def test_image_in_memory_is_not_changed():
    image = Image.new("P", (4, 2), 1)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.info["exif"] = exif.tobytes()
    assert open_image(image).size == (2, 4)
    assert (image.mode, image.size) == ("P", (4, 2))


# ---- orientation


def turn_back(pixels, orientation):
    """Return the pixels as a camera stores them that asks for this orientation."""
    stored = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: p.transpose(1, 0, 2)[::-1],
        7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
        8: lambda p: p.transpose(1, 0, 2)[:, ::-1],
    }
    return np.ascontiguousarray(stored[orientation](pixels))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "TIFF"])
def test_exif_orientation_is_honoured(orientation, kind):
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WebP": {"lossless": True}}.get(kind, {})
    upright = np.asarray(make_smooth(48, 32))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(turn_back(upright, orientation)), kind, exif=exif, **options)
    decoded = np.asarray(open_image(data)).astype(int)
    assert decoded.shape == upright.shape
    assert np.abs(decoded - upright).mean() < (4 if kind == "JPEG" else 0.01)


def test_damaged_metadata_do_not_warn():
    # a process of its own, since the test runner sets the filters of warnings back before every
    # test
    code = """
import io, sys
from PIL import Image
from squeezetune.data.pixels import open_image
buffer = io.BytesIO()
exif = b"Exif\\0\\0II*\\0\\x08\\0\\0\\0\\x09\\0\\x1a\\x01\\x05\\0\\x01\\0\\0\\0\\xff\\xff\\xff\\x7f"
Image.new("RGB", (8, 8)).save(buffer, "JPEG", exif=exif)
open_image(buffer.getvalue())
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


# ---- the reduced decoding of large JPEGs


def test_reduced_decoding_happens():
    data = encode(make_smooth(800, 800), "JPEG")
    assert open_image(data).size == (800, 800)
    assert open_image(data, 100).size == (200, 200)
    assert open_image(data, 101).size == (400, 400)
    assert open_image(data, 400).size == (800, 800)
    assert open_image(encode(make_smooth(800, 800).convert("L"), "JPEG"), 100).size == (200, 200)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_picture_is_found_in_a_reduced_and_turned_image(orientation):
    # 813 x 403 stored pixels are reduced to 204 x 101, of which the last column and row are partly
    # empty
    exif = Image.Exif()
    exif[0x0112] = orientation
    with open_photo(encode(make_smooth(813, 403), "JPEG", exif=exif), 50) as photo:
        pass
    left, top, right, bottom = photo.box
    is_sideways = orientation >= 5
    assert photo.size == ((403, 813) if is_sideways else (813, 403))
    assert photo.image.size == ((101, 204) if is_sideways else (204, 101))
    assert (right - left, bottom - top) == ((100.75, 203.25) if is_sideways else (203.25, 100.75))
    assert (left > 0) == (orientation in (2, 3, 6, 7))
    assert (top > 0) == (orientation in (3, 4, 7, 8))
    assert right <= photo.image.width
    assert bottom <= photo.image.height


def test_size_is_read_from_the_header_alone(make_photo):
    whole = make_photo(0, 400, 300)
    assert read_size(whole) == (400, 300)
    assert read_size(whole[: len(whole) * 2 // 3]) == (400, 300)  # its pixels are cut off
    assert read_size(Image.new("L", (5, 7))) == (5, 7)
    assert read_size(np.zeros((7, 5, 3), np.uint8)) == (5, 7)
    for damaged in (b"no image", whole[:12]):
        with pytest.raises(ImageError):
            read_size(damaged)


def test_the_memory_of_decoding_is_estimated_from_the_header(make_photo):
    plain = make_photo(1, 4000, 3000)
    reduced = estimate_memory(plain, 224)
    assert reduced == len(plain) + BYTES_A_PIXEL * 1000 * 750 + ROW_BYTES * 750
    assert estimate_memory(plain) == len(plain) + BYTES_A_PIXEL * 4000 * 3000 + ROW_BYTES * 3000
    progressive = make_photo(1, 4000, 3000, progressive=True)
    assert (
        estimate_memory(progressive, 224) - len(progressive)
        == reduced - len(plain) + 3 * 4000 * 3000
    )  # colours at half the size
    png = make_photo(1, 400, 300, "PNG")
    assert estimate_memory(png, 32) == len(png) + BYTES_A_PIXEL * 400 * 300 + ROW_BYTES * 300
    assert estimate_memory(np.zeros((30, 40, 3), np.uint8)) == BYTES_A_PIXEL * 1200
    with pytest.raises(ImageError):
        estimate_memory(plain[:20])
