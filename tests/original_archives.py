"""Archives of the known data sets in their original formats, as small as a test wants them."""

import io
import pickle
import struct
import tarfile
import zipfile
from typing import ClassVar

import numpy as np

CIFAR_BATCHES = (
    "data_batch_1",
    "data_batch_2",
    "data_batch_3",
    "data_batch_4",
    "data_batch_5",
    "test_batch",
)
CIFAR_FOLDERS = {"python": "cifar-10-batches-py", "binary": "cifar-10-batches-bin"}


class Python2Pickler(pickle._Pickler):
    """Writes what Python 2 wrote with protocol 2: its strings are bytes, and numpy's core has its
    old name.
    """

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_string(self, text):
        payload = text.encode("latin-1") if isinstance(text, str) else text
        if len(payload) < 256:
            self.write(pickle.SHORT_BINSTRING + bytes([len(payload)]) + payload)
        else:
            self.write(pickle.BINSTRING + struct.pack("<i", len(payload)) + payload)
        self.memoize(text)

    def save_name(self, value, name=None):
        module = value.__module__.replace("numpy._core", "numpy.core")
        self.write(pickle.GLOBAL + f"{module}\n{name or value.__qualname__}\n".encode())
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = save_string
    dispatch[type(np.arange)] = dispatch[type] = save_name

    def save_global(self, value, name=None):
        self.save_name(value, name)


def write_pickle(value):
    """Write a value as Python 2 did."""
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue()


def write_batch(pixels, labels, form):
    """Write a batch of CIFAR-10: pixels (n, 3072) and labels (n,)."""
    if form == "binary":
        return np.column_stack([labels.astype(np.uint8), pixels]).tobytes()
    names = [f"image_s_{number:06}.png".encode() for number in range(len(labels))]
    return write_pickle({b"batch_label": b"a batch", b"labels": labels.tolist(), b"data": pixels,
                         b"filenames": names})  # fmt: skip


def write_cifar10(batches, form):
    """Write the official archive of a form: `batches` are pixels and labels by name."""
    folder, ending = CIFAR_FOLDERS[form], {"python": "", "binary": ".bin"}[form]
    files = {
        f"{folder}/{name}{ending}": write_batch(*batch, form) for name, batch in batches.items()
    }
    return write_tar(
        {**files, f"{folder}/readme.html": b"<html>", f"{folder}/batches.meta.txt": b"airplane\n"}
    )


def make_rows(images):
    """Make rows of a batch (n, 3072) from images (n, 32, 32, 3)."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), -1)


def make_batches(per_batch=4, seed=0):
    """Make all batches of CIFAR-10 from noise."""
    rng = np.random.default_rng(seed)
    return {
        name: (rng.integers(0, 256, (per_batch, 3072), np.uint8), rng.integers(0, 10, per_batch))
        for name in CIFAR_BATCHES
    }


def lay_out_eth80(objects, layout):
    """Lay out ETH-80: `objects` are image files by view, by the object's name; masks lie beside."""
    classes = sorted({name.rstrip("0123456789") for name in objects})
    files = {}
    for name, views in objects.items():
        label = name.rstrip("0123456789")
        numbered = f"{classes.index(label) + 1}/{name.removeprefix(label)}"
        folder = f"eth80-cropped256/{name}" if layout == "original" else f"ETH-80-master/{numbered}"
        for view, image in views.items():
            files[f"{folder}/{name}-{view}.png"] = image
            files[f"{folder}/maps/{name}-{view}-map.png"] = b"\x89PNG a mask"
    return files


def lay_out_ar_faces(persons):
    """Lay out AR faces as they come from a Mac: `persons` are lists of image files by names such as
    M-001.
    """
    files = {"AR/readme.txt": b"conditions", "__MACOSX/AR/._readme.txt": b"x"}
    for person, images in persons.items():
        for number, image in enumerate(images, 1):
            files[f"AR/{person}-{number:02}.bmp"] = image
            files[f"__MACOSX/AR/._{person}-{number:02}.bmp"] = b"resource fork"
            files[f"__MACOSX/AR/{person}-{number:02}.bmp"] = b"BM something else"
    return files


def write_tar(files, mode="w:gz"):
    """Write files by path into a tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def write_zip(files):
    """Write files by path into a zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()
