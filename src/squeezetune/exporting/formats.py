"""The formats that a trained classifier is exported to: a plain table."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from squeezetune.errors import MissingExtraError, SettingsError
from squeezetune.exporting.onnx_files import check_onnx, write_floats, write_halves, write_int8, write_tiny
from squeezetune.exporting.order import Order
from squeezetune.exporting.readers import READERS, RunExport


@dataclass(frozen=True)
class Format:
    """A format: how it is written, checked and run.

    `path` is its main file below the export's folder; where that is in a folder of its own, the whole folder is the
    export. `runtime` is the package that runs it, `extra` the extra of this package that installs what it needs.
    `looks_at_photos` says that the writer is given training photos. `usage` is a short program that runs FILE.
    """

    words: str
    path: str
    write: Callable[[Order, Path], None]
    check: Callable[[Path], None]
    runtime: str = "onnxruntime"
    extra: str = ""
    looks_at_photos: bool = False
    usage: str = ""

    @property
    def root(self) -> str:
        """The file or folder that is the export."""
        return self.path.split("/")[0]

    def open(self, path: Path) -> RunExport:
        """Open an export by its own runtime."""
        return READERS[self.runtime](path)


ONNX_USAGE = """\
import json, sys
import numpy as np, onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession("FILE")
class_names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
for name in sys.argv[1:]:
    image = ImageOps.exif_transpose(Image.open(name)).convert("RGB")
    probabilities = session.run(None, {"image": np.asarray(image)[None]})[0][0]
    print(f"{name}: {class_names[probabilities.argmax()]} ({probabilities.max():.1%})")"""

FORMATS: dict[str, Format] = {
    "onnx": Format("float32, for any ONNX runtime", "model.onnx", write_floats, check_onnx, usage=ONNX_USAGE),
    "onnx-fp16": Format("parameters in float16: half the size", "model-fp16.onnx", write_halves, check_onnx),
    "onnx-int8": Format("int8: a quarter of the size, twice as fast on recent processors", "model-int8.onnx",
                        write_int8, check_onnx, looks_at_photos=True),
    "onnx-tiny": Format("parameters in 4 bits: the smallest file", "model-tiny.onnx", write_tiny, check_onnx,
                        looks_at_photos=True),
}  # fmt: skip
DEFAULT_FORMATS = ("onnx", "onnx-int8", "onnx-tiny")


def find_format(name: str) -> Format:
    """Look up a format, and make sure that what it needs is installed.

    Raises:
        SettingsError: there is no such format.
        MissingExtraError: its extra is not installed.
    """
    if name not in FORMATS:
        raise SettingsError(f"there is no format {name!r}", f"Known formats: {', '.join(FORMATS)}.")
    found = FORMATS[name]
    if find_spec(found.runtime) is None:
        raise MissingExtraError(
            f"the format {name!r} needs {found.runtime}, which is not installed",
            f"Install it: pip install 'squeezetune[{found.extra}]'",
        )
    return found


def list_formats() -> list[str]:
    """List the formats whose runtimes are installed."""
    return [name for name, found in FORMATS.items() if find_spec(found.runtime)]
