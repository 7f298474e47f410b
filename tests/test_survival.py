"""Whole commands, stopped at random moments and run again: the same bytes as if nothing had been,
and no traceback.
"""

import random
import signal
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner
from fast_options import FAST

from squeezetune.cli.main import main

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def run(words, stop_after_s=None, stop=signal.SIGKILL):
    """Run a command, and stop it after a while if it still runs; returns its exit status."""
    with subprocess.Popen(
        [sys.executable, "-m", "squeezetune", *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            _, said = process.communicate(timeout=stop_after_s)
        except subprocess.TimeoutExpired:
            process.send_signal(stop)
            _, said = process.communicate(timeout=60)
    assert "Traceback" not in said
    return process.returncode


def measure(words):
    began = time.perf_counter()
    assert run(words) == 0
    return time.perf_counter() - began


def stop_trainings(photos, place, count):
    """Stop so many trainings, each at a random moment, and train to the end then; compare the
    model's bytes.
    """
    rng = random.Random(count)
    words = ["train", photos, "-q", "--no-cache", *FAST, "--output"]
    length_s = measure([*words, place / "clean"])
    for number in range(count):
        status = run(
            [*words, place / "stopped"], rng.uniform(0.1, length_s), SIGNALS[number % len(SIGNALS)]
        )
        # a signal by itself ends what has not yet begun to run Python
        assert status in {0, 1, 130, *(-each for each in SIGNALS)}
    assert run([*words, place / "stopped"]) == 0
    for name in ("model.onnx", "network.safetensors"):
        assert (place / "stopped" / name).read_bytes() == (place / "clean" / name).read_bytes()
    assert {path.name for path in place.iterdir()} == {"clean", "stopped"}


def stop_predictions(model, photos, place, count):
    """Stop so many predictions into one file, each at a random moment, each going on; compare the
    file's bytes.
    """
    rng = random.Random(count)
    words = ["predict", model, photos, "-q", "--output"]
    length_s = measure([*words, place / "clean.csv"])
    stopped = place / "stopped.csv"
    unfinished = stopped.with_name(f".{stopped.name}.unfinished")
    for number in range(count):
        if stopped.exists() and not unfinished.exists():  # stopped when all was done
            break
        resume = ["--resume"] if stopped.exists() else []
        run(
            [*words, stopped, *resume],
            rng.uniform(0.3, 1.0) * length_s,
            SIGNALS[number % len(SIGNALS)],
        )
    if unfinished.exists() or not stopped.exists():
        assert run([*words, stopped, *(["--resume"] if stopped.exists() else [])]) == 0
    assert stopped.read_bytes() == (place / "clean.csv").read_bytes()
    assert {path.name for path in place.iterdir() if path.suffix != ".lock"} == {
        "clean.csv",
        "stopped.csv",
    }


@pytest.mark.slow
def test_stopped_predictions_end_as_if_nothing_had_been(model_folder, shape_folder, tmp_path):
    stop_predictions(model_folder, shape_folder, tmp_path, 3)


@pytest.mark.parametrize("told", ["KeyboardInterrupt: <EMPTY MESSAGE>", "by its cause"])
def test_ctrl_c_while_a_library_is_loaded_is_no_traceback(model_folder, monkeypatch, told):
    def load(_):
        raise ImportError(told) from (KeyboardInterrupt() if told == "by its cause" else None)

    monkeypatch.setattr("squeezetune.model.classifier.load", load)
    done = CliRunner().invoke(main, ["predict", str(model_folder), "photo.jpg"])
    assert done.exit_code == 130
    assert "Stopped." in done.output


@pytest.mark.slow
def test_thirty_stopped_trainings_end_as_if_nothing_had_been(shape_folder, tmp_path):
    stop_trainings(shape_folder, tmp_path, 30)


@pytest.mark.slow
@pytest.mark.parametrize("chain", range(36))
def test_chains_of_stopped_predictions_end_as_if_nothing_had_been(
    model_folder, write_shapes, tmp_path, chain
):
    photos = write_shapes(tmp_path / "photos", 60 + chain)
    (tmp_path / "lines").mkdir()
    stop_predictions(model_folder, photos, tmp_path / "lines", 4 + chain)
