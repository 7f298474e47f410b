"""A folder with everything that users' folders hold, through the whole run: what is used, what is
named.
"""

import hashlib
import json
import os
import struct
import sys
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from fast_options import FAST
from PIL import Image

from squeezetune.cli.main import main
from squeezetune.data.sources import folder as folders_module


def to_bytes(image, kind, **options):
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def make_png_bomb():
    """Write a PNG of a few bytes that claims 100,000 x 100,000 pixels."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def make_usable(draw_shape):
    """Make the odd images that are fine."""
    image = draw_shape("box", 900)
    exif = Image.Exif()
    exif[0x0112] = 6  # lying on its side
    grey16 = Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 257)
    frames = [draw_shape("box", 901), draw_shape("box", 902)]
    return {
        "box/cmyk.jpg": to_bytes(image.convert("CMYK"), "JPEG"),
        "box/grey16.png": to_bytes(grey16, "PNG"),
        "box/moving.gif": to_bytes(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "box/turned.jpg": to_bytes(draw_shape("box", 903), "JPEG", exif=exif),
        "box/palette.png": to_bytes(draw_shape("box", 904).convert("P"), "PNG"),
        "box/glass.png": to_bytes(draw_shape("box", 905).convert("RGBA"), "PNG"),
        'disc/it\'s "quoted" and\nbroken.png': to_bytes(draw_shape("disc", 906), "PNG"),
        "disc/крыса 鼠 🐀.webp": to_bytes(draw_shape("disc", 907), "WEBP"),
        "disc/no_ending": to_bytes(draw_shape("disc", 908), "BMP"),
        "disc/wrong.jpg": to_bytes(draw_shape("disc", 909), "TIFF"),
    }


def make_unusable(draw_shape):
    """Make the files that cannot be used, each with a word that its reason must hold."""
    whole = to_bytes(draw_shape("spike", 910, 400, 300), "JPEG")
    return {
        "spike/truncated.jpg": (whole[: len(whole) // 2], "cut short"),
        "spike/empty.jpg": (b"", "empty"),
        "spike/text.jpg": (b"this is no photo", "not an image"),
        "spike/bomb.png": (make_png_bomb(), "pixels"),
        "spike/secret.jpg": (to_bytes(draw_shape("spike", 911), "JPEG"), "permission"),
        "stray.png": (to_bytes(draw_shape("spike", 912), "PNG"), "class"),
    }


def fingerprint_tree(root):
    """Hash every name, link, content and time below a folder."""
    tree = hashlib.sha256()
    for folder, folders, files in os.walk(root):
        folders.sort()
        for name in sorted(files) + folders:
            path = Path(folder, name)
            status = path.lstat()
            tree.update(
                os.fsencode(path)
                + str((status.st_mtime_ns, status.st_size, status.st_mode)).encode()
            )
    return tree.hexdigest()


@pytest.fixture
def hostile_folder(write_shapes, draw_shape, tmp_path, monkeypatch):
    root = write_shapes(tmp_path / "photos", 10)
    unusable = {name: data for name, (data, _) in make_unusable(draw_shape).items()}
    for name, data in (make_usable(draw_shape) | unusable).items():
        (root / name).write_bytes(data)
    (root / "box" / "loop").symlink_to(root)
    (root / "box" / "outside.png").symlink_to("/etc/hostname")
    refuse_file(monkeypatch, "secret.jpg")
    return root


def refuse_file(monkeypatch, ending):
    """Refuse to open files of this name, as the system does to all but a superuser."""
    opened = folders_module.FileIO

    def guarded(path, *arguments):
        if os.fsdecode(path).endswith(ending):
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments)

    monkeypatch.setattr(folders_module, "FileIO", guarded)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows refuses such names and links")
def test_whole_run_over_a_hostile_folder(hostile_folder, draw_shape, tmp_path):
    before = fingerprint_tree(hostile_folder)
    result = CliRunner().invoke(
        main, ["train", str(hostile_folder), "-o", str(tmp_path / "model"), *FAST]
    )
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "model" / "report.json").read_text())
    assert report["data"]["images"] == 30 + len(make_usable(draw_shape))
    reasons = {item["name"]: item["reason"] for item in report["data"]["skipped"]}
    expected = {name: word for name, (_, word) in make_unusable(draw_shape).items()}
    expected |= {"box/loop": "symbolic link", "box/outside.png": "symbolic link"}
    assert set(reasons) == set(expected)
    for name, word in expected.items():
        assert word in reasons[name], (name, reasons[name])
    assert fingerprint_tree(hostile_folder) == before
    page = (tmp_path / "model" / "report.html").read_text()
    assert "truncated.jpg" in page
    assert f"{len(expected)} files were not used" in result.stdout


def test_a_class_of_broken_images_alone_is_an_error(write_shapes, tmp_path):
    root = write_shapes(tmp_path / "photos", 5)
    for path in (root / "box").glob("*.png"):
        path.write_bytes(path.read_bytes()[:200])
    result = CliRunner().invoke(main, ["train", str(root), "-o", str(tmp_path / "model"), *FAST])
    assert result.exit_code == 1
    assert "box" in result.stderr
    assert "too few" in result.stderr
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_ten_thousand_classes_of_one_image(tmp_path, make_photo):
    for number in range(10_000):
        folder = tmp_path / "photos" / f"class{number:05}"
        folder.mkdir(parents=True)
        (folder / "only.jpg").write_bytes(b"\xff\xd8\xff" + struct.pack("<I", number))
    result = CliRunner().invoke(
        main, ["train", str(tmp_path / "photos"), "-o", str(tmp_path / "model")]
    )
    assert result.exit_code == 1
    assert "10,000 classes" in result.stderr
    assert "9,995 more" in result.stderr
    assert len(result.stderr) < 1000
