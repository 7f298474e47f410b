"""What a format's writer is given: a trained network, what a file says of itself, and photos to look at."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from squeezetune.data.index import ImageIndex
from squeezetune.data.pixels import PixelSettings, load_indexed
from squeezetune.engine import ThreadEngine
from squeezetune.errors import ImageError, SettingsError
from squeezetune.events import Listener, ignore_event
from squeezetune.learn.trained import TrainedNetwork


@dataclass(frozen=True)
class TrainingPhotos:
    """Photos that the network was trained on, or chosen by, at these positions of an index."""

    index: ImageIndex
    positions: NDArray[np.int64]

    def draw(self, count: int, settings: PixelSettings) -> NDArray[np.uint8]:
        """Draw at most so many, evenly, as the network sees them: (n, side, side, 3)."""
        step = max(1, -(-len(self.positions) // count))

        def load(position: int) -> NDArray[np.uint8] | None:
            try:
                return load_indexed(self.index, position, settings)[0]
            except ImageError:
                return None

        pixels = [found for found in ThreadEngine().map(load, self.positions[::step].tolist()) if found is not None]
        if not pixels:
            raise SettingsError(
                "none of the training photos can be read",
                "Give the photos that the model was trained on with --photos.",
            )
        return np.stack(pixels)


@dataclass(frozen=True)
class Order:
    """A network to be written in some format.

    `model` are the bytes of `model.onnx`, which the report's figures were measured on; `metadata` is what a file says
    of itself: class names as JSON, settings, fingerprint of the data, licence. `photos` are those of the training part,
    where they are at hand, and `judges` those of the validation part. `title` is what a page is headed;
    `runtime` is where the build of ONNX Runtime for browsers lies, if not in the cache.
    """

    network: TrainedNetwork
    model: bytes
    metadata: Mapping[str, str]
    photos: TrainingPhotos | None = None
    judges: TrainingPhotos | None = None
    title: str = "Classifier"
    runtime: Path | None = None
    listen: Listener = ignore_event

    def draw(self, count: int) -> NDArray[np.uint8]:
        """Draw training photos as the network sees them; half of them mirrored if it looks at mirror images too.

        Raises:
            SettingsError: there are none.

        """
        if self.photos is None:
            raise SettingsError(
                "this format looks at training photos, and there are none",
                "Give the photos that the model was trained on with --photos.",
            )
        pixels = self.photos.draw(count, PixelSettings(self.network.side, self.network.resize))
        if self.network.views > 1:
            pixels[1::2] = pixels[1::2, :, ::-1]
        return pixels
