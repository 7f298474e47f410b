"""Files that others have published: fetched to the disk piece by piece, and checked before anybody
uses them.

Memory stays flat whatever the size. What has come when a connection breaks off, or the program
ends, stays in `<name>.part`, to go on from.
"""

import hashlib
import json
import math
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO, NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, build_opener

from squeezetune.errors import SqueezeTuneError
from squeezetune.events import Listener, StageAdvanced, StageFinished, StageStarted, ignore_event
from squeezetune.system.disk import measure_room, write_file

TIMEOUT_S = 30.0
CHUNK_BYTES = 64 << 10
HASHED_BYTES = 1 << 20  # of one read
CONNECTIONS = 20  # at most, for one file whose connection breaks again and again
ALGORITHMS = {"sha256": "SHA-256", "sha512": "SHA-512", "md5": "MD5"}


@dataclass(frozen=True)
class PublishedFile:
    """A file at an address, and what is known of it beforehand.

    `checksums` are hexadecimal digests, or their first digits, by algorithm: "sha256", "sha512",
    and "md5" where the publisher gives nothing else; MD5 finds every accident, but would not stop
    somebody who forges the file. Without any, the length that the server tells is all that is
    checked. A file of more than `most_bytes` is not taken: no `kind` is so large. Where it cannot
    be had, `error` is raised, and `by_hand` says what else the user can do.
    """

    address: str
    checksums: Mapping[str, str]
    most_bytes: int
    kind: str
    error: type[SqueezeTuneError]
    by_hand: str
    stage: str = "download"
    timeout_s: float = TIMEOUT_S


class Origin(NamedTuple):
    """What a part is a part of: an address, and what the server calls this version of the file, and
    its length.
    """

    address: str
    version: str
    length: int | None


@dataclass(frozen=True)
class Part:
    """What has come of a file so far; beside it lies a note of where it is from, if that has to be
    known.
    """

    path: Path

    @property
    def note(self) -> Path:
        """The file with the part's origin."""
        return self.path.with_name(f"{self.path.name}.json")

    @property
    def size(self) -> int:
        """How many bytes have come."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def read_origin(self) -> Origin | None:
        """Read where the part is from; None where nobody noted it."""
        try:
            address, version, length = json.loads(self.note.read_bytes())
        except (OSError, ValueError, TypeError):
            return None
        return Origin(str(address), str(version), length if isinstance(length, int) else None)

    def write_origin(self, origin: Origin) -> None:
        """Note where the part is from."""
        write_file(self.note, json.dumps(origin).encode())

    def remove(self) -> None:
        """Throw the part away."""
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def fetch_file(file: PublishedFile, path: Path, listen: Listener = ignore_event) -> Path:
    """Fetch a file to a path, and return the path; the file appears there whole and checked, or not
    at all.

    A file that is there already is checked and taken as it is. A download that breaks off goes on
    where it stopped, at once or in the next call, if the server still has the same file. A proxy is
    taken from the environment (`https_proxy`).

    Raises:
        SqueezeTuneError: `file.error`: it cannot be had or written, or is not what it should be.

    """
    if path.is_file() and not find_wrong_checksum(file, path):
        return path
    part, started = Part(path.with_name(f"{path.name}.part")), time.perf_counter()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not _is_whole(file, part):
            _receive(file, part, listen)
            listen(StageFinished(file.stage, time.perf_counter() - started))
        _check_whole(file, part)
        _put_in_place(part, path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise file.error(
            f"{part.path} cannot be written: {reason}.", "Free some space, or check the folder."
        ) from error
    return path


def find_wrong_checksum(file: PublishedFile, path: Path) -> str:
    """Find the first checksum that a file on disk does not have, as "MD5 c58f..."; nothing where it
    has all.
    """
    for algorithm, expected in file.checksums.items():
        if not hash_file(path, algorithm).startswith(expected.lower()):
            return f"{ALGORITHMS[algorithm]} {expected}"
    return ""


def hash_file(path: Path, algorithm: str) -> str:
    """Hash a file on disk, as hexadecimal digits."""
    state = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as content:
        while block := content.read(HASHED_BYTES):
            state.update(block)
    return state.hexdigest()


def name_file(address: str) -> str:
    """Name the file at an address by the address's last part; nothing where it is no address of a
    file on the web.
    """
    parts = urlsplit(address)
    name = parts.path.rpartition("/")[2]
    is_usable = (
        parts.scheme in {"http", "https"} and parts.netloc and re.fullmatch(r"\w[\w.-]*", name)
    )
    return name if is_usable else ""


def _is_whole(file: PublishedFile, part: Part) -> bool:
    """Say whether all has come already, as after a kill at the very end; throw away what cannot be
    gone on from.

    What does not say what it is a part of is of use only where a checksum will tell.
    """
    origin = part.read_origin() or Origin(file.address, "", None)
    if origin.address != file.address or not (file.checksums or origin.version or origin.length):
        part.remove()
    if not part.size:
        return False
    return (
        not find_wrong_checksum(file, part.path) if file.checksums else part.size == origin.length
    )


def _receive(file: PublishedFile, part: Part, listen: Listener) -> None:
    """Append to the part what it lacks, over as many connections as it takes while each brings
    something.
    """
    for connection in range(CONNECTIONS):
        before = part.size
        with _open(file, part, before) as response:
            start, total = _read_extent(file, response, before)
            _check_size(file, part, start, total)
            if not start:
                _note_origin(file, part, response, total)
            if not connection:
                listen(StageStarted(file.stage, math.ceil(total / 1000) if total else None, "kB"))
            with part.path.open("ab") as sink:
                sink.truncate(start)  # to nothing, where the server starts from the beginning
                fault = _read_rest(file, response, sink, listen)
        if part.size > file.most_bytes:
            _refuse_size(file, part)
        if not fault and total in {None, part.size}:
            return
        if part.size <= before:
            break
    raise file.error(
        f"The download from {file.address} broke off after {part.size:,} of {_count(total)} "
        f"bytes{fault}.",
        f"Call again to go on from there. {file.by_hand}",
    )


def _count(total: int | None) -> str:
    return "unknown" if total is None else f"{total:,}"


def _open(file: PublishedFile, part: Part, start: int) -> HTTPResponse:
    """Ask for a file from byte `start` on, or for all of it if it is not the file any more that the
    part is of.
    """
    headers = {"User-Agent": "squeezetune", "Accept-Encoding": "identity"}
    if start:
        origin = part.read_origin()
        headers |= {"Range": f"bytes={start}-"} | (
            {"If-Range": origin.version} if origin and origin.version else {}
        )
    try:
        # an opener of its own, since urlopen keeps the proxies of its first call
        request = Request(file.address, headers=headers)
        response: HTTPResponse = build_opener().open(request, timeout=file.timeout_s)
    except HTTPError as error:
        error.close()
        # nothing from there on: the part that is kept is of another file
        if start and error.code == 416:
            return _open(file, part, 0)
        raise file.error(
            f"{file.address} cannot be had: the server says {error.code} {error.reason}.",
            file.by_hand,
        ) from error
    except (OSError, HTTPException, ValueError) as error:
        # ValueError: an address that cannot be one
        reason = getattr(error, "reason", error)
        raise file.error(
            f"{file.address} cannot be reached: {reason}.",
            f"Check the connection and any https_proxy. {file.by_hand}",
        ) from error
    origin = part.read_origin() if response.status == 206 else None
    if origin and origin.length not in {None, _read_extent(file, response, start)[1]}:
        response.close()  # another file, from a server that does not know versions
        return _open(file, part, 0)
    return response


def _read_extent(file: PublishedFile, response: HTTPResponse, asked: int) -> tuple[int, int | None]:
    """Read from an answer's header at which byte it starts, and how long the whole file is, if it
    says so.
    """
    start, total = 0, response.headers.get("Content-Length", "")
    if response.status == 206:
        extent = re.fullmatch(
            r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "")
        )
        start, total = (int(extent[1]), extent[2]) if extent else (-1, "")
        if start != asked:
            raise file.error(
                f"{response.url} gave another part of the file than was asked for.", file.by_hand
            )
    return start, int(total) if total.isdigit() else None


def _check_size(file: PublishedFile, part: Part, start: int, total: int | None) -> None:
    """Refuse a file that is too large, or for which the disk has no room, before it comes."""
    if not total:
        return
    if total > file.most_bytes:
        _refuse_size(file, part)
    room = measure_room(part.path.parent)
    if total - start > room:
        raise file.error(
            f"{file.address} has {(total - start) / 1e6:,.0f} MB to fetch, and {part.path.parent} "
            f"has room for {room / 1e6:,.0f} MB.",
            "Free some space, or name a folder on another disk in the variable SQUEEZETUNE_CACHE.",
        )


def _refuse_size(file: PublishedFile, part: Part) -> None:
    part.remove()
    raise file.error(
        f"{file.address} gave more than {file.most_bytes >> 20:,} MB; no {file.kind} is so large.",
        file.by_hand,
    )


def _note_origin(
    file: PublishedFile, part: Part, response: HTTPResponse, total: int | None
) -> None:
    """Note what is being fetched, where that has to be known to go on with it: see RFC 9110,
    13.1.5, If-Range.
    """
    tag = response.headers.get("ETag", "")
    version = response.headers.get("Last-Modified", "") if tag.startswith("W/") or not tag else tag
    part.remove()
    if version or not file.checksums:
        part.write_origin(Origin(file.address, version, total))


def _read_rest(
    file: PublishedFile, response: HTTPResponse, sink: BinaryIO, listen: Listener
) -> str:
    """Append an answer to the part; say what broke it off, or nothing."""
    while True:
        try:
            chunk = response.read1(CHUNK_BYTES)
        except (OSError, HTTPException) as error:
            return f" ({error})"
        sink.write(chunk)
        done = sink.tell()
        if not chunk or done > file.most_bytes:
            return ""
        listen(StageAdvanced(file.stage, math.ceil(done / 1000)))


def _check_whole(file: PublishedFile, part: Part) -> None:
    """Make sure that what has come is what was promised; else it is thrown away, since nothing can
    be made of it.
    """
    size, wrong = part.size, find_wrong_checksum(file, part.path)
    if wrong:
        part.remove()
        raise file.error(
            f"{file.address} gave {size:,} bytes without the {wrong} that they should have; they "
            f"are deleted.",
            f"Try again, perhaps from another network. {file.by_hand}",
        )


def _put_in_place(part: Part, path: Path) -> None:
    with part.path.open("rb+") as content:
        os.fsync(content.fileno())
    part.path.replace(path)
    part.note.unlink(missing_ok=True)
