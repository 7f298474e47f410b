"""A small web site on this computer for tests of downloads: it breaks off, stalls, redirects, lies
and forgets.
"""

import re
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class WebSite:
    """Files by path, and how the site behaves: `breaks` are the bytes that each connection in turn
    may send.

    `stalls` are the bytes after which each connection in turn sends nothing more, without hanging
    up."""

    files: dict[str, bytes] = field(default_factory=dict)
    breaks: list[int] = field(default_factory=list)
    stalls: list[int] = field(default_factory=list)
    etag: str = ""
    modified: str = ""
    knows_ranges: bool = True
    knows_versions: bool = True
    tells_length: bool = True
    status: int = 200
    delay_s: float = 0.0
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    address: str = ""
    is_over: threading.Event = field(default_factory=threading.Event)

    @property
    def ranges(self):
        """What was asked for, of whatever file."""
        return [asked for _, asked in self.asked]


class Handler(BaseHTTPRequestHandler):
    """Answers as the server's `site` says."""

    def do_GET(self):
        site = self.server.site
        if self.path.startswith("/moved/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/moved"))
            self.end_headers()
            return
        path = self.path.partition("?")[0].lstrip("/")
        site.asked.append((path, self.headers["Range"]))
        time.sleep(site.delay_s)
        content = site.files.get(path)
        self.answer(site, content, 404 if content is None else self.find_start(site))

    def find_start(self, site):
        """Find where to start, as the headers ask: at 0 if the file is not the one that the client
        has a part of.
        """
        asked, version = self.headers["Range"], self.headers["If-Range"]
        if not asked or not site.knows_ranges:
            return 0
        if version and site.knows_versions and version not in (site.etag, site.modified):
            return 0
        return int(re.fullmatch(r"bytes=(\d+)-", asked)[1])

    def answer(self, site, content, start):
        status = (
            404
            if content is None
            else 416
            if start >= max(1, len(content))
            else 206
            if start
            else 200
        )
        self.send_response(site.status if site.status != 200 else status)
        body = content[start:] if status < 400 and site.status == 200 else b"no"
        # settled before the client hears of it, which may hang up and have the site behave
        # otherwise next time
        sent = (
            body[: site.breaks.pop(0)]
            if site.breaks
            else body[: site.stalls[0]]
            if site.stalls
            else body
        )
        is_stalled = bool(site.stalls) and site.stalls.pop(0) < len(body)
        headers = {"ETag": site.etag, "Last-Modified": site.modified}
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if site.tells_length:
            headers["Content-Length"] = str(len(body))
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(sent)
        if is_stalled:
            self.wfile.flush()
            site.is_over.wait()

    def log_message(self, *arguments):
        pass


@contextmanager
def open_site():
    """Serve files on this computer; the proxies of the environment have to be out of the way."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *arguments: None  # a client that hangs up is part of the tests
    server.site = WebSite(address=f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.site
    finally:
        server.site.is_over.set()
        server.shutdown()
        thread.join()
        server.server_close()


class FolderHandler(SimpleHTTPRequestHandler):
    """Gives files as `python -m http.server` does, without a word."""

    def log_message(self, *arguments):
        pass


@contextmanager
def serve_folder(folder):
    """Serve a folder on this computer as any static server would; gives its address, and may be
    left early.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(FolderHandler, directory=str(folder)))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
