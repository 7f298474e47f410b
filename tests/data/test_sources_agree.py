"""The same images give the same index, features and model, to the byte, wherever they come from."""

import io
import tarfile
import zipfile

import numpy as np
import pytest

from squeezetune.data.index import index_images, index_photos
from squeezetune.training import train

pytestmark = pytest.mark.usefixtures("no_plots")


def list_photos(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*.*"))
    }


def write_zip(photos, root):
    with zipfile.ZipFile(root / "photos.zip", "w") as archive:
        for name, photo in photos.items():
            archive.writestr(f"my photos/{name}", photo)
    return root / "photos.zip"


def add_file(archive, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def write_tar(photos, root):
    with tarfile.open(root / "photos.tar", "w") as archive:
        for name, photo in reversed(photos.items()):
            add_file(archive, name, photo)
    return root / "photos.tar"


def write_compressed(photos, root):
    with tarfile.open(root / "photos.tar.xz", "w:xz") as archive:
        for name, photo in photos.items():
            add_file(archive, f"my photos/{name}", photo)
    return root / "photos.tar.xz"


def write_shards(photos, root):
    (root / "shards").mkdir()
    for shard in range(2):
        with tarfile.open(root / "shards" / f"{shard}.tar", "w") as archive:
            for at, (name, photo) in enumerate(list(photos.items())[shard::2]):
                add_file(archive, f"{at:05}.jpg", photo)
                add_file(archive, f"{at:05}.cls", name.split("/")[0].encode())
    return root / "shards"


def write_csv(photos, root):
    for at, photo in enumerate(photos.values()):
        (root / f"{at}.bin").write_bytes(photo)
    rows = [f"{at}.bin,{name.split('/')[0]}" for at, name in enumerate(photos)]
    (root / "photos.csv").write_text("file,class\n" + "\n".join(rows))
    return root / "photos.csv"


def write_parquet(photos, root):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is an extra")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table(
        {"image": list(photos.values()), "label": [name.split("/")[0] for name in photos]}
    )
    parquet.write_table(
        table.take(np.random.default_rng(0).permutation(len(photos))), root / "a.parquet"
    )
    return root / "a.parquet"


def pair(photos, root):
    return [(photo, name.split("/")[0]) for name, photo in photos.items()]


WRITERS = {
    "zip": write_zip,
    "tar": write_tar,
    "tar.xz": write_compressed,
    "shards": write_shards,
    "csv": write_csv,
    "parquet": write_parquet,
    "pairs": pair,
}


def scan(photos, executor):
    if isinstance(photos, list):
        return index_images(*zip(*photos, strict=True), executor=executor)
    return index_photos(photos, executor=executor)


def train_quickly(photos, folder, settings):
    return train(photos, folder / "model", settings, effort="quick", use_cache=False)


@pytest.fixture(scope="module")
def trained(shape_folder, fixed_settings, tmp_path_factory):
    return train_quickly(shape_folder, tmp_path_factory.mktemp("folder"), fixed_settings)


@pytest.fixture(params=WRITERS)
def photos(request, shape_folder, tmp_path):
    return WRITERS[request.param](list_photos(shape_folder), tmp_path)


def test_all_sources_give_the_same_index(photos, shape_folder, executor):
    index, whole = scan(photos, executor), index_photos(shape_folder, executor=executor)
    assert index.class_names == whole.class_names
    assert index.fingerprint == whole.fingerprint


# what the others give are files too, in memory or in an archive
USUAL = ("zip", "parquet", "pairs")


@pytest.mark.parametrize(
    "photos",
    [pytest.param(kind, marks=() if kind in USUAL else pytest.mark.slow) for kind in WRITERS],
    indirect=True,
)
def test_all_sources_give_the_same_model(photos, fixed_settings, trained, tmp_path):
    model = train_quickly(photos, tmp_path, fixed_settings)
    for name in ("model.onnx", "network.safetensors"):
        assert (model.folder / name).read_bytes() == (trained.folder / name).read_bytes()
    tests = [each.report["test"] for each in (model, trained)]
    assert tests[0]["count"] == tests[1]["count"]
    assert tests[0]["accuracy"] == tests[1]["accuracy"]


def test_arrays_give_what_the_same_arrays_in_memory_give(shape_folder, fixed_settings, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (60, 64, 64, 3), np.uint8)
    images[::3, :32] //= 4
    images[1::3, :, :32] //= 4
    labels = np.arange(60) % 3
    np.savez(tmp_path / "photos.npz", images=images, labels=labels)
    np.save(tmp_path / "photos.npy", images)
    np.save(tmp_path / "labels.npy", labels)
    sources = (
        list(zip(images, labels.tolist(), strict=True)),
        tmp_path / "photos.npz",
        tmp_path / "photos.npy",
    )
    models = [
        train_quickly(photos, tmp_path / str(at), fixed_settings)
        for at, photos in enumerate(sources)
    ]
    first, *others = ((model.folder / "model.onnx").read_bytes() for model in models)
    assert all(other == first for other in others)
