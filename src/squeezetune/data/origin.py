"""What somebody wants looked at: a path, or images with their labels, and how the classes are read."""

import os
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from squeezetune.data.content import RawImage
from squeezetune.data.index import ImageIndex, index_images, index_photos
from squeezetune.data.sources import name_source
from squeezetune.engine import Engine
from squeezetune.events import Listener

# One image, or the path of its file, and its class.
LabelledImage: TypeAlias = tuple[RawImage | str | os.PathLike[str], Hashable]
# What can be trained on: a path, or any number of images with their classes.
Photos: TypeAlias = str | os.PathLike[str] | Iterable[LabelledImage]


@dataclass(frozen=True)
class Origin:
    """Where the photos come from: a path, or pairs of image and label, and how their classes are read."""

    photos: Path | tuple[LabelledImage, ...]
    class_pattern: str = ""
    columns: str = ""

    def scan(self, engine: Engine, listen: Listener, cache: Path | None) -> ImageIndex:
        """Find the photos."""
        if isinstance(self.photos, Path):
            how = {"class_pattern": self.class_pattern, "columns": self.columns}
            return index_photos(self.photos, engine=engine, listen=listen, cache=cache, **how)
        images, labels = [image for image, _ in self.photos], [label for _, label in self.photos]
        return index_images(images, labels, engine=engine, listen=listen)

    @property
    def name(self) -> str:
        """What the model is called after."""
        return name_source(self.photos.resolve()) if isinstance(self.photos, Path) else "squeezetune"

    def __str__(self) -> str:
        return str(self.photos) if isinstance(self.photos, Path) else f"{len(self.photos):,} images in memory"


def find_origin(photos: Photos, class_pattern: str, columns: str) -> Origin:
    """Take photos as a path, or as pairs of image and label."""
    if isinstance(photos, (str, os.PathLike)):
        return Origin(Path(photos), class_pattern, columns)
    return Origin(tuple(photos), class_pattern, columns)
