"""95 % intervals of a share: of independent images, and of images of which some belong together."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, stdtrit

Z_95 = 1.959964  # the normal distribution's 97.5 % point


def wilson_interval(successes: float, count: float) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927, "Probable inference, the law of succession").

    >>> [round(end, 3) for end in wilson_interval(97, 100)]
    [0.915, 0.99]
    """
    if not count:
        return (0.0, 1.0)
    share, z2 = successes / count, Z_95**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z_95 / (1 + z2 / count) * float(np.sqrt(share * (1 - share) / count + z2 / (4 * count**2)))
    return (0.0 if successes == 0 else middle - half, 1.0 if successes == count else middle + half)


def grouped_interval(is_correct: NDArray[np.bool_], units: NDArray[np.int64]) -> tuple[float, float]:
    """Return the 95 % interval of the share of correct images (n,), of which those of one unit (n,) are alike.

    The spread between units says how many independent images these are worth; that number, made smaller for few units
    by Student's t, takes the place of n in Clopper and Pearson's exact interval (Korn and Graubard 1998, "Confidence
    intervals for proportions with small expected number of positive counts estimated from survey data"). The spread
    is the jackknife's, by leaving each unit out. Where all are right, or none, images are worth as many as units.

    >>> [round(end, 2) for end in grouped_interval(np.repeat([True, True, False, True], 25), np.repeat(range(4), 25))]
    [0.01, 1.0]
    """
    _, group_of, sizes = np.unique(units, return_inverse=True, return_counts=True)
    count, groups, share = len(units), len(sizes), float(is_correct.mean())
    if groups < 2:
        return (0.0, 1.0)  # one unit says nothing of others
    changes = (np.bincount(group_of, weights=is_correct) - share * sizes) / (count - sizes)
    variance = (groups - 1) / groups * float((changes**2).sum())
    worth = min(count, share * (1 - share) / variance) if 0 < share < 1 and variance else min(count, groups)
    worth *= min(1.0, (Z_95 / float(stdtrit(groups - 1, 0.975))) ** 2)
    right, wrong = share * worth, (1 - share) * worth
    low = float(betaincinv(right, wrong + 1, 0.025)) if right else 0.0
    return (low, float(betaincinv(right + 1, wrong, 0.975)) if wrong else 1.0)


def paired_interval(gained: int, lost: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of the difference of two shares of the same images (adjusted Wald).

    Of `count` images the second names `gained` right that the first does not, and `lost` the other way round (Bonett
    and Price 2012, "Adjusted Wald confidence interval for a difference of binomial proportions based on paired data").

    >>> [round(end, 3) for end in paired_interval(3, 5, 1000)]
    [-0.008, 0.004]
    """
    more, less = (gained + 1) / (count + 2), (lost + 1) / (count + 2)
    half = Z_95 * float(np.sqrt((more + less - (more - less) ** 2) / (count + 2)))
    return (max(-1.0, more - less - half), min(1.0, more - less + half))
