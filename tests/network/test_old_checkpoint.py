import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest

from squeezetune.data.datasets.pickles import PickleError
from squeezetune.errors import WeightsError
from squeezetune.network.old_checkpoint import START, parse_checkpoint, read_old_checkpoint

torch = pytest.importorskip("torch", reason="torch is an extra")


@pytest.fixture(scope="module")
def state():
    generator = torch.Generator().manual_seed(0)
    kernel = torch.randn(6, 3, 2, 2, generator=generator)
    return OrderedDict(
        {
            "kernel": kernel,
            "transposed": kernel.permute(1, 0, 3, 2),
            "part": kernel[2:4],
            "half": torch.randn(5, generator=generator).half(),
            "counted": torch.tensor(7),
            "empty": torch.zeros(0, 3),
        }
    )


@pytest.fixture(scope="module")
def path(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("old") / "old.pth"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return path


def test_arrays_are_those_that_torch_reads(state, path):
    found = read_old_checkpoint(path)
    assert list(found) == list(state)
    for name, value in state.items():
        np.testing.assert_array_equal(found[name], value.numpy())
        assert found[name].dtype == value.numpy().dtype
    assert path.read_bytes().startswith(START)


def test_a_network_with_metadata_is_read(tmp_path):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    torch.save(network.state_dict(), tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    found = read_old_checkpoint(tmp_path / "x.pth")
    assert found.keys() == network.state_dict().keys()


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


@pytest.mark.parametrize(
    "content",
    [
        {"a": Bomb()},
        {"a": 1},
        {"a": np.zeros(3)},
        [torch.zeros(3)],
        torch.nn.Linear(2, 2),
        {1: torch.zeros(3)},
        {"a": torch.zeros(3, dtype=torch.complex64)},
    ],
)
def test_what_is_no_state_dict_is_refused_and_nothing_is_run(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(content, "x.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(WeightsError, match="damaged or holds more than tensors") as caught:
        read_old_checkpoint(tmp_path / "x.pth")
    assert "state dict" in caught.value.hint
    assert not (tmp_path / "exploded").exists()


def test_other_files_are_refused(tmp_path):
    torch.save({"a": torch.zeros(3)}, tmp_path / "new.pth")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps({"a": 1}))
    (tmp_path / "empty.pth").touch()
    for name in ("new.pth", "pickle.pth", "empty.pth"):
        with pytest.raises(WeightsError, match="no such file of torch"):
            read_old_checkpoint(tmp_path / name)
    with pytest.raises(WeightsError, match="cannot be read"):
        read_old_checkpoint(tmp_path / "none.pth")


def test_damaged_files_are_refused_or_give_arrays(path):
    payload, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for length in range(0, len(payload), 7):
        with pytest.raises(PickleError):
            parse_checkpoint(payload[:length])
    for _ in range(1500):
        damaged = bytearray(payload)
        damaged[rng.integers(len(damaged))] ^= 1 << int(rng.integers(8))
        try:
            found = parse_checkpoint(bytes(damaged))
        except PickleError:
            refused += 1
        else:
            assert sum(value.size for value in found.values()) < 1000
    assert refused > 500
