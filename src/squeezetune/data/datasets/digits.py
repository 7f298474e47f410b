"""The handwritten digits of the demonstration, which are in the package, as a folder of images.

They are 1,797 scans of 8 x 8 pixels of 43 people's writing: the test part of "Optical Recognition
of Handwritten Digits" (Alpaydin and Kaynak 1998, UCI, CC BY 4.0), the same as scikit-learn's;
`tools/import_digits.py` made the file.
"""

import hashlib
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from squeezetune.errors import SourceError
from squeezetune.system.disk import write_file

DIGITS_PATH = Path(__file__).with_name("digits.npz")
DIGITS_SHA256 = "b2dab7b501728c22e9119ad76740b2e17c77a231e42d1e592380d90886f1a05e"
DIGIT_SIDE_PX = 64


class Digits(NamedTuple):
    """Scans (n, 8, 8) of 0 (white) to 16 (black), and which digit each shows (n,)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def load_digits(path: Path = DIGITS_PATH) -> Digits:
    """Load the digits.

    Raises:
        SourceError: the file is missing or damaged.
    """
    hint = "Reinstall the package: pip install --force-reinstall --no-deps squeezetune"
    try:
        payload = path.read_bytes()
    except OSError as error:
        raise SourceError(
            f"The handwritten digits cannot be read: {path}: {error.strerror}", hint
        ) from error
    if hashlib.sha256(payload).hexdigest() != DIGITS_SHA256:
        raise SourceError(
            f"The handwritten digits are damaged: {path} has another SHA-256 than expected", hint
        )
    with np.load(BytesIO(payload), allow_pickle=False) as arrays:
        return Digits(arrays["images"], arrays["labels"])


def write_digits(folder: Path) -> int:
    """Write the handwritten digits into one folder for each digit; return how many.

    They are enlarged to 64 x 64, dark on white. Files that are there already are left alone.

    Raises:
        SourceError: the package is damaged.
    """
    digits = load_digits()
    for number, (scan, label) in enumerate(zip(digits.images, digits.labels.tolist(), strict=True)):
        path = folder / str(label) / f"{number:04}.png"
        if path.exists():
            continue
        grey = Image.fromarray((255 - scan * (255 / 16)).round().astype(np.uint8))
        buffer = BytesIO()
        grey.resize((DIGIT_SIDE_PX, DIGIT_SIDE_PX), Image.Resampling.BICUBIC).save(buffer, "PNG")
        write_file(path, buffer.getvalue(), is_durable=False)
    return len(digits.images)
