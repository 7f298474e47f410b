"""A classifier as a folder with one page: it runs in the browser, from any static server, and without the network."""

import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from squeezetune.data.decoding import DRAFT_HEADROOM, MAX_PIXELS
from squeezetune.disk import write_file
from squeezetune.errors import ExportError
from squeezetune.events import Listener, ignore_event
from squeezetune.exporting.runtime import VERSION, load_runtime
from squeezetune.page import render_page

SOURCES = Path(__file__).parent / "web_page"
PAGE, OFFLINE, MODEL, NOTICE = "index.html", "offline.js", "model.onnx", "NOTICE.txt"
PLAIN_FILES = ("page.css", "page.js", "worker.js")
RUNTIME = "runtime"
# A larger photo is reduced before it enters the model, to a half, a quarter or an eighth, but never below the reach
# that Python's decoder keeps: 12 megapixels would take a phone a second.
FED_PIXELS = 4_000_000


@dataclass(frozen=True)
class WebAbout:
    """What the page says of its model.

    `accuracy` is a sentence with what was measured, `license` the one of the model's weights, `image_side` the side in
    pixels that the network sees.
    """

    title: str
    class_names: tuple[str, ...]
    accuracy: str
    license: str
    image_side: int


def write_web(
    model: bytes, about: WebAbout, folder: Path, runtime: Path | None = None, listen: Listener = ignore_event
) -> tuple[Path, ...]:
    """Write a page that runs a model in the browser; return its files, `index.html` last.

    `model` is an ONNX file with the input `image` (n, height, width, 3) uint8 RGB and the output `probabilities`
    (n, classes) float32. `runtime` is a place with the web build of ONNX Runtime; without one it is fetched once.

    Raises:
        ExportError: the web build cannot be had, or the folder cannot be written.
    """
    files = {MODEL: model, **_load_parts(runtime, listen), NOTICE: _describe_licenses(about).encode()}
    files[PAGE] = _render_index(about, files)
    files[OFFLINE] = _render_offline(files)
    page = files.pop(PAGE)
    try:
        return tuple(_write(folder / name, content) for name, content in {**files, PAGE: page}.items())
    except OSError as error:
        raise ExportError(
            f"{folder} cannot be written: {error.strerror or error}", "Free some space, or give another folder."
        ) from error


def _write(path: Path, content: bytes) -> Path:
    write_file(path, content)
    return path


def _load_parts(runtime: Path | None, listen: Listener) -> dict[str, bytes]:
    """Load the page's own files and those of the runtime, by their paths in the folder."""
    own = {name: (SOURCES / name).read_bytes() for name in PLAIN_FILES}
    # many servers do not know that .mjs is JavaScript, and browsers run nothing that is not declared as such
    build = {name.replace(".mjs", ".js"): content for name, content in load_runtime(runtime, listen).items()}
    return own | {f"{RUNTIME}/{name}": content for name, content in (build | _read_notices()).items()}


def _read_notices() -> dict[str, bytes]:
    """Read the licences of ONNX Runtime and what is in it, which the Python package has and the web build lacks."""
    spec = importlib.util.find_spec("onnxruntime")
    home = Path(spec.origin).parent if spec and spec.origin else SOURCES
    names = {"LICENSE": "LICENSE.txt", "ThirdPartyNotices.txt": "ThirdPartyNotices.txt"}
    return {target: (home / name).read_bytes() for name, target in names.items() if (home / name).is_file()}


def _describe_licenses(about: WebAbout) -> str:
    return (
        f"{about.title}\n\n{MODEL}: {about.license}\n\n"
        "The page (index.html, page.css, page.js, worker.js, offline.js) is written by SqueezeTune: Apache-2.0,\n"
        "https://www.apache.org/licenses/LICENSE-2.0\n\n"
        f"{RUNTIME}/ is ONNX Runtime Web {VERSION}, Copyright (c) Microsoft Corporation, MIT License,\n"
        f"https://github.com/microsoft/onnxruntime/blob/v{VERSION}/LICENSE; what it contains of others is listed in\n"
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
        "exporting/web_page/index.html.jinja", {}, about=about, facts=facts, loaded_mb=loaded / 1e6, version=VERSION
    )
    return page.encode()


def _render_offline(files: Mapping[str, bytes]) -> bytes:
    """Render what keeps the files for later: their list, and one digest over all, so that they change together."""
    digest = hashlib.sha256(b"".join(hashlib.sha256(content).digest() for content in files.values())).hexdigest()
    names = ["./", *(name for name in files if not name.endswith(".txt"))]
    return render_page("exporting/web_page/offline.js.jinja", {}, names=names, digest=digest[:16]).encode()
