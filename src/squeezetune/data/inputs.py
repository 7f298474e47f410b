"""What somebody wants looked at: a path, or images with their labels, and how the classes are
read.
"""

import os
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from squeezetune.data.index import ImageIndex, index_images, index_photos
from squeezetune.data.sources.registry import ImageLike, is_iterable, name_source, read_open_file
from squeezetune.errors import SourceError
from squeezetune.events import Listener
from squeezetune.system.executor import Executor

# One image, or the path of its file, and its class.
LabelledImage: TypeAlias = tuple[ImageLike, Hashable]
# What can be trained on: a path, or any number of images with their classes.
Photos: TypeAlias = str | os.PathLike[str] | Iterable[LabelledImage]


@dataclass(frozen=True)
class PhotoInput:
    """Where the photos come from: a path, or pairs of image and label, and how their classes are
    read.
    """

    photos: Path | tuple[LabelledImage, ...]
    class_pattern: str = ""
    columns: str = ""

    def scan(self, executor: Executor, listen: Listener, cache: Path | None) -> ImageIndex:
        """Find the photos."""
        if isinstance(self.photos, Path):
            how = {"class_pattern": self.class_pattern, "columns": self.columns}
            return index_photos(self.photos, executor=executor, listen=listen, cache=cache, **how)
        images, labels = [image for image, _ in self.photos], [label for _, label in self.photos]
        return index_images(images, labels, executor=executor, listen=listen)

    @property
    def name(self) -> str:
        """What the model is called after."""
        return (
            name_source(self.photos.resolve()) if isinstance(self.photos, Path) else "squeezetune"
        )

    def __str__(self) -> str:
        return (
            str(self.photos)
            if isinstance(self.photos, Path)
            else f"{len(self.photos):,} images in memory"
        )


def parse_input(photos: Photos, class_pattern: str, columns: str) -> PhotoInput:
    """Take photos as a path, or as pairs of image and label.

    Raises:
        SourceError: they are neither.
        ImageError: an open file cannot be read.

    """
    if isinstance(photos, (str, os.PathLike)):
        return PhotoInput(Path(photos), class_pattern, columns)
    hint = "Give the path of a folder, an archive or a table, or pairs: [(image, label), ...]."
    if isinstance(photos, (bytes, Mapping)) or not is_iterable(photos):
        raise SourceError(
            f"the photos are a {type(photos).__name__}; needed are a path or pairs", hint
        )
    pairs: list[LabelledImage] = []
    for position, pair in enumerate(photos):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            size = f" of {len(pair)}" if isinstance(pair, (tuple, list)) else ""
            raise SourceError(
                f"item {position} of the photos is a {type(pair).__name__}{size}; needed is an "
                f"image and its label",
                hint,
            )
        pairs.append((read_open_file(pair[0]), pair[1]))
    return PhotoInput(tuple(pairs), class_pattern, columns)
