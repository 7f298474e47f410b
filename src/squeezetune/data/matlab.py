"""Matrices of numbers in MATLAB's files of version 5 to 7, read without trust.

SciPy's reader takes the whole process down over some damaged files, so that it cannot be let near what was downloaded.
Format: "MAT-File Format", https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

HEADER_BYTES = 128
ORDERS = {b"IM": "<", b"MI": ">"}
MATRIX, COMPRESSED = 14, 15
TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
NUMERIC_CLASSES = range(6, 16)  # from double to uint64; others are text, cells and objects
MOST_BYTES = 1 << 28  # of what a compressed part may unpack to


class MatlabError(ValueError):
    """The bytes are no matrices of numbers in a MATLAB file."""


@dataclass(frozen=True)
class Element:
    """A part of a file: the number of its type, and its bytes."""

    kind: int
    data: bytes


def read_matrices(payload: bytes) -> dict[str, NDArray[Any]]:
    """Read all matrices of numbers in a MATLAB file by their names; what else there is, is left out.

    Raises:
        MatlabError: it is none, or is damaged.

    """
    order = ORDERS.get(payload[HEADER_BYTES - 2 : HEADER_BYTES])
    if order is None:
        raise MatlabError("no MATLAB file of version 5 to 7")
    try:
        found = [_read_matrix(element, order) for element in _list_elements(payload[HEADER_BYTES:], order)]
    except (struct.error, zlib.error) as error:
        raise MatlabError(f"damaged: {error}") from error
    return dict(pair for pair in found if pair)


def _list_elements(data: bytes, order: str) -> Iterator[Element]:
    """Yield the parts of a file, or of a part; a small one, of up to 4 bytes, stands within its own tag."""
    at = 0
    while at < len(data):
        first, size = struct.unpack_from(f"{order}II", data, at)
        if first >> 16:
            yield Element(first & 0xFFFF, data[at + 4 : at + 4 + min(4, first >> 16)])
            at += 8
            continue
        if at + 8 + size > len(data):
            raise MatlabError("cut short")
        yield Element(first, data[at + 8 : at + 8 + size])
        at += 8 + (size if first == COMPRESSED else -(-size // 8) * 8)


def _read_matrix(element: Element, order: str) -> tuple[str, NDArray[Any]] | None:
    """Read the name and the numbers of a matrix, as MATLAB has them, column by column; None for anything else."""
    if element.kind == COMPRESSED:
        unpacker = zlib.decompressobj()
        inner = unpacker.decompress(element.data, MOST_BYTES)
        if unpacker.unconsumed_tail:
            raise MatlabError("a part of it unpacks to absurdly much")
        if not unpacker.eof:
            raise MatlabError("a part of it is cut short")
        element = next(_list_elements(inner, order), element)
    if element.kind != MATRIX:
        return None
    flags, shape, name, *rest = [*_list_elements(element.data, order), *[Element(0, b"")] * 4]
    if not flags.data or struct.unpack_from(f"{order}I", flags.data)[0] & 0xFF not in NUMERIC_CLASSES:
        return None
    if rest[0].kind not in TYPES or len(shape.data) % 4:
        raise MatlabError("a matrix has no numbers")
    sides = struct.unpack(f"{order}{len(shape.data) // 4}i", shape.data)
    dtype = np.dtype(order + TYPES[rest[0].kind])
    if min(sides, default=-1) < 0 or prod(sides) * dtype.itemsize != len(rest[0].data):
        raise MatlabError(f"a matrix of shape {sides} has {len(rest[0].data):,} bytes")
    values = np.frombuffer(rest[0].data, dtype).reshape(sides, order="F")
    return name.data.decode("latin-1"), values.astype(dtype.newbyteorder("="))
