import importlib
import importlib.util
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from squeezetune.errors import MissingExtraError, SettingsError
from squeezetune.network import inference
from squeezetune.network.backbone import measure_distance, measure_ranges
from squeezetune.network.graph import FEATURE_COUNT, build_activations, build_backbone
from squeezetune.network.inference import (
    Runtime,
    batch_size,
    choose_runtime,
    describe_versions,
    list_runtimes,
    measure_speed,
    open_graph,
    open_outputs,
)
from squeezetune.network.int8_layers import Int8
from squeezetune.network.zoo import ARCHITECTURES

HAS_OPENVINO = importlib.util.find_spec("openvino") is not None
needs_openvino = pytest.mark.skipif(
    not HAS_OPENVINO, reason="OpenVINO is an extra, and not installed"
)


@pytest.fixture(scope="module")
def photos():
    coarse = np.random.default_rng(1).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


@pytest.fixture
def no_openvino(monkeypatch):
    """Hide OpenVINO, installed or not."""
    real_find, real_import = importlib.util.find_spec, importlib.import_module

    def import_module(name, *rest):
        if name == "openvino":
            raise ModuleNotFoundError("No module named 'openvino'")
        return real_import(name, *rest)

    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "openvino" else real_find(name)
    )
    monkeypatch.setattr(importlib, "import_module", import_module)


# ---- which runtimes there are


def test_runtimes_without_openvino(no_openvino):
    assert list_runtimes() == [Runtime("onnxruntime", "float32"), Runtime("onnxruntime", "int8")]


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_runtimes_with_openvino_are_listed_most_precise_first(monkeypatch, has_bfloat16):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(inference, "_has_native_bfloat16", lambda: has_bfloat16)
    names = [str(runtime) for runtime in list_runtimes()]
    middle = ["openvino bfloat16"] if has_bfloat16 else []
    assert names == [
        "onnxruntime float32",
        "openvino float32",
        *middle,
        "onnxruntime int8",
        "openvino int8",
    ]


def test_engine_and_precision_narrow_the_list(no_openvino):
    assert list_runtimes("onnxruntime", "int8") == [Runtime("onnxruntime", "int8")]


def test_a_precision_that_the_engine_lacks_is_an_error(no_openvino):
    with pytest.raises(SettingsError, match="'bfloat16' with engine 'onnxruntime'") as caught:
        list_runtimes("onnxruntime", "bfloat16")
    assert "onnxruntime: float32 or int8" in caught.value.hint


def test_openvino_that_is_not_installed_is_an_error(no_openvino):
    with pytest.raises(MissingExtraError) as caught:
        list_runtimes("openvino")
    assert "pip install 'squeezetune[openvino]'" in caught.value.hint


def test_versions_are_named(no_openvino):
    runtimes = [Runtime("onnxruntime", "float32"), Runtime("onnxruntime", "int8")]
    assert list(describe_versions(runtimes)) == ["onnxruntime"]


# ---- which one is taken


def choose(monkeypatch, costs):
    """Choose among runtimes that take so long for an image, by "engine precision"."""
    runtimes = {Runtime(*name.split()): name.encode() for name in costs}
    monkeypatch.setattr(inference, "open_graph", lambda model, runtime, threads: str(runtime))
    monkeypatch.setattr(inference, "measure_cost", lambda run, pixels, threads: costs[run])
    return str(choose_runtime(runtimes, 64, 2))


@pytest.mark.parametrize(
    ("costs", "chosen"),
    [
        ({"onnxruntime float32": 100, "onnxruntime int8": 90}, "onnxruntime float32"),
        ({"onnxruntime float32": 100, "onnxruntime int8": 71}, "onnxruntime float32"),
        ({"onnxruntime float32": 100, "onnxruntime int8": 69}, "onnxruntime int8"),
        (
            {"onnxruntime float32": 100, "openvino float32": 90, "openvino int8": 71},
            "onnxruntime float32",
        ),
        (
            {"onnxruntime float32": 900, "openvino bfloat16": 99, "openvino int8": 70},
            "openvino bfloat16",
        ),
        (
            {"onnxruntime float32": 900, "onnxruntime int8": 101, "openvino int8": 100},
            "onnxruntime int8",
        ),
        # as measured: an Intel Xeon with AMX, and an AMD EPYC of the fourth generation
        (
            {
                "onnxruntime float32": 304,
                "openvino bfloat16": 117,
                "onnxruntime int8": 107,
                "openvino int8": 100,
            },
            "openvino bfloat16",
        ),
        (
            {
                "onnxruntime float32": 303,
                "openvino float32": 333,
                "openvino bfloat16": 189,
                "onnxruntime int8": 100,
                "openvino int8": 132,
            },
            "onnxruntime int8",
        ),
    ],
)
def test_the_first_that_is_about_the_fastest_is_taken(monkeypatch, costs, chosen):
    assert choose(monkeypatch, costs) == chosen


def burn(seconds):
    """Keep the processor busy for so long."""
    start = time.process_time()
    while time.process_time() < start + seconds:
        pass


def test_a_cost_is_the_least_of_all_turns_and_counts_every_image_of_every_thread(monkeypatch):
    calls = []
    monkeypatch.setattr(inference, "TURN_S", 0.01)

    def run(pixels):
        calls.append(len(pixels))
        burn(0.03 if len(calls) < 4 else 0.004)  # the warm-up and the first turns are slow

    cost = inference.measure_cost(run, np.zeros((5, 8, 8, 3), np.uint8), threads=1)
    assert set(calls) == {5}
    assert 0.004 / 5 <= cost < 0.012 / 5


def test_waiting_for_other_programs_is_no_cost(monkeypatch):
    monkeypatch.setattr(inference, "TURN_S", 0.01)

    def run(pixels):
        burn(0.004)

    def run_delayed(pixels):
        burn(0.004)
        time.sleep(0.02)

    pixels = np.zeros((1, 8, 8, 3), np.uint8)
    plain, delayed = (
        inference.measure_cost(each, pixels, threads=1) for each in (run, run_delayed)
    )
    assert delayed < 1.3 * plain


def test_speed_counts_every_image_of_every_thread():
    calls = []
    pixels = np.zeros((5, 8, 8, 3), np.uint8)
    assert measure_speed(lambda p: calls.append(len(p)), pixels, threads=2, seconds=0.02) > 0
    assert set(calls) == {5}
    assert len(calls) >= 4  # a warm-up and a call for each thread


@pytest.mark.parametrize(
    ("side", "views", "size"), [(224, 1, 8), (224, 2, 4), (64, 1, 32), (512, 2, 1), (4096, 2, 1)]
)
def test_batches_stay_in_the_processors_cache(side, views, size):
    assert batch_size(side, views) == size


# ---- what they compute


@needs_openvino
def test_openvino_equals_onnx_runtime_in_float32(weights, photos):
    model = build_backbone(weights, views=2)
    ours, theirs = (
        open_graph(model, Runtime(name, "float32"), 2)(photos)
        for name in ("onnxruntime", "openvino")
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


@needs_openvino
def test_openvino_in_int8_is_near_float(weights, photos):
    model = build_backbone(weights, Int8(measure_ranges(weights, photos)))
    int8 = open_graph(model, Runtime("openvino", "int8"), 2)(photos)
    assert (
        measure_distance(
            int8, open_graph(build_backbone(weights), Runtime("onnxruntime", "float32"), 1)(photos)
        )
        < 0.1
    )


@pytest.mark.parametrize("engine", ["onnxruntime", pytest.param("openvino", marks=needs_openvino)])
def test_many_threads_at_once_compute_the_same(weights, photos, engine):
    run = open_graph(build_backbone(weights), Runtime(engine, "float32"), 3)
    alone = [run(photo[None]) for photo in photos]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda at: run(photos[at % 8][None]), range(48)))
    for at, features in enumerate(together):
        np.testing.assert_array_equal(features, alone[at % 8])


FIRST_RUN = """
from threading import Barrier, Thread
import numpy as np
from squeezetune.network.graph import build_backbone
from squeezetune.network.int8_layers import Int8
from squeezetune.network.inference import Runtime, open_graph
from squeezetune.network.weights import load_weights
run = open_graph(build_backbone(load_weights()), Runtime("openvino", "float32"), 2)
barrier, pixels = Barrier(4), np.zeros((1, 32, 32, 3), np.uint8)
threads = [Thread(target=lambda: (barrier.wait(), run(pixels))) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


@needs_openvino
@pytest.mark.parametrize(
    "attempt", [0, *(pytest.param(at, marks=pytest.mark.slow) for at in (1, 2))]
)
def test_the_first_run_of_a_process_may_be_on_several_threads(attempt):
    subprocess.run([sys.executable, "-c", FIRST_RUN], check=True, timeout=60)


@pytest.mark.parametrize("engine", ["onnxruntime", pytest.param("openvino", marks=needs_openvino)])
def test_a_graph_of_several_outputs(weights, photos, engine):
    runtime = Runtime(engine, "float32")
    maps, taps = open_outputs(build_activations(weights, "fire6"), runtime, 1)(photos)
    features = open_graph(build_backbone(weights), runtime, 1)(photos)
    assert maps.shape == (8, 1, *ARCHITECTURES["1.1"].measure_block("fire6", 64))
    np.testing.assert_allclose(taps, features[:, :, : taps.shape[2]], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(
        open_graph(build_activations(weights, "fire6"), runtime, 1)(photos), maps
    )


@needs_openvino
def test_results_are_not_overwritten_by_the_next_call(weights, photos):
    run = open_graph(build_backbone(weights), Runtime("openvino", "float32"), 1)
    first = run(photos[:1])
    kept = first.copy()
    run(photos[1:2])
    np.testing.assert_array_equal(first, kept)
    assert first.shape == (1, 1, FEATURE_COUNT)
