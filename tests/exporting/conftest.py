"""What tests of exports share: one thread, and the web build of ONNX Runtime, as far as it can be had."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from threadpoolctl import threadpool_limits

from squeezetune.errors import ExportError
from squeezetune.exporting import runtime


@pytest.fixture(scope="session")
def web_runtime(request: pytest.FixtureRequest) -> Path:
    """Find the web build: kept with what pytest remembers, fetched the first time from where npm would fetch it."""
    cache = request.config.cache.mkdir("squeezetune")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SQUEEZETUNE_CACHE", str(cache))
        kept = cache / "web-runtime" / runtime.VERSION
        if npm := None if kept.is_dir() else shutil.which("npm"):
            asked = subprocess.run([npm, "config", "get", "registry"], capture_output=True, text=True, check=False)
            patch.setenv(runtime.REGISTRY_VARIABLES[0], asked.stdout.strip())
        try:
            runtime.load_runtime()
        except ExportError as error:
            pytest.skip(f"no web build of ONNX Runtime: {error.message}")
    return kept


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Compute on one thread: those of torch and BLAS stall when the machine is busy."""
    with threadpool_limits(1):
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(1)
        yield
