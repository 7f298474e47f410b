"""The result of a training run: its parts, its files and what is known of each image."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from squeezetune.data.index import ImageIndex
from squeezetune.data.pixels import PixelSettings
from squeezetune.data.split import Split
from squeezetune.events import EpochFinished
from squeezetune.heads.candidate import Candidate, StageResult
from squeezetune.heads.selection import Head
from squeezetune.network.backbone import Backbone, PretrainedNetwork
from squeezetune.network.features import Features
from squeezetune.pipeline.extraction import ExtractedFeatures
from squeezetune.pipeline.trained_stage import TrainedStage, compare_stages, find_best
from squeezetune.system.scratch import Selection


class TrainingResult(Protocol):
    """What any training leaves: a network, the bytes of its two files, and what record and report
    tell of it.
    """

    @property
    def index(self) -> ImageIndex:
        """The photos that can be decoded."""
        ...

    @property
    def split(self) -> Split:
        """Which of them train, which judge, and which measure."""
        ...

    @property
    def sizes(self) -> NDArray[np.int32]:
        """The photos' own widths and heights in pixels (n, 2); not positive where nobody has
        looked.
        """
        ...

    @property
    def pixels(self) -> PixelSettings:
        """How an image becomes what the network in `model` sees."""
        ...

    @property
    def pretrained(self) -> PretrainedNetwork:
        """The network that it began with."""
        ...

    @property
    def model(self) -> bytes:
        """The content of `model.onnx`."""
        ...

    @property
    def network(self) -> bytes:
        """The content of `network.safetensors`."""
        ...

    @property
    def familiarities(self) -> Mapping[str, Any]:
        """A table of `rejection`, or nothing."""
        ...

    @property
    def network_name(self) -> str:
        """Name the network and what was done with it."""
        ...

    @property
    def engine_name(self) -> str:
        """Name what ran the frozen layers."""
        ...

    @property
    def timed_choices(self) -> dict[str, Any]:
        """Return the settings that a timing has chosen, so that a run can be repeated without
        one.
        """
        ...

    @property
    def chosen(self) -> Candidate:
        """The network that `model` holds, as a candidate."""
        ...

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """All heads that were tried."""
        ...

    @property
    def history(self) -> tuple[EpochFinished, ...]:
        """The epochs of every stage, in order."""
        ...

    @property
    def stages(self) -> tuple[StageResult, ...]:
        """What the stages of training reached, side by side; nothing where there was one only."""
        ...

    @property
    def has_trained_layers(self) -> bool:
        """Say whether layers were trained, better or not."""
        ...

    @property
    def is_finished(self) -> bool:
        """Say that nobody stopped the training early."""
        ...

    def knows(self, positions: NDArray[np.int64]) -> bool:
        """Say whether the probabilities that the training itself gives these images are known."""
        ...

    def recall(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the probabilities (n, classes) that the training itself gives these images."""
        ...


@dataclass(frozen=True)
class TransferResult:
    """A trained network: its parts, the features it was trained on, and the bytes of its two files.

    `trained` is what every stage of training layers left, in order: candidates against the frozen
    layers' head. `is_finished` says that nobody stopped the training early. `familiarities` is a
    table of `rejection`, or nothing.
    """

    extracted: ExtractedFeatures
    backbone: Backbone
    head: Head
    pretrained: PretrainedNetwork
    trained: tuple[TrainedStage, ...] = ()
    is_finished: bool = True
    model: bytes = b""
    network: bytes = b""
    familiarities: Mapping[str, Any] = field(default_factory=dict)

    @property
    def index(self) -> ImageIndex:
        """The photos that can be decoded."""
        return self.extracted.index

    @property
    def split(self) -> Split:
        """Which of them train, which judge, and which measure."""
        return self.extracted.split

    @property
    def features(self) -> Features:
        """What the frozen layers make of the images that they have looked at."""
        return self.extracted.features

    @property
    def deepened(self) -> TrainedStage | None:
        """What the last stage of training layers left; None where none were trained."""
        return self.trained[-1] if self.trained else None

    @property
    def best(self) -> TrainedStage | None:
        """The stage whose network `model` holds; None where the frozen layers' head is better on
        validation.
        """
        return find_best(self.trained, self.head.chosen)

    @property
    def chosen(self) -> Candidate:
        """The network that `model` holds, as a candidate."""
        return self.best.candidate if self.best else self.head.chosen

    @property
    def side(self) -> int:
        """The size in pixels at which the network that `model` holds sees images."""
        return self.best.plan.side if self.best else self.backbone.pixels.side

    @property
    def pixels(self) -> PixelSettings:
        """How an image becomes what the network in `model` sees."""
        return replace(self.backbone.pixels, side=self.side)

    @property
    def sizes(self) -> NDArray[np.int32]:
        """The photos' own widths and heights in pixels (n, 2); not positive where nobody has
        looked.
        """
        return self.features.sizes

    @property
    def network_name(self) -> str:
        """Name the network and what was done with it."""
        trained = f"{self.best.plan.name} trained" if self.best else "frozen"
        return f"{self.pretrained.network}, {trained}"

    @property
    def engine_name(self) -> str:
        """Name what ran the frozen layers."""
        return str(self.backbone.runtime)

    @property
    def timed_choices(self) -> dict[str, Any]:
        """Return the settings that a timing has chosen, so that a run can be repeated without
        one.
        """
        return {
            "engine": self.backbone.runtime.engine,
            "precision": self.backbone.runtime.precision,
        }

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """All heads that were tried."""
        return self.head.candidates

    @property
    def history(self) -> tuple[EpochFinished, ...]:
        """The epochs of every stage, in order."""
        return (
            *self.head.chosen.history,
            *(epoch for stage in self.trained for epoch in stage.candidate.history),
        )

    @property
    def has_trained_layers(self) -> bool:
        """Say whether layers were trained, better or not."""
        return bool(self.trained)

    def knows(self, positions: NDArray[np.int64]) -> bool:
        """Say whether the probabilities that the training itself gives these images are known."""
        if self.best:
            return bool(np.isin(positions, self.split.validation).all())
        return self.features.knows(positions)

    def recall(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the probabilities (n, classes) that the training itself gives these images."""
        if self.best:
            return take_rows(self.best.probabilities, self.split.validation, positions)
        return self.head.predict(Selection(self.features.values, positions))

    @property
    def stages(self) -> tuple[StageResult, ...]:
        """The frozen layers' head and the trained layers, side by side; nothing where there is one
        of them only.
        """
        test, named = self.split.test, None
        if self.trained and len(test) and self.features.knows(test):
            named = (
                self.head.predict(Selection(self.features.values, test)).argmax(axis=1)
                == self.index.labels[test]
            )
        return compare_stages(self.head, self.trained, named)


def take_rows(
    values: NDArray[np.float32], known: NDArray[np.int64], positions: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Take the rows (n, ...) of images at some positions; `known` are those that rows are of."""
    order = np.argsort(known)
    return values[order[np.searchsorted(known, positions, sorter=order)]]
