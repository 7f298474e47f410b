"""The runtimes that others make, imported so that they tell nobody of it.

ONNX Runtime and OpenVINO report from within the process that imports them. Each goes through its
door here, wherever it is needed, and so neither asks for a host nor leaves a number on the disk.
"""

import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from squeezetune.errors import MissingExtraError

_REPORTER = "openvino_telemetry"
_importing = threading.Lock()


def import_onnxruntime() -> Any:
    """Import ONNX Runtime with its telemetry off, which has to be said before: as it is imported it
    sets up all of it.

    Child processes inherit that. A program that sets ORT_DISABLE_TELEMETRY, or has imported ONNX
    Runtime itself, has decided.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return importlib.import_module("onnxruntime")


def import_openvino() -> Any:
    """Import OpenVINO as if the package that reports were not installed, which it provides for.

    Its other switch is a file in the user's home folder, for all programs.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        with _importing, _hide_module(_REPORTER):
            return importlib.import_module("openvino")
    except ImportError as error:
        raise MissingExtraError(
            "The engine 'openvino' is not installed.",
            "Install it: pip install 'squeezetune[openvino]'",
        ) from error


@contextmanager
def _hide_module(name: str) -> Iterator[None]:
    """Let nobody import a module for a moment."""
    missing = object()
    former: Any = sys.modules.get(name, missing)
    sys.modules[name] = None  # type: ignore[assignment]  # as the documentation of `import` has it
    try:
        yield
    finally:
        if former is missing:
            del sys.modules[name]
        else:
            sys.modules[name] = former


# By the name of the package.
RUNTIMES: dict[str, Callable[[], Any]] = {
    "onnxruntime": import_onnxruntime,
    "openvino": import_openvino,
}
