"""What is done with a damaged file: all that a run would do with it. Whatever is raised must be an
error of ours.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import seeds
from mutations import mutate, mutate_json, repair_png, repair_tar

from squeezetune.data.datasets.cifar10 import FORMATS, read_cifar10
from squeezetune.data.decoding import estimate_memory, open_image, read_size
from squeezetune.data.index import index_photos
from squeezetune.data.sources.content import hash_image
from squeezetune.errors import SqueezeTuneError
from squeezetune.model.artifact import MANIFEST, MODEL, NETWORK, REPORT, check_target, to_json
from squeezetune.model.classifier import load
from squeezetune.network.pretrained import read_pretrained
from squeezetune.system.checkpoint import CheckpointFolder, _checksum

SIDE = 16
READ_IMAGES = 3


class Straight:
    """Does one thing after the other, so that a failure belongs to its case."""

    def map(self, function, items):
        return map(function, items)


@dataclass(frozen=True)
class Target:
    """A kind of file: whole ones, what reads a damaged one in a folder, and what mends its
    checksums.
    """

    seeds: Sequence[bytes]
    read: Callable[[bytes, Path], None]
    repair: Callable[[bytes], bytes] | None = None
    weight: int = 1
    mutate: Callable[..., bytes] = mutate


def read_image(data: bytes, folder: Path) -> None:
    for read in (
        hash_image,
        read_size,
        partial(estimate_memory, min_side=SIDE),
        partial(open_image, min_side=SIDE),
    ):
        with suppress(SqueezeTuneError):
            read(data)
    image = open_image(data)
    assert image.mode == "RGB"
    assert np.asarray(image).shape[2] == 3


def read_source(name: str, data: bytes, folder: Path) -> None:
    """Index a file with images in it, and decode the first."""
    path = folder / name
    path.write_bytes(data)
    read_path(path)


def read_path(path: Path) -> None:
    index = index_photos(path, executor=Straight())
    assert len(index.names) == len(index.labels) == len(index.digests)
    for name in index.names[:READ_IMAGES]:
        with suppress(SqueezeTuneError):
            open_image(index.source.read(name), SIDE)


def read_table(ending: str, data: bytes, folder: Path) -> None:
    for name, photo in seeds.list_photos().items():
        if not (folder / name).exists():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(photo)
    read_source(f"table{ending}", data, folder)


def read_shards(data: bytes, folder: Path) -> None:
    (folder / "shards").mkdir()
    (folder / "shards" / "a-1.tar").write_bytes(seeds.make_shards()[0])
    (folder / "shards" / "a-2.tar").write_bytes(data)
    read_path(folder / "shards")


def read_npy(data: bytes, folder: Path) -> None:
    np.save(folder / "labels.npy", np.arange(6) % 2)
    read_source("photos.npy", data, folder)


def read_labels(data: bytes, folder: Path) -> None:
    np.save(folder / "photos.npy", np.arange(6 * 64, dtype=np.uint8).reshape(6, 8, 8))
    (folder / "labels.npy").write_bytes(data)
    read_path(folder / "photos.npy")


@dataclass(frozen=True)
class Batch:
    """A source of one file, a batch of CIFAR-10."""

    data: bytes

    def read(self, name: str) -> bytes:
        return self.data

    read_bytes = digest = describe = read


def read_batch(form: str, data: bytes, folder: Path) -> None:
    for name, photo in read_cifar10(Batch(data), [f"data_batch_1{FORMATS[form][0]}"], form):
        assert name.startswith("train/")
        assert open_image(photo).size == (32, 32)


def read_weights(data: bytes, folder: Path) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes(data)
    read_pretrained(path)


def read_model(damaged: str, data: bytes, folder: Path) -> None:
    """Load a model of which one file is damaged, and let it say what is on an image."""
    model = folder / "model"
    if not model.exists():
        write_model(model)
    (model / damaged).write_bytes(data)
    check_target(model)
    classifier = load(model)
    report = classifier.report
    assert isinstance(report, dict)
    prediction = classifier.predict(np.zeros((8, 8, 3), np.uint8))
    assert prediction.label in classifier.class_names


def write_model(model: Path) -> None:
    files = {MODEL: seeds.make_model(), NETWORK: b"network"}
    model.mkdir()
    for name, data in files.items():
        (model / name).write_bytes(data)
    (model / MANIFEST).write_bytes(make_manifest(files))
    (model / REPORT).write_bytes(REPORT_TEXT)


def make_manifest(files: dict[str, bytes]) -> bytes:
    about = {
        "format": "squeezetune-model",
        "format_version": 1,
        "class_names": ["red", "green", "blue"],
        "image_side": 8,
        "resize": "squash",
        "views": 1,
        "settings": {},
        "data": {},
        "libraries": {},
        "version": "0.1.0",
        "created": "2026-01-01T00:00:00Z",
        "weights": {"origin": "x", "license": "y"},
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }
    return to_json(about)


REPORT_TEXT = to_json(
    {"test": {"accuracy": 1.0, "interval": [0.5, 1.0], "count": 3}, "model": {"network": "x"}}
)


def read_checkpoint(damaged: str, data: bytes, folder: Path) -> None:
    """Look for the newest checkpoint that is whole, of two of which the newer one is damaged."""
    unfinished = CheckpointFolder(folder / "unfinished")
    if not unfinished.path.exists():
        for epoch in range(2):
            unfinished.save({"a": np.full(3, epoch)}, {"identity": {"photos": "x"}, "epoch": epoch})
    (unfinished.path / damaged).write_bytes(data)
    found = unfinished.load({"photos": "x"})
    assert found is None or found.tensors["a"].shape == (3,)


def seal_checkpoint(data: bytes) -> bytes:
    """Make the checksum of a manifest right again."""
    try:
        content = json.loads(data)
        content.pop("checksum", None)
        return json.dumps(content | {"checksum": _checksum(content)}).encode()
    except (ValueError, RecursionError, AttributeError, TypeError):
        return data


def list_checkpoint(scratch: Path) -> dict[str, bytes]:
    folder = CheckpointFolder(scratch / "sample")
    for epoch in range(2):
        folder.save({"a": np.full(3, epoch)}, {"identity": {"photos": "x"}, "epoch": epoch})
    return {path.name: path.read_bytes() for path in folder.path.iterdir() if "000002" in path.name}


def list_targets(scratch: Path, data: Path | None = None) -> dict[str, Target]:
    """List all kinds of files; `scratch` is a folder to write to, `data` one with real photos."""
    images = {kind: list(files) for kind, files in seeds.make_images().items()}
    if data:
        seeds.add_real_photos(images, data)
    targets = {
        kind: Target(files, read_image, repair_png if kind == "png" else None, 4)
        for kind, files in images.items()
    }
    npz, npy = seeds.make_arrays()
    manifest = make_manifest({MODEL: seeds.make_model(), NETWORK: b"network"})
    checkpoint = list_checkpoint(scratch)
    state, sealed = (
        next(name for name in checkpoint if name.startswith(start))
        for start in ("state", "checkpoint")
    )
    targets |= {
        "zip": Target(seeds.make_zips(), partial(read_source, "photos.zip"), None, 2),
        "tar": Target(seeds.make_tars(), partial(read_source, "photos.tar"), repair_tar, 2),
        "shard": Target(seeds.make_shards(), partial(read_source, "photos.tar"), repair_tar, 2),
        "shards": Target(seeds.make_shards(), read_shards, repair_tar),
        "tgz": Target(seeds.make_tgzs(), partial(read_source, "photos.tgz")),
        **{
            f"cifar-{form}": Target([data], partial(read_batch, form))
            for form, data in seeds.make_batches().items()
        },
        "csv": Target(seeds.make_tables(), partial(read_table, ".csv"), None, 2),
        "tsv": Target(seeds.make_tables(), partial(read_table, ".tsv")),
        "parquet": Target(seeds.make_parquets(), partial(read_source, "photos.parquet"), None, 2),
        "npz": Target(npz, partial(read_source, "photos.npz"), None, 2),
        "npy": Target(npy, read_npy, None, 2),
        "labels": Target(
            [seeds.to_npy(np.arange(6) % 2), seeds.to_npy(np.array(list("ababab")))], read_labels
        ),
        "safetensors": Target(seeds.make_weights(), read_weights, None, 2),
        "manifest": Target([manifest], partial(read_model, MANIFEST), None, 2, mutate_json),
        "report": Target([REPORT_TEXT], partial(read_model, REPORT), mutate=mutate_json),
        "state": Target([checkpoint[state]], partial(read_checkpoint, state)),
        "checkpoint": Target(
            [checkpoint[sealed]], partial(read_checkpoint, sealed), seal_checkpoint, 1, mutate_json
        ),
    }
    return {name: target for name, target in targets.items() if target.seeds}
