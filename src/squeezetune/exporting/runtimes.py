"""Opens exports in the runtimes that they are for; light, since a process of its own measures how
fast that goes.
"""

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

from squeezetune.exporting.node import NodeModel
from squeezetune.system.telemetry import import_onnxruntime, import_openvino

# Runs an export by its own runtime: images (n, height, width, 3) uint8 RGB in, probabilities (n,
# classes) out.
RunExport: TypeAlias = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def open_onnx(path: Path) -> RunExport:
    """Open an ONNX file in ONNX Runtime, as anybody would."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        probabilities: NDArray[np.float32] = session.run(None, {"image": pixels})[0]
        return probabilities

    return run


def open_openvino(path: Path, config: Mapping[str, Any] | None = None) -> RunExport:
    """Open a network in OpenVINO; float32 unless `config` says otherwise, as unasked it may be
    bfloat16.
    """
    config = {"INFERENCE_PRECISION_HINT": "f32"} if config is None else config
    compiled = import_openvino().Core().compile_model(path, "CPU", dict(config))

    def run(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        # a copy: the tensor is used again
        probabilities: NDArray[np.float32] = compiled(pixels)[0].copy()
        return probabilities

    return run


def open_torch(path: Path) -> RunExport:
    """Open a program in torch."""
    import torch

    program = torch.export.load(path).module()

    def run(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            probabilities: NDArray[np.float32] = program(torch.tensor(pixels)).numpy()
        return probabilities

    return run


def open_tflite(path: Path) -> RunExport:
    """Open a network in LiteRT; images of any size are made squares, as the file asks for."""
    from ai_edge_litert.interpreter import Interpreter

    from squeezetune.exporting.copied.squares import make_square
    from squeezetune.system.executor import count_cores

    with ZipFile(path) as archive:
        about = json.loads(archive.read("preprocessing.json"))
    interpreter = Interpreter(str(path), num_threads=count_cores())
    [given], [result] = interpreter.get_input_details(), interpreter.get_output_details()

    @lru_cache(maxsize=1)
    def prepare(shape: tuple[int, ...]) -> None:
        interpreter.resize_tensor_input(given["index"], shape)
        interpreter.allocate_tensors()

    def run(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        squares = np.stack(
            [make_square(image, about["image_side"], about["resize"]) for image in pixels]
        )
        prepare(squares.shape)
        interpreter.set_tensor(given["index"], squares)
        interpreter.invoke()
        probabilities: NDArray[np.float32] = interpreter.get_tensor(result["index"])
        return probabilities

    return run


# By the name of the runtime: its package, or, for a page, `web`.
READERS: dict[str, Callable[[Path], RunExport]] = {
    "onnxruntime": open_onnx,
    "openvino": open_openvino,
    "torch": open_torch,
    "ai_edge_litert": open_tflite,
    "web": NodeModel,
}
