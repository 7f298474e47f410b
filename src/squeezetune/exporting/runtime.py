"""The build of ONNX Runtime that runs in browsers: fetched once from the npm registry, or taken from a folder.

Of its kinds this is the smallest that runs everywhere: plain WebAssembly, without WebGPU, in three files.
"""

import hashlib
import os
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from squeezetune.downloads import PublishedFile, fetch_file
from squeezetune.errors import ExportError
from squeezetune.events import Listener, ignore_event
from squeezetune.store import find_cache_folder, write_file

# The last version with a file of 11 MB, 2.9 MB compressed; 1.30 has 14 MB, and says no more for these models.
VERSION = "1.22.0"
TARBALL = f"onnxruntime-web-{VERSION}.tgz"
# what the registry gives as the package's `integrity`, in hexadecimal digits
SHA512 = (
    "51dffe101a3a9a1b9a416b7f3a368e93488d5a35ea26879e305afac501044597"
    "48647d8e5a91b3bae8f3ee57ee3818d46ba4c413fb1ce276fb0dae5d34bdf87e"
)
MOST_BYTES = 64 << 20  # 20 MB, of which 11 MB are of use here
# The files, and their SHA-256.
FILES = {
    "ort.wasm.min.mjs": "6ef726f355b791129f7ddf3f62e7877a16b9b777abe87004b8ab306e6b9cf265",
    "ort-wasm-simd-threaded.mjs": "30dd851d9c00622940500f71ddd2ff8820c5cb65270816080175b958705385a8",
    "ort-wasm-simd-threaded.wasm": "71aef04959c5c1b6de461b6538e2058e306610034a85aad2742d0c7fd4533fe4",
}
PLACE = "dist"  # of the files in the package
REGISTRY = "https://registry.npmjs.org"
# npm's own variables, so that a mirror that npm uses is used here too
REGISTRY_VARIABLES = ("npm_config_registry", "NPM_CONFIG_REGISTRY")
BY_HAND = (
    f"Or fetch it in another way, as with `npm pack onnxruntime-web@{VERSION}`, and give it as --runtime {TARBALL}."
)


def load_runtime(place: Path | None = None, listen: Listener = ignore_event) -> dict[str, bytes]:
    """Load the files of the build by their names, each checked.

    `place` is a folder that holds them, the package's folder, or its tarball. Without one they are taken from the
    cache, where they are fetched to the first time: 20 MB from the npm registry, or from the mirror that the variable
    `npm_config_registry` names.

    Raises:
        ExportError: they cannot be had, or are not those of this version.
    """
    if place is not None:
        return _read_place(place)
    kept = find_cache_folder() / "web-runtime" / VERSION
    with suppress(ExportError):  # not there yet, or damaged
        return _read_files(_read_from(kept), str(kept))
    return _fetch(kept, listen)


def _fetch(kept: Path, listen: Listener) -> dict[str, bytes]:
    """Fetch the package, and keep what is needed of it."""
    file = PublishedFile(
        find_address(), {"sha512": SHA512}, MOST_BYTES, "build of ONNX Runtime", ExportError, BY_HAND, "runtime"
    )
    tarball = fetch_file(file, kept / TARBALL, listen)
    files = _read_tarball(tarball)
    try:
        for name, content in files.items():
            write_file(kept / name, content)
        tarball.unlink()
    except OSError as error:
        raise ExportError(f"{kept} cannot be written: {error.strerror or error}", "Free some space.") from error
    return files


def find_address() -> str:
    """Find the address of the package in the registry that npm would ask."""
    registry = next(filter(None, map(os.environ.get, REGISTRY_VARIABLES)), REGISTRY)
    return f"{registry.rstrip('/')}/onnxruntime-web/-/{TARBALL}"


def _read_place(place: Path) -> dict[str, bytes]:
    if place.is_file():
        return _read_tarball(place)
    inner = place / PLACE
    return _read_files(_read_from(inner if inner.is_dir() else place), str(place))


def _read_tarball(path: Path) -> dict[str, bytes]:
    try:
        with tarfile.open(path) as archive:
            return _read_files(lambda name: _read_member(archive, f"package/{PLACE}/{name}"), str(path))
    except (OSError, EOFError, tarfile.TarError) as error:
        raise ExportError(f"{path} is no tarball that can be read: {error}", _describe_needed()) from error


def _read_member(archive: tarfile.TarFile, name: str) -> bytes:
    try:
        member = archive.extractfile(name)
    except KeyError as error:
        raise FileNotFoundError from error
    if member is None:
        raise FileNotFoundError
    with member:
        return member.read(MOST_BYTES)


def _read_from(folder: Path) -> Callable[[str], bytes]:
    return lambda name: (folder / name).read_bytes()


def _read_files(read: Callable[[str], bytes], place: str) -> dict[str, bytes]:
    """Read every file that is needed, and hold it against its checksum."""
    found = {}
    for name, checksum in FILES.items():
        try:
            found[name] = read(name)
        except OSError as error:
            raise ExportError(f"{place} has no {name} that can be read", _describe_needed()) from error
        if hashlib.sha256(found[name]).hexdigest() != checksum:
            raise ExportError(f"{name} in {place} is not that of onnxruntime-web {VERSION}", _describe_needed())
    return found


def _describe_needed() -> str:
    return f"Needed is {TARBALL}, or a folder with {', '.join(FILES)} of it; without --runtime it is fetched."
