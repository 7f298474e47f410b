"""What predictions are worth: accuracy with its interval, confusion matrix, precision, recall, calibration error."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Z_95 = 1.959964  # the normal distribution's 97.5 % point
# Below this many test images the interval of a class's recall is wider than half of all there is.
FEW_TEST_IMAGES = 10
RELIABILITY_BINS = 10
MOST_PAIRS = 10


@dataclass(frozen=True)
class ClassFigures:
    """The figures of one class; None where the test part cannot say (nothing predicted, or no image)."""

    name: str
    test: int
    correct: int
    precision: float | None
    recall: float | None
    recall_interval: tuple[float, float] | None
    f1: float | None


@dataclass(frozen=True)
class ConfusedPair:
    """Images of the class `true` that were called `predicted`; `share` is of that class's test images."""

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
class Evaluation:
    """The measurement of a classifier on labelled images; rows of `confusion` are true, columns predicted classes."""

    count: int
    correct: int
    accuracy: float
    interval: tuple[float, float]
    balanced_accuracy: float
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
    probabilities: NDArray[np.float32], labels: NDArray[np.int64], class_names: Sequence[str]
) -> Evaluation:
    """Measure probabilities (n, classes) against labels (n,); n is at least 1."""
    predicted = probabilities.argmax(axis=1)
    correct = int((predicted == labels).sum())
    confusion = count_confusion(labels, predicted, len(class_names))
    per_class = tuple(_measure_class(name, at, confusion) for at, name in enumerate(class_names))
    reliability = measure_reliability(probabilities.max(axis=1), predicted == labels)
    recalls = [figures.recall for figures in per_class if figures.recall is not None]
    return Evaluation(
        count=len(labels),
        correct=correct,
        accuracy=correct / len(labels),
        interval=wilson_interval(correct, len(labels)),
        balanced_accuracy=float(np.mean(recalls)),
        top_k=_measure_top_k(probabilities, labels),
        calibration_error=sum(b.count * abs(b.accuracy - b.confidence) for b in reliability) / len(labels),
        reliability=reliability,
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
        per_class=per_class,
        confused_pairs=find_confused_pairs(confusion, class_names),
        warnings=_find_warnings(per_class),
    )


def wilson_interval(successes: int, count: int) -> tuple[float, float]:
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


def count_confusion(labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Count (classes, classes) images by true class (row) and predicted class (column)."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def measure_reliability(confidences: NDArray[np.float32], is_correct: NDArray[np.bool_]) -> tuple[ReliabilityBin, ...]:
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


def find_confused_pairs(confusion: NDArray[np.int64], class_names: Sequence[str]) -> tuple[ConfusedPair, ...]:
    """List the pairs of classes that are mistaken most often, most images first."""
    off = confusion * ~np.eye(len(confusion), dtype=np.bool_)
    order = np.argsort(-off, axis=None, kind="stable")[:MOST_PAIRS]
    places = [(int(at) // len(off), int(at) % len(off)) for at in order]
    totals = confusion.sum(axis=1)
    return tuple(
        ConfusedPair(
            class_names[row], class_names[column], int(off[row, column]), float(off[row, column] / totals[row])
        )
        for row, column in places
        if off[row, column]
    )


def _measure_class(name: str, at: int, confusion: NDArray[np.int64]) -> ClassFigures:
    correct, true, predicted = (int(n) for n in (confusion[at, at], confusion[at].sum(), confusion[:, at].sum()))
    return ClassFigures(
        name=name,
        test=true,
        correct=correct,
        precision=correct / predicted if predicted else None,
        recall=correct / true if true else None,
        recall_interval=wilson_interval(correct, true) if true else None,
        f1=2 * correct / (true + predicted) if true else None,
    )


def _measure_top_k(probabilities: NDArray[np.float32], labels: NDArray[np.int64]) -> TopK | None:
    """Measure top-5 for 20 classes and more, top-3 for 10 and more; below that it says little."""
    classes = probabilities.shape[1]
    if classes < 10:
        return None
    k = 5 if classes >= 20 else 3
    own = probabilities[np.arange(len(labels)), labels]
    hits = int(((probabilities > own[:, None]).sum(axis=1) < k).sum())
    return TopK(k, hits / len(labels), wilson_interval(hits, len(labels)))


def _find_warnings(per_class: Sequence[ClassFigures]) -> tuple[str, ...]:
    few = [figures for figures in per_class if figures.test < FEW_TEST_IMAGES]
    if not few:
        return ()
    names = ", ".join(f"{figures.name} ({figures.test})" for figures in few[:5])
    more = f" and {len(few) - 5:,} more" if len(few) > 5 else ""
    return (f"Fewer than {FEW_TEST_IMAGES} test images in {names}{more}: their own figures say little.",)
