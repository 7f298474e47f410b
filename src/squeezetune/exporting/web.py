"""A classifier as a folder with one page, and the build of ONNX Runtime for browsers that runs it.

Of its kinds this is the smallest that runs everywhere: plain WebAssembly, without WebGPU, in three
files.
"""

import hashlib
import importlib.util
import os
import tarfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from squeezetune.data.decoding import DRAFT_HEADROOM, MAX_PIXELS
from squeezetune.errors import ExportError
from squeezetune.events import Listener, ignore_event
from squeezetune.report.rendering import render_page
from squeezetune.system.disk import find_cache_folder, write_file
from squeezetune.system.downloads import PublishedFile, fetch_file

# The smallest that reads integers of 4 bits (INT4): 3.1 MB compressed. Later ones, up to 3.7 MB,
# give the same answers as fast (docs/decisions/0017-web.md).
VERSION = "1.23.2"
TARBALL = f"onnxruntime-web-{VERSION}.tgz"
# what the registry gives as the package's `integrity`, in hexadecimal digits
SHA512 = (
    "4f4f4952d327f8264b937985c2a887d258107fee12efea181c7b64eae85a6000"
    "0923de5b4dc2a2e5b38e658c0e4577d2fd12d90a30c311719622e3820059448e"
)
MOST_BYTES = 64 << 20  # 26 MB, of which 12 MB are of use here
# The files, and their SHA-256.
FILES = {
    "ort.wasm.min.mjs": "69751720f611e37d1ce2fa3c6ebaa80f949014752636c5f8887a63d40feadcc7",
    "ort-wasm-simd-threaded.mjs": (
        "90a557d15c02bac4504d95b67f431d8594635ed2a0a62a7f2cd83d090ff91d3e"
    ),
    "ort-wasm-simd-threaded.wasm": (
        "45eaee27761ad883742a8d4b8fce1538d60ce43b51adf1726fafccc59b8c1a15"
    ),
}
PLACE = "dist"  # of the files in the package
REGISTRY = "https://registry.npmjs.org"
# npm's own variables, so that a mirror that npm uses is used here too
REGISTRY_VARIABLES = ("npm_config_registry", "NPM_CONFIG_REGISTRY")
BY_HAND = (
    f"Or fetch it in another way, as with `npm pack onnxruntime-web@{VERSION}`, and give it "
    f"as --runtime {TARBALL}."
)


def load_runtime(place: Path | None = None, listen: Listener = ignore_event) -> dict[str, bytes]:
    """Load the files of the build by their names, each checked.

    `place` is a folder that holds them, the package's folder, or its tarball. Without one they are
    taken from the cache, where they are fetched to the first time: 26 MB from the npm registry, or
    from the mirror that the variable `npm_config_registry` names.

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
        find_address(),
        {"sha512": SHA512},
        MOST_BYTES,
        "build of ONNX Runtime",
        ExportError,
        BY_HAND,
        "runtime",
    )
    tarball = fetch_file(file, kept / TARBALL, listen)
    files = _read_tarball(tarball)
    try:
        for name, content in files.items():
            write_file(kept / name, content)
        tarball.unlink()
    except OSError as error:
        raise ExportError(
            f"{kept} cannot be written: {error.strerror or error}", "Free some space."
        ) from error
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
            return _read_files(
                lambda name: _read_member(archive, f"package/{PLACE}/{name}"), str(path)
            )
    except (OSError, EOFError, tarfile.TarError) as error:
        raise ExportError(
            f"{path} is no tarball that can be read: {error}", _describe_needed()
        ) from error


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
            raise ExportError(
                f"{place} has no {name} that can be read", _describe_needed()
            ) from error
        if hashlib.sha256(found[name]).hexdigest() != checksum:
            raise ExportError(
                f"{name} in {place} is not that of onnxruntime-web {VERSION}", _describe_needed()
            )
    return found


def _describe_needed() -> str:
    return (
        f"Needed is {TARBALL}, or a folder with {', '.join(FILES)} of it; without --runtime it "
        f"is fetched."
    )


SOURCES = Path(__file__).parent / "web_page"
PAGE, OFFLINE, MODEL, NOTICE = "index.html", "offline.js", "model.onnx", "NOTICE.txt"
PLAIN_FILES = ("page.css", "page.js", "worker.js")
RUNTIME = "runtime"
# A larger photo is reduced before it enters the model, to a half, a quarter or an eighth, but never
# below the reach that Python's decoder keeps: 12 megapixels would take a phone a second.
FED_PIXELS = 4_000_000


@dataclass(frozen=True)
class WebAbout:
    """What the page says of its model.

    `accuracy` is a sentence with what was measured, `license` the one of the model's weights,
    `image_side` the side in pixels that the network sees.
    """

    title: str
    class_names: tuple[str, ...]
    accuracy: str
    license: str
    image_side: int


def write_web(
    model: bytes,
    about: WebAbout,
    folder: Path,
    runtime: Path | None = None,
    listen: Listener = ignore_event,
) -> tuple[Path, ...]:
    """Write a page that runs a model in the browser; return its files, `index.html` last.

    `model` is an ONNX file with the input `image` (n, height, width, 3) uint8 RGB and the output
    `probabilities` (n, classes) float32. `runtime` is a place with the web build of ONNX Runtime;
    without one it is fetched once.

    Raises:
        ExportError: the web build cannot be had, or the folder cannot be written.
    """
    files = {
        MODEL: model,
        **_load_parts(runtime, listen),
        NOTICE: _describe_licenses(about).encode(),
    }
    files[PAGE] = _render_index(about, files)
    files[OFFLINE] = _render_offline(files)
    page = files.pop(PAGE)
    try:
        return tuple(
            _write(folder / name, content) for name, content in {**files, PAGE: page}.items()
        )
    except OSError as error:
        raise ExportError(
            f"{folder} cannot be written: {error.strerror or error}",
            "Free some space, or give another folder.",
        ) from error


def _write(path: Path, content: bytes) -> Path:
    write_file(path, content)
    return path


def _load_parts(runtime: Path | None, listen: Listener) -> dict[str, bytes]:
    """Load the page's own files and those of the runtime, by their paths in the folder."""
    own = {name: (SOURCES / name).read_bytes() for name in PLAIN_FILES}
    # many servers do not know that .mjs is JavaScript, and browsers run nothing that is not
    # declared as such
    build = {
        name.replace(".mjs", ".js"): content
        for name, content in load_runtime(runtime, listen).items()
    }
    return own | {
        f"{RUNTIME}/{name}": content for name, content in (build | _read_notices()).items()
    }


def _read_notices() -> dict[str, bytes]:
    """Read the licences of ONNX Runtime and what is in it, which the Python package has and the web
    build lacks.
    """
    spec = importlib.util.find_spec("onnxruntime")
    home = Path(spec.origin).parent if spec and spec.origin else SOURCES
    names = {"LICENSE": "LICENSE.txt", "ThirdPartyNotices.txt": "ThirdPartyNotices.txt"}
    return {
        target: (home / name).read_bytes()
        for name, target in names.items()
        if (home / name).is_file()
    }


def _describe_licenses(about: WebAbout) -> str:
    return (
        f"{about.title}\n\n{MODEL}: {about.license}\n\n"
        "The page (index.html, page.css, page.js, worker.js, offline.js) is written by "
        "SqueezeTune: Apache-2.0,\n"
        "https://www.apache.org/licenses/LICENSE-2.0\n\n"
        f"{RUNTIME}/ is ONNX Runtime Web {VERSION}, Copyright (c) Microsoft Corporation, MIT "
        f"License,\n"
        f"https://github.com/microsoft/onnxruntime/blob/v{VERSION}/LICENSE; what it contains of "
        f"others is listed in\n"
        f"https://github.com/microsoft/onnxruntime/blob/v{VERSION}/ThirdPartyNotices.txt\n"
    )


def _render_index(about: WebAbout, files: Mapping[str, bytes]) -> bytes:
    facts: dict[str, Any] = {
        "classes": about.class_names,
        "reach": DRAFT_HEADROOM * about.image_side,
        "fedPixels": FED_PIXELS,
        "mostPixels": MAX_PIXELS,
    }
    loaded = sum(len(content) for name, content in files.items() if not name.endswith(".txt"))
    page = render_page(
        "exporting/web_page/index.html.jinja",
        about=about,
        facts=facts,
        loaded_mb=loaded / 1e6,
        version=VERSION,
    )
    return page.encode()


def _render_offline(files: Mapping[str, bytes]) -> bytes:
    """Render what keeps the files for later: their list, and one digest over all, so that they
    change together.
    """
    digest = hashlib.sha256(
        b"".join(hashlib.sha256(content).digest() for content in files.values())
    ).hexdigest()
    names = ["./", *(name for name in files if not name.endswith(".txt"))]
    return render_page(
        "exporting/web_page/offline.js.jinja", names=names, digest=digest[:16]
    ).encode()
