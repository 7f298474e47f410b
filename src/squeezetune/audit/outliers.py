"""Which images are unlike all others: those that are far from their nearest neighbours, as
distances go here.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from squeezetune.heads.scaling import measure_scaling
from squeezetune.system.executor import Executor
from squeezetune.system.scratch import Selection, list_blocks

NEIGHBOURS = 10
# Distances of 2,048 numbers are kept by so many random projections to within some per cent (Johnson
# and Lindenstrauss 1984), at a sixteenth of the cost.
PROJECTIONS = 128
FIXED_SEED = 0
MOST_REFERENCES = (
    16_384  # of which the neighbours are taken, evenly drawn: the cost stays in proportion
)
# So many deviations above the median: none of 3,280 photos of ETH-80 and few of CIFAR-10 are, and a
# photo of the one among those of the other is (docs/decisions/0010-audit.md).
LEAST_DEVIATIONS = 6.0
LEAST_REACH = 0.95
NEEDED_IMAGES = 30
BLOCK_ROWS = 256  # of distances at once, for each thread


@dataclass(frozen=True)
class Outliers:
    """The images unlike all others, the most unlike first: `positions` (m,), and by how many
    `deviations` (m,).
    """

    positions: NDArray[np.int64]
    deviations: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.positions)


def find_outliers(features: NDArray[np.float16] | Selection, executor: Executor) -> Outliers:
    """Find the images that are much further from their neighbours than these are from theirs, from
    (n, views, 2048).

    The ratio of both is the local outlier factor in its simplest form (Breunig et al. 2000, "LOF:
    Identifying Density-Based Local Outliers"); it is compared with those of all images by median
    and median absolute deviation.
    """
    if len(features) < NEEDED_IMAGES:
        return Outliers(np.empty(0, np.int64), np.empty(0))
    with threadpool_limits(1):  # the engine's threads share the work
        factors, reach = measure_factors(project_features(features), executor)
    deviations = count_deviations(np.log(factors))
    # a photo beside a burst of others is far only as that burst goes
    found = np.flatnonzero(
        (deviations >= LEAST_DEVIATIONS) & (reach >= np.quantile(reach, LEAST_REACH))
    )
    order = found[np.argsort(-deviations[found], kind="stable")]
    return Outliers(order, deviations[order])


def project_features(features: NDArray[np.float16] | Selection) -> NDArray[np.float32]:
    """Project the standardised first view of each image to (n, 128)."""
    scaling = measure_scaling(features, views=1)
    draw = np.random.default_rng(FIXED_SEED)
    matrix = draw.standard_normal((features.shape[2], PROJECTIONS), np.float32) / np.float32(
        np.sqrt(PROJECTIONS)
    )
    projected = np.empty((len(features), PROJECTIONS), np.float32)
    for block in list_blocks(len(features)):
        projected[block] = scaling.apply(features[block][:, :1])[:, 0] @ matrix
    return projected


def measure_factors(
    rows: NDArray[np.float32], executor: Executor
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Measure how much further each row (n, width) is from its neighbours than these are from
    theirs, and how far.
    """
    squares = np.einsum("nw,nw->n", rows, rows)
    references = np.arange(0, len(rows), -(-len(rows) // MOST_REFERENCES))
    known = np.ascontiguousarray(rows[references].T)

    def find_block(block: slice) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        # the row's own square is the same for all
        distances = squares[references] - 2 * (rows[block] @ known)
        distances[np.arange(block.start, block.stop)[:, None] == references] = np.inf
        nearest = np.argpartition(distances, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
        lengths = np.take_along_axis(distances, nearest, axis=1) + squares[block, None]
        return references[nearest], np.sqrt(np.maximum(lengths, 0)).mean(axis=1)

    blocks = [slice(at, min(at + BLOCK_ROWS, len(rows))) for at in range(0, len(rows), BLOCK_ROWS)]
    found = list(executor.map(find_block, blocks))
    nearest = np.concatenate([each[0] for each in found])
    reach = np.concatenate([each[1] for each in found])
    least = max(1e-3 * float(np.median(reach)), 1e-6)  # copies have no distance at all
    return np.maximum(reach, least) / np.maximum(reach[nearest].mean(axis=1), least), reach


def count_deviations(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Count how many deviations each value lies above the median, by the median absolute deviation.

    >>> count_deviations(np.array([1, 2, 3, 100], np.float32)).round(1).tolist()
    [-1.0, -0.3, 0.3, 65.8]
    """
    centre = np.median(values)
    spread = 1.4826 * np.median(np.abs(values - centre))  # 1 of a normal distribution
    return ((values - centre) / max(float(spread), 1e-6)).astype(np.float64)
