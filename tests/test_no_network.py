"""Nothing is asked of anybody and nothing is written outside our own folders: real commands, in a
quiet room.
"""

import re
from pathlib import Path

import pytest
from fast_options import FAST
from quiet_room import Room, can_trace, find_entrance

pytestmark = pytest.mark.skipif(
    "sys.platform == 'win32'", reason="processes are listened to on Linux and macOS"
)
README = (Path(__file__).parents[1] / "README.md").read_text()
CHECK = ["--image-side", "64", "--engine", "onnxruntime", "--precision", "float32"]
SERVE = """
import http.client, re, signal, subprocess, sys
command = [sys.executable, "-m", "squeezetune", "serve", sys.argv[1], "--port", "0"]
with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
    port = int(re.search(r"http://127.0.0.1:(\\d+)", server.stdout.readline())[1])
    for path, body in (("/predict", open(sys.argv[2], "rb").read()), ("/docs", None), ("/metrics", None)):
        door = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        door.request("POST" if body else "GET", path, body, {"Content-Type": "application/octet-stream"})
        assert door.getresponse().status == 200, path
    server.send_signal(signal.SIGTERM)
"""  # noqa: E501


def find_programs(page):
    return re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    return Room(tmp_path_factory.mktemp("quiet"))


@pytest.fixture(scope="module")
def run(room):
    def run(*words, status=0):
        heard = room.run(*words)
        assert heard.status == status, heard.said
        assert heard.asked == []
        assert [path for path in heard.wrote if not room.is_ours(path)] == []
        assert room.list_strays() == []
        return heard

    return run


@pytest.fixture(scope="module")
def model(room, run, shape_folder):
    run("-m", "squeezetune", "train", shape_folder, "--output", "model", *FAST)
    return room.work / "model"


def test_train(model):
    assert (model / "model.onnx").exists()


@pytest.mark.parametrize(
    "command",
    [
        ["predict", "model", "PHOTO"],
        ["predict", "model", "PHOTO", "--explain", "why"],
        ["predict", "model", "PHOTOS", "--output", "photos.csv"],
        ["predict", "--imagenet", "PHOTO"],
        ["evaluate", "model", "PHOTOS"],
        ["info", "model"],
        pytest.param(["check", "PHOTOS", *CHECK], marks=pytest.mark.slow),
        ["backbones"],
        ["data"],
        ["--version"],
    ],
)
def test_a_command_keeps_to_itself(run, model, shape_folder, command):
    places = {"PHOTO": shape_folder / "box" / "000.png", "PHOTOS": shape_folder}
    run("-m", "squeezetune", *(places.get(word, word) for word in command))


@pytest.fixture(scope="module")
def exports(room, run, model):
    run("-m", "squeezetune", "export", "model", "--format", "onnx")
    return room.work / "model-export"


@pytest.mark.slow
def test_export_keeps_to_itself(exports):
    assert (exports / "model.onnx").exists()


# what takes longer: the words of a command, and the package without which it cannot be
LONG = {
    "demo": ("squeezetune", ["demo", "demo"]),
    "onnx-int8": ("onnxruntime", ["export", "model", "--format", "onnx-int8", "--output", "int8"]),
    "onnx-tiny": ("onnxruntime", ["export", "model", "--format", "onnx-tiny", "--output", "tiny"]),
    "web": (
        "onnxruntime",
        ["export", "model", "--format", "web", "--output", "web", "--runtime", "RUNTIME"],
    ),
    "openvino": (
        "openvino",
        ["export", "model", "--format", "openvino", "--output", "intermediate"],
    ),
    "tflite": ("ai_edge_litert", ["export", "model", "--format", "tflite", "--output", "tflite"]),
    "torch": ("torch", ["export", "model", "--format", "torch", "--output", "torch"]),
    "layers": ("torch", ["train", "PHOTOS", "--output", "deep", *FAST, "--layers", "last"]),
    "tensorboard": (
        "tensorboardX",
        ["train", "PHOTOS", "--output", "watched", *FAST, "--tensorboard", "curves"],
    ),
    "mlflow": ("mlflow", ["train", "PHOTOS", "--output", "kept", *FAST, "--mlflow", "MLRUNS"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_a_long_command_keeps_to_itself(request, room, run, model, shape_folder, name):
    package, words = LONG[name]
    pytest.importorskip(package, reason=f"{package} is an extra")
    places = {"PHOTOS": shape_folder, "MLRUNS": (room.work / "mlruns").as_uri()}
    if "RUNTIME" in words:
        places["RUNTIME"] = request.getfixturevalue("web_runtime")
    run("-m", "squeezetune", *(places.get(word, word) for word in words))


@pytest.mark.slow
def test_programs_on_the_card_keep_to_themselves(room, run, exports, shape_folder):
    programs = find_programs((exports / "README.md").read_text())
    assert programs
    for number, program in enumerate(programs):
        path = room.work / f"program-{number}.py"
        path.write_text(f"import os\nos.chdir({str(exports)!r})\n{program}")
        assert "disc" in run(path, shape_folder / "disc" / "003.png").said


def test_the_program_in_the_readme_keeps_to_itself(room, run, exports, shape_folder):
    [program] = [program for program in find_programs(README) if "classify.py" in program]
    (room.work / "classify.py").write_text(program)
    assert (
        "disc" in run("classify.py", exports / "model.onnx", shape_folder / "disc" / "003.png").said
    )


def test_a_server_keeps_to_itself(run, model, shape_folder):
    pytest.importorskip("uvicorn", reason="serving needs the extra serve")
    run("-c", SERVE, model, shape_folder / "box" / "000.png")


# ---- the room itself hears and refuses


@pytest.mark.parametrize("code", [
    "import socket; socket.getaddrinfo('example.org', 443)",
    "import urllib.request; urllib.request.urlopen('http://192.0.2.1/', timeout=1)",
    "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'', ('192.0.2.1', 9))",
])  # fmt: skip
def test_requests_of_python_are_heard(room, code):
    assert room.run("-c", code).asked


@pytest.mark.skipif(not can_trace(), reason="strace is not installed, or not allowed")
def test_requests_of_other_libraries_and_files_are_heard(room):
    code = """
import ctypes, socket
libc = ctypes.CDLL(None)
address = bytes([socket.AF_INET, 0]) + (443).to_bytes(2, "big") + bytes([192, 0, 2, 1]) + bytes(8)
libc.connect(libc.socket(socket.AF_INET, socket.SOCK_DGRAM, 0), address, 16)
libc.mkdir(b"/tmp/squeezetune-quiet-room", 0o700)
libc.rmdir(b"/tmp/squeezetune-quiet-room")
"""
    heard = room.run("-c", code)
    assert any("192.0.2.1" in line for line in heard.asked)
    assert [path for path in heard.wrote if not room.is_ours(path)] == [
        Path("/tmp/squeezetune-quiet-room")
    ]


@pytest.mark.skipif(
    not find_entrance(), reason="this system gives processes no network of their own"
)
def test_no_other_computer_can_be_reached(room):
    heard = room.run("-c", "import socket; socket.create_connection(('192.0.2.1', 443), timeout=5)")
    assert "Network is unreachable" in heard.said
