"""Import the handwritten digits of the demonstration from scikit-learn into
src/squeezetune/data/datasets/.

    python tools/import_digits.py

They are the test part of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998,
UCI, CC BY 4.0), as scikit-learn ships them. The same input always gives the same bytes; the SHA-256
to pin in `data/datasets/digits.py` is printed.
"""

import hashlib
import io

import numpy as np
from sklearn.datasets import load_digits

from squeezetune.data.datasets.digits import DIGITS_PATH
from squeezetune.system.disk import write_file


def main() -> None:
    digits, buffer = load_digits(), io.BytesIO()
    np.savez_compressed(
        buffer, images=digits.images.astype(np.uint8), labels=digits.target.astype(np.uint8)
    )
    write_file(DIGITS_PATH, buffer.getvalue())
    print(
        f"{DIGITS_PATH}: {len(buffer.getvalue()):,} bytes, SHA-256 "
        f"{hashlib.sha256(buffer.getvalue()).hexdigest()}"
    )


if __name__ == "__main__":
    main()
