"""Why a classifier says what it says of a photo: where in it the class is seen, and a picture of that."""

import os
import re
import zlib
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from squeezetune.artifact import NETWORK, read_payload
from squeezetune.data.content import RawImage
from squeezetune.data.decoding import open_image
from squeezetune.data.pixels import prepare_pixels
from squeezetune.data.sources import ImageLike, MemorySource, is_one_image, read_open_file
from squeezetune.disk import write_file
from squeezetune.errors import ArtifactError, ImageError, SettingsError
from squeezetune.learn.class_maps import Mapper, open_mapper
from squeezetune.learn.trained import read_network
from squeezetune.prediction import Classifier, load

# A picture's longer side in pixels, and how much of the photo the heat hides where it is hottest.
PICTURE_PX, OPACITY = 480, 0.65
# From little to much: colours of the heat.
COLOURS = np.array([(0, 0, 160), (0, 170, 200), (250, 220, 40), (220, 20, 20)], np.float32)
PICTURE_NAME = re.compile(r"-[0-9a-f]{8}\.png$")


@dataclass(frozen=True)
class Explanation:
    """Where a class is seen in a photo: `heat` (height, width) float32 is 0 where it is not, and 1 where most."""

    label: str
    heat: NDArray[np.float32]
    photo: Image.Image

    def draw(self) -> Image.Image:
        """Lay the heat over the photo, made smaller where it is large."""
        width, height = self.photo.size
        scale = min(1.0, PICTURE_PX / max(width, height))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        photo = np.asarray(self.photo.resize(size, Image.Resampling.BILINEAR), np.float32)
        heat = np.asarray(Image.fromarray(self.heat).resize(size, Image.Resampling.BILINEAR)).clip(0, 1)
        places = np.linspace(0, 1, len(COLOURS))
        colour = np.stack([np.interp(heat, places, channel) for channel in COLOURS.T], axis=2)
        share = OPACITY * heat[:, :, None]
        return Image.fromarray((photo * (1 - share) + colour * share).round().astype(np.uint8))


@dataclass(frozen=True)
class Explainer:
    """Explains what a classifier, read from its folder, says."""

    classifier: Classifier

    @cached_property
    def _mapper(self) -> Mapper:
        folder = self.classifier.folder
        if folder is None:
            raise ArtifactError("A classifier without a folder cannot explain", "Load it: squeezetune.load(FOLDER).")
        return open_mapper(read_network(read_payload(folder / NETWORK, self.classifier.manifest.files[NETWORK])))

    def explain(self, image: RawImage, label: str) -> Explanation:
        """Show where a class is seen in an image.

        Raises:
            ImageError: the image cannot be read.
            SettingsError: there is no such class.

        """
        names = self.classifier.class_names
        if label not in names:
            raise SettingsError(f"there is no class {label!r}", f"The model's classes: {', '.join(names)}.")
        settings = self.classifier.pixels
        photo, pixels = open_image(image, settings.side), prepare_pixels(image, settings)
        square = np.maximum(self._mapper.map_class(pixels, names.index(label)), 0)
        heat = place_square(square, photo.size, self.classifier.manifest.resize)
        return Explanation(label, heat / max(float(heat.max()), float(np.finfo(np.float32).tiny)), photo)


def explain(model: str | os.PathLike[str] | Classifier, image: ImageLike, label: str = "") -> Explanation:
    """Show where in an image a classifier sees a class, by default the likeliest one.

    Raises:
        ArtifactError: the model cannot be used.
        ImageError: the image cannot be read.
        SettingsError: there is no such class.

    >>> import squeezetune                                                    # doctest: +SKIP
    >>> squeezetune.explain("flowers-model", "rose.jpg").draw().show()        # doctest: +SKIP

    """
    classifier = model if isinstance(model, Classifier) else load(model)
    if not is_one_image(image):
        raise ImageError(f"a {type(image).__name__}; needed is one image", "Explain several one after another.")
    source = MemorySource([read_open_file(image)])
    label = label or classifier.predict(source.images[0]).label
    return Explainer(classifier).explain(source.read("0"), label)


def place_square(square: NDArray[np.float32], size: tuple[int, int], resize: str) -> NDArray[np.float32]:
    """Bring a map of what the network sees to the photo (height, width), by the policy that made the photo square."""
    width, height = size
    heat, side = Image.fromarray(square), len(square)
    if resize == "crop":  # the middle
        edge = min(size)
        placed = np.zeros((height, width), np.float32)
        top, left = (height - edge) // 2, (width - edge) // 2
        placed[top : top + edge, left : left + edge] = np.asarray(heat.resize((edge, edge), Image.Resampling.BILINEAR))
        return placed
    if resize == "pad":  # there is something around it
        across, down = side * width / max(size), side * height / max(size)
        box = ((side - across) / 2, (side - down) / 2, (side + across) / 2, (side + down) / 2)
        return np.asarray(heat.resize(size, Image.Resampling.BILINEAR, box=box))
    return np.asarray(heat.resize(size, Image.Resampling.BILINEAR))


@dataclass(frozen=True)
class PictureFolder:
    """A folder with a picture of each photo: where its class is seen. It holds nothing else."""

    path: Path
    explainer: Explainer

    def check(self) -> None:
        """Make sure that the folder is new, or holds such pictures alone, so that it is none of photos.

        Raises:
            SettingsError: it holds something else.

        """
        if not self.path.exists():
            return
        others = [] if not self.path.is_dir() else [p for p in self.path.iterdir() if not PICTURE_NAME.search(p.name)]
        if others or not self.path.is_dir():
            raise SettingsError(
                f"{self.path} holds something else than pictures of this kind; needed is a new folder for them",
                "Give another one with --explain; nothing was changed.",
            )

    def add(self, image: RawImage, title: str, label: str) -> Path:
        """Write the picture of one photo; its name ends in a number that is of this title only."""
        buffer = BytesIO()
        self.explainer.explain(image, label).draw().save(buffer, "PNG")
        name = re.sub(r"[^\w.-]", "_", Path(title).name)[-80:]
        path = self.path / f"{name}-{zlib.crc32(title.encode()):08x}.png"
        try:
            write_file(path, buffer.getvalue(), is_durable=False)
        except OSError as error:
            raise SettingsError(
                f"{path} cannot be written: {error.strerror}", "Check the disk's space and permissions."
            ) from error
        return path
