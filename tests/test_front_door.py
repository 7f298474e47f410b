"""What the commands that only look at photos load, and how little they take: whole processes, as a
user starts them.
"""

import json
import re
import subprocess
import sys
import urllib.request

import pytest

HEAVY = {
    "scipy",
    "onnx",
    "safetensors",
    "sklearn",
    "joblib",
    "matplotlib",
    "torch",
    "openvino",
    "pandas",
}
# What needs nothing but the command line itself.
HEAVIER = HEAVY | {
    "numpy",
    "onnxruntime",
    "PIL",
    "rich",
    "jinja2",
    "starlette",
    "uvicorn",
    "google",
}
IMPORTED = re.compile(r"^import time: .*\| +(\S+)$", re.MULTILINE)
MOST_MB = 95


def name_packages(said):
    """Name the packages that a process with `-X importtime` has loaded; what it says else is left
    alone.
    """
    return {name.split(".")[0] for name in IMPORTED.findall(said)}


def read_log(said):
    """Return what a server and its libraries have said: once it runs, every line is in a JSON
    object.
    """
    lines = (
        json.loads(line).get("message", "") if line.startswith("{") else line
        for line in said.splitlines()
    )
    return "\n".join(lines)


def run(*words):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "squeezetune", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, name_packages(done.stderr)


@pytest.fixture
def photo(draw_shape, tmp_path):
    draw_shape("disc", 5000).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.mark.parametrize("words", [[], ["--json"], ["--csv"], ["--none-of-these", "20%"]])
def test_a_prediction_loads_the_runtime_and_pillow_only(model_folder, photo, words):
    said, loaded = run("predict", model_folder, photo, *words)
    assert "disc" in said
    assert {"numpy", "onnxruntime", "PIL"} <= loaded
    assert not loaded & HEAVY


def test_a_single_file_is_predicted_with_as_lightly(model_folder, photo):
    said, loaded = run("predict", model_folder / "model.onnx", photo)
    assert "disc" in said
    assert not loaded & HEAVY


@pytest.mark.parametrize(
    "command", [[], ["train"], ["predict"], ["serve"], ["export"], ["check"], ["data"]]
)
def test_help_loads_nothing_heavy(command):
    said, loaded = run(*command, "--help")
    assert "Usage" in said
    assert not loaded & HEAVIER


def test_a_server_loads_the_runtime_and_pillow_only(model_folder, photo, tmp_path):
    for package in ("starlette", "prometheus_client", "python_multipart"):
        pytest.importorskip(package, reason="serving needs the extra serve")
    words = [
        sys.executable,
        "-X",
        "importtime",
        "-m",
        "squeezetune",
        "serve",
        str(model_folder),
        "--port",
        "0",
    ]
    said = tmp_path / "said.txt"  # a pipe would be full before the server is up
    with (
        said.open("w") as log,
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        address = process.stdout.readline().split(";")[0].rpartition(" ")[2]
        try:
            asked = urllib.request.Request(
                f"{address}/predict", photo.read_bytes(), {"Content-Type": "image/png"}
            )
            with urllib.request.urlopen(asked, timeout=20) as answer:
                label = json.load(answer)["images"][0]["label"]
        finally:
            process.terminate()
    loaded = name_packages(read_log(said.read_text()))
    assert label == "disc"
    assert {"numpy", "onnxruntime", "PIL", "starlette"} <= loaded
    assert not loaded & HEAVY


WEIGH = """
import sys
from squeezetune.cli.main import main
from squeezetune.system.machine import measure_peak_memory
main(sys.argv[1:], standalone_mode=False)
print(measure_peak_memory())
"""


@pytest.mark.skipif(
    sys.platform != "linux", reason="another system counts what is mapped otherwise"
)
def test_a_prediction_takes_little_memory(model_folder, photo):
    done = subprocess.run([sys.executable, "-c", WEIGH, "predict", str(model_folder), str(photo)],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert float(done.stdout.split()[-1]) < MOST_MB
