"""Requests that nobody should send: what a server answers to each kind.

Every request is a connection of its own to this computer; each kind is one function, told the bytes
of a real photo. Those that are slow on purpose run beside the others. `serving.py --hostile` starts
it.
"""

import asyncio
import random
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HOST = "127.0.0.1"
AT_ONCE = 48
NO_ANSWER_S = 30.0
Pieces = list[bytes | float]  # what is sent, and seconds of silence


@dataclass
class Attack:
    """What was answered to each kind, and the most memory that this took of the server (bytes)."""

    answers: dict[str, Counter[str]] = field(default_factory=dict)
    peak_memory: int = 0


def post(
    body: bytes, kind: str = "image/jpeg", extra: str = "", length: int | None = None
) -> bytes:
    head = f"POST /predict HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: {kind}\r\n"
    return (
        f"{head}Content-Length: {len(body) if length is None else length}\r\n{extra}\r\n".encode()
        + body
    )


def make_form(parts: Sequence[bytes], name: str = "x.jpg") -> bytes:
    head = f'Content-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'.encode()
    return b"".join(b"--b\r\n" + head + part + b"\r\n" for part in parts) + b"--b--\r\n"


def make_png(width: int, height: int, rows: int) -> bytes:
    """Write a grey PNG that says it is so large and holds so many rows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    packed = zlib.compress(bytes((width + 1) * rows), 9)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    )


# made once: they take a moment to pack
BOMBS = [make_png(60_000, 60_000, 100), make_png(16_000, 16_000, 16), make_png(7_000, 7_000, 7_000),
         make_png(4_000, 4_000, 4_000), make_png(2**31 - 1, 2**31 - 1, 0)]  # fmt: skip


def send_bomb(photo: bytes, rng: random.Random) -> Pieces:
    return [post(rng.choice(BOMBS), "image/png")]


def send_many_bombs(photo: bytes, rng: random.Random) -> Pieces:
    return [post(make_form([BOMBS[0], BOMBS[1], BOMBS[4]] * 8), "multipart/form-data; boundary=b")]


def send_truncated(photo: bytes, rng: random.Random) -> Pieces:
    return [post(photo[: rng.randrange(1, len(photo))])]


def send_damaged(photo: bytes, rng: random.Random) -> Pieces:
    data = bytearray(photo)
    for _ in range(rng.randrange(1, 60)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return [post(bytes(data))]


def send_wrong_type(photo: bytes, rng: random.Random) -> Pieces:
    kind = rng.choice(
        [
            "text/html",
            "application/json",
            "application/x-www-form-urlencoded",
            "video/mp4",
            "",
            "x" * 900,
        ]
    )
    return [post(photo, kind)]


def send_no_image(photo: bytes, rng: random.Random) -> Pieces:
    return [
        post(
            rng.choice([b"%PDF-1.7", b"<svg/>", b"GIF89a", b"\xff\xd8\xff", b"PK\3\4", b"\0"])
            + rng.randbytes(99)
        )
    ]


def send_large(photo: bytes, rng: random.Random) -> Pieces:
    return [post(b"", length=rng.choice([10**9, 10**19, 21_000_000])), bytes(200_000)]


def send_large_chunks(photo: bytes, rng: random.Random) -> Pieces:
    head = post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    return [head, *([b"100000\r\n" + bytes(0x100000) + b"\r\n"] * 22), b"0\r\n\r\n"]


def send_bad_chunks(photo: bytes, rng: random.Random) -> Pieces:
    head = post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    return [
        head,
        rng.choice([b"-1\r\n", b"zz\r\nx\r\n", b"fffffffffffffffffffffff\r\n", b"1\r\nxxxx\r\n"]),
    ]


def send_huge_headers(photo: bytes, rng: random.Random) -> Pieces:
    extra = rng.choice(
        ["X: " + "y" * 90_000 + "\r\n", "".join(f"X-{at}: y\r\n" for at in range(4_000))]
    )
    return [post(photo, extra=extra)]


def send_bad_http(photo: bytes, rng: random.Random) -> Pieces:
    return [
        rng.choice(
            [
                rng.randbytes(200) + b"\r\n\r\n",
                b"\x16\x03\x01" + rng.randbytes(100) + b"\r\n\r\n",
                b"GET /\r\n\r\n",
                post(photo, extra="Content-Length: 7\r\n"),
                post(photo, extra="Transfer-Encoding: chunked, gzip\r\n"),
                b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
                b"GET / HTTP/1.1\r\n\r\n",
                b"\r\n" * 500 + b"x\r\n\r\n",
                post(photo, length=-1),
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            ]
        )
    ]


def send_path_trick(photo: bytes, rng: random.Random) -> Pieces:
    path = rng.choice(
        [
            "/../../etc/passwd",
            "/%2e%2e/%2e%2e/etc/passwd",
            "//etc/passwd",
            "/docs/../../model",
            "/%00",
            "/predict/../model.onnx",
            "/" + "a/" * 3_000,
            "/predict%0d%0aX:1",
            "http://example.org/health",
            "/model?file=/etc/passwd",
            "*",
        ]
    )
    return [
        f"{rng.choice(['GET', 'POST', 'DELETE', 'TRACE'])} {path} HTTP/1.1\r\nHost: "
        f"x\r\n\r\n".encode()
    ]


def send_bad_form(photo: bytes, rng: random.Random) -> Pieces:
    whole = make_form(
        [photo, photo], rng.choice(["../../etc/passwd", "\0", "x" * 5_000, "C:\\con"])
    )
    body = rng.choice(
        [
            whole[: rng.randrange(len(whole))],
            whole.replace(b"--b--", b""),
            b"--b" * 9_000,
            make_form([b""] * 500),
            whole + whole,
            b"--b\r\n" + b"A: b\r\n" * 9_000,
        ]
    )
    return [
        post(
            body, f"multipart/form-data; boundary={rng.choice(['b', 'b', 'b', '', 'b' * 80, 'é'])}"
        )
    ]


def send_slowly(photo: bytes, rng: random.Random) -> Pieces:
    return [
        post(photo)[:300],
        *[value for at in range(300, 360) for value in (0.1, photo[at : at + 1])],
    ]


def send_slow_headers(photo: bytes, rng: random.Random) -> Pieces:
    return [
        value
        for byte in b"GET /health HTTP/1.1\r\nX-Slow: " + b"y" * 60
        for value in (bytes([byte]), 0.1)
    ]


def send_nothing(photo: bytes, rng: random.Random) -> Pieces:
    return [5.0]


VANISH = -1.0  # a silence after which the client is gone, without a word


def vanish_amid(photo: bytes, rng: random.Random) -> Pieces:
    return [post(photo)[: rng.randrange(1, len(photo))], VANISH]


def vanish_before_answer(photo: bytes, rng: random.Random) -> Pieces:
    return [
        post(make_form([photo] * rng.randrange(1, 9)), "multipart/form-data; boundary=b"),
        VANISH,
    ]


KINDS: dict[
    str, tuple[Callable[[bytes, random.Random], Pieces], float]
] = {  # and how often, by weight
    "image bomb": (send_bomb, 1.0),
    "24 image bombs": (send_many_bombs, 0.3),
    "cut image": (send_truncated, 2.0),
    "damaged image": (send_damaged, 2.0),
    "wrong type": (send_wrong_type, 2.0),
    "no image": (send_no_image, 2.0),
    "body too large": (send_large, 1.0),
    "chunks too large": (send_large_chunks, 0.3),
    "bad chunks": (send_bad_chunks, 1.0),
    "huge headers": (send_huge_headers, 1.0),
    "no HTTP": (send_bad_http, 2.0),
    "path trick": (send_path_trick, 2.0),
    "bad form": (send_bad_form, 2.0),
    "slow body": (send_slowly, 0.1),
    "slow headers": (send_slow_headers, 0.1),
    "says nothing": (send_nothing, 0.1),
    "vanishes while sending": (vanish_amid, 1.0),
    "vanishes before the answer": (vanish_before_answer, 1.0),
}


async def send_one(port: int, pieces: Pieces) -> str:
    """Send the pieces on a connection of its own; tell the status, or how the connection ended."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        for piece in pieces:
            if piece == VANISH:
                writer.transport.abort()
                return "gone itself"
            if isinstance(piece, float):
                await asyncio.sleep(piece)
            else:
                writer.write(piece)
                await writer.drain()
            if writer.is_closing():
                break
    except ConnectionError:
        pass  # refused before all was sent; the answer may be there
    try:
        head = await asyncio.wait_for(reader.read(64), NO_ANSWER_S)
    except TimeoutError:
        return "NO ANSWER"
    except ConnectionError:
        return "dropped"
    finally:
        writer.transport.abort()
    return head.split(b" ")[1].decode() if head.startswith(b"HTTP/1.1 ") else "dropped"


async def _attack(
    port: int, count: int, photos: Sequence[bytes], attack: Attack, measure: Callable[[], int]
) -> None:
    rng, gate = random.Random(0), asyncio.Semaphore(AT_ONCE)
    names = rng.choices(list(KINDS), [weight for _, weight in KINDS.values()], k=count)

    async def run(name: str) -> None:
        pieces = KINDS[name][0](rng.choice(photos), rng)
        async with gate:
            try:
                answer = await send_one(port, pieces)
            except ConnectionError:
                answer = "dropped"
        attack.answers.setdefault(name, Counter())[answer] += 1

    async def watch() -> None:
        while True:
            attack.peak_memory = max(attack.peak_memory, measure())
            await asyncio.sleep(0.05)

    watcher = asyncio.create_task(watch())
    for start in range(0, count, 500):  # the requests of all would take a lot of memory at once
        await asyncio.gather(*(run(name) for name in names[start : start + 500]))
    watcher.cancel()


def attack(port: int, count: int, photos: Sequence[Path], measure: Callable[[], int]) -> Attack:
    """Send so many hostile requests to a server on this computer; `measure` tells the bytes that it
    holds.
    """
    found = Attack()
    asyncio.run(_attack(port, count, [path.read_bytes() for path in photos], found, measure))
    return found
