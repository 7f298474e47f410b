"""What settings say of a network that somebody else wrote: its name, and how its images are
prepared.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

# What the setting `backbone` may name besides known networks: files with this ending, and timm's
# networks behind this.
FOREIGN_ENDING, TIMM = ".onnx", "timm:"
# The settings that belong to such a network.
FOREIGN_ONLY = ("pixel_mean", "pixel_std", "cut", "taps", "licenses")


def is_foreign(backbone: str) -> bool:
    """Say whether a backbone, by its name, is a network of somebody else.

    >>> is_foreign("theirs.onnx"), is_foreign("timm:resnet10t.c3_in1k"), is_foreign("resnet18")
    (True, True, False)
    """
    is_timm = backbone.startswith(TIMM) and len(backbone) > len(TIMM)
    return is_timm or backbone.lower().endswith(FOREIGN_ENDING)


def list_foreign_conflicts(values: Mapping[str, Any], changed: Collection[str]) -> list[str]:
    """Say which settings, of which those `changed` are not the default, mean nothing with a
    backbone that is somebody else's, or without one.
    """
    backbone = values["backbone"]
    if not is_foreign(backbone):
        return [
            f"{name} belongs to a backbone that is a file ending in {FOREIGN_ENDING} or a network "
            f"of {TIMM}"
            for name in FOREIGN_ONLY
            if name in changed
        ]
    graph, problems = f"{backbone} is a graph alone", []
    if values["weights"]:
        problems.append(
            f"weights is {values['weights']!r}, and {backbone} has its own; leave one of them out"
        )
    if values["precision"] == "int8":
        problems.append(
            f"precision is int8, and {graph}, which is computed in float; needed is another "
            f"precision"
        )
    return problems


def parse_triple(text: str) -> tuple[float, ...] | None:
    """Read three numbers, one for a channel, or one for all; None if they are none.

    >>> parse_triple("0.485, 0.456 0.406")
    (0.485, 0.456, 0.406)
    """
    try:
        numbers = tuple(float(part) for part in text.replace(",", " ").split())
    except ValueError:
        return None
    is_finite = all(math.isfinite(number) for number in numbers)
    return numbers if len(numbers) in (1, 3) and is_finite else None


def find_triple_problem(name: str, text: str) -> str:
    """Say what is wrong with a mean or deviation of pixels; nothing where it is right."""
    if not text or parse_triple(text):
        return ""
    return f"{name} is {text!r}; needed are three numbers, one for a channel, or one for all"
