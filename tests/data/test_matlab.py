import io
import struct

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from squeezetune.data import matlab as matlab_module
from squeezetune.data.matlab import MatlabError, read_matrices

MATRICES = {
    "data": np.arange(12, dtype=np.uint8).reshape(3, 4),
    "labels": np.array([[1], [2], [300]], np.int16),
    "x": np.array([[0.5, -1e300]]),
    "tall": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "one": np.array([[7]], np.uint8),  # small enough to stand within its tag
    "nothing": np.zeros((0, 3)),
}


def write(matrices, **options):
    buffer = io.BytesIO()
    savemat(buffer, matrices, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("is_compressed", [True, False])
def test_matrices_are_read_as_scipy_reads_them(is_compressed):
    payload = write(MATRICES | {"text": "a batch", "cell": {"a": 1}}, do_compression=is_compressed)
    found, expected = read_matrices(payload), loadmat(io.BytesIO(payload))
    assert list(found) == list(MATRICES)
    for name, values in found.items():
        assert values.shape == expected[name].shape
        assert np.array_equal(values, expected[name])


def test_numbers_may_begin_with_their_largest_byte():
    matrix = b"".join(
        struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)
        for kind, data in (
            (6, struct.pack(">II", 11, 0)), (5, struct.pack(">ii", 1, 2)), (1, b"a"), (4, struct.pack(">HH", 1, 515)),
        )
    )  # fmt: skip
    payload = bytes(124) + b"\1\0MI" + struct.pack(">II", 14, len(matrix)) + matrix
    assert read_matrices(payload)["a"].tolist() == [[1, 515]]


@pytest.mark.parametrize("damage", [
    lambda data: b"", lambda data: data[:127], lambda data: b"text" * 100, lambda data: data[:-5],
    lambda data: data[:140] + b"\xff" * 60 + data[200:], lambda data: data[:130] + b"\0\0\xff\xff" + data[134:],
])  # fmt: skip
@pytest.mark.parametrize("is_compressed", [True, False])
def test_damaged_files_are_refused(damage, is_compressed):
    with pytest.raises(MatlabError):
        read_matrices(damage(write(MATRICES, do_compression=is_compressed)))


def test_a_bomb_is_refused(monkeypatch):
    monkeypatch.setattr(matlab_module, "MOST_BYTES", 1000)
    with pytest.raises(MatlabError, match="absurdly much"):
        read_matrices(write({"data": np.zeros((100, 100))}, do_compression=True))
