import hashlib
import subprocess
import sys
import zipfile
from dataclasses import replace
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
from original_archives import (
    CIFAR_BATCHES,
    lay_out_ar_faces,
    lay_out_eth80,
    make_batches,
    make_rows,
    write_cifar10,
    write_tar,
    write_zip,
)
from PIL import Image

from squeezetune.data.datasets import packing
from squeezetune.data.datasets.fetching import fetch_dataset
from squeezetune.data.index import index_photos
from squeezetune.data.sources import catalog
from squeezetune.data.sources.catalog import Archive
from squeezetune.errors import DataError, SettingsError, SourceError
from squeezetune.events import Notice, StageAdvanced, StageFinished, StageStarted

FORMATS = ("binary", "python")


@pytest.fixture
def publish(web_site, monkeypatch, empty_cache):
    """Put the archives of a data set on the web site, in place of the published ones, with their
    MD5 or none.
    """

    def put(name, archives, has_checksum=True):
        published = {}
        for form, (file, content) in archives.items():
            web_site.files[file] = content
            md5 = {"md5": hashlib.md5(content).hexdigest()} if has_checksum else {}
            published[form] = Archive(f"{web_site.address}/{file}", 1, md5)
        dataset = replace(catalog.DATA_SETS[name], archives=published)
        monkeypatch.setattr(catalog, "DATA_SETS", {**catalog.DATA_SETS, name: dataset})
        return dataset

    return put


@pytest.fixture
def cifar10(publish):
    """Publish a small CIFAR-10 in all of its formats."""
    batches = make_batches()
    archives = {form: (f"cifar-10-{form}.tar.gz", write_cifar10(batches, form)) for form in FORMATS}
    return publish("cifar10", archives)


@pytest.fixture
def objects(make_photo):
    return {
        f"{name}{number}": {
            f"{view:03}-000": make_photo(10 * number + view, kind="PNG") for view in range(3)
        }
        for name in ("apple", "cow")
        for number in range(1, 4)
    }


@pytest.fixture
def eth80(publish, objects):
    """Publish a small ETH-80 in its original layout, without a checksum as the original has
    none.
    """
    content = write_tar(lay_out_eth80(objects, "original"))
    return publish("eth80", {"": ("eth80-cropped256.tgz", content)}, has_checksum=False)


def list_all(folder):
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def list_images(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def list_notices(events):
    return [event.message for event in events if isinstance(event, Notice)]


# ---- fetched


@pytest.mark.parametrize("form", ["", *FORMATS])
def test_cifar10_is_fetched_in_every_format(cifar10, web_site, empty_cache, executor, form):
    events = []
    path = fetch_dataset("cifar10", archive_format=form, listen=events.append)
    assert [asked for asked, _ in web_site.asked] == [f"cifar-10-{form or 'binary'}.tar.gz"]
    assert path == empty_cache / "datasets" / "cifar10.zip"
    assert list_all(empty_cache) == ["datasets/cifar10.zip"]  # the archive is not needed any more
    assert len(list_images(path)) == 24
    index = index_photos(path, executor=executor)
    assert np.bincount(index.parts).tolist() == [20, 0, 4]
    stages = [event.stage for event in events if isinstance(event, StageStarted)]
    assert stages == ["archive", "packing"]
    assert [event.stage for event in events if isinstance(event, StageFinished)] == stages
    [notice] = list_notices(events)
    assert notice.startswith("cifar10: 24 images in")
    assert notice.endswith(
        "the original has 60,000, in 10 folders of 5,000 and 10 folders of 1,000"
    )


def test_all_formats_give_the_same_file(cifar10, web_site, tmp_path):
    files = [
        fetch_dataset("cifar10", tmp_path / f"{form}.zip", archive_format=form) for form in FORMATS
    ]
    assert len(web_site.asked) == 2
    assert len({path.read_bytes() for path in files}) == 1


def test_what_is_here_is_left_as_it_is(cifar10, web_site, tmp_path):
    path, events = fetch_dataset("cifar10"), []
    path.write_bytes(b"mine")
    web_site.asked.clear()
    assert fetch_dataset("cifar10", listen=events.append) == path
    assert list_notices(events) == [f"cifar10 is here already: {path}"]
    assert path.read_bytes() == b"mine"
    assert fetch_dataset("cifar10", tmp_path / "new" / "a.zip").read_bytes() == b"mine"
    assert list_all(tmp_path / "new") == ["a.zip"]
    assert web_site.asked == []


def test_eth80_keeps_the_bytes_of_its_images_and_tells_what_came(eth80, objects, web_site):
    events = []
    images = list_images(fetch_dataset("eth80", listen=events.append))
    assert images == {
        f"{name[:-1]}/{name}/{name}-{view}.png": content
        for name, views in objects.items()
        for view, content in views.items()
    }
    seen, counts = list_notices(events)
    assert hashlib.sha256(web_site.files["eth80-cropped256.tgz"]).hexdigest() in seen
    assert "18 images in 6 folders of 3; the original has 3,280, in 80 folders of 41" in counts


def test_the_number_of_images_is_not_told_where_it_is_right(eth80, objects, monkeypatch):
    right = replace(catalog.DATA_SETS["eth80"], folders={3: 6})
    monkeypatch.setattr(catalog, "DATA_SETS", {"eth80": right})
    events = []
    fetch_dataset("eth80", listen=events.append)
    assert len(list_notices(events)) == 1


def test_a_mirror_is_held_against_the_published_checksum(cifar10, web_site, tmp_path):
    right = web_site.files["cifar-10-python.tar.gz"]
    web_site.files["mirror/cifar-10-python.tar.gz"] = right
    url = f"{web_site.address}/mirror/cifar-10-python.tar.gz?download=1"
    assert len(list_images(fetch_dataset("cifar10", url=url))) == 24
    web_site.files["mirror/cifar-10-python.tar.gz"] = right[:-1] + b"?"
    with pytest.raises(SourceError, match=r"without the MD5 .* deleted") as caught:
        fetch_dataset("cifar10", tmp_path / "a.zip", url=url)
    assert "squeezetune data cifar10 --from cifar-10-python.tar.gz" in caught.value.hint
    web_site.files["mine.zip"] = write_zip({"data_batch_1.bin": bytes(3073)})
    events = []
    fetch_dataset("cifar10", url=f"{web_site.address}/moved/mine.zip", listen=events.append)
    assert "no checksum is published" in list_notices(events)[0]


def test_wrong_bytes_leave_nothing(cifar10, web_site, empty_cache):
    web_site.files["cifar-10-binary.tar.gz"] += b"?"
    with pytest.raises(SourceError, match="without the MD5"):
        fetch_dataset("cifar10")
    assert list_all(empty_cache) == []


def test_a_download_that_breaks_off_goes_on_in_the_next_call(cifar10, web_site, empty_cache):
    web_site.breaks = [10_000, 0]
    with pytest.raises(SourceError, match="broke off after 10,000"):
        fetch_dataset("cifar10")
    assert len(list_all(empty_cache)) == 1
    fetch_dataset("cifar10")
    assert web_site.ranges[-1] == "bytes=10000-"
    assert list_all(empty_cache) == ["datasets/cifar10.zip"]


def test_an_interrupted_packing_keeps_the_download(cifar10, web_site, empty_cache, monkeypatch):
    def interrupt(event):
        if isinstance(event, StageAdvanced) and event.stage == "packing":
            raise KeyboardInterrupt

    monkeypatch.setattr(packing, "TELL_EVERY", 8)
    with pytest.raises(KeyboardInterrupt):
        fetch_dataset("cifar10", listen=interrupt)
    [kept] = list_all(empty_cache)
    assert kept.startswith("datasets/downloads/")
    web_site.asked.clear()
    fetch_dataset("cifar10")
    assert web_site.asked == []
    assert list_all(empty_cache) == ["datasets/cifar10.zip"]


def test_a_full_disk_keeps_the_download(eth80, web_site, empty_cache, monkeypatch):
    def fill(file):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(packing, "os", SimpleNamespace(fsync=fill))
        with pytest.raises(DataError, match="cannot be written: no space left"):
            fetch_dataset("eth80")
    assert list_all(empty_cache)[0].endswith("eth80-cropped256.tgz")
    web_site.asked.clear()
    fetch_dataset("eth80")
    assert web_site.asked == []


@pytest.mark.parametrize(
    "content",
    [
        b"<html>Please log in</html>",
        b"",
        write_tar({"readme.txt": b"x"}),
        write_tar({"eth80/apple1-000-000.png": bytes(9999)})[:-20],
    ],
    # an archive holds the time, so that its bytes would name the test
    # otherwise on each worker
    ids=["a page", "nothing", "another archive", "a part"],
)
def test_what_is_not_the_data_set_is_not_kept(eth80, web_site, empty_cache, content):
    web_site.files["eth80-cropped256.tgz"] = content
    with pytest.raises(SourceError, match=r"eth80-cropped256.tgz' (holds no image|cannot be)"):
        fetch_dataset("eth80")
    assert list_all(empty_cache) == []


def test_a_site_that_refuses_is_quoted_with_a_way_out(cifar10, web_site):
    web_site.status = 404
    with pytest.raises(SourceError, match="the server says 404") as caught:
        fetch_dataset("cifar10")
    assert "--from cifar-10-binary.tar.gz" in caught.value.hint


# ---- brought


def test_ar_faces_has_to_be_brought(empty_cache, make_photo, tmp_path):
    with pytest.raises(
        SourceError, match="AR faces cannot be fetched: for academic research only"
    ) as caught:
        fetch_dataset("ar-faces")
    assert "ARdatabase.html" in caught.value.hint
    assert "Martinez" in caught.value.hint
    persons = {f"{sex}-001": [make_photo(at, kind="BMP") for at in range(26)] for sex in "MW"}
    (tmp_path / "AR.zip").write_bytes(write_zip(lay_out_ar_faces(persons)))
    path = fetch_dataset("ar-faces", source=tmp_path / "AR.zip")
    assert (tmp_path / "AR.zip").is_file()
    images = list_images(path)
    assert len(images) == 52
    assert images["w-001/w-001-26.bmp"] == persons["W-001"][25]


@pytest.mark.parametrize("layout", ["original", "numbers"])
@pytest.mark.parametrize("kind", ["folder", "zip", "tgz", "tar"])
def test_archives_and_folders_of_ones_own_give_the_same(
    objects, write_files, tmp_path, empty_cache, eth80, layout, kind
):
    files = lay_out_eth80(objects, layout)
    if kind == "folder":
        source = write_files(files)
    else:
        source = tmp_path / f"mine.{kind}"
        source.write_bytes(
            write_zip(files)
            if kind == "zip"
            else write_tar(files, "w:gz" if kind == "tgz" else "w")
        )
    brought = fetch_dataset("eth80", tmp_path / "a.zip", source=str(source))
    assert brought.read_bytes() == fetch_dataset("eth80", tmp_path / "b.zip").read_bytes()
    assert source.exists()


def test_what_is_brought_replaces_what_is_here(eth80, objects, write_files, empty_cache):
    path = fetch_dataset("eth80")
    few = write_files({"apple1-000-000.png": objects["apple1"]["000-000"]})
    assert fetch_dataset("eth80", source=few) == path
    assert list(list_images(path)) == ["apple/apple1/apple1-000-000.png"]


# ---- refused


@pytest.mark.parametrize(("name", "options", "error", "said"), [
    ("cifar", {}, SettingsError, "unknown data set 'cifar', did you mean 'cifar10'"),
    ("cifar10", {"archive_format": "npz"}, SettingsError, "needed is one of binary, python"),
    ("eth80", {"archive_format": "python"}, SettingsError, "eth80 has only one"),
    ("eth80", {"source": "x", "url": "http://x/y.zip"}, SettingsError, "needed is one of them"),
    ("eth80", {"output": "eth80.tar"}, SettingsError, "does not end in .zip"),
    ("eth80", {"output": "there.zip"}, SettingsError, "is there already"),
    ("eth80", {"url": "ftp://x/y.zip"}, SettingsError, "is not the address of an archive"),
    ("eth80", {"url": "http://x/y.html"}, SettingsError, "is not the address of an archive"),
    ("eth80", {"url": "http://x/.."}, SettingsError, "is not the address of an archive"),
    ("eth80", {"source": "nowhere.zip"}, SourceError, "there is no folder or file 'nowhere.zip'"),
    ("eth80", {"source": "there.txt"}, SourceError, "is no archive by its name"),
    ("eth80", {"source": "there.zip"}, SourceError, "cannot be read as an archive"),
    ("eth80", {"source": "empty"}, SourceError, "holds no image of eth80 among 1 files"),
])  # fmt: skip
def test_mistakes_are_told(write_files, empty_cache, monkeypatch, name, options, error, said):
    monkeypatch.chdir(write_files({"there.zip": b"x", "there.txt": b"x", "empty/x.jpg": b"x"}))
    with pytest.raises(error, match=said) as caught:
        fetch_dataset(name, **options)
    assert caught.value.hint
    assert list_all(empty_cache) == []


# ---- all of the real images

MEASURE = """
import sys
from squeezetune.data.datasets.fetching import fetch_dataset
fetch_dataset(sys.argv[1], source=sys.argv[2], listen=lambda event: getattr(event, "message", "") and print(event))
from squeezetune.system.machine import measure_peak_memory
print(measure_peak_memory())
"""  # noqa: E501


def measure(name, source):
    """Pack a data set in a process of its own; return its notices, and the most memory that it
    held, in MB.
    """
    words = [sys.executable, "-c", MEASURE, name, str(source)]
    lines = subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()
    return lines[:-1], float(lines[-1])


@pytest.mark.slow
def test_all_images_of_eth80(real_data, tmp_path, empty_cache, executor):
    with zipfile.ZipFile(real_data / "eth80.zip") as packed:
        objects = {}
        for name in packed.namelist():
            base = name.rpartition("/")[2].removesuffix(".jpg")
            if base:
                with Image.open(BytesIO(packed.read(name))) as image:
                    buffer = BytesIO()
                    image.save(buffer, "PNG", compress_level=1)
                item, _, view = base.partition("-")
                objects.setdefault(item, {})[view] = buffer.getvalue()
    archive = tmp_path / "eth80-cropped256.tgz"
    archive.write_bytes(write_tar(lay_out_eth80(objects, "original")))
    notices, megabytes = measure("eth80", archive)
    assert notices == []  # the numbers of images are right
    index = index_photos("eth80", executor=executor)
    assert index.class_counts.tolist() == [410] * 8
    assert megabytes < 400


@pytest.fixture(scope="module")
def cifar10_images(real_data):
    """Decode all images of CIFAR-10's training part, and shuffle them: pixels (n, 32, 32, 3) and
    labels (n,).
    """
    with zipfile.ZipFile(real_data / "cifar10.zip") as packed:
        names = np.random.default_rng(0).permutation(
            [name for name in packed.namelist() if name.endswith(".jpg")]
        )
        images = np.stack(
            [np.asarray(Image.open(BytesIO(packed.read(name))).convert("RGB")) for name in names]
        )
    return images, np.unique([name.split("/")[-2] for name in names], return_inverse=True)[1]


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_all_images_of_cifar10(cifar10_images, tmp_path, empty_cache, executor, form):
    images, labels = cifar10_images
    parts = {
        name: slice(10_000 * at, 10_000 * at + 10_000)
        for at, name in enumerate((*CIFAR_BATCHES[:4], "test_batch"))
    }
    archive = tmp_path / "cifar.tar.gz"
    archive.write_bytes(
        write_cifar10(
            {name: (make_rows(images[at]), labels[at]) for name, at in parts.items()}, form
        )
    )
    notices, megabytes = measure("cifar10", archive)
    assert "50,000 images in 20 folders" in notices[0]
    index = index_photos("cifar10", executor=executor)
    assert index.class_counts.tolist() == [5000] * 10
    assert np.bincount(index.parts).tolist() == [40_000, 0, 10_000]
    for position in range(0, len(index), 5000):
        name = index.names[position]
        with Image.open(BytesIO(index.source.read(name))) as image:
            at = int(name[-9:-4]) - 1 + (40_000 if name.startswith("test/") else 0)
            np.testing.assert_array_equal(np.asarray(image), images[at])
        assert index.labels[position] == labels[at]
    assert megabytes < 500
