"""The formats that a trained classifier is exported to: a plain table."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from squeezetune.errors import MissingExtraError, SettingsError
from squeezetune.exporting.export_inputs import ExportInputs
from squeezetune.exporting.node import explain_missing_node
from squeezetune.exporting.onnx_formats import (
    build_tiny,
    build_tuned,
    check_onnx,
    write_floats,
    write_halves,
    write_int8,
    write_tiny,
    write_tuned,
)
from squeezetune.exporting.openvino import check_openvino, write_openvino
from squeezetune.exporting.runtimes import READERS, RunExport
from squeezetune.exporting.scoring import Score
from squeezetune.exporting.student import write_student
from squeezetune.exporting.tflite import check_tflite, write_tflite, write_tflite_int8
from squeezetune.exporting.torch_program import check_torch, write_torch
from squeezetune.exporting.web import MODEL, VERSION, WebAbout, write_web


def write_page(
    order: ExportInputs, path: Path, build: Callable[[ExportInputs], bytes] = build_tiny
) -> None:
    """Write a page that runs the tiny file in the browser; what it is worth has not been measured
    yet.
    """
    write_web(build(order), describe_page(order), path.parent, order.runtime, order.listen)


def state_page(order: ExportInputs, path: Path, score: Score) -> None:
    """Write on a page what its own model was measured to be worth."""
    about = replace(describe_page(order), accuracy=describe_score(score))
    write_web(path.with_name(MODEL).read_bytes(), about, path.parent, order.runtime, order.listen)


def describe_page(order: ExportInputs) -> WebAbout:
    """Say what a page says of its model before it is measured."""
    return WebAbout(
        title=order.title,
        class_names=tuple(json.loads(order.metadata["class_names"])),
        accuracy="How often it is right was not measured.",
        license=order.metadata.get("license", "unknown"),
        image_side=order.network.side,
    )


def describe_score(score: Score) -> str:
    """Put into a sentence how often an export is right."""
    if not score.is_honest:
        return "How often it is right was not measured on photos that it had never seen."
    low, high = (f"{100 * end:.1f} %" for end in score.interval)
    found = (
        f"{100 * score.accuracy:.1f} % of {score.images:,} photos that it had never seen are "
        f"recognised"
    )
    return f"{found} (95 % interval {low} to {high})."


def check_page(path: Path) -> None:
    """Check the model of a page."""
    check_onnx(path.with_name(MODEL))


def find_nothing() -> str:
    """Find no reason why a format could not be measured here."""
    return ""


@dataclass(frozen=True)
class Format:
    """A format: how it is written, checked and run.

    `path` is its main file below the export's folder; where that is in a folder of its own, the
    whole folder is the export. `needs` names what runs it, and from which version on. `module` is
    the package that has to be here, `extra` the extra of this package that installs it.
    `looks_at_photos` says that the writer is given training photos. `usage` is a short program that
    runs FILE. `tune` writes it anew where it loses too much; that needs torch and some time.
    `reader` opens it, if not the one of that package; `explain_unmeasured` says in words why it
    cannot do so on this computer. `state` writes into it what it is worth. `takes_graphs` says that
    it can be made of a network that is a graph alone: all others need its layers' description. With
    `is_taught` it is another, smaller network that learns from the model first, which takes
    minutes: it is written where it is asked for alone.
    """

    words: str
    path: str
    write: Callable[[ExportInputs, Path], None]
    check: Callable[[Path], None]
    needs: str
    module: str = "onnxruntime"
    extra: str = ""
    looks_at_photos: bool = False
    usage: str = ""
    tune: Callable[[ExportInputs, Path], None] | None = None
    reader: str = ""
    explain_unmeasured: Callable[[], str] = find_nothing
    state: Callable[[ExportInputs, Path, Score], None] | None = None
    takes_graphs: bool = False
    is_taught: bool = False

    @property
    def root(self) -> str:
        """The file or folder that is the export."""
        return self.path.split("/")[0]

    @property
    def runtime(self) -> str:
        """The name of what opens it."""
        return self.reader or self.module

    def open(self, path: Path) -> RunExport:
        """Open an export by its own runtime."""
        return READERS[self.runtime](path)


ONNX_USAGE = """\
import json, os, sys
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the import, which would ask for a host
import numpy as np, onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession("FILE")
class_names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
for name in sys.argv[1:]:
    image = ImageOps.exif_transpose(Image.open(name)).convert("RGB")
    probabilities = session.run(None, {"image": np.asarray(image)[None]})[0][0]
    print(f"{name}: {class_names[probabilities.argmax()]} ({probabilities.max():.1%})")"""

OPENVINO_USAGE = """\
import sys
sys.modules["openvino_telemetry"] = None  # as if it were not installed: the import would report itself
import numpy as np, openvino
from PIL import Image, ImageOps

model = openvino.Core().compile_model("FILE", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
for name in sys.argv[1:]:
    image = ImageOps.exif_transpose(Image.open(name)).convert("RGB")
    print(name, model(np.asarray(image)[None])[0])"""  # noqa: E501

TORCH_USAGE = """\
import sys
import numpy as np, torch
from PIL import Image, ImageOps

network = torch.export.load("FILE").module()
for name in sys.argv[1:]:
    image = ImageOps.exif_transpose(Image.open(name)).convert("RGB")
    print(name, network(torch.from_numpy(np.array(image)[None])))"""

TFLITE_USAGE = """\
import json, os, sys, zipfile
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image, ImageOps

sys.path.append(os.path.dirname("FILE"))
from squares import make_square

archive = zipfile.ZipFile("FILE")
class_names, about = archive.read("labels.txt").decode().splitlines(), json.loads(archive.read("preprocessing.json"))
network = Interpreter("FILE").get_signature_runner()
for name in sys.argv[1:]:
    image = ImageOps.exif_transpose(Image.open(name)).convert("RGB")
    square = make_square(np.asarray(image), about["image_side"], about["resize"])
    [probabilities] = network(image=square[None])["probabilities"]
    print(f"{name}: {class_names[probabilities.argmax()]} ({probabilities.max():.1%})")"""  # noqa: E501

FORMATS: dict[str, Format] = {
    "onnx": Format(
        "float32, for any ONNX runtime",
        "model.onnx",
        write_floats,
        check_onnx,
        "onnxruntime >= 1.16.3",
        usage=ONNX_USAGE,
        takes_graphs=True,
    ),
    "onnx-fp16": Format(
        "parameters in float16: half the size",
        "model-fp16.onnx",
        write_halves,
        check_onnx,
        "onnxruntime >= 1.16.3",
        takes_graphs=True,
    ),
    "onnx-int8": Format(
        "int8: a quarter of the size, twice as fast on recent processors",
        "model-int8.onnx",
        write_int8,
        check_onnx,
        "onnxruntime >= 1.16.3",
        looks_at_photos=True,
    ),
    "onnx-tiny": Format(
        "parameters in 4 bits: the smallest file",
        "model-tiny.onnx",
        write_tiny,
        check_onnx,
        "onnxruntime >= 1.23.0",
        looks_at_photos=True,
        tune=write_tuned,
    ),
    "student": Format(
        "SqueezeNet 1.1 that has learnt from the model, parameters in 4 bits",
        "model-student.onnx",
        write_student,
        check_onnx,
        "onnxruntime >= 1.23.0",
        module="torch",
        extra="deep",
        looks_at_photos=True,
        reader="onnxruntime",
        is_taught=True,
    ),
    "openvino": Format(
        "OpenVINO's own format, parameters in float16",
        "openvino/model.xml",
        write_openvino,
        check_openvino,
        "openvino >= 2025.4",
        module="openvino",
        extra="openvino",
        usage=OPENVINO_USAGE,
        takes_graphs=True,
    ),
    "torch": Format(
        "a torch.export program; parameters with a loader to copy",
        "torch/model.pt2",
        write_torch,
        check_torch,
        "torch, as new as the one that wrote it",
        module="torch",
        extra="deep",
        usage=TORCH_USAGE,
    ),
    "tflite": Format(
        "LiteRT (TensorFlow Lite), for phones; parameters in float16",
        "tflite/model.tflite",
        write_tflite,
        check_tflite,
        "ai-edge-litert >= 2.1",
        module="ai_edge_litert",
        extra="tflite",
        usage=TFLITE_USAGE,
    ),
    "tflite-int8": Format(
        "the same in int8: half the size, faster",
        "tflite-int8/model.tflite",
        write_tflite_int8,
        check_tflite,
        "ai-edge-litert >= 2.1",
        module="ai_edge_litert",
        extra="tflite",
        looks_at_photos=True,
    ),
    "web": Format(
        "a page that runs in the browser; parameters in 4 bits",
        "web/index.html",
        write_page,
        check_page,
        f"a browser; ONNX Runtime Web {VERSION} is in the folder",
        looks_at_photos=True,
        tune=partial(write_page, build=build_tuned),
        reader="web",
        explain_unmeasured=explain_missing_node,
        state=state_page,
    ),
}
# What is written where nobody names a format, and of a network that is a graph alone.
DEFAULT_FORMATS = ("onnx", "onnx-int8", "onnx-tiny")
GRAPH_FORMATS = ("onnx", "onnx-fp16")
STUDENT_FORMAT = "student"


def find_format(name: str) -> Format:
    """Look up a format, and make sure that what it needs is installed.

    Raises:
        SettingsError: there is no such format.
        MissingExtraError: its extra is not installed.
    """
    if name not in FORMATS:
        raise SettingsError(f"there is no format {name!r}", f"Known formats: {', '.join(FORMATS)}.")
    found = FORMATS[name]
    if find_spec(found.module) is None:
        raise MissingExtraError(
            f"the format {name!r} needs {found.module}, which is not installed",
            f"Install it: pip install 'squeezetune[{found.extra}]'",
        )
    return found


def list_formats() -> list[str]:
    """List the formats of the model itself whose runtimes are installed."""
    return [
        name for name, found in FORMATS.items() if not found.is_taught and find_spec(found.module)
    ]
