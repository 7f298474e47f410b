"""Whole trainings as a user starts them, each with an empty cache, and what they were worth."""

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ledger import Ledger
from photos import PHOTO_SETS, prepare_photos
from processes import read_report, run_process, train_command

from squeezetune.settings import Settings


@dataclass(frozen=True)
class Trial:
    """One training of a photo set, or of an even sample of it (`images`, 0 for all); `choices` are
    its settings.
    """

    photos: str
    images: int
    seed: int
    choices: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> dict[str, Any]:
        """Name all that the trial depends on."""
        return {"photos": self.photos, "images": self.images, "seed": self.seed, **self.choices}

    @property
    def settings(self) -> Settings:
        """The settings of the training, with the set's own shares of validation and test."""
        return PHOTO_SETS[self.photos].make_settings(seed=self.seed, **self.choices)


@dataclass(frozen=True)
class Outcome:
    """What a trial measured: seconds and memory of the whole process, test images, and the report's
    own history.

    `plan` is the report's: forecast and truth of every part, None without one. `epochs` are the
    report's, `network` says whether trained layers were kept.
    """

    seconds: float
    peak_mb: float
    correct: int
    count: int
    network: str
    plan: dict[str, Any] | None
    epochs: list[dict[str, Any]]
    timings: list[dict[str, Any]]
    stages: list[dict[str, Any]]

    @property
    def accuracy(self) -> float:
        """The share of test images that are right."""
        return self.correct / self.count


@dataclass(frozen=True)
class TrialBench:
    """Makes trials, and remembers those that are made."""

    ledger: Ledger
    options: argparse.Namespace

    def recall(self, trial: Trial) -> Outcome:
        """Take a trial that is finished, or make it now."""
        return Outcome(**self.ledger.recall(trial.key, lambda: vars(self._run(trial))))

    def _run(self, trial: Trial) -> Outcome:
        """Train with an empty cache."""
        sample = argparse.Namespace(**{**vars(self.options), "images": trial.images})
        root = prepare_photos(trial.photos, sample)
        with tempfile.TemporaryDirectory(dir=self.options.work) as folder:
            output = Path(folder) / "model"
            run = run_process(
                train_command(trial.photos, root, output, trial.settings), Path(folder) / "cache"
            )
            return read_outcome(run.seconds, run.peak_mb, read_report(output))


def read_outcome(seconds: float, peak_mb: float, report: Mapping[str, Any]) -> Outcome:
    """Take from a report what the benchmarks tell."""
    test = report["test"]
    return Outcome(
        seconds,
        peak_mb,
        test["correct"],
        test["count"],
        report["model"]["network"],
        report["plan"],
        report["history"],
        report["timings"],
        report["stages"],
    )
