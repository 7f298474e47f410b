"""The handwritten digits that scikit-learn ships, as a folder of images."""

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from squeezetune.store import write_file

DIGIT_SIDE_PX = 64


def write_digits(folder: Path) -> int:
    """Write the 1,797 handwritten digits that scikit-learn ships into one folder for each digit; return how many.

    They are 8 x 8 scans of 43 people's writing (Alpaydin and Kaynak 1998, UCI "Optical Recognition of Handwritten
    Digits", CC BY 4.0), here enlarged to 64 x 64, dark on white. Files that are there already are left alone.
    """
    digits = load_digits()
    for number, (scan, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / str(label) / f"{number:04}.png"
        if path.exists():
            continue
        grey = Image.fromarray((255 - scan * (255 / 16)).round().astype(np.uint8))
        buffer = BytesIO()
        grey.resize((DIGIT_SIDE_PX, DIGIT_SIDE_PX), Image.Resampling.BICUBIC).save(buffer, "PNG")
        write_file(path, buffer.getvalue(), is_durable=False)
    return len(digits.images)
