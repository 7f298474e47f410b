"""The training loop's inputs: kept pixels, augmented, or the kept output of the frozen layers.

Crop, zoom, mirror image and resize are one pair of matrix products: every row of an output image is
a weighted sum of rows of the input, and so are the columns. The weights are those of Pillow's
bilinear filter, which widens where pixels are shrunk, so that a whole image comes out as
`data.pixels` would make it. In bfloat16, where the processor computes in it, that takes a fifth of
the time.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from squeezetune.finetune.recipe import Augmentation
from squeezetune.finetune.torch_layers import Tensor
from squeezetune.network.activations import ActivationRows, Activations
from squeezetune.network.architecture import NetworkLayout
from squeezetune.network.zoo import SQUEEZENET1_1

# isort: split
# after the modules above, which say how to install torch where it is missing
import torch

# Pixels are counted from here, half of their range: whole numbers up to it are exact in bfloat16.
CENTRE = 128


def draw_images(
    pixels: Tensor,
    side: int,
    augmentation: Augmentation,
    generator: Any,
    precision: Any = torch.float32,
    network: NetworkLayout = SQUEEZENET1_1,
) -> Tensor:
    """Make augmented, normalised images (n, 3, side, side), in `precision`, of pixels (n, height,
    width, 3) uint8.
    """
    count, height, width = pixels.shape[:3]
    share, stretch, top, left, light, contrast, colour = torch.rand(7, count, generator=generator)
    share = augmentation.zoom + (1 - augmentation.zoom) * share
    ratio = torch.exp((stretch - 0.5) * math.log(augmentation.stretch))
    tall, wide = (share / ratio).clamp(max=1) * height, (share * ratio).clamp(max=1) * width
    mirrored = torch.rand(count, generator=generator) < (0.5 if augmentation.mirror else 0.0)
    rows = weigh_pixels((height - tall) * top, tall, height, side)
    columns = weigh_pixels((width - wide) * left, wide, width, side)
    columns = torch.where(mirrored[:, None, None], columns.flip(1), columns)
    light, contrast, colour = (
        2 * drawn[:, None, None, None] - 1 for drawn in (light, contrast, colour)
    )
    shift, gain = augmentation.light * light, 1 + augmentation.light * contrast
    images = resample(
        pixels, rows.to(precision), columns.to(precision), gain, shift, network=network
    )
    if augmentation.colour:
        keep = 1 + augmentation.colour * colour
        # half the time of `mean`
        grey = (images[:, 0] + images[:, 1]).add_(images[:, 2]).mul_(1 / 3)
        images = torch.lerp(grey[:, None], images, keep.to(precision))
    return _erase_squares(images, augmentation.erase, generator) if augmentation.erase else images


def show_images(
    pixels: Tensor, side: int, *, mirrored: bool = False, network: NetworkLayout = SQUEEZENET1_1
) -> Tensor:
    """Make whole, normalised images (n, 3, side, side) float32 of pixels (n, height, width, 3)
    uint8.
    """
    count, height, width = pixels.shape[:3]
    rows, columns = (
        weigh_pixels(torch.zeros(1), torch.full((1,), float(n)), n, side) for n in (height, width)
    )
    columns = columns.flip(1) if mirrored else columns
    return resample(
        pixels, rows.expand(count, -1, -1), columns.expand(count, -1, -1), network=network
    )


def normalise(pixels: Tensor, network: NetworkLayout = SQUEEZENET1_1) -> Tensor:
    """Turn pixels (n, height, width, 3) uint8 into planes (n, 3, height, width) float32, as the
    network wants them.
    """
    mean, deviation = list_statistics(network)
    return (pixels.permute(0, 3, 1, 2).float() - mean) / deviation


def weigh_pixels(start: Tensor, length: Tensor, size: int, side: int) -> Tensor:
    """Weigh the `size` pixels of a line for each of `side` outputs over [start, start + length):
    (n, side, size).

    The filter is the triangle, one input pixel wide to each side, or one output pixel where that is
    wider.
    """
    centre = start[:, None] + length[:, None] * ((torch.arange(side) + 0.5) / side)
    reach = (length / side).clamp(min=1)[:, None, None]
    distance = (centre[:, :, None] - 0.5 - torch.arange(size)).abs() / reach
    weights = (1 - distance).clamp(min=0)
    return weights / weights.sum(2, keepdim=True)


def resample(
    pixels: Tensor,
    rows: Tensor,
    columns: Tensor,
    gain: Tensor | float = 1.0,
    shift: Tensor | float = 0.0,
    *,
    network: NetworkLayout = SQUEEZENET1_1,
) -> Tensor:
    """Mix the rows and the columns of pixels (n, height, width, 3) uint8, normalise them, and
    change their light.

    The weights (n, side, height or width) say in which type of number; images (n, 3, side, side) in
    that come out. `gain` (n, 1, 1, 1) multiplies the normalised images, `shift` is added to them.
    """
    count, height, width = pixels.shape[:3]
    side = rows.shape[1]
    # bfloat16 is exact up to here
    centred = pixels.view(count, height, 3 * width).to(rows.dtype) - CENTRE
    lines = (
        (rows @ centred)
        .view(count, side, width, 3)
        .permute(0, 3, 1, 2)
        .reshape(count, 3 * side, width)
    )
    images = (lines @ columns.transpose(1, 2)).view(count, 3, side, side)
    mean, deviation = list_statistics(network)
    factor, summand = gain / deviation, gain * (CENTRE - mean) / deviation + shift
    return images.mul_(factor.to(rows.dtype)).add_(summand.to(rows.dtype))


def list_statistics(network: NetworkLayout) -> tuple[Tensor, Tensor]:
    """List the mean and the standard deviation of each channel, (3, 1, 1) float32, of pixels from 0
    to 255.
    """
    mean, deviation = (
        255 * torch.tensor(values)[:, None, None] for values in (network.mean, network.std)
    )
    return mean, deviation


def _erase_squares(images: Tensor, probability: float, generator: Any) -> Tensor:
    """Blank a square of some images (DeVries and Taylor 2017, "Improved Regularization ... with
    Cutout").
    """
    count, side = images.shape[0], images.shape[2]
    chance, size, row, column = torch.rand(4, count, generator=generator)
    half = torch.where(chance < probability, side * (0.1 + 0.1 * size), torch.zeros(count))
    line = torch.arange(side)
    is_row = (line - side * row[:, None]).abs() < half[:, None]
    is_column = (line - side * column[:, None]).abs() < half[:, None]
    return images.masked_fill((is_row[:, :, None] & is_column[:, None, :])[:, None], 0.0)


def cut_and_mix(images: Tensor, share: float, generator: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Put a rectangle of another image of the batch into a share of the images, (n, channels,
    height, width).

    Returns the images, the row of the other image of each (n,), and the part of each that is its
    own (n,). Source: Yun et al. 2019, "CutMix: Regularization Strategy to Train Strong Classifiers
    with Localizable Features".
    """
    count, _, height, width = images.shape
    others = torch.randperm(count, generator=generator)
    chance, area, row, column = torch.rand(4, count, generator=generator)
    half = torch.where(chance < share, area.sqrt() / 2, torch.zeros(count))
    is_row = ((torch.arange(height) + 0.5) / height - row[:, None]).abs() < half[:, None]
    is_column = ((torch.arange(width) + 0.5) / width - column[:, None]).abs() < half[:, None]
    is_other = is_row[:, :, None] & is_column[:, None, :]
    own = 1 - is_other.float().mean((1, 2))
    return torch.where(is_other[:, None], images[others], images), others, own


Positions = NDArray[np.int64]


class BatchSource(Protocol):
    """Where images, or inner activations, come from; both methods may be called from several
    threads at once.
    """

    def draw(
        self, positions: Positions, side: int, generator: Any, precision: Any = torch.float32
    ) -> tuple[Tensor, Tensor | None]:
        """Make the network's input for training: augmented, (n, channels, height, width), and means
        of earlier taps.

        `precision` is the type of number that the network computes in; more than that is not
        needed.
        """
        ...

    def show(self, positions: Positions, side: int, view: int) -> tuple[Tensor, Tensor | None]:
        """Make the network's input for measuring: view 0 is the image as it is, 1 its mirror
        image.
        """
        ...


@dataclass(frozen=True)
class PixelBatches:
    """Images from kept pixels, rows of (height, width, 3) uint8, normalised for a network; every
    step sees them changed anew.
    """

    rows: ActivationRows
    augmentation: Augmentation
    network: NetworkLayout = SQUEEZENET1_1

    def draw(
        self, positions: Positions, side: int, generator: Any, precision: Any = torch.float32
    ) -> tuple[Tensor, None]:
        """Make augmented images (n, 3, side, side) in `precision`."""
        pixels = torch.from_numpy(self.rows.gather(positions))
        images = draw_images(pixels, side, self.augmentation, generator, precision, self.network)
        return images, None

    def show(self, positions: Positions, side: int, view: int) -> tuple[Tensor, None]:
        """Make whole images (n, 3, side, side) float32, or their mirror images."""
        pixels = torch.from_numpy(self.rows.gather(positions))
        return show_images(pixels, side, mirrored=view == 1, network=self.network), None


@dataclass(frozen=True)
class ActivationBatches:
    """What a block reads, from kept activations of several views of every image; training draws one
    of the views.
    """

    activations: Activations

    def draw(
        self, positions: Positions, side: int, generator: Any, precision: Any = torch.float32
    ) -> tuple[Tensor, Tensor]:
        """Make the block's input (n, channels, height, width) float32 of a view of each image, and
        earlier means.
        """
        return self._decode(
            positions,
            torch.randint(self.activations.form.views, (len(positions),), generator=generator),
        )

    def show(self, positions: Positions, side: int, view: int) -> tuple[Tensor, Tensor]:
        """Make the block's input of the images as they are, or of their mirror images."""
        return self._decode(positions, torch.full((len(positions),), view))

    def _decode(self, positions: Positions, views: Tensor) -> tuple[Tensor, Tensor]:
        rows = self.activations.rows.gather(positions)
        maps, taps = self.activations.form.decode(rows, views.numpy())
        # channels come last in memory already, as the network wants them
        return torch.from_numpy(maps).permute(0, 3, 1, 2), torch.from_numpy(taps)
