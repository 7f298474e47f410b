"""ONNX Runtime as tests use it: on one thread, since as many tests as there are cores run at
once.
"""

from pathlib import Path

from squeezetune.system.telemetry import import_onnxruntime

onnxruntime = import_onnxruntime()


def open_session(model: bytes | Path) -> onnxruntime.InferenceSession:
    """Open a model or the file of one."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
