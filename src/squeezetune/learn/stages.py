"""What the stages of training left behind, side by side."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class StageResult:
    """The network as one stage left it, judged image by image; `note` says why it was kept or not.

    `is_correct_validation` (n,) and `is_correct_test` (m,) tell of each image whether it is named right; the second
    is None where the stage was not measured on the test images. `name` is for readers, e.g. "last 4 blocks".
    """

    name: str
    is_correct_validation: NDArray[np.bool_]
    is_correct_test: NDArray[np.bool_] | None
    seconds: float
    is_chosen: bool
    note: str = ""
