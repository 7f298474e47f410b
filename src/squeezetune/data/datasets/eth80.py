"""ETH-80 in the two layouts in which it is found, as images below class and object.

8 classes of 10 objects, each seen from 41 sides (Leibe and Schiele 2003). The original archive,
`eth80-cropped256`, has a folder for each object, `apple1/apple1-000-000.png`; others have folders
of numbers, `1/1/apple1-000-000.png`. The files' names are the same in both, and say everything.
Masks, `maps/apple1-000-000-map.png`, are left out.
"""

import re
from collections.abc import Iterator, Sequence

from squeezetune.data.datasets.packing import copy_images
from squeezetune.data.sources.source import ImageSource

_IMAGE = re.compile(r"((apple|car|cow|cup|dog|horse|pear|tomato)[0-9]+)-[0-9]+-[0-9]+\.(png|jpe?g)")


def read_eth80(
    source: ImageSource, names: Sequence[str], archive_format: str
) -> Iterator[tuple[str, bytes]]:
    """Read all image files as they are, under the paths `<class>/<object>/<file>`."""
    return copy_images(source, names, _place)


def _place(name: str) -> str:
    *folders, base = name.lower().split("/")
    found = _IMAGE.fullmatch(base)
    return f"{found[2]}/{found[1]}/{base}" if found and "maps" not in folders else ""
