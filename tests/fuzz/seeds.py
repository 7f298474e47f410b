"""Whole files of every kind that is read, to be damaged; all are small, and made from a fixed
seed.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import tarfile
import zipfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from original_archives import write_batch
from PIL import Image
from safetensors.numpy import save as pack_tensors

from squeezetune.network.weights import find_architecture

CLASSES = ("cat", "dog")
REAL_PHOTOS = 6
HEIC_PHOTOS = sorted(
    (Path(__file__).parents[1] / "photos").glob("*.heic")
)  # nothing that is installed writes them


def draw(seed, side=(24, 20)):
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(coarse).resize(side, Image.Resampling.BICUBIC)


def to_bytes(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def make_exif():
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x8769] = 6, "a camera", {0x9003: "2026:01:01 00:00:00"}
    return exif


@cache
def make_images():
    """Make images by format: plain and odd ones."""
    image, grey = draw(0), draw(1).convert("L")
    deep = Image.fromarray(np.asarray(grey, np.uint16) * 257)
    frames = [draw(seed) for seed in (2, 3)]
    glass = draw(4).convert("RGBA")
    moving = {"save_all": True, "append_images": frames}
    floats = Image.fromarray(np.asarray(grey, np.float32) / 255)
    return {
        "jpeg": [
            to_bytes(image, "JPEG"),
            to_bytes(image, "JPEG", exif=make_exif(), progressive=True),
            to_bytes(image.convert("CMYK"), "JPEG"),
            to_bytes(grey, "JPEG", comment=b"hello", dpi=(72, 72)),
            to_bytes(
                draw(5, (200, 160)), "JPEG", quality=30, optimize=True, icc_profile=b"profile" * 20
            ),
        ],
        "png": [
            to_bytes(image, "PNG", exif=make_exif()),
            to_bytes(deep, "PNG"),
            to_bytes(image.convert("P"), "PNG", transparency=3),
            to_bytes(glass, "PNG"),
            to_bytes(grey.convert("1"), "PNG"),
            to_bytes(image, "PNG", **moving),
        ],
        "webp": [
            to_bytes(image, "WEBP", exif=make_exif()),
            to_bytes(glass, "WEBP", lossless=True),
            to_bytes(image, "WEBP", **moving),
        ],
        "bmp": [
            to_bytes(image, "BMP"),
            to_bytes(image.convert("P"), "BMP"),
            to_bytes(grey.convert("1"), "BMP"),
            to_bytes(glass, "BMP"),
        ],
        "gif": [
            to_bytes(image, "GIF"),
            to_bytes(image.convert("P"), "GIF", **moving, transparency=1),
        ],
        "tiff": [
            to_bytes(image, "TIFF"),
            to_bytes(deep, "TIFF", compression="tiff_lzw"),
            to_bytes(image.convert("CMYK"), "TIFF", compression="tiff_adobe_deflate"),
            to_bytes(floats, "TIFF"),
            to_bytes(image, "TIFF", compression="jpeg"),
            to_bytes(image, "TIFF", **moving),
            to_bytes(image, "TIFF", big_tiff=True),
        ],
        "avif": [
            to_bytes(image, "AVIF", exif=make_exif()),
            to_bytes(glass, "AVIF"),
            to_bytes(image, "AVIF", **moving),
        ],
        "jp2": [
            to_bytes(image, "JPEG2000"),
            to_bytes(glass, "JPEG2000"),
            to_bytes(grey, "JPEG2000", no_jp2=True),
            to_bytes(deep, "JPEG2000"),
        ],
        "pnm": [
            to_bytes(image, "PPM"),
            to_bytes(grey, "PPM"),
            to_bytes(grey.convert("1"), "PPM"),
            to_bytes(floats, "PPM"),
            b"P3\n# a comment\n3 2 255\n" + b"9 8 7 " * 6,
            b"P5 4 3 4095 " + bytes(24),
        ],
        "tga": [
            to_bytes(image, "TGA"),
            to_bytes(glass, "TGA", compression="tga_rle"),
            to_bytes(image.convert("P"), "TGA"),
            to_bytes(grey, "TGA"),
        ],
        **({"heic": [path.read_bytes() for path in HEIC_PHOTOS]} if find_spec("pi_heif") else {}),
    }


def unpack_real_photos(data, folder):
    """Unpack some real photos, evenly spread over each zip archive in a folder, into another
    one.
    """
    for archive in sorted(Path(data).glob("*.zip")):
        with zipfile.ZipFile(archive) as photos:
            names = [name for name in photos.namelist() if name.lower().endswith((".jpg", ".png"))]
            for number, name in enumerate(
                names[:: max(1, len(names) // REAL_PHOTOS)][:REAL_PHOTOS]
            ):
                path = Path(folder) / f"{archive.stem}-{number}{Path(name).suffix.lower()}"
                path.write_bytes(photos.read(name))


def add_real_photos(images, folder):
    """Add real photos, JPEG and PNG files in a folder, to the made ones."""
    for kind, ending in (("jpeg", "*.jpg"), ("png", "*.png")):
        images[kind] += [path.read_bytes() for path in sorted(Path(folder).glob(ending))]


def list_photos():
    """Make the files of a small folder: two classes with three photos each."""
    return {
        f"{label}/{at}.jpg": to_bytes(draw(10 * at + len(label)), "JPEG")
        for label in CLASSES
        for at in range(3)
    }


def make_zips():
    found = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            archive.comment = b"photos"
            for name, photo in list_photos().items():
                archive.writestr(f"photos/{name}", photo)
        found.append(buffer.getvalue())
    return found


def make_tar(files, form=tarfile.GNU_FORMAT):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def make_tars():
    long = {
        f"photos/{name.replace('/', '/' + 'long' * 40 + '/')}": photo
        for name, photo in list_photos().items()
    }
    return [make_tar(list_photos()), make_tar(long), make_tar(long, tarfile.PAX_FORMAT)]


def make_shards():
    files = {}
    for at, (name, photo) in enumerate(list_photos().items()):
        label = name.partition("/")[0]
        about = (
            {f"{at}.cls": label.encode()}
            if at % 2
            else {f"{at}.json": json.dumps({"label": label}).encode()}
        )
        files |= {f"{at}.jpg": photo} | about
    return [make_tar(files)]


def make_tables():
    """Make tables of the photos, comma and tab between the columns, with all columns that are
    known.
    """
    found = []
    for delimiter in ",\t;":
        text = io.StringIO()
        writer = csv.writer(text, delimiter=delimiter)
        writer.writerow(["file", "class", "split", "group"])
        for at, name in enumerate(list_photos()):
            writer.writerow(
                [name, name.partition("/")[0], ("train", "val", "test")[at % 3], f"{at}"]
            )
        found.append(text.getvalue().encode())
    return [*found, "\n".join(f'"{name}",{name[:3]}' for name in list_photos()).encode()]


def make_parquets():
    """Make Parquet files, with names of the classes as the `datasets` library writes them; none
    without pyarrow.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return []
    photos = list_photos()
    labels = [CLASSES.index(name.partition("/")[0]) for name in photos]
    about = {"info": {"features": {"label": {"names": list(CLASSES), "_type": "ClassLabel"}}}}
    nested = pyarrow.array([{"bytes": photo, "path": name} for name, photo in photos.items()])
    tables = [
        pyarrow.table({"image": nested, "label": labels}).replace_schema_metadata(
            {"huggingface": json.dumps(about)}
        ),
        pyarrow.table(
            {
                "image": list(photos.values()),
                "label": [str(label) for label in labels],
                "group": labels,
            }
        ),
    ]
    found = []
    for table, compression in zip(tables, ("snappy", "none"), strict=True):
        buffer = io.BytesIO()
        parquet.write_table(table, buffer, row_group_size=4, compression=compression)
        found.append(buffer.getvalue())
    return found


def make_arrays():
    """Make numpy's files: two archives of arrays, and an array of images."""
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
    labels = np.arange(6) % 2
    found = []
    for save in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        save(buffer, x_train=images, y_train=labels, x_test=images, y_test=labels.astype(str))
        found.append(buffer.getvalue())
    return found, [to_npy(images), to_npy(images[..., 0]), to_npy(np.asfortranarray(images))]


def to_npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def make_tgzs():
    """Make compressed tar archives; none where a file without a name cannot be made, to which they
    are unpacked.
    """
    packers = (gzip.compress, bz2.compress, lzma.compress) if hasattr(os, "O_TMPFILE") else ()
    return [pack(make_tars()[0]) for pack in packers]


def make_batches():
    """Make batches of CIFAR-10 by format, of two images, as they are published."""
    pixels, labels = np.arange(2 * 3072).reshape(2, 3072).astype(np.uint8), np.array([3, 5])
    return {form: write_batch(pixels, labels, form) for form in ("binary", "python")}


def make_weights():
    """Make files of weights: a whole network of two classes, and a torn one."""
    whole = {
        name: np.zeros(shape, np.float16)
        for name, shape in find_architecture("1.1").list_shapes(2).items()
    }
    some = {name: tensor.astype(np.float32) for name, tensor in list(whole.items())[:2]}
    return [
        pack_tensors(some, {"license": "MIT"}),
        pack_tensors(some),
        pack_tensors(whole, {"license": "MIT"}),
    ]


def make_model():
    """Make the files of a model: means of the colours as probabilities of three classes."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Cast", ["image"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["numbers", "axes"], ["means"], keepdims=0),
        helper.make_node("Softmax", ["means"], ["probabilities"]),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", "h", "w", 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(np.array([1, 2]), "axes")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return model.SerializeToString()
