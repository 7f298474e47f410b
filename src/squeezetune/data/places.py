"""Where the images of a source belong, as numbers: a million images have a few classes and parts."""

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from squeezetune.data.layout import Place


@dataclass(frozen=True)
class Places:
    """The place of each image: its position in `kinds`, or -1 where it has none, (n,) int32.

    `reasons` says by position why an image has none.
    """

    kinds: tuple[Place, ...]
    numbers: NDArray[np.int32]
    reasons: Mapping[int, str]

    @property
    def is_known(self) -> NDArray[np.bool_]:
        """Which images have a place, (n,)."""
        return self.numbers >= 0


def number_places(found: Iterable[Place | str]) -> Places:
    """Give the place of each image a number; a string is the reason why it has none."""
    kinds: dict[Place, int] = {}
    numbers, reasons = array("i"), {}
    for position, place in enumerate(found):
        if isinstance(place, str):
            reasons[position] = place
            numbers.append(-1)
        else:
            numbers.append(kinds.setdefault(place, len(kinds)))
    return Places(tuple(kinds), np.array(numbers, np.int32), reasons)
