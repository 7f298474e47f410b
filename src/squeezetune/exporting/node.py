"""A page's model run outside of a browser: in Node.js, by the build of ONNX Runtime that lies
beside the page.
"""

import json
import re
import shutil
import subprocess
import threading
import weakref
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from squeezetune.errors import ExportError

PROGRAM = Path(__file__).with_name("node.mjs")
OLDEST = 18  # version of Node.js: 16 takes two minutes and 1.3 GB to load the build
# Seconds to load the model, and for each answer: a tenth is usual on a slow and busy machine.
CALL_LIMIT_S = 120.0
VERSION_LIMIT_S = 20.0


@cache
def explain_missing_node() -> str:
    """Say in words why Node.js cannot be used here; nothing where it can."""
    program = shutil.which("node")
    if program is None:
        return "that needs Node.js, which is not installed"
    try:
        said = subprocess.run(
            [program, "--version"],
            capture_output=True,
            text=True,
            timeout=VERSION_LIMIT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return f"that needs Node.js, and {program} does not run"
    found = re.match(r"v(\d+)\.", said.stdout)
    if not found or int(found[1]) < OLDEST:
        return (
            f"that needs Node.js {OLDEST} or newer, and "
            f"{said.stdout.strip() or 'another program'} is installed"
        )
    return ""


class NodeModel:
    """The model of a page in a process of Node.js: images (n, height, width, 3) uint8 in,
    probabilities out.

    Images are reduced as the page reduces them. `peak_mb` is the most memory that the process has
    held so far.

    Raises:
        ExportError: the runtime cannot run the model, or is not done in time.
    """

    def __init__(self, page: Path, limit_s: float = CALL_LIMIT_S) -> None:
        self._facts, self._limit_s, self.peak_mb = read_facts(page), limit_s, 0.0
        self._complaints = TemporaryFile()  # noqa: SIM115  # closed with the process
        command = [shutil.which("node") or "node", str(PROGRAM), str(page.parent)]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._complaints
            )
        except OSError as error:
            raise ExportError(
                f"Node.js cannot be started: {error.strerror}", "Install Node.js anew."
            ) from error
        self._end = weakref.finalize(self, end_process, self._process, self._complaints)
        self._ask(b"")

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run images of one size, as many at once as are no more than one photo of the largest
        size.
        """
        reduced = reduce_pixels(pixels, self._facts["fedPixels"], self._facts["reach"])
        height, width = reduced.shape[1:3]
        size = max(1, self._facts["fedPixels"] // (height * width))
        rows = [self._run(reduced[at : at + size]) for at in range(0, len(reduced), size)]
        return np.concatenate(rows).reshape(len(pixels), -1)

    def _run(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        header = np.array(pixels.shape[:3], "<u4").tobytes()
        return self._ask(header + pixels.tobytes())

    def _ask(self, question: bytes) -> NDArray[np.float32]:
        """Send a question, and read the answer's numbers; the process is ended if it takes too
        long.
        """
        is_late = threading.Event()

        def give_up() -> None:
            is_late.set()
            self._process.kill()

        watch = threading.Timer(self._limit_s, give_up)
        watch.start()
        try:
            return self._exchange(question)
        except (OSError, ValueError, KeyError) as error:
            # a pipe that is broken, a line that is cut off
            raise ExportError(*self._explain(is_late.is_set())) from error
        finally:
            watch.cancel()

    def _exchange(self, question: bytes) -> NDArray[np.float32]:
        sink, source = self._process.stdin, self._process.stdout
        assert sink
        assert source
        with suppress(BrokenPipeError):  # it has ended, and may have said why
            sink.write(question)
            sink.flush()
        about = json.loads(source.readline())
        if "error" in about:
            raise ExportError(
                f"the page's runtime cannot run its model: {about['error']}",
                "Export to another format.",
            )
        self.peak_mb = float(about["peakMb"])
        numbers = source.read(4 * about["count"])
        return np.frombuffer(numbers, "<f4", about["count"])

    def _explain(self, is_late: bool) -> tuple[str, str]:
        """Say why there was no answer, and what can be done."""
        if is_late:
            return (
                f"Node.js was not done after {self._limit_s:g} s",
                "Try again when the machine is less busy.",
            )
        status = self._process.wait()
        self._complaints.seek(0)
        lines = self._complaints.read().decode(errors="replace").split("\n")
        errors = [line.strip() for line in lines if "Error" in line]
        return f"Node.js has ended: {(errors or [f'exit status {status}'])[0]}", "Update it."


def end_process(process: subprocess.Popen[bytes], complaints: IO[bytes]) -> None:
    """Let the process end by itself, or end it."""
    with suppress(OSError):
        if process.stdin:
            process.stdin.close()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout:
        process.stdout.close()
    complaints.close()


def read_facts(page: Path) -> dict[str, Any]:
    """Read what a page knows of its model, as its own script does."""
    found = re.search(
        r'<script type="application/json" id="facts">(.*?)</script>',
        page.read_text(encoding="utf-8"),
    )
    if not found:
        raise ExportError(f"{page} is no page of this program", "Export the model again.")
    facts: dict[str, Any] = json.loads(found[1])
    return facts


def reduce_pixels(pixels: NDArray[np.uint8], most_pixels: int, reach: int) -> NDArray[np.uint8]:
    """Reduce images (n, height, width, 3) of too many pixels by the mean of squares, as the page's
    worker does.
    """
    height, width = pixels.shape[1:3]
    factor = 1
    while (
        factor < 8
        and height * width > most_pixels * factor**2
        and min(height, width) >= 2 * factor * reach
    ):
        factor *= 2
    if factor == 1:
        return pixels
    return np.stack([np.asarray(Image.fromarray(image).reduce(factor)) for image in pixels])
