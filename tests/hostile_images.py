"""Files that are made to take memory or time, or that never end: each of a few kilobytes, or with
holes.
"""

import os
import socket
import struct
import zlib
from io import BytesIO

from PIL import Image

MB = 1_000_000


def make_png(width, height, depth=8, colour=0, rows=None):
    """Write a black PNG without ever holding its pixels; perhaps with fewer rows than it says."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    samples = {0: 1, 2: 3, 6: 4}[colour]
    row_bytes = 1 + -(-width * samples * depth // 8)
    packer, packed, left = zlib.compressobj(1), [], row_bytes * (height if rows is None else rows)
    while left > 0:
        packed.append(packer.compress(bytes(min(left, 1 << 20))))
        left -= 1 << 20
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = b"".join(packed) + packer.flush()
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def encode(image, kind, **options):
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


# Shapes that took gigabytes or minutes, and the largest of each kind that is admitted or just not.
SHAPES = {
    "tall.png": lambda: make_png(1, 4_000_000),
    "taller.png": lambda: make_png(1, 16_000_000),
    "wide.png": lambda: make_png(49_000_000, 1),
    "wider.png": lambda: make_png(178_956_970, 1, depth=1),
    "column.png": lambda: make_png(180, 65_535, colour=2),
    "stripe.png": lambda: make_png(65_535, 180, colour=2),
    "narrow.png": lambda: make_png(890, 65_535, colour=2),
    "narrow-rgba.png": lambda: make_png(700, 65_535, colour=6),
    "large-grey.png": lambda: make_png(13_000, 13_000),
    "large-rgb.png": lambda: make_png(12_000, 12_000, colour=2),
    "large-rgba.png": lambda: make_png(12_000, 12_000, colour=6),
    "large-deep.png": lambda: make_png(12_000, 12_000, depth=16),
    "too-large.png": lambda: make_png(13_300, 13_300, colour=2),
    "bomb.png": lambda: make_png(60_000, 60_000, rows=100),
    "cut.png": lambda: make_png(7_000, 7_000, colour=2, rows=16),
    "large.webp": lambda: encode(Image.new("RGB", (5_500, 5_500)), "WEBP", method=0),
    "progressive.jpg": lambda: encode(Image.new("RGB", (9_000, 9_000)), "JPEG", progressive=True),
    "plain.pgm": lambda: b"P2 2000 2000 255\n" + b"7 " * 4_000_000,
    "plain-bomb.pgm": lambda: b"P2 9999 9999 255\n" + b"7 " * 1000,
    "12-bit.pgm": lambda: b"P5 2000 2000 4095\n" + bytes(8_000_000),
}


def write_shapes(folder, names=None):
    """Write the shapes into a folder; return their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in SHAPES.items():
        if names is None or name in names:
            (folder / name).write_bytes(make())


def write_endless(folder):
    """Write what is no photo, or has no end: files with holes, a pipe, a socket, and links to
    devices.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, head in (
        ("video.mp4", b"\0\0\0\x20ftypisom"),
        ("huge.jpg", b"\xff\xd8\xff\xe0"),
        ("zeros.png", b""),
    ):
        with (folder / name).open("wb") as file:
            file.write(head)
            file.truncate(1500 * MB)
    os.mkfifo(folder / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(folder / "socket.jpg"))
