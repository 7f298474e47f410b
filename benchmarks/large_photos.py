"""JPEG photos of 12 megapixels, as phones take them, generated where the sets at hand have none."""

import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

LARGE_SIZE, LARGE_CLASSES = (4000, 3000), 4


def write_large_photos(root: Path, count: int) -> Path:
    """Write JPEG photos of 12 megapixels, coloured by their class, unless they are there."""
    if not root.exists():
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root.parent) as partial_folder:
            for name in range(LARGE_CLASSES):
                (Path(partial_folder) / "photos" / str(name)).mkdir(parents=True)
            with ThreadPoolExecutor() as pool:
                list(
                    pool.map(
                        partial(write_large_photo, Path(partial_folder) / "photos"), range(count)
                    )
                )
            (Path(partial_folder) / "photos").rename(root)
    return root


def write_large_photo(root: Path, number: int) -> None:
    """Write one photo: coarse noise made large, one colour darker by the class."""
    label = number % LARGE_CLASSES
    coarse = np.random.default_rng(number).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    coarse[..., label % 3] //= 2 + label // 3
    image = Image.fromarray(coarse).resize(LARGE_SIZE, Image.Resampling.BICUBIC)
    image.save(root / str(label) / f"{number:05}.jpg", quality=85)
