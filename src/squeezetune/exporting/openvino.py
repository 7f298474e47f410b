"""OpenVINO's own format: a description of the network (.xml) and its parameters (.bin) beside
it.

A module of its own, as the writer of every runtime's format is.
"""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from squeezetune.exporting.export_inputs import ExportInputs
from squeezetune.exporting.resize import replace_resize
from squeezetune.network.inference import find_openvino_core
from squeezetune.system.disk import write_file
from squeezetune.system.telemetry import import_openvino

# The chapter of the file's own notes that holds what it says of itself.
CHAPTER = "squeezetune"


def write_openvino(order: ExportInputs, path: Path) -> None:
    """Write a network as .xml and .bin: images of any size in, probabilities out, parameters in
    float16.
    """
    openvino = import_openvino()
    model = find_openvino_core().read_model(replace_resize(order.model))
    for name, value in order.metadata.items():
        model.set_rt_info(value, [CHAPTER, name])
    with TemporaryDirectory() as folder:
        written = Path(folder) / "model.xml"
        openvino.save_model(model, written, compress_to_fp16=True)
        # the description is of no use without the parameters, and comes last
        write_file(path.with_suffix(".bin"), written.with_suffix(".bin").read_bytes())
        write_file(path, written.read_bytes())


def check_openvino(path: Path) -> None:
    """Compile a network as OpenVINO does before it runs it, which checks every node."""
    find_openvino_core().compile_model(path, "CPU")


def read_metadata(path: Path) -> Mapping[str, str]:
    """Read what a file says of itself."""
    model = find_openvino_core().read_model(path)
    found = model.get_rt_info([CHAPTER]).value
    return {name: str(model.get_rt_info([CHAPTER, name]).value) for name in found}
