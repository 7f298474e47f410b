"""What predictions are worth: accuracy, confusion, precision, recall, calibration error, and 95 %
intervals.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, stdtrit

Z_95 = 1.959964  # the normal distribution's 97.5 % point


def wilson_interval(successes: float, count: float) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927, "Probable inference, the law of
    succession").

    >>> [round(end, 3) for end in wilson_interval(97, 100)]
    [0.915, 0.99]
    """
    if not count:
        return (0.0, 1.0)
    share, z2 = successes / count, Z_95**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = (
        Z_95 / (1 + z2 / count) * float(np.sqrt(share * (1 - share) / count + z2 / (4 * count**2)))
    )
    return (0.0 if successes == 0 else middle - half, 1.0 if successes == count else middle + half)


def grouped_interval(
    is_correct: NDArray[np.bool_], units: NDArray[np.int64]
) -> tuple[float, float]:
    """Return the 95 % interval of the share of correct images (n,), of which those of one unit (n,)
    are alike.

    The spread between units says how many independent images these are worth; that number, made
    smaller for few units by Student's t, takes the place of n in Clopper and Pearson's exact
    interval (Korn and Graubard 1998, "Confidence intervals for proportions with small expected
    number of positive counts estimated from survey data"). The spread is the jackknife's, by
    leaving each unit out. Where all are right, or none, images are worth as many as units.

    >>> is_correct = np.repeat([True, True, False, True], 25)
    >>> [round(end, 2) for end in grouped_interval(is_correct, np.repeat(range(4), 25))]
    [0.01, 1.0]
    """
    _, group_of, sizes = np.unique(units, return_inverse=True, return_counts=True)
    count, groups, share = len(units), len(sizes), float(is_correct.mean())
    if groups < 2:
        return (0.0, 1.0)  # one unit says nothing of others
    changes = (np.bincount(group_of, weights=is_correct) - share * sizes) / (count - sizes)
    variance = (groups - 1) / groups * float((changes**2).sum())
    worth = (
        min(count, share * (1 - share) / variance)
        if 0 < share < 1 and variance
        else min(count, groups)
    )
    worth *= min(1.0, (Z_95 / float(stdtrit(groups - 1, 0.975))) ** 2)
    right, wrong = share * worth, (1 - share) * worth
    low = float(betaincinv(right, wrong + 1, 0.025)) if right else 0.0
    return (low, float(betaincinv(right + 1, wrong, 0.975)) if wrong else 1.0)


def paired_interval(gained: int, lost: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of the difference of two shares of the same images (adjusted Wald).

    Of `count` images the second names `gained` right that the first does not, and `lost` the other
    way round (Bonett and Price 2012, "Adjusted Wald confidence interval for a difference of
    binomial proportions based on paired data").

    >>> [round(end, 3) for end in paired_interval(3, 5, 1000)]
    [-0.008, 0.004]
    """
    more, less = (gained + 1) / (count + 2), (lost + 1) / (count + 2)
    half = Z_95 * float(np.sqrt((more + less - (more - less) ** 2) / (count + 2)))
    return (max(-1.0, more - less - half), min(1.0, more - less + half))


# Below this many test images the interval of a class's recall is wider than half of all there is.
FEW_TEST_IMAGES = 10
RELIABILITY_BINS = 10
MOST_PAIRS = 10
# Classes are unequal from so many times as many images in the largest as in the smallest.
UNEQUAL = 1.5


@dataclass(frozen=True)
class ClassFigures:
    """The figures of one class; None where the test part cannot say (nothing predicted, or no
    image).
    """

    name: str
    test: int
    correct: int
    precision: float | None
    recall: float | None
    recall_interval: tuple[float, float] | None
    f1: float | None


@dataclass(frozen=True)
class ConfusedPair:
    """Images of the class `true` that were called `predicted`; `share` is of that class's test
    images.
    """

    true: str
    predicted: str
    count: int
    share: float


@dataclass(frozen=True)
class ReliabilityBin:
    """Predictions with a confidence from `low` to `high`: what was claimed, and what came true."""

    low: float
    high: float
    confidence: float
    accuracy: float
    count: int


@dataclass(frozen=True)
class TopK:
    """How often the right class is among the first `k`."""

    k: int
    accuracy: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class UsualClass:
    """The most frequent class, and the accuracy of always naming it; `is_unequal` says that classes
    differ in size.
    """

    name: str
    share: float
    is_unequal: bool


@dataclass(frozen=True)
class Evaluation:
    """The measurement of a classifier on labelled images; rows of `confusion` are true, columns
    predicted classes.

    `groups` is the number of groups that the interval stands on, None where images count one by
    one.
    """

    count: int
    correct: int
    accuracy: float
    interval: tuple[float, float]
    groups: int | None
    usual: UsualClass
    balanced_accuracy: float
    macro_f1: float
    top_k: TopK | None
    calibration_error: float
    reliability: tuple[ReliabilityBin, ...]
    confusion: tuple[tuple[int, ...], ...]
    per_class: tuple[ClassFigures, ...]
    confused_pairs: tuple[ConfusedPair, ...]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the evaluation as plain values for JSON."""
        return asdict(self)


def evaluate_probabilities(
    probabilities: NDArray[np.float32],
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    *,
    units: NDArray[np.int64] | None = None,
    repeats: float = 1,
) -> Evaluation:
    """Measure probabilities (n, classes) against labels (n,); n is at least 1.

    `units` (n,) tells which images belong together, so that they are hardly more than one
    observation. Where every image is predicted in each of several `repeats`, intervals count it
    once.
    """
    predicted = probabilities.argmax(axis=1)
    is_correct = predicted == labels
    correct = int(is_correct.sum())
    confusion = count_confusion(labels, predicted, len(class_names))
    per_class = tuple(
        _measure_class(name, at, confusion, repeats) for at, name in enumerate(class_names)
    )
    reliability = measure_reliability(probabilities.max(axis=1), is_correct)
    present = [figures for figures in per_class if figures.test]
    usual, accuracy = _find_usual_class(per_class), correct / len(labels)
    of_images = wilson_interval(correct / repeats, len(labels) / repeats)
    interval = of_images if units is None else grouped_interval(is_correct, units)
    balanced_accuracy = float(np.mean([figures.recall for figures in present]))
    return Evaluation(
        count=len(labels),
        correct=correct,
        accuracy=accuracy,
        interval=interval,
        groups=None if units is None else len(np.unique(units)),
        usual=usual,
        balanced_accuracy=balanced_accuracy,
        macro_f1=float(np.mean([figures.f1 for figures in present])),
        top_k=_measure_top_k(probabilities, labels, repeats),
        calibration_error=sum(b.count * abs(b.accuracy - b.confidence) for b in reliability)
        / len(labels),
        reliability=reliability,
        confusion=tuple(map(tuple, confusion.tolist())),
        per_class=per_class,
        confused_pairs=find_confused_pairs(confusion, class_names),
        warnings=tuple(_find_warnings(per_class, repeats, usual, interval, balanced_accuracy)),
    )


def count_confusion(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int
) -> NDArray[np.int64]:
    """Count (classes, classes) images by true class (row) and predicted class (column)."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def measure_reliability(
    confidences: NDArray[np.float32], is_correct: NDArray[np.bool_]
) -> tuple[ReliabilityBin, ...]:
    """Group predictions by confidence in ten equal bins; empty bins are left out."""
    places = np.minimum((confidences * RELIABILITY_BINS).astype(np.int64), RELIABILITY_BINS - 1)
    return tuple(
        ReliabilityBin(
            low=place / RELIABILITY_BINS,
            high=(place + 1) / RELIABILITY_BINS,
            confidence=float(confidences[places == place].mean(dtype=np.float64)),
            accuracy=float(is_correct[places == place].mean()),
            count=int((places == place).sum()),
        )
        for place in np.unique(places).tolist()
    )


def find_confused_pairs(
    confusion: NDArray[np.int64], class_names: Sequence[str]
) -> tuple[ConfusedPair, ...]:
    """List the pairs of classes that are mistaken most often, most images first."""
    off = confusion * ~np.eye(len(confusion), dtype=np.bool_)
    order = np.argsort(-off, axis=None, kind="stable")[:MOST_PAIRS]
    places = [(int(at) // len(off), int(at) % len(off)) for at in order]
    totals = confusion.sum(axis=1)
    return tuple(
        ConfusedPair(
            class_names[row],
            class_names[column],
            int(off[row, column]),
            float(off[row, column] / totals[row]),
        )
        for row, column in places
        if off[row, column]
    )


def _measure_class(
    name: str, at: int, confusion: NDArray[np.int64], repeats: float
) -> ClassFigures:
    correct, true, predicted = (
        int(n) for n in (confusion[at, at], confusion[at].sum(), confusion[:, at].sum())
    )
    return ClassFigures(
        name=name,
        test=true,
        correct=correct,
        precision=correct / predicted if predicted else None,
        recall=correct / true if true else None,
        recall_interval=wilson_interval(correct / repeats, true / repeats) if true else None,
        f1=2 * correct / (true + predicted) if true else None,
    )


def _measure_top_k(
    probabilities: NDArray[np.float32], labels: NDArray[np.int64], repeats: float
) -> TopK | None:
    """Measure top-5 for 20 classes and more, top-3 for 10 and more; below that it says little."""
    classes = probabilities.shape[1]
    if classes < 10:
        return None
    k = 5 if classes >= 20 else 3
    own = probabilities[np.arange(len(labels)), labels]
    hits = int(((probabilities > own[:, None]).sum(axis=1) < k).sum())
    return TopK(k, hits / len(labels), wilson_interval(hits / repeats, len(labels) / repeats))


def _find_usual_class(per_class: Sequence[ClassFigures]) -> UsualClass:
    """Find the most frequent class: what blind guessing would reach."""
    counts = [figures.test for figures in per_class]
    most = max(counts)
    return UsualClass(
        per_class[counts.index(most)].name,
        most / sum(counts),
        most > UNEQUAL * min(filter(None, counts)),
    )


def _find_warnings(
    per_class: Sequence[ClassFigures],
    repeats: float,
    usual: UsualClass,
    interval: tuple[float, float],
    balanced_accuracy: float,
) -> Iterator[str]:
    """Say what makes the figures worth less than they look."""
    if interval[0] <= usual.share < 1:
        yield (
            f"The accuracy is not surely above {100 * usual.share:.1f} %, which always saying "
            f"“{usual.name}” would reach: look at the balanced accuracy, "
            f"{100 * balanced_accuracy:.1f} %, where every class counts the same."
        )
    few = [figures for figures in per_class if figures.test < FEW_TEST_IMAGES * repeats]
    if few:
        names = _name_some(few, [f" ({figures.test / repeats:.0f})" for figures in few])
        yield f"Fewer than {FEW_TEST_IMAGES} test images in {names}: their own figures say little."
    unsaid = [figures for figures in per_class if figures.test and figures.precision is None]
    if unsaid:
        yield (
            f"Never named, for no image at all: {_name_some(unsaid)}. More photos of them are "
            f"needed."
        )


def _name_some(found: Sequence[ClassFigures], remarks: Sequence[str] = ()) -> str:
    """Name the first few classes, each with its remark."""
    names = [
        figures.name + remark
        for figures, remark in zip(found, remarks or [""] * len(found), strict=True)
    ]
    return ", ".join(names[:5]) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")
