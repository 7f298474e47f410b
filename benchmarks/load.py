"""Clients that ask a server on this computer for predictions, one request after the other on a
connection each.

    python benchmarks/load.py PORT CLIENTS SECONDS PHOTO...

Prints one JSON object: how often each status was answered, and the milliseconds of every request. A
process of its own, on plain sockets, so that it takes little of what is measured. `serving.py`
starts it.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import count
from pathlib import Path

HOST = "127.0.0.1"
FAILED = "failed"  # no answer, or a connection that broke


class Client(asyncio.Protocol):
    """One connection, on which a request follows the other until the time is over."""

    def __init__(self, requests: Sequence[bytes], first: int, until: float, seen: "Seen") -> None:
        self._requests, self._turns, self._until, self._seen = requests, count(first), until, seen
        self._answer = bytearray()
        self.is_done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._asked_at = time.perf_counter()
        self._transport.write(self._requests[next(self._turns) % len(self._requests)])

    def data_received(self, data: bytes) -> None:
        """Take a piece of an answer; behind a whole one ask again."""
        self._answer += data
        head, found, body = self._answer.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        if len(body) < length:
            return
        now = time.perf_counter()
        self._seen.statuses[head.split(b" ", 2)[1].decode()] += 1
        self._seen.milliseconds.append(round(1000 * (now - self._asked_at), 2))
        self._answer.clear()
        if now < self._until:
            self._ask()
        else:
            self._transport.close()
            self._finish()

    def connection_lost(self, error: Exception | None) -> None:
        """Count an answer that never came."""
        if not self.is_done.done():
            self._seen.statuses[FAILED] += 1
            self._finish()

    def _finish(self) -> None:
        if not self.is_done.done():
            self.is_done.set_result(None)


class Seen:
    """What all clients saw."""

    def __init__(self) -> None:
        self.statuses: Counter[str] = Counter()
        self.milliseconds: list[float] = []


def write_request(photo: bytes) -> bytes:
    """Write the request for one photo."""
    head = (
        f"POST /predict HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: "
        f"image/jpeg\r\nContent-Length: {len(photo)}\r\n\r\n"
    )
    return head.encode() + photo


async def load(port: int, clients: int, seconds: float, photos: Sequence[bytes]) -> Seen:
    """Let so many clients ask for so long."""
    loop, seen = asyncio.get_running_loop(), Seen()
    requests, until = [write_request(photo) for photo in photos], time.perf_counter() + seconds
    made = [
        await loop.create_connection(partial(Client, requests, at * 7, until, seen), HOST, port)
        for at in range(clients)
    ]
    await asyncio.wait_for(asyncio.gather(*(client.is_done for _, client in made)), seconds + 60)
    return seen


def main() -> None:
    port, clients, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    start = time.perf_counter()
    seen = asyncio.run(
        load(port, clients, seconds, [Path(name).read_bytes() for name in sys.argv[4:]])
    )
    found = {
        "statuses": seen.statuses,
        "milliseconds": seen.milliseconds,
        "seconds": time.perf_counter() - start,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
