"""The engines that run a frozen graph on this processor, and which one is fastest here."""

import importlib.util
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from squeezetune.errors import SettingsError
from squeezetune.system.executor import ThreadExecutor
from squeezetune.system.telemetry import RUNTIMES, import_onnxruntime, import_openvino

# What the image is called in a classifier's graph, as it was found, (n, height, width, 3) uint8,
# and as the network wants it, (n, side, side, 3) uint8.
IMAGE, FITTED = "image", "fitted"

# Runs a graph on pixels (n, side, side, 3) uint8; may be called from several threads at once.
RunGraph: TypeAlias = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
# The same for a graph of several outputs, in their order.
RunOutputs: TypeAlias = Callable[[NDArray[np.uint8]], tuple[NDArray[Any], ...]]

# At most this share of the fastest runtime's speed is given up for one that stands before it in the
# list. Of the machines measured none is near this limit (docs/decisions/0020-steadiness.md).
PREFERENCE_IS_WORTH = 0.30
PROBE_S = 0.15
# Runtimes are compared by the least of so many turns, each of this much time of the processor.
TURNS, TURN_S = 3, 0.1
# Activations of 8 images at 224 px stay in the cache of the processor; of 32 they do not.
BATCH_PIXELS = 8 * 224 * 224


@dataclass(frozen=True)
class Runtime:
    """An engine and the arithmetic that it computes the convolutions in."""

    engine: str
    precision: str

    def __str__(self) -> str:
        return f"{self.engine} {self.precision}"


def open_onnxruntime(model: bytes, precision: str, threads: int) -> RunOutputs:
    """Open a graph in ONNX Runtime; every call runs on the calling thread alone."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(pixels: NDArray[np.uint8]) -> tuple[NDArray[Any], ...]:
        return tuple(session.run(None, {name: pixels}))

    return run


def open_openvino(model: bytes, precision: str, threads: int) -> RunOutputs:
    """Open a graph in OpenVINO with one stream for each thread that calls."""
    openvino = import_openvino()
    # the binding gets to know numpy with its first array; two threads that do so at once wait for
    # each other for ever
    _ = openvino.Tensor(np.zeros(1, np.uint8)).data
    core = find_openvino_core()
    hint = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}[precision]
    config = {
        "INFERENCE_PRECISION_HINT": hint,
        "NUM_STREAMS": str(threads),
        "INFERENCE_NUM_THREADS": str(threads),
    }
    compiled = core.compile_model(core.read_model(model), "CPU", config)
    requests = threading.local()  # a request serves one thread at a time

    def run(pixels: NDArray[np.uint8]) -> tuple[NDArray[Any], ...]:
        if not hasattr(requests, "own"):
            requests.own = compiled.create_infer_request()
        # copies: a request uses its tensors again
        return tuple(output.copy() for output in requests.own.infer({0: pixels}).to_tuple())

    return run


def find_openvino_core() -> Any:
    """Find OpenVINO's core, one for the process: its threads go with a core, and those of others
    have been seen to crash meanwhile.

    Raises:
        MissingExtraError: OpenVINO is not installed.
    """
    return _open_core(import_openvino())


@cache
def _open_core(openvino: Any) -> Any:
    return openvino.Core()


OPENERS: dict[str, Callable[[bytes, str, int], RunOutputs]] = {
    "onnxruntime": open_onnxruntime,
    "openvino": open_openvino,
}


def open_graph(model: bytes, runtime: Runtime, threads: int) -> RunGraph:
    """Open a graph in the runtime's engine, for its first output."""
    run = open_outputs(model, runtime, threads)
    return lambda pixels: run(pixels)[0]


def open_outputs(model: bytes, runtime: Runtime, threads: int) -> RunOutputs:
    """Open a graph in the runtime's engine, for all its outputs."""
    return OPENERS[runtime.engine](model, runtime.precision, threads)


def list_runtimes(engine: str = "auto", precision: str = "auto") -> list[Runtime]:
    """List the runtimes of this machine that the settings allow, most precise first.

    Raises:
        MissingExtraError: OpenVINO is asked for and not installed.
        SettingsError: the engine cannot compute in this precision on this processor.
    """
    able = {"onnxruntime": ["float32", "int8"]}
    if engine == "openvino" or (engine == "auto" and importlib.util.find_spec("openvino")):
        able["openvino"] = (
            ["float32", "bfloat16", "int8"] if _has_native_bfloat16() else ["float32", "int8"]
        )
    engines = list(able) if engine == "auto" else [engine]
    runtimes = [
        Runtime(name, kind)
        for kind in ("float32", "bfloat16", "int8")
        for name in engines
        if kind in able[name] and precision in {"auto", kind}
    ]
    if not runtimes:
        known = ", ".join(f"{name}: {' or '.join(kinds)}" for name, kinds in able.items())
        raise SettingsError(
            f"precision {precision!r} with engine {engine!r} is not available on this computer",
            f"Available here: {known}. Use precision=auto to take the fastest.",
        )
    return runtimes


def choose_runtime(models: dict[Runtime, bytes], side: int, threads: int) -> Runtime:
    """Time each runtime on its graph for a moment; return the first, in their order, that is about
    the fastest.
    """
    pixels = np.random.default_rng(0).integers(
        0, 256, (batch_size(side), side, side, 3), dtype=np.uint8
    )
    costs = {runtime: measure_cost(open_graph(model, runtime, threads), pixels, threads)
             for runtime, model in models.items()}  # fmt: skip
    limit = min(costs.values()) / (1 - PREFERENCE_IS_WORTH)
    return next(runtime for runtime in models if costs[runtime] <= limit)


def measure_cost(run: RunGraph, pixels: NDArray[np.uint8], threads: int) -> float:
    """Measure the processor's seconds for an image with all threads at work, after one warm-up call
    each.

    Time of the processor instead of the clock: the clock's hangs on what other programs do, and the
    choice with it.
    """
    engine = ThreadExecutor(threads)
    list(engine.map(lambda _: run(pixels), range(threads)))
    return min(_time_turn(run, pixels, engine, threads) for _ in range(TURNS))


def _time_turn(
    run: RunGraph, pixels: NDArray[np.uint8], engine: ThreadExecutor, threads: int
) -> float:
    start = time.process_time()

    def work(_: int) -> int:
        calls = 0
        while time.process_time() < start + TURN_S or not calls:
            run(pixels)
            calls += 1
        return calls

    calls = sum(engine.map(work, range(threads)))
    return (time.process_time() - start) / (calls * len(pixels))


def measure_speed(
    run: RunGraph, pixels: NDArray[np.uint8], threads: int, seconds: float = PROBE_S
) -> float:
    """Measure images per second with all threads at work, after one warm-up call each."""
    start = 0.0

    def work(_: int) -> int:
        run(pixels)
        calls = 0
        while time.perf_counter() < start + seconds or not calls:
            run(pixels)
            calls += 1
        return calls

    engine = ThreadExecutor(threads)
    list(engine.map(lambda _: run(pixels), range(threads)))
    start = time.perf_counter()
    calls = sum(engine.map(work, range(threads))) + threads
    return calls * len(pixels) / (time.perf_counter() - start)


def batch_size(side: int, views: int = 1) -> int:
    """Choose how many images go through the network at once so that activations stay in the
    processor's cache.
    """
    return max(1, min(32, BATCH_PIXELS // (side**2 * views)))


def describe_versions(runtimes: Iterable[Runtime]) -> dict[str, str]:
    """Name the version of each engine that takes part."""
    return {name: RUNTIMES[name]().__version__ for name in sorted({r.engine for r in runtimes})}


def _has_native_bfloat16() -> bool:
    return "BF16" in find_openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
