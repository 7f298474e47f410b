"""Features as a classifier wants them: standardised, or their square roots."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeezetune.heads.linear import DenseWeights, Rows
from squeezetune.system.scratch import Scratch, Selection, list_blocks


@dataclass(frozen=True)
class Scaling:
    """The mean and deviation of the features, or of their square roots, over the training
    images.
    """

    mean: Rows
    deviation: Rows
    use_roots: bool = True

    def apply(self, features: NDArray[np.float16]) -> Rows:
        """Standardise features or their roots: (n, views, 2048) float16 -> float32."""
        rows = transform(features, use_roots=self.use_roots)
        rows -= self.mean
        rows /= self.deviation
        return rows

    def spread(
        self, features: NDArray[np.float16] | Selection, scratch: Scratch, views: int | None = None
    ) -> Rows:
        """Standardise features, or their first `views` views, block by block, into an array that
        need not be in memory.

        Example:
            >>> scaling = Scaling(np.float32(1), np.float32(2))
            >>> scaling.spread(np.full((1, 2, 3), 25, np.float16), Scratch(), views=1)
            array([[[2., 2., 2.]]], dtype=float32)
        """
        count, most, width = features.shape
        rows = scratch.make_zeros((count, views or most, width), np.float32)
        for block in list_blocks(count):
            rows[block] = self.apply(features[block][:, : views or most])
        return rows

    def fold(self, layers: DenseWeights, temperature: float) -> DenseWeights:
        """Rewrite layers on standardised rows as layers on the rows before, with logits divided by
        the temperature.
        """
        (weight, bias), *rest = layers
        scaled = weight / self.deviation[:, None]
        folded = [(scaled, bias - self.mean @ scaled), *rest]
        folded[-1] = (
            folded[-1][0] / np.float32(temperature),
            folded[-1][1] / np.float32(temperature),
        )
        return tuple(folded)


def transform(features: NDArray[np.float16], *, use_roots: bool) -> Rows:
    """Copy features as float32, or their square roots, whose values are spread more evenly."""
    return take_roots(features) if use_roots else features.astype(np.float32)


def take_roots(values: NDArray[np.floating[Any]]) -> Rows:
    """Take square roots; of values below 0 those of their sizes, with their signs."""
    if not np.signbit(values).any():
        roots: Rows = np.sqrt(values, dtype=np.float32)
    else:
        roots = np.copysign(np.sqrt(np.abs(values), dtype=np.float32), values, dtype=np.float32)
    return roots


def measure_scaling(
    features: NDArray[np.float16] | Selection, *, use_roots: bool = True, views: int | None = None
) -> Scaling:
    """Measure mean and deviation of the roots over images and their first views, in blocks to keep
    memory flat.
    """
    total, squares, count = np.zeros(features.shape[2]), np.zeros(features.shape[2]), 0
    for place in list_blocks(len(features)):
        block = transform(features[place][:, :views], use_roots=use_roots)
        total += block.sum(axis=(0, 1), dtype=np.float64)
        squares += np.einsum("nvf,nvf->f", block, block)
        count += block.shape[0] * block.shape[1]
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
    # a channel that never fires carries nothing; it must not be blown up
    deviation = np.maximum(deviation, 0.05 * deviation.mean() + 1e-6)
    return Scaling(mean.astype(np.float32), deviation.astype(np.float32), use_roots)
