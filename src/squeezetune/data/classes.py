"""What classes are called, and their order."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from squeezetune.data.listing import list_some, quote_name
from squeezetune.errors import ClassesError

_NUMBER = re.compile("-?[0-9]+")


def sort_classes(names: Iterable[str]) -> list[str]:
    """Sort the names of classes: by their letters, or by their values where all are whole numbers.

    >>> sort_classes({"10", "9", "2"})
    ['2', '9', '10']
    """
    found = set(names)
    return sorted(found, key=int if all(_NUMBER.fullmatch(name) for name in found) else None)


def name_labels(labels: Iterable[Any]) -> dict[Any, str]:
    """Return the name of every label, in the labels' order; words, and what does not compare, as classes are sorted.

    Raises:
        ClassesError: two labels look the same, as 1 and "1" do.

    """
    found = list(labels)
    class_of = {label: str(label) for label in found}
    twice = [name for name, count in Counter(class_of.values()).items() if count > 1]
    if twice:
        raise ClassesError(
            f"different labels have the same name: {list_some([quote_name(name) for name in twice])}",
            "Give labels of one type.",
        )
    places = {name: place for place, name in enumerate(sort_classes(class_of.values()))}
    try:
        ordered = sorted(found, key=lambda label: places[label] if isinstance(label, str) else label)
    except TypeError:
        ordered = sorted(found, key=lambda label: places[class_of[label]])
    return {label: class_of[label] for label in ordered}
