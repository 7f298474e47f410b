"""Where the training loop's inputs come from: kept pixels, or the kept output of the frozen layers."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from squeezetune.learn.activations import Activations, Rows
from squeezetune.learn.augment import draw_images, show_images
from squeezetune.learn.network import Tensor
from squeezetune.learn.recipe import Augmentation

# isort: split
# after `network`, which says how to install torch where it is missing
import torch

Positions = NDArray[np.int64]


class Feed(Protocol):
    """Where images, or inner activations, come from; both methods may be called from several threads at once."""

    def draw(
        self, positions: Positions, side: int, generator: Any, precision: Any = torch.float32
    ) -> tuple[Tensor, Tensor | None]:
        """Make the network's input for training: augmented, (n, channels, height, width), and means of earlier taps.

        `precision` is the type of number that the network computes in; more than that is not needed.
        """
        ...

    def show(self, positions: Positions, side: int, view: int) -> tuple[Tensor, Tensor | None]:
        """Make the network's input for measuring: view 0 is the image as it is, 1 its mirror image."""
        ...


@dataclass(frozen=True)
class PixelFeed:
    """Images from kept pixels, rows of (height, width, 3) uint8; every step sees them changed anew."""

    rows: Rows
    augmentation: Augmentation

    def draw(
        self, positions: Positions, side: int, generator: Any, precision: Any = torch.float32
    ) -> tuple[Tensor, None]:
        """Make augmented images (n, 3, side, side) in `precision`."""
        pixels = torch.from_numpy(self.rows.gather(positions))
        return draw_images(pixels, side, self.augmentation, generator, precision), None

    def show(self, positions: Positions, side: int, view: int) -> tuple[Tensor, None]:
        """Make whole images (n, 3, side, side) float32, or their mirror images."""
        return show_images(torch.from_numpy(self.rows.gather(positions)), side, mirrored=view == 1), None


@dataclass(frozen=True)
class ActivationFeed:
    """What a block reads, from kept activations of several views of every image; training draws one of the views."""

    activations: Activations

    def draw(
        self, positions: Positions, side: int, generator: Any, precision: Any = torch.float32
    ) -> tuple[Tensor, Tensor]:
        """Make the block's input (n, channels, height, width) float32 of a view of each image, and earlier means."""
        return self._decode(
            positions, torch.randint(self.activations.form.views, (len(positions),), generator=generator)
        )

    def show(self, positions: Positions, side: int, view: int) -> tuple[Tensor, Tensor]:
        """Make the block's input of the images as they are, or of their mirror images."""
        return self._decode(positions, torch.full((len(positions),), view))

    def _decode(self, positions: Positions, views: Tensor) -> tuple[Tensor, Tensor]:
        rows = self.activations.rows.gather(positions)
        maps, taps = self.activations.form.decode(rows, views.numpy())
        # channels come last in memory already, as the network wants them
        return torch.from_numpy(maps).permute(0, 3, 1, 2), torch.from_numpy(taps)
