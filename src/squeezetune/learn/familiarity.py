"""How familiar an image looks: whether its features are like those that were learnt.

Three things are added up (docs/decisions/0014-prediction.md says what each finds):

- how much likelier the features are in the nearest class than among all images, if classes are normal distributions of
  one shape: Ren et al. 2021, "A Simple Fix to Mahalanobis Distance for Improving Near-OOD Detection";
- how large the logits are: Liu et al. 2020, "Energy-based Out-of-distribution Detection";
- how far the features are from the mean of all images.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from squeezetune.learn.dense import Rows
from squeezetune.learn.discriminants import Discriminants

# What each of the three counts, in units of its own spread among photos that were not learnt.
SHARES = (1.0, 1.0, 0.5)
SPREAD = (0.05, 0.95)


@dataclass(frozen=True)
class Familiarity:
    """A score of images by what their classifier reads, (n, views, features), and by their logits (n, classes).

    `weights` (3,) bring its parts onto one scale.
    """

    discriminants: Discriminants
    weights: NDArray[np.float32]

    def score(self, rows: Rows, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score images (n,): the higher, the more familiar."""
        scores: NDArray[np.float32] = measure_parts(self.discriminants, rows, logits) @ self.weights
        return scores


def measure_parts(discriminants: Discriminants, rows: Rows, logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Measure the three parts of the score (n, 3), each the higher, the more familiar."""
    standardised = discriminants.standardise(rows.mean(axis=1))
    relative = discriminants.compare(standardised)
    return np.stack([relative, logsumexp(logits, axis=1), -(standardised**2).sum(axis=1)], axis=1)


def weigh_parts(discriminants: Discriminants, rows: Rows, logits: NDArray[np.float32]) -> Familiarity:
    """Weigh the parts by their spread among images that were not learnt."""
    low, high = np.quantile(measure_parts(discriminants, rows, logits), SPREAD, axis=0)
    return Familiarity(discriminants, (SHARES / np.maximum(high - low, 1e-6)).astype(np.float32))
