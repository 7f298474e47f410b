"""AR faces as images below persons.

100 persons, 50 men and 50 women, of 26 pictures each: `M-001-01.bmp` to `W-050-26.bmp`, the cropped
and aligned part of Martinez and Benavente's database (1998). The uncropped `.raw` files are not
read.
"""

import re
from collections.abc import Iterator, Sequence

from squeezetune.data.datasets.packing import copy_images
from squeezetune.data.sources.source import ImageSource

_IMAGE = re.compile(r"([mw]-[0-9]{3})-[0-9]{2}\.(bmp|png|jpe?g)")


def read_ar_faces(
    source: ImageSource, names: Sequence[str], archive_format: str
) -> Iterator[tuple[str, bytes]]:
    """Read all image files as they are, under the paths `<person>/<file>`, in small letters."""
    return copy_images(source, names, _place)


def _place(name: str) -> str:
    base = name.lower().rpartition("/")[2]
    found = _IMAGE.fullmatch(base)
    return f"{found[1]}/{base}" if found else ""
