"""A server that runs for tests, and a plain client."""

import http.client
import io
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO

import pytest

pytest.importorskip("starlette", reason="serving needs the extra serve")
pytest.importorskip("uvicorn", reason="serving needs the extra serve")
pytest.importorskip("prometheus_client", reason="serving needs the extra serve")
pytest.importorskip("python_multipart", reason="serving needs the extra serve")

from squeezetune.model.classifier import load
from squeezetune.serving.limits import Access, Limits
from squeezetune.serving.observability import JsonLog
from squeezetune.serving.server import ServerAddress, serve


@dataclass
class Running:
    """A server in a thread."""

    log: io.StringIO
    port: int = 0
    server: object = None
    failure: list = field(default_factory=list)

    def ask(self, method, path, body=None, headers=None):
        """Send one request: status, headers, and the body, parsed where it is JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            text = answer.read()
            is_json = answer.headers.get_content_type() == "application/json"
            return answer.status, answer.headers, json.loads(text) if is_json and text else text
        finally:
            connection.close()

    def predict(self, body, kind="application/octet-stream", **headers):
        return self.ask("POST", "/predict", body, {"Content-Type": kind, **headers})

    def lines(self):
        return [json.loads(line) for line in self.log.getvalue().splitlines()]


@pytest.fixture
def start_server():
    """Make a context in which a server runs."""

    @contextmanager
    def start(folder, limits=None, access=None, threads=2):
        running, is_up = Running(io.StringIO()), threading.Event()

        def announce(server, address):
            running.server, running.port = server, int(address.rpartition(":")[2])
            is_up.set()

        def run():
            try:
                serve(
                    folder,
                    ServerAddress(port=0, threads=threads, look_every_s=0.02),
                    limits or Limits(),
                    access or Access(),
                    journal=JsonLog(running.log),
                    announce=announce,
                )
            except Exception as error:
                running.failure.append(error)
            is_up.set()

        thread = threading.Thread(target=run)
        thread.start()
        assert is_up.wait(30)
        try:
            yield running
        finally:
            if running.server:
                running.server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()
            assert not running.failure

    return start


@pytest.fixture
def running(start_server, model_folder):
    with start_server(model_folder) as server:
        yield server


@pytest.fixture(scope="session")
def classifier(model_folder):
    return load(model_folder)


@pytest.fixture(scope="session")
def files(draw_shape):
    """Encode shapes of several sizes, as PNG and JPEG."""
    sizes = [(80, 72), (64, 64), (150, 90), (301, 17)]
    found = []
    for at in range(12):
        buffer = BytesIO()
        draw_shape(("box", "disc", "spike")[at % 3], 1000 + at, *sizes[at % 4]).save(
            buffer, ("PNG", "JPEG")[at % 2]
        )
        found.append(buffer.getvalue())
    return found


@pytest.fixture(scope="session")
def write_form():
    """Write files as the body of a form."""

    def write(contents, boundary=b"----shapes", name=b"image"):
        head = (
            b'Content-Disposition: form-data; name="%b"; filename="x.png"\r\nContent-Type: '
            b"image/png" % name
        )
        parts = [b"--%b\r\n%b\r\n\r\n%b\r\n" % (boundary, head, content) for content in contents]
        return b"".join(
            parts
        ) + b"--%b--\r\n" % boundary, f"multipart/form-data; boundary={boundary.decode()}"

    return write
