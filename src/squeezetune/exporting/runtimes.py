"""Exports in the runtimes that they are for: opened, and how fast they start and run, and how much
memory they take, in a process of their own.

    python -m squeezetune.exporting.runtimes RUNTIME FILE IMAGES.npy ROUND_S

The images, (32, height, width, 3) uint8, are run one at a time and all at once, in rounds of so
many seconds. It says "ready" after the first answer, then the figures as JSON. Nothing heavy is
imported here but what the runtime itself needs, since the start is measured.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

from squeezetune.errors import ExportError
from squeezetune.exporting.node import NodeModel
from squeezetune.network.inference import find_openvino_core
from squeezetune.system.machine import measure_peak_memory
from squeezetune.system.telemetry import import_onnxruntime

READY = "ready"
ROUNDS, ROUND_S = 3, 0.4
CALL_SIZES = (1, 32)
TIME_LIMIT_S = 600
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
    compiled = find_openvino_core().compile_model(path, "CPU", dict(config))

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


@dataclass(frozen=True)
class RuntimeBenchmark:
    """How an export runs here.

    Seconds from the start of a process to its first answer; images a second with 1 and with 32
    images a call, medians; and the most memory that the process held in MB, where the system tells.
    """

    cold_start_s: float
    images_per_s: dict[str, float]
    peak_mb: float | None


def benchmark_export(runtime: str, path: Path, images: Path) -> RuntimeBenchmark:
    """Run an export in a process of its own.

    Raises:
        ExportError: the runtime cannot run it.
    """
    words = [runtime, str(path), str(images), str(ROUND_S)]
    command = [sys.executable, "-m", "squeezetune.exporting.runtimes", *words]
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        word = process.stdout.readline().strip() if process.stdout else ""
        cold_start_s = time.perf_counter() - start
        try:
            said, complaint = process.communicate(timeout=TIME_LIMIT_S)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise ExportError(
                f"{path.name} was not done after {TIME_LIMIT_S} s in {runtime}"
            ) from error
    if process.returncode or word != READY:
        last = (complaint.strip().splitlines() or [f"exit status {process.returncode}"])[-1]
        raise ExportError(
            f"{runtime} cannot run {path.name}: {last}", "Update it, or export to another format."
        )
    return RuntimeBenchmark(round(cold_start_s, 3), **json.loads(said))


def measure_speed(run: RunExport, images: NDArray[np.uint8], round_s: float) -> float:
    """Measure images a second: the median of some rounds, each of at least one call."""
    speeds = []
    for _ in range(ROUNDS):
        calls, start = 0, time.perf_counter()
        while time.perf_counter() < start + round_s or not calls:
            run(images)
            calls += 1
        speeds.append(calls * len(images) / (time.perf_counter() - start))
    return round(median(speeds), 1)


def main(runtime: str, path: str, images: str, round_s: str) -> None:
    """Be that process."""
    run = READERS[runtime](Path(path))
    pixels = np.load(images)
    run(pixels[:1])
    print(READY, flush=True)
    speeds = {str(size): measure_speed(run, pixels[:size], float(round_s)) for size in CALL_SIZES}
    peak_mb = run.peak_mb if isinstance(run, NodeModel) else measure_peak_memory()
    print(json.dumps({"images_per_s": speeds, "peak_mb": peak_mb}))


if __name__ == "__main__":
    main(*sys.argv[1:])
