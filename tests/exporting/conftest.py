"""What tests of exports share: networks, one thread, short trials."""

import sys
from collections.abc import Iterator

import pytest
from example_orders import NETWORKS, make_orders

from squeezetune.compression.layerwise import Compressed
from squeezetune.exporting import onnx_formats
from squeezetune.exporting import runtimes as trial
from squeezetune.exporting.export_inputs import ExportInputs
from squeezetune.network.weights import Weights


@pytest.fixture(scope="module", params=NETWORKS)
def order(weights: Weights, request: pytest.FixtureRequest) -> ExportInputs:
    """Make an order of every kind of network."""
    found: ExportInputs = make_orders(weights)[request.param]
    return found


@pytest.fixture(scope="session", autouse=True)
def short_trials() -> Iterator[None]:
    """Time an export for as long as a call takes: what is measured is of no interest here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "ROUND_S", 0.0)
        yield


@pytest.fixture(scope="session", autouse=True)
def compressed_once() -> Iterator[None]:
    """Compress a network to four bits once, which takes seconds, however often it is exported."""
    compress, kept = onnx_formats.compress, {}

    def recall(order: ExportInputs) -> Compressed:
        key = (order.model, order.photos and len(order.photos.positions))
        if key not in kept:
            kept[key] = compress(order)
        return kept[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_formats, "compress", recall)
        yield


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Compute on one thread: those of torch stall when the machine is busy."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
