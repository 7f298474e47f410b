"""What tests of exports share: networks, one thread, short trials, the web build of ONNX Runtime if it can be had."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from example_orders import NETWORKS, make_orders

from squeezetune.errors import ExportError
from squeezetune.exporting import runtime, trial
from squeezetune.exporting.order import Order
from squeezetune.learn.weights import Weights


@pytest.fixture(scope="module", params=NETWORKS)
def order(weights: Weights, request: pytest.FixtureRequest) -> Order:
    """Make an order of every kind of network."""
    found: Order = make_orders(weights)[request.param]
    return found


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


@pytest.fixture(scope="session", autouse=True)
def short_trials() -> Iterator[None]:
    """Time an export for as long as a call takes: what is measured is of no interest here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "ROUND_S", 0.0)
        yield


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Compute on one thread: those of torch stall when the machine is busy."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
