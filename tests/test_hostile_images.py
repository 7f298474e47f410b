"""Files of a few kilobytes that once took gigabytes and minutes: each is read or refused within a
ceiling.
"""

import json
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path

import pytest
from hostile_images import MB, SHAPES, write_endless, write_shapes

from squeezetune.data.index import index_photos
from squeezetune.data.pixels import PixelSettings, load_prepared
from squeezetune.data.sources.folder import FileSource
from squeezetune.data.thumbnails import load_thumbnails, open_look_store
from squeezetune.errors import ImageError
from squeezetune.events import ignore_event
from squeezetune.model.classifier import load
from squeezetune.system.executor import ThreadExecutor

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="peaks of memory are read from /proc"
)
MOST_BYTES = 800 * MB
MOST_CPU_S = 30  # of a busy machine; a quiet one takes a fifth
REFUSED = {
    "tall.png": "a side of at most 65,535",
    "taller.png": "a side of at most 65,535",
    "wide.png": "a side of at most 65,535",
    "wider.png": "a side of at most 65,535",
    "too-large.png": "MB to decode; at most 600 MB",
    "bomb.png": "pixels are read",
    "cut.png": "blank, or made to use up memory",
    "plain-bomb.pgm": "at most 4,194,304 pixels are read",
}
# Reads file after file as a model takes it, and tells what the largest peak of memory was while it
# did, and how long.
READ = """
import json, sys, time
from pathlib import Path
from squeezetune.data.sources.folder import FileSource
from squeezetune.data.pixels import PixelSettings, load_pixels, load_prepared
from squeezetune.system.executor import ThreadExecutor
from squeezetune.errors import ImageError
from squeezetune.events import ignore_event
for path in sorted(Path(sys.argv[1]).iterdir()):
    for load in (load_prepared, load_pixels):
        Path("/proc/self/clear_refs").write_text("5")
        started, outcome = time.process_time(), "read"
        try:
            load(FileSource(), str(path), PixelSettings(224))
        except ImageError as error:
            outcome = error.message
        [peak] = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line]
        print(json.dumps([path.name, outcome, int(peak) * 1024, time.process_time() - started]), flush=True)
"""  # noqa: E501
# Runs the command line, and tells its peak of memory in the last line.
RUN = """
import sys
from squeezetune.__main__ import main
try:
    main()
except SystemExit as ended:
    code = ended.code
[peak] = [line.split()[1] for line in open("/proc/self/status") if "VmHWM" in line]
print(code or 0, int(peak) * 1024)
"""


def run_python(code, *words, **options):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        text=True,
        capture_output=True,
        check=True,
        timeout=300,
        **options,
    )


@pytest.mark.slow
def test_every_shape_is_read_or_refused_within_the_ceilings(tmp_path):
    write_shapes(tmp_path)
    found = [json.loads(line) for line in run_python(READ, tmp_path).stdout.splitlines()]
    assert len(found) == 2 * len(SHAPES)
    for name, outcome, peak, cpu_s in found:
        assert REFUSED.get(name, "read") in outcome, name
        assert peak < MOST_BYTES, f"{name}: {peak // MB} MB"
        assert cpu_s < MOST_CPU_S, f"{name}: {cpu_s:.1f} s"


def test_what_has_no_end_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    write_endless(Path("endless"))
    found = {
        name: (outcome, peak)
        for name, outcome, peak, _ in map(
            json.loads, run_python(READ, tmp_path / "endless").stdout.splitlines()
        )
    }
    words = {
        "video.mp4": "larger than 512 MB",
        "huge.jpg": "larger than 512 MB",
        "zeros.png": "larger than 512 MB",
        "pipe.jpg": "a pipe, not a file",
        "socket.jpg": "a socket, not a file",
    }
    assert {name: outcome.partition(";")[0] for name, (outcome, _) in found.items()} == words
    assert max(peak for _, peak in found.values()) < 200 * MB


@pytest.mark.slow
def test_predict_stays_below_the_ceiling_with_several_threads(model_folder, tmp_path):
    names = [
        "tall.png",
        "column.png",
        "stripe.png",
        "narrow.png",
        "large-rgb.png",
        "large-rgba.png",
        "large-grey.png",
    ]
    write_shapes(tmp_path / "photos", names)
    for at in range(2):  # so that the largest ones are there for every thread
        (tmp_path / "photos" / f"large-rgb-{at}.png").write_bytes(
            (tmp_path / "photos" / "large-rgb.png").read_bytes()
        )
    done = run_python(RUN, "predict", model_folder, tmp_path / "photos")
    *lines, last = done.stdout.splitlines()
    code, peak = map(int, last.split())
    assert len(lines) == len(names) + 1  # all but the tall one
    assert code == 1
    assert "1 x 4,000,000 pixels" in done.stderr
    assert "Traceback" not in done.stderr
    assert peak < MOST_BYTES, f"{peak // MB} MB"


@pytest.mark.slow
def test_the_server_stays_below_the_ceiling_and_answers(model_folder, tmp_path):
    pytest.importorskip("uvicorn", reason="serving needs the extra serve")
    names = [
        "tall.png",
        "wide.png",
        "column.png",
        "stripe.png",
        "large.webp",
        "12-bit.pgm",
        "bomb.png",
    ]
    write_shapes(tmp_path, names)
    words = [sys.executable, "-m", "squeezetune", "serve", str(model_folder), "--port", "0"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as server:
        try:
            port = find_port(server)
            statuses = {name: ask(port, (tmp_path / name).read_bytes()) for name in names}
            peak = read_peak(server.pid)
        finally:
            server.terminate()
            server.stderr.close()
    assert statuses == {name: 422 if name in REFUSED else 200 for name in names}
    assert peak < MOST_BYTES, f"{peak // MB} MB"


def find_port(server):
    """Read the server's log up to where it says at which port it listens."""
    while line := server.stderr.readline():
        if '"listening"' in line:
            return json.loads(line)["port"]
    raise AssertionError("the server did not start")


def ask(port, body):
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("POST", "/predict", body, {"Content-Type": "application/octet-stream"})
        return connection.getresponse().status
    finally:
        connection.close()


def read_peak(process):
    [peak] = [
        line.split()[1]
        for line in Path(f"/proc/{process}/status").read_text().splitlines()
        if "VmHWM" in line
    ]
    return int(peak) * 1024


# ---- one image that the runtime fails over


class FailingSession:
    """Fails over images of one width, as ONNX Runtime does over some shapes."""

    def __init__(self, session):
        self.session = session

    def run(self, outputs, inputs):
        if inputs["image"].shape[2] == 13:
            raise RuntimeError("narrowing_error")
        return self.session.run(outputs, inputs)


def test_what_the_runtime_fails_over_is_an_error_of_that_image(
    model_folder, write_files, make_photo, monkeypatch, executor
):
    classifier = load(model_folder)
    failing = FailingSession(classifier._session)
    monkeypatch.setitem(classifier.__dict__, "_session", failing)
    photos = {f"{at}.png": make_photo(at, 13 if at == 2 else 16, 16, "PNG") for at in range(5)}
    root = write_files(photos)
    names = [str(root / name) for name in photos]
    outcomes = [outcome for _, outcome in classifier.stream(FileSource(), names, executor)]
    assert [isinstance(outcome, ImageError) for outcome in outcomes] == [
        False,
        False,
        True,
        False,
        False,
    ]
    assert outcomes[2].message == "the model cannot be run on 13 x 16 pixels: narrowing_error"
    answers = classifier.answer_each(
        [load_prepared(FileSource(), name, PixelSettings(96)) for name in names[2:3]]
    )
    assert isinstance(answers[0], ImageError)


# ---- photos that change during a run


def test_photos_that_are_renumbered_do_not_spoil_what_is_kept(write_shapes, tmp_path):
    """Files that change places between index and decoding are left out; nothing is kept of them as
    of the others.
    """
    root, executor, pixels = (
        write_shapes(tmp_path / "photos", 4),
        ThreadExecutor(2),
        PixelSettings(32),
    )
    index = index_photos(root, executor=executor)
    clean = load_thumbnails(
        index, pixels, open_look_store(tmp_path / "clean", pixels), executor, ignore_event
    )
    first, second = (root / name for name in index.names[:2])
    first.rename(tmp_path / "aside")
    second.rename(first)
    (tmp_path / "aside").rename(second)
    store = open_look_store(tmp_path / "kept", pixels)
    mixed = load_thumbnails(index, pixels, store, executor, ignore_event)
    assert mixed.sizes[:2].tolist() == [[0, 0], [0, 0]]  # not looked at
    assert (mixed.sizes[2:] > 0).all()
    again = index_photos(root, executor=executor)
    after = load_thumbnails(again, pixels, store, executor, ignore_event)
    order = [again.digests.tolist().index(digest) for digest in index.digests.tolist()]
    assert (after.thumbs[order] == clean.thumbs).all()
