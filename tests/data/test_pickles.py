import os
import pickle
import subprocess

import numpy as np
import pytest
from original_archives import write_pickle

from squeezetune.data.datasets.pickles import Call, Name, PickleError, read_array, read_pickle

BATCH = {
    b"batch_label": b"training batch 1 of 5",
    b"labels": [0, 9, 255, 256, 70_000, -1],
    b"data": np.arange(600, dtype=np.uint8).reshape(6, 100),
    b"filenames": [b"leptodactylus_s_000004.png", b"x" * 300, b""],
    b"more": (True, False, None, 1.5, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), {}, {b"a": 1}),
}


def test_a_batch_of_python_2_is_read_as_python_reads_it():
    payload = write_pickle(BATCH)
    whole, read = pickle.loads(payload, encoding="bytes"), read_pickle(payload)  # noqa: S301  # our own
    np.testing.assert_array_equal(read_array(read[b"data"]), whole[b"data"])
    assert {name: value for name, value in read.items() if name != b"data"} == {
        name: value for name, value in whole.items() if name != b"data"
    }
    assert list(read) == list(BATCH)


def test_the_very_bytes_of_python_2_are_read():
    payload = (
        b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of "
        b"5q\x03U\x06labelsq\x04]q\x05(K\x06K\te"
        b"U\x04dataq\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\t(K\x01K\x02K\x03\x86"
        b"cnumpy\ndtype\nq\nU\x02u1K\x00K\x01\x87Rq\x0b(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"T\x06\x00\x00\x00\x01\x02\x03\xfd\xfe\xfftbu."
    )
    batch = read_pickle(payload)
    assert (batch[b"batch_label"], batch[b"labels"]) == (b"training batch 1 of 5", [6, 9])
    assert read_array(batch[b"data"]).tolist() == [[1, 2, 3], [253, 254, 255]]


@pytest.mark.parametrize("protocol", [2, 3])
def test_values_of_python_3_are_read_too(protocol):
    value = {"labels": [1, 2, 3] * 400, "data": ("words", 1.5, None)}
    assert read_pickle(pickle.dumps(value, protocol=protocol)) == value


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_keep_their_order(order):
    array = np.asarray(np.arange(24, dtype=np.uint8).reshape(4, 6), order=order)
    np.testing.assert_array_equal(read_array(read_pickle(write_pickle(array))), array)


class Trap:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [2, 3])
def test_nothing_is_imported_or_called(tmp_path, protocol):
    harm = tmp_path / "harm"
    for trap in (
        Trap(open, str(harm), "w"),
        Trap(os.system, f"touch {harm}"),
        Trap(subprocess.call, ["touch", harm]),
    ):
        for payload in (
            pickle.dumps(trap, protocol=protocol),
            pickle.dumps({"data": [trap]}, protocol=protocol),
        ):
            try:
                found = read_pickle(payload)
            except PickleError:
                continue
            call = found["data"][0] if isinstance(found, dict) else found
            assert isinstance(call, Call)
            assert isinstance(call.target, Name)
            with pytest.raises(PickleError, match=r"holds no array|would be made by"):
                read_array(call)
    assert not harm.exists()
    pickle.loads(pickle.dumps(Trap(open, str(harm), "w"), protocol=2))  # noqa: S301  # the trap is one
    assert harm.exists()


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "damaged"),
        (b"no pickle", "damaged|instruction"),
        (b"\x80\x02", "damaged"),
        (b"\x80\x02.", "not put down"),
        (b"\x80\x02]K\x01s.", "damaged"),
        (b"\x80\x02NK\x01a.", "treats a NoneType as a list"),
        (b"\x80\x02K\x01e.", "damaged"),
        (b"\x80\x02h\x07.", "damaged"),
        (b"cos\nsystem\n)\x81.", "instruction NEWOBJ"),
        (b"(S'ls'\nios\nsystem\n.", "instruction"),
        (b"Pname\n.", "instruction PERSID"),
        (b"\x80\x02\x82\x01.", "instruction EXT1"),
        (b"\x80\x02}]K\x01s.", "damaged"),
    ],
)
def test_other_programs_are_refused(payload, reason):
    with pytest.raises(PickleError, match=reason):
        read_pickle(payload)


def test_damaged_pickles_give_nothing_but_an_error():
    payload, rng = write_pickle(BATCH), np.random.default_rng(0)
    for _ in range(2000):
        damaged = bytearray(payload[: rng.integers(1, len(payload) + 1)])
        damaged[rng.integers(len(damaged))] = rng.integers(256)
        try:
            found = read_pickle(bytes(damaged))
            read_array(found[b"data"] if isinstance(found, dict) else found)
        except (PickleError, KeyError):
            continue


@pytest.mark.parametrize("value", [
    None, 3, np.arange(4), np.arange(4, dtype=np.uint16), {"data": 1}, [np.zeros(3, np.uint8)],
])  # fmt: skip
def test_what_is_no_array_of_bytes_is_refused(value):
    with pytest.raises(PickleError, match=r"no array of bytes|would be made"):
        read_array(read_pickle(write_pickle(value)))
