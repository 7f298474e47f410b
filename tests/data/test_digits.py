import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from squeezetune.data.digits import write_digits


def test_digits_are_those_of_scikit_learn(tmp_path):
    assert write_digits(tmp_path) == 1797
    digits = load_digits()
    assert sorted(path.name for path in tmp_path.iterdir()) == [str(digit) for digit in range(10)]
    assert len(list(tmp_path.glob("*/*.png"))) == 1797
    for number in (0, 500, 1796):
        with Image.open(tmp_path / str(digits.target[number]) / f"{number:04}.png") as image:
            small = 255 - np.asarray(image.resize((8, 8), Image.Resampling.BOX), float)
        assert np.corrcoef(small.ravel(), digits.images[number].ravel())[0, 1] > 0.95


def test_existing_digits_are_left_alone(tmp_path):
    write_digits(tmp_path)
    (tmp_path / "0" / "0000.png").write_bytes(b"mine")
    write_digits(tmp_path)
    assert (tmp_path / "0" / "0000.png").read_bytes() == b"mine"
