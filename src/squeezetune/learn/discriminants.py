"""The directions in which classes differ most, against how much images of one class differ.

Classes are taken for normal distributions with means of their own and one covariance (Fisher 1936, "The use of
multiple measurements in taxonomic problems"). In all other directions the classes are alike, so that as many as there
are classes, but one, say all.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, eigh

from squeezetune.learn.dense import Rows

# The covariance is mixed with that of features which vary alike and independently: of few images it is rough.
SHRINKAGE = 0.2
# More classes than this differ in the first so many directions.
MOST_DIRECTIONS = 64
# Directions in which classes differ less than by this share of the most are none.
LEAST_SHARE = 1e-6


@dataclass(frozen=True)
class Discriminants:
    """Classes as normal distributions, in k directions in which each has unit variance.

    `mean` and `deviation` (features,) standardise; `directions` are (features, k), `centres` (classes, k) are the means
    of the classes, and `variances` (k,) those of all images together.
    """

    mean: Rows
    deviation: Rows
    directions: Rows
    centres: Rows
    variances: Rows

    def standardise(self, rows: Rows) -> Rows:
        """Bring features (n, features) to mean 0 and deviation 1 over the images that were learnt."""
        return (rows - self.mean) / self.deviation

    def compare(self, standardised: Rows) -> Rows:
        """Return twice the logarithm (n,), but for a constant, of how much likelier the nearest class is than any."""
        places = standardised @ self.directions
        to_nearest = (2 * places @ self.centres.T - (self.centres**2).sum(axis=1)).max(axis=1)
        compared: Rows = to_nearest - places**2 @ (1 - 1 / self.variances)
        return compared


def fit_discriminants(rows: Rows, labels: NDArray[np.int64]) -> Discriminants:
    """Fit to features (n, features) of images of two or more classes; n is at most a few thousand."""
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
    inner = cho_solve(cho_factor(products, lower=True, overwrite_a=True), (differences @ values).astype(np.float64))
    divided: NDArray[np.float64] = (values - differences.T @ inner) / ground
    return divided
