"""Opens exports in the runtimes that they are for; light, since a process of its own measures how fast that goes."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

# Runs an export by its own runtime: images (n, height, width, 3) uint8 RGB in, probabilities (n, classes) out.
RunExport: TypeAlias = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def open_onnx(path: Path) -> RunExport:
    """Open an ONNX file in ONNX Runtime, as anybody would."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        probabilities: NDArray[np.float32] = session.run(None, {"image": pixels})[0]
        return probabilities

    return run


# By the name of the runtime's package.
READERS: dict[str, Callable[[Path], RunExport]] = {"onnxruntime": open_onnx}
