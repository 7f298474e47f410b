"""What classes are called, and their order: the one place that decides either, for every source of
images.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from squeezetune.data.sources.source import list_some, quote_name
from squeezetune.errors import ClassesError

_DIGITS = re.compile("([0-9]+)")
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_PLAIN = (str, bytes, bool, int, float)


def sort_classes(names: Iterable[str]) -> list[str]:
    """Sort the names of classes as people do: by their letters, and numbers in them by their
    values.

    >>> sort_classes({"s10", "s2", "10", "9", "-1"})
    ['-1', '9', '10', 's2', 's10']
    """
    return sorted(set(names), key=_rank_name)


def _rank_name(name: str) -> tuple[list[str | Decimal], str]:
    """Return what a name is compared by; of names of the same values, "1" and "01", the letters
    decide.
    """
    # Decimal and not int, which refuses more than 4,300 digits; text and numbers take turns, so
    # that all compares
    if _NUMBER.fullmatch(name):
        return ["", Decimal(name), ""], name
    return [Decimal(part) if at % 2 else part for at, part in enumerate(_DIGITS.split(name))], name


def name_labels(labels: Iterable[Any]) -> list[str]:
    """Return the name of the class that each label stands for.

    Raises:
        ClassesError: a label is missing or cannot be one, or two labels look the same, as 1 and "1"
            do.

    >>> name_labels(["cat", "dog", "cat"])
    ['cat', 'dog', 'cat']
    >>> name_labels([2.0, 10])
    ['2', '10']
    """
    names, reasons = read_labels(labels)
    if reasons:
        found = list_some([f"image {at} has {reason}" for at, reason in reasons.items()], limit=3)
        raise ClassesError(
            f"{len(reasons):,} of {len(names):,} labels cannot be used: {found}; needed is a text "
            f"or a number each",
            "Leave out images without a label, and give the labels as text or as whole numbers.",
        )
    return names


def read_labels(labels: Iterable[Any]) -> tuple[list[str], dict[int, str]]:
    """Return the names of classes as `name_labels` does, and what the labels are, by position, that
    cannot be used.

    Raises:
        ClassesError: two labels look the same, as 1 and "1" do.

    """
    values = [_unwrap(label) for label in labels]
    reasons = {at: reason for at, value in enumerate(values) if (reason := _refuse_label(value))}
    name_of: dict[Hashable, str] = {}
    names = [
        "" if at in reasons else _name_label(value, name_of) for at, value in enumerate(values)
    ]
    twice = [name for name, count in Counter(name_of.values()).items() if count > 1]
    if twice:
        raise ClassesError(
            "different labels have the same name: "
            f"{list_some([quote_name(name) for name in sort_classes(twice)])}",
            "Give labels of one type.",
        )
    return names, reasons


def _unwrap(label: Any) -> Any:
    """Take a single value of numpy or torch as Python's own, and bytes as text."""
    if label is not np.ma.masked and getattr(label, "ndim", None) == 0 and hasattr(label, "item"):
        value = label.item()
        label = value if isinstance(value, _PLAIN) else label
    try:
        return label.decode() if isinstance(label, bytes) else label
    except UnicodeDecodeError:
        return label


def _name_label(label: Any, name_of: dict[Hashable, str]) -> str:
    """Name a label: whole numbers alike, whether they are stored as such or not; note what is named
    how.
    """
    name = str(int(label) if isinstance(label, float) and label.is_integer() else label)
    if name_of.setdefault(label, name) != name:
        raise ClassesError(
            f"labels that are equal have different names: {name_of[label]} and {name}",
            "Give labels of one type.",
        )
    return name


def _refuse_label(label: Any) -> str:
    """Say what a value is that is no label; nothing where it is one."""
    if type(label) is bool or (type(label) is str and label.strip()):
        return ""  # nearly all are text
    for reason, is_reason in _REFUSALS.items():
        if is_reason(label):
            return reason.format(kind=type(label).__name__)
    return ""


def _is_unhashable(label: Any) -> bool:
    try:
        hash(label)
    except Exception:  # a TypeError of most, a ValueError of memory that may be written
        return True
    return False


def _is_named_by_place(label: Any) -> bool:
    """Say whether a value would be named by where it is in memory, so that no two runs agree."""
    kind: Any = type(label)
    return kind.__str__ is object.__str__ and kind.__repr__ is object.__repr__


def _is_unlike_itself(label: Any) -> bool:
    """Say whether a value is not equal to itself, as NaN, NaT and NA are."""
    try:
        return bool(label != label)
    except Exception:  # NA of pandas has no truth, and others raise what they like
        return True


def _is_too_long(label: Any) -> bool:
    """Say whether a number has more digits than Python writes."""
    try:
        str(label)
    except ValueError:
        return True
    return False


# What a value is, and how that is seen; looked at in this order.
_REFUSALS: Mapping[str, Callable[[Any], bool]] = {
    "None": lambda label: label is None,
    "a masked value": lambda label: label is np.ma.masked,
    "an empty text": lambda label: isinstance(label, str) and not label.strip(),
    "bytes that are no text": lambda label: isinstance(label, bytes),
    "a {kind}": lambda label: _is_unhashable(label) or _is_named_by_place(label),
    "a missing value, {kind}": _is_unlike_itself,
    "an infinite number": lambda label: isinstance(label, float) and math.isinf(label),
    "a number of thousands of digits": _is_too_long,
}


def locate_columns(labels: Iterable[Any], class_names: Sequence[str]) -> list[int]:
    """Return the column of each label among classes: where the labels' order and that of the
    classes meet.

    >>> locate_columns(["10", "2"], ["2", "10"])
    [1, 0]
    """
    column_of = {name: column for column, name in enumerate(class_names)}
    return [column_of[name] for name in name_labels(labels)]
