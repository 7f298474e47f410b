import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from waiting import wait_until

from squeezetune.errors import ArtifactError, SettingsError
from squeezetune.model.artifact import MODEL, read_manifest, stage_artifact
from squeezetune.serving import models
from squeezetune.serving.limits import Limits
from squeezetune.serving.server import ServerAddress, serve


def converse(port, *pieces, pause_s=0.0):
    """Send pieces of bytes and return all that comes until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        for piece in pieces:
            sock.sendall(piece)
            time.sleep(pause_s)
        answer = b""
        while chunk := sock.recv(65536):
            answer += chunk
        return answer


# ---- clients that take their time, or talk nonsense


def test_a_body_that_comes_too_slowly(start_server, model_folder):
    with start_server(model_folder, Limits(time_s=0.2, idle_s=0.2)) as running:
        head = (
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: "
            b"1000\r\n\r\n"
        )
        answer = converse(running.port, head, b"\x89PNG")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"too-slow"' in answer


@pytest.mark.parametrize("begun", [b"", b"GET /hea", b"GET /health HTTP/1.1\r\nHost: x\r\nX: "])
def test_headers_that_never_end_are_hung_up_on(start_server, model_folder, begun):
    with start_server(model_folder, Limits(idle_s=0.2)) as running:
        assert converse(running.port, begun) == b""
        # also behind an answered request
        asked = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
        assert converse(running.port, asked, begun, pause_s=0.05).count(b"HTTP/1.1 200") == 1


@pytest.mark.parametrize("length", [20_000, 200_000])
def test_headers_that_are_too_long(running, length):
    answer = converse(
        running.port,
        b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: " + b"y" * length,
        b"\r\n\r\n",
    )
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b'"long-headers"' in answer


@pytest.mark.parametrize("words", [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40) + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
])  # fmt: skip
def test_what_is_no_http(running, words):
    answer = converse(running.port, words)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"bad-request"' in answer


def test_damaged_chunks(running):
    head = (
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nTransfer-Encoding: "
        b"chunked\r\n\r\n"
    )
    assert converse(running.port, head, b"zz\r\nabc\r\n").startswith(b"HTTP/1.1 400 ")
    assert running.ask("GET", "/health")[0] == 200
    assert "trace" not in running.log.getvalue()


def test_a_large_body_in_chunks_is_refused(start_server, model_folder):
    head = (b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nConnection: close\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n")  # fmt: skip
    with start_server(model_folder, Limits(body_bytes=10_000)) as running:
        answer = converse(running.port, head, b"4000\r\n" + bytes(0x4000) + b"\r\n0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_client_that_goes_away(running, files):
    head = (
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: "
        b"1000\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", running.port)) as sock:
        sock.sendall(head + b"\x89PNG")
        wait_until(lambda: running.server.server_state.tasks)
    wait_until(lambda: any(line.get("status") == 499 for line in running.lines()))
    assert running.predict(files[0])[0] == 200


def test_too_many_connections(start_server, model_folder):
    with start_server(model_folder, Limits(connections=2)) as running:
        idle = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(2)]
        wait_until(lambda: len(running.server.server_state.connections) == 2)
        assert converse(running.port).startswith(b"HTTP/1.1 503 ")
        for sock in idle:
            sock.close()
        wait_until(lambda: not running.server.server_state.connections)
        assert running.ask("GET", "/health")[0] == 200


def test_more_images_than_may_wait(start_server, model_folder, files, monkeypatch):
    is_open = threading.Event()
    with start_server(model_folder, Limits(waiting=1, images=1), threads=1) as running:
        prepare = models.prepare_pixels
        monkeypatch.setattr(
            models, "prepare_pixels", lambda *given: is_open.wait(20) and prepare(*given)
        )
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(running.predict, files[0])
            wait_until(lambda: len(running.server.server_state.tasks) == 1)
            time.sleep(0.1)  # until a thread has it
            second = pool.submit(running.predict, files[1])
            wait_until(lambda: len(running.server.server_state.tasks) == 2)
            time.sleep(0.1)
            status, headers, answer = running.predict(files[2])
            is_open.set()
            assert (status, answer["error"]["code"], headers["Retry-After"]) == (503, "busy", "1")
            assert first.result()[0] == second.result()[0] == 200


# ---- nothing on the disk


def test_no_body_is_written_to_the_disk(start_server, model_folder, write_form, files):
    written = []

    def hear(event, given):
        if event == "open" and isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR):
            written.append(given[0])

    sys.addaudithook(hear)
    with start_server(model_folder) as running:
        written.clear()
        status, _, answer = running.predict(
            *write_form([bytes(6_000_000), files[0], files[0] + bytes(5_000_000)])
        )
        assert written == []
    assert status == 200
    assert len(answer["images"]) == 3


# ---- a new model


def copy_model(source, folder, change=lambda name, data: data):
    """Put a copy of a model in a folder's place, as a training does."""
    manifest = read_manifest(source)
    with stage_artifact(folder) as staging:
        for name in manifest.files:
            staging.write(name, change(name, (source / name).read_bytes()))
        staging.finish(manifest)


def test_a_new_model_is_taken_without_a_failed_request(start_server, model_folder, tmp_path, files):
    folder = tmp_path / "model"
    copy_model(model_folder, folder)
    other = tmp_path / "other"
    copy_model(model_folder, other, retitle)
    versions, statuses, is_done = [], [], threading.Event()

    def load(running):
        while not is_done.is_set():
            status, _, answer = running.predict(files[0])
            statuses.append(status)
            versions.append(answer["model"])

    with start_server(folder) as running, ThreadPoolExecutor(3) as pool:
        clients = [pool.submit(load, running) for _ in range(3)]
        for source in (other, model_folder, other):
            copy_model(source, folder)
            wanted = read_manifest(folder).files[MODEL]
            wait_until(lambda wanted=wanted: versions[-1:] == [wanted])
        is_done.set()
        for client in clients:
            client.result()
    assert set(statuses) == {200}
    assert len(set(versions)) == 2
    assert [line["outcome"] for line in running.lines() if line["event"] == "model"] == [
        "loaded"
    ] * 3


def retitle(name, data):
    """Change the bytes of the model, and nothing that it gives."""
    if name != MODEL:
        return data
    import onnx

    model = onnx.load_model_from_string(data)
    model.doc_string = "another"
    return model.SerializeToString()


def test_a_damaged_model_is_refused_and_the_old_one_stays(
    start_server, model_folder, tmp_path, files
):
    folder = tmp_path / "model"
    copy_model(model_folder, folder)
    version = read_manifest(folder).files[MODEL]
    whole = (folder / MODEL).read_bytes()
    with start_server(folder) as running:
        (folder / MODEL).write_bytes(whole[:1000])
        wait_until(lambda: any(line["event"] == "model" for line in running.lines()))
        [line] = [line for line in running.lines() if line["event"] == "model"]
        assert line["outcome"] == "refused"
        assert "damaged" in line["message"]
        assert running.predict(files[0])[2]["model"] == version
        shutil.rmtree(folder)
        time.sleep(0.1)
        assert running.predict(files[0])[2]["model"] == version
        copy_model(model_folder, folder, retitle)
        wait_until(lambda: running.predict(files[0])[2]["model"] != version)


# ---- beginning and end


def test_no_model_and_no_port(tmp_path, model_folder):
    with pytest.raises(ArtifactError, match="no SqueezeTune model"):
        serve(tmp_path, ServerAddress(port=0))
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(SettingsError, match="cannot be listened at"),
    ):
        serve(model_folder, ServerAddress(port=taken.getsockname()[1]))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_when_all_is_answered(model_folder, files, number):
    with subprocess.Popen(
        [sys.executable, "-m", "squeezetune", "serve", str(model_folder), "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=restore_interrupts,
    ) as process:  # fmt: skip
        port = int(process.stdout.readline().split(";")[0].rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
            head = (
                f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: "
                f"image/png\r\nContent-Length: {len(files[0])}\r\n"
            )
            sock.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
            assert sock.recv(100).startswith(b"HTTP/1.1 100 ")  # it is being received
            process.send_signal(number)
            wait_until(lambda: not can_connect(port))
            sock.sendall(files[0])
            answer = b""
            while chunk := sock.recv(65536):
                answer += chunk
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert process.wait(20) == 0
        assert process.stderr.read().splitlines()[-1].endswith('"event": "stopped"}')


def restore_interrupts():
    signal.signal(signal.SIGINT, signal.default_int_handler)


def can_connect(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True
