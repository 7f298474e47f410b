"""Fixtures that more than one test module uses: small photos, as bytes and in folders."""

from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from squeezetune.engine import ThreadEngine


@pytest.fixture
def engine() -> ThreadEngine:
    return ThreadEngine(2)


@pytest.fixture(scope="session")
def make_photo() -> Callable[..., bytes]:
    """Make the bytes of a small image; other seeds give other content."""

    def make(seed: int = 0, width: int = 16, height: int = 12, kind: str = "JPEG", **options: object) -> bytes:
        coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        buffer = BytesIO()
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(buffer, kind, **options)
        return buffer.getvalue()

    return make


@pytest.fixture
def write_files(tmp_path: Path) -> Callable[..., Path]:
    """Write files by relative path into a folder for this test; return the folder."""

    def write(files: Mapping[str, bytes], folder: str = "photos") -> Path:
        root = tmp_path / folder
        for name, data in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return root

    return write


@pytest.fixture
def photo_folder(write_files: Callable[..., Path], make_photo: Callable[..., bytes]) -> Path:
    """Write ten different photos of each of three classes: bee, cow and owl."""
    classes = ("bee", "cow", "owl")
    numbers = range(10)
    return write_files({f"{name}/{i}.jpg": make_photo(10 * c + i) for c, name in enumerate(classes) for i in numbers})
