"""How familiar an image looks: a score of its features, by the directions in which classes differ.

Classes are taken for normal distributions with means of their own and one covariance (Fisher 1936,
"The use of multiple measurements in taxonomic problems"). In all other directions the classes are
alike, so that as many as there are classes, but one, say all.

Three things are added up (docs/decisions/0014-prediction.md says what each finds):

- how much likelier the features are in the nearest class than among all images, if classes are
  normal distributions of
  one shape: Ren et al. 2021, "A Simple Fix to Mahalanobis Distance for Improving Near-OOD
  Detection";
- how large the logits are: Liu et al. 2020, "Energy-based Out-of-distribution Detection";
- how far the features are from the mean of all images.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, eigh
from scipy.special import logsumexp

from squeezetune.heads.linear import Rows

# The covariance is mixed with that of features which vary alike and independently: of few images it
# is rough.
SHRINKAGE = 0.2
# More classes than this differ in the first so many directions.
MOST_DIRECTIONS = 64
# Directions in which classes differ less than by this share of the most are none.
LEAST_SHARE = 1e-6


@dataclass(frozen=True)
class Discriminants:
    """Classes as normal distributions, in k directions in which each has unit variance.

    `mean` and `deviation` (features,) standardise; `directions` are (features, k), `centres`
    (classes, k) are the means of the classes, and `variances` (k,) those of all images together.
    """

    mean: Rows
    deviation: Rows
    directions: Rows
    centres: Rows
    variances: Rows

    def standardise(self, rows: Rows) -> Rows:
        """Bring features (n, features) to mean 0 and deviation 1 over the images that were
        learnt.
        """
        return (rows - self.mean) / self.deviation

    def compare(self, standardised: Rows) -> Rows:
        """Return twice the logarithm (n,), but for a constant, of how much likelier the nearest
        class is than any.
        """
        places = standardised @ self.directions
        to_nearest = (2 * places @ self.centres.T - (self.centres**2).sum(axis=1)).max(axis=1)
        compared: Rows = to_nearest - places**2 @ (1 - 1 / self.variances)
        return compared


def fit_discriminants(rows: Rows, labels: NDArray[np.int64]) -> Discriminants:
    """Fit to features (n, features) of images of two or more classes; n is at most a few
    thousand.
    """
    mean, deviation = rows.mean(axis=0), rows.std(axis=0)
    deviation = np.maximum(deviation, 0.05 * deviation.mean() + 1e-6)  # as in `scaling`
    standardised = (rows - mean) / deviation
    classes, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)
    centres = np.stack([standardised[numbers == at].mean(axis=0) for at in range(len(classes))])
    shares = np.sqrt(counts / len(labels))[:, None]
    solved = _divide_by_covariance(standardised - centres[numbers], (shares * centres).T)
    # the eigenvectors of a matrix (classes, classes) give those of one (features, features)
    ratios, vectors = eigh((shares * centres) @ solved)
    ratios, vectors = ratios[::-1][:MOST_DIRECTIONS], vectors[:, ::-1][:, :MOST_DIRECTIONS]
    used = ratios > LEAST_SHARE * ratios[0]
    directions = (solved @ (vectors[:, used] / np.sqrt(ratios[used]))).astype(np.float32)
    variances = (1 + ratios[used]).astype(np.float32)
    return Discriminants(mean, deviation, directions, centres @ directions, variances)


def _divide_by_covariance(differences: Rows, values: Rows) -> NDArray[np.float64]:
    """Divide values (features, k) by the shrunk covariance of differences (n, features).

    By Woodbury's identity that takes a matrix (n, n) instead of (features, features).
    """
    n, width = differences.shape
    ground = max(SHRINKAGE * float((differences**2).sum()) / (n * width), 1e-12)
    share = (1 - SHRINKAGE) / n
    products = (differences @ differences.T).astype(np.float64)
    products[np.diag_indices(n)] += ground / share
    inner = cho_solve(
        cho_factor(products, lower=True, overwrite_a=True),
        (differences @ values).astype(np.float64),
    )
    divided: NDArray[np.float64] = (values - differences.T @ inner) / ground
    return divided


# What each of the three counts, in units of its own spread among photos that were not learnt.
SHARES = (1.0, 1.0, 0.5)
SPREAD = (0.05, 0.95)


@dataclass(frozen=True)
class Familiarity:
    """A score of images by what their classifier reads, (n, views, features), and by their logits
    (n, classes).

    `weights` (3,) bring its parts onto one scale.
    """

    discriminants: Discriminants
    weights: NDArray[np.float32]

    def score(self, rows: Rows, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score images (n,): the higher, the more familiar."""
        scores: NDArray[np.float32] = measure_parts(self.discriminants, rows, logits) @ self.weights
        return scores


def measure_parts(
    discriminants: Discriminants, rows: Rows, logits: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Measure the three parts of the score (n, 3), each the higher, the more familiar."""
    standardised = discriminants.standardise(rows.mean(axis=1))
    relative = discriminants.compare(standardised)
    return np.stack([relative, logsumexp(logits, axis=1), -(standardised**2).sum(axis=1)], axis=1)


def weigh_parts(
    discriminants: Discriminants, rows: Rows, logits: NDArray[np.float32]
) -> Familiarity:
    """Weigh the parts by their spread among images that were not learnt."""
    low, high = np.quantile(measure_parts(discriminants, rows, logits), SPREAD, axis=0)
    return Familiarity(discriminants, (SHARES / np.maximum(high - low, 1e-6)).astype(np.float32))
