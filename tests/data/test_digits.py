import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from squeezetune.data.datasets import digits as module
from squeezetune.data.datasets.digits import DIGITS_PATH, load_digits, write_digits
from squeezetune.errors import SourceError

TOOL = Path(__file__).parents[2] / "tools" / "import_digits.py"


def test_digits_are_those_of_scikit_learn():
    datasets = pytest.importorskip(
        "sklearn.datasets", reason="scikit-learn is an extra; it has the same digits"
    )
    found, theirs = load_digits(), datasets.load_digits()
    np.testing.assert_array_equal(found.images, theirs.images)
    np.testing.assert_array_equal(found.labels, theirs.target)


def test_digits_are_written_into_a_folder_each(tmp_path):
    assert write_digits(tmp_path) == 1797
    digits = load_digits()
    assert sorted(path.name for path in tmp_path.iterdir()) == [str(digit) for digit in range(10)]
    assert len(list(tmp_path.glob("*/*.png"))) == 1797
    for number in (0, 500, 1796):
        with Image.open(tmp_path / str(digits.labels[number]) / f"{number:04}.png") as image:
            small = 255 - np.asarray(image.resize((8, 8), Image.Resampling.BOX), float)
        assert np.corrcoef(small.ravel(), digits.images[number].ravel())[0, 1] > 0.95


def test_existing_digits_are_left_alone(tmp_path):
    write_digits(tmp_path)
    (tmp_path / "0" / "0000.png").write_bytes(b"mine")
    write_digits(tmp_path)
    assert (tmp_path / "0" / "0000.png").read_bytes() == b"mine"


def test_a_package_that_is_damaged_says_so(tmp_path):
    with pytest.raises(SourceError, match="cannot be read"):
        load_digits(tmp_path / "digits.npz")
    payload = bytearray(DIGITS_PATH.read_bytes())
    payload[1000] ^= 1
    (tmp_path / "digits.npz").write_bytes(payload)
    with pytest.raises(SourceError, match="are damaged") as caught:
        load_digits(tmp_path / "digits.npz")
    assert "pip install" in caught.value.hint


@pytest.mark.skipif(not TOOL.is_file(), reason="the tools are not part of this installation")
def test_the_tool_makes_the_same_file_again(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn", reason="scikit-learn is an extra; the digits come from it")
    spec = importlib.util.spec_from_file_location("import_digits", TOOL)
    tool = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(module, "DIGITS_PATH", tmp_path / "digits.npz")
    spec.loader.exec_module(tool)
    tool.main()
    assert module.DIGITS_SHA256 in capsys.readouterr().out
    assert (
        hashlib.sha256((tmp_path / "digits.npz").read_bytes()).hexdigest() == module.DIGITS_SHA256
    )
