"""Chromium without a window, driven over its own pipe: no driver program, no further package.

See https://chromedevtools.github.io/devtools-protocol/: messages are JSON, each ended by a zero
byte."""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass, field

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATIENCE_S = 60.0
FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-quic",
    "--disable-sync",
    "--hide-scrollbars",
    # pages that were left would lie frozen, and their workers answer nobody
    "--disable-features=BackForwardCache",
    # a moving picture in place of a camera, and nobody is asked
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)


def find_chromium():
    """Find the program; None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@dataclass
class Page:
    """One tab: commands go in, answers and events come out."""

    sink: int
    source: int
    session: str = ""
    last_id: int = 0
    rest: bytes = b""
    events: list = field(default_factory=list)

    def send(self, method, **params):
        """Send a command, and wait for what comes of it; events on the way are kept."""
        self.last_id += 1
        own = self.last_id
        message = {"id": own, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.sink, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != own:
            self.events.append(answer)
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']}")
        return answer["result"]

    def _read(self):
        until = time.monotonic() + PATIENCE_S
        while b"\0" not in self.rest:
            assert select.select([self.source], [], [], max(0, until - time.monotonic()))[0], (
                "Chromium says nothing"
            )
            chunk = os.read(self.source, 1 << 16)
            assert chunk, "Chromium has ended"
            self.rest += chunk
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    def attach(self):
        """Open a tab."""
        tab = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def open(self, address):
        """Go to an address, and wait until it is there."""
        self.events.clear()
        self.send("Page.navigate", url=address)
        self.wait("document.readyState === 'complete'")

    def run(self, code):
        """Run an expression in the page, wait for it if it is a promise, and return its value."""
        result = self.send(
            "Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, condition):
        """Wait until an expression is true in the page; return its value."""
        until = time.monotonic() + PATIENCE_S
        while not (value := self.run(condition)):
            assert time.monotonic() < until, (
                f"{condition} never came true; the page says: {self.read_text()}"
            )
            time.sleep(0.03)
        return value

    def read_text(self):
        """Read what the page shows."""
        return self.run("document.body.innerText")

    def find_centre(self, selector):
        """Find where the middle of an element is."""
        box = self.run(
            f"(() => {{ const e = document.querySelector({selector!r});"
            f" e.scrollIntoView({{block: 'center'}});"
            " const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2] "
            "})()"
        )
        return dict(zip("xy", box, strict=True))

    def click(self, selector):
        """Click on the middle of an element, as a hand would."""
        place = self.find_centre(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)

    def drop(self, selector, paths):
        """Drop files on an element, as from a file manager."""
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        place = self.find_centre(selector)
        for kind in ("dragEnter", "dragOver", "drop"):
            self.send("Input.dispatchDragEvent", type=kind, data=data, **place)

    def choose(self, selector, paths):
        """Choose files in a file dialog's stead."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])

    def press(self, key, code):
        """Press a key, and let it go."""
        for kind in ("rawKeyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code)

    def run_in_worker(self, code):
        """Run an expression in the page's worker, as `run` does in the page."""
        how = {"waitForDebuggerOnStart": False, "flatten": True}
        self.send("Target.setAutoAttach", autoAttach=True, **how)
        attached = [
            event["params"]
            for event in self.events
            if event.get("method") == "Target.attachedToTarget"
        ]
        worker = next(
            event for event in reversed(attached) if event["targetInfo"]["type"] == "worker"
        )
        outer = self.session
        try:
            self.session = worker["sessionId"]
            return self.run(code)
        finally:
            self.session = outer
            self.send("Target.setAutoAttach", autoAttach=False, **how)

    def list_requests(self):
        """List the addresses that were asked for since the page was opened."""
        return [event["params"]["request"]["url"] for event in self.events
                if event.get("method") == "Network.requestWillBeSent"]  # fmt: skip

    def list_complaints(self):
        """List what was written to the console since the page was opened, and errors that nobody
        caught.
        """
        kinds = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        return [event["params"] for event in self.events if event.get("method") in kinds]

    def show_as(self, width, height, scheme="light", scale=1):
        """Show the page as on a screen of this size, light or dark."""
        is_phone = width < 600
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=is_phone,
        )
        self.send(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )

    def take_screenshot(self, is_whole=False):
        """Take a picture of the page, or of all of it below the fold too; PNG."""
        return base64.b64decode(
            self.send("Page.captureScreenshot", captureBeyondViewport=is_whole)["data"]
        )


@contextmanager
def open_chromium(profile):
    """Start Chromium with a profile of its own, and open a tab; at the end both are gone."""
    (commands, sink), (source, answers) = os.pipe(), os.pipe()
    # in a container there is often no other user, and as root Chromium has no sandbox
    own = [] if os.geteuid() else ["--no-sandbox"]

    def connect():  # Chromium reads commands from 3 and answers on 4
        aside = [
            fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (commands, answers)
        ]  # they may be 3 and 4 themselves
        for number, end in enumerate(aside, 3):
            os.dup2(end, number)

    process = subprocess.Popen(
        [find_chromium(), *FLAGS, *own, f"--user-data-dir={profile}"],
        pass_fds=(3, 4),
        preexec_fn=connect,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(commands)
    os.close(answers)
    try:
        page = Page(sink, source)
        page.attach()
        yield page
    finally:
        process.terminate()
        process.wait()
        os.close(sink)
        os.close(source)
