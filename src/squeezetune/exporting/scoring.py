"""An exported file, run by its own runtime on the model's test photos, beside the trained network's
own answers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from squeezetune.data.index import ImageIndex
from squeezetune.data.pixels import PixelSettings, load_prepared
from squeezetune.evaluation.metrics import paired_interval, wilson_interval
from squeezetune.events import Listener, StageAdvanced
from squeezetune.exporting.runtimes import RunExport
from squeezetune.system.executor import ThreadExecutor

CHUNK_IMAGES = 16


@dataclass(frozen=True)
class TestSet:
    """Photos to be judged by: their positions in an index, and what the trained network says of
    them (n, classes).

    `is_honest` says that nothing was learnt from them. `pixels` is how the network sees an image.
    """

    index: ImageIndex
    positions: NDArray[np.int64]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    pixels: PixelSettings
    is_honest: bool = True

    def read(self) -> Iterator[list[NDArray[np.uint8]]]:
        """Decode the photos, a few at a time."""
        names = [self.index.names[at] for at in self.positions]
        executor = ThreadExecutor()

        def load(chunk: Sequence[str]) -> list[NDArray[np.uint8]]:
            return [load_prepared(self.index.source, name, self.pixels) for name in chunk]

        chunks = [names[at : at + CHUNK_IMAGES] for at in range(0, len(names), CHUNK_IMAGES)]
        yield from executor.map(load, chunks)


@dataclass(frozen=True)
class Score:
    """What an export is worth on the exam's photos, beside the trained network.

    `change` is the difference of the accuracies, with the 95 % interval of the paired difference;
    `agreement` the share of photos of which both say the same; `mean_difference` that of the
    probabilities. Shares are 0 to 1.
    """

    images: int
    accuracy: float
    interval: tuple[float, float]
    change: float
    change_interval: tuple[float, float]
    agreement: float
    mean_difference: float
    is_honest: bool


def score_export(run: RunExport, exam: TestSet, listen: Listener, stage: str) -> Score:
    """Run an export on the exam's photos.

    Raises:
        ImageError: a photo can no longer be read.
    """
    found = []
    for images in exam.read():
        found.append(run_sizes(run, images))
        listen(StageAdvanced(stage, sum(map(len, found))))
    return compare(np.concatenate(found), exam)


def run_sizes(run: RunExport, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Run an export on images of any sizes, those of the same size together."""
    rows: list[NDArray[np.float32] | None] = [None] * len(images)
    shapes = {image.shape for image in images}
    for shape in shapes:
        places = [at for at, image in enumerate(images) if image.shape == shape]
        for at, row in zip(places, run(np.stack([images[at] for at in places])), strict=True):
            rows[at] = row
    return np.stack([row for row in rows if row is not None])


def compare(probabilities: NDArray[np.float32], exam: TestSet) -> Score:
    """Compare probabilities (n, classes) with the labels and with the trained network's."""
    said, before = probabilities.argmax(axis=1), exam.probabilities.argmax(axis=1)
    is_right, was_right = said == exam.labels, before == exam.labels
    gained = int((is_right & ~was_right).sum())
    lost = int((was_right & ~is_right).sum())
    count = len(said)
    return Score(
        count,
        float(is_right.mean()),
        wilson_interval(int(is_right.sum()), count),
        (gained - lost) / count,
        paired_interval(gained, lost, count),
        float((said == before).mean()),
        float(np.abs(probabilities - exam.probabilities).mean()),
        exam.is_honest,
    )
