"""A trained classifier that answers fast: its layers frozen in the engine's quickest form, and the
dense layers behind them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from squeezetune.heads.linear import DenseWeights, apply_layers
from squeezetune.heads.scaling import take_roots
from squeezetune.network.architecture import Architecture
from squeezetune.network.backbone import Backbone


@dataclass(frozen=True, eq=False)
class FrozenClassifier:
    """Frozen layers, and dense layers on the features of them, or with `use_roots` on their square
    roots; the logits are averaged over the views.
    """

    backbone: Backbone
    head: DenseWeights
    use_roots: bool

    def open(self, threads: int) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
        """Open it for so many threads: images (n, side, side, 3) in, logits (n, classes) out."""
        run, size = self.backbone.open(threads), self.backbone.batch_size

        def answer(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
            parts = [run(pixels[at : at + size]) for at in range(0, len(pixels), size)]
            features = np.concatenate(parts)
            rows = features.reshape(-1, features.shape[-1])
            logits = apply_layers(self.head, take_roots(rows) if self.use_roots else rows)
            answers: NDArray[np.float32] = logits.reshape(*features.shape[:2], -1).mean(axis=1)
            return answers

        return answer


@dataclass(frozen=True)
class Teaching:
    """How another network learns from a classifier of this `network`: the logits of both are
    divided by `temperature`.
    """

    classifier: FrozenClassifier
    network: Architecture
    temperature: float
