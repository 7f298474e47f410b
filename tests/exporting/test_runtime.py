import hashlib
import io
import tarfile

import numpy as np
import pytest

from squeezetune.errors import ExportError
from squeezetune.events import StageStarted
from squeezetune.exporting import web as runtime
from squeezetune.exporting.web import TARBALL, VERSION, find_address, load_runtime

CONTENTS = {name: np.random.default_rng(at).bytes(50_000) for at, name in enumerate(runtime.FILES)}
PATH = f"mirror/onnxruntime-web/-/{TARBALL}"


def pack(contents):
    """Pack files as npm does."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in {"package.json": b"{}", **contents}.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def tarball(monkeypatch):
    """Make a package with small files, and let it be the one that is needed."""
    packed = pack({f"dist/{name}": content for name, content in CONTENTS.items()})
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENTS.items()}
    monkeypatch.setattr(runtime, "FILES", digests)
    monkeypatch.setattr(runtime, "SHA512", hashlib.sha512(packed).hexdigest())
    return packed


@pytest.fixture
def registry(web_site, tarball, empty_cache, monkeypatch):
    """Serve the package from a registry on this computer."""
    web_site.files[PATH] = tarball
    monkeypatch.setenv("npm_config_registry", f"{web_site.address}/mirror/")
    return web_site


def write(folder, contents):
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


def list_kept(cache):
    return sorted(path.name for path in (cache / "web-runtime" / VERSION).iterdir())


# ---- fetched


def test_the_build_is_fetched_once_and_only_what_is_needed_is_kept(registry, empty_cache):
    events = []
    for _ in range(2):
        assert load_runtime(listen=events.append) == CONTENTS
    assert registry.asked == [(PATH, None)]
    assert list_kept(empty_cache) == sorted(CONTENTS)
    assert [event.stage for event in events if isinstance(event, StageStarted)] == ["runtime"]


def test_a_download_that_breaks_off_goes_on(registry, empty_cache):
    registry.breaks = [60_000, 0]
    with pytest.raises(ExportError, match="broke off after 60,000 of"):
        load_runtime()
    assert load_runtime() == CONTENTS
    assert registry.ranges == [None, "bytes=60000-", "bytes=60000-"]
    assert list_kept(empty_cache) == sorted(CONTENTS)


def test_wrong_bytes_are_refused_and_deleted(registry, tarball, empty_cache):
    registry.files[PATH] = tarball[:-1] + b"x"
    with pytest.raises(ExportError, match=r"without the SHA-512 .*deleted") as caught:
        load_runtime()
    assert f"npm pack onnxruntime-web@{VERSION}" in caught.value.hint
    assert list_kept(empty_cache) == []


def test_what_is_damaged_in_the_cache_is_fetched_again(registry, empty_cache):
    load_runtime()
    (empty_cache / "web-runtime" / VERSION / next(iter(CONTENTS))).write_bytes(b"damaged")
    assert load_runtime() == CONTENTS
    assert len(registry.asked) == 2


def test_a_registry_that_has_no_such_package_is_quoted(registry):
    del registry.files[PATH]
    with pytest.raises(ExportError, match="the server says 404") as caught:
        load_runtime()
    assert "--runtime" in caught.value.hint


def test_the_registry_is_the_public_one_or_the_one_of_npm(monkeypatch):
    for name in runtime.REGISTRY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert find_address() == f"https://registry.npmjs.org/onnxruntime-web/-/{TARBALL}"
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "https://npm.example.org/all/")
    assert find_address() == f"https://npm.example.org/all/onnxruntime-web/-/{TARBALL}"


# ---- taken from a place


@pytest.mark.parametrize("kind", ["folder", "package", "tarball"])
def test_the_build_is_taken_from_a_place_without_the_network(tarball, tmp_path, empty_cache, kind):
    if kind == "tarball":
        place = tmp_path / "any.tgz"
        place.write_bytes(tarball)
    else:
        place = tmp_path / "build"
        write(place / "dist" if kind == "package" else place, CONTENTS)
    assert load_runtime(place) == CONTENTS
    assert not empty_cache.exists()


@pytest.mark.parametrize("kind", ["missing", "other", "nowhere"])
def test_a_folder_without_the_build_is_an_error(tarball, tmp_path, kind):
    place, name = tmp_path / "build", "ort.wasm.min.mjs"
    if kind != "nowhere":
        kept = {other: content for other, content in CONTENTS.items() if other != name}
        write(place, kept if kind == "missing" else CONTENTS | {name: b"of another version"})
    found = (
        f"{name} in .* is not that of onnxruntime-web {VERSION}"
        if kind == "other"
        else f"has no {name}"
    )
    with pytest.raises(ExportError, match=found) as caught:
        load_runtime(place)
    assert TARBALL in caught.value.hint


@pytest.mark.parametrize("kind", ["no tarball", "cut short", "without the files"])
def test_a_file_that_is_not_the_package_is_an_error(tarball, tmp_path, kind):
    place = tmp_path / TARBALL
    place.write_bytes(
        {"no tarball": b"x" * 2000, "cut short": tarball[:90_000], "without the files": pack({})}[
            kind
        ]
    )
    with pytest.raises(
        ExportError, match=r"is no tarball that can be read|has no ort.wasm.min.mjs"
    ):
        load_runtime(place)
