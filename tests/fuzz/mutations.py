"""How whole files are damaged: as disks, cables and people do it, and as somebody would who means
harm.
"""

import json
import struct
import zlib
from copy import deepcopy

EDGES = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    2**63 - 1,
    2**64 - 1,
)
WIDTHS = ((1, "B"), (2, "H"), (4, "I"), (8, "Q"))
TOKENS = (
    b"\0",
    b"\n",
    b"\r",
    b'"',
    b"'",
    b",",
    b";",
    b"\t",
    b"|",
    b"..",
    b"/",
    b"\\",
    b"../../../etc/passwd",
    b"-",
    b"-1",
    b"1e999",
    b"NaN",
    b"null",
    b"true",
    b"{",
    b"}",
    b"[",
    b"]",
    b"[" * 100_000,
    b'{"a":' * 20_000,
    b"\xff\xfe",
    b"\xed\xb3\xbf",
    b"\xef\xbb\xbf",
    b"9" * 5000,
    b"a" * 200_000,
    b"\xff\xd8\xff",
    b"Exif\0\0",
    b"%s%n",
    b"path",
    b"label",
    b"train",
    b"test",
)
LARGEST_INSERT = 4096


def flip_bits(data, rng, others):
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        at = rng.randrange(len(data))
        data[at] ^= 1 << rng.randrange(8)
    return data


def set_bytes(data, rng, others):
    start, length = cut_range(data, rng, 64)
    data[start : start + length] = rng.randbytes(length)
    return data


def cut_end(data, rng, others):
    return data[: rng.randrange(len(data))]


def cut_middle(data, rng, others):
    start, length = cut_range(data, rng, len(data))
    del data[start : start + length]
    return data


def insert_bytes(data, rng, others):
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.randbytes(rng.randint(1, rng.choice((4, 64, LARGEST_INSERT))))
    return data


def insert_token(data, rng, others):
    at = rng.randrange(len(data) + 1)
    token = rng.choice(TOKENS)
    data[at : at + rng.choice((0, len(token)))] = token
    return data


def repeat_block(data, rng, others):
    start, length = cut_range(data, rng, LARGEST_INSERT)
    data[start:start] = data[start : start + length] * rng.choice((1, 1, 2, 50))
    return data


def swap_blocks(data, rng, others):
    (a, length), (b, _) = cut_range(data, rng, LARGEST_INSERT), cut_range(data, rng, 1)
    one, two = data[a : a + length], data[b : b + length]
    data[a : a + length], data[b : b + len(two)] = two, one
    return data


def set_number(data, rng, others):
    """Write a number at the edge of what its bytes hold, as lengths and counts are written in
    headers.
    """
    width, letter = rng.choice(WIDTHS)
    at = rng.randrange(max(1, min(len(data), rng.choice((64, 1024, len(data)))) - width + 1))
    value = (rng.choice(EDGES) + rng.choice((-1, 0, 0, 1))) % (1 << 8 * width)
    data[at : at + width] = struct.pack(rng.choice("<>") + letter, value)
    return data


def change_number(data, rng, others):
    """Add a little to a number that is there, or double it."""
    width, letter = rng.choice(WIDTHS)
    if len(data) < width:
        return data
    at, form = rng.randrange(len(data) - width + 1), rng.choice("<>") + letter
    [value] = struct.unpack_from(form, data, at)
    struct.pack_into(
        form, data, at, rng.choice((value + 1, value - 1, value * 2, ~value)) % (1 << 8 * width)
    )
    return data


def splice_header(data, rng, others):
    """Put the beginning of another file before the rest of this one."""
    other = rng.choice(others)
    start = rng.randrange(min(len(data), len(other)) + 1)
    return bytearray(other[:start]) + data[start:]


def append_other(data, rng, others):
    return data + rng.choice(others)


MUTATIONS = (
    flip_bits,
    set_bytes,
    cut_end,
    cut_middle,
    insert_bytes,
    insert_token,
    repeat_block,
    swap_blocks,
    set_number,
    set_number,
    change_number,
    splice_header,
    append_other,
)


def cut_range(data, rng, longest):
    start = rng.randrange(len(data))
    return start, rng.randint(1, max(1, min(longest, len(data) - start)))


def mutate(data, rng, others):
    """Damage a file once or several times; `others` are files that pieces may come from."""
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        damaged = rng.choice(MUTATIONS)(damaged or bytearray(b"\0"), rng, others)
    return bytes(damaged)


def nest(depth):
    value = 0
    for _ in range(depth):
        value = [value]
    return value


ODD_VALUES = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**64,
    10**400,
    0.5,
    -1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "../..",
    "x" * 10_000,
    "\ud800",
    "\0",
    [],
    {},
    [[]],
    [None],
    [1, "a"],
    {"": {}},
    {"a": None},
    nest(400),
)


def mutate_json(data, rng, others):
    """Put a value of another kind into a place of a JSON file, or take one away; now and then
    damage it like others.
    """
    if rng.random() < 0.2:
        return mutate(data, rng, others)
    content = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = content
        while isinstance(place, (dict, list)) and place:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = rng.choice(keys)
            if not isinstance(place[key], (dict, list)) or rng.random() < 0.3:
                if rng.random() < 0.3:
                    del place[key]
                else:
                    place[key] = deepcopy(
                        rng.choice(ODD_VALUES)
                    )  # else it would be in itself one day
                break
            place = place[key]
    if rng.random() < 0.02:
        return b'{"a":' * 20_000
    return json.dumps(content).encode()


def repair_png(data):
    """Make the checksums of all chunks right again, so that what is in them is looked at."""
    damaged, at = bytearray(data), 8
    while at + 12 <= len(damaged):
        [length] = struct.unpack_from(">I", damaged, at)
        end = at + 8 + length
        if end + 4 > len(damaged):
            break
        struct.pack_into(">I", damaged, end, zlib.crc32(damaged[at + 4 : end]))
        at = end + 4
    return bytes(damaged)


def repair_tar(data):
    """Make the checksums of all headers right again."""
    damaged = bytearray(data)
    for at in range(0, len(damaged) - 511, 512):
        if damaged[at + 257 : at + 262] == b"ustar":
            total = sum(damaged[at : at + 512]) - sum(damaged[at + 148 : at + 156]) + 8 * 32
            damaged[at + 148 : at + 156] = b"%06o\0 " % total
    return bytes(damaged)
