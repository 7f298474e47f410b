"""Measure "none of these": classes are left out of the training, and their photos have to be told
as unknown.

    python benchmarks/unknown.py --data FOLDER [--photos eth80 cifar10] [--rate 0.05] [--draws 5]
        [--strangers 1000]

Of ETH-80 one class is left out, of CIFAR-10 two, others in each draw. The thresholds are the
model's own, from its validation photos: of familiarity, and of confidence beside it. Told are the
shares that are refused of the test photos, of classes that were learnt (wished: the rate); of
photos of the classes that were left out; and of photos of the other set. Of the latter two an even
sample is taken.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from figures import format_mean, print_machine, print_table
from numpy.typing import NDArray
from photos import PHOTO_SETS, add_photo_options, prepare_photos, scan_photos, split_photos

from squeezetune.data.index import ImageIndex
from squeezetune.events import ignore_event
from squeezetune.model.classifier import Answer, Classifier
from squeezetune.pipeline.context import RunContext, open_context
from squeezetune.pipeline.fitting import fit_classifier, make_manifest

LEFT_OUT = {"eth80": 1, "cifar10": 2}
OTHER = {"eth80": "cifar10", "cifar10": "eth80"}
SCORES = ("familiarity", "confidence")
STRANGERS = 1000


def leave_out(index: ImageIndex, labels: Sequence[int]) -> ImageIndex:
    """Take the photos of some classes out of an index."""
    kept = index.without({int(at): "" for at in np.flatnonzero(np.isin(index.labels, labels))})
    numbers = {label: number for number, label in enumerate(sorted(set(kept.labels.tolist())))}
    names = tuple(index.class_names[label] for label in numbers)
    return replace(
        kept,
        class_names=names,
        labels=np.array([numbers[at] for at in kept.labels.tolist()], np.int64),
    )


def thin(positions: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Take at most so many positions, evenly."""
    return positions[:: -(-len(positions) // count)]


def measure_refused(
    classifier: Classifier,
    index: ImageIndex,
    positions: NDArray[np.int64],
    context: RunContext,
    rate: float,
) -> list[float]:
    """Measure the share of photos that are refused: by familiarity, and by confidence."""
    names = [index.names[at] for at in positions]
    found = [answer for _, answer in classifier.stream(index.source, names, context.executor)]
    answers = [answer for answer in found if isinstance(answer, Answer)]
    by_confidence = replace(classifier, manifest=replace(classifier.manifest, familiarities={}))
    thresholds = [each.find_threshold(rate) for each in (classifier, by_confidence)]
    assert [threshold.is_familiarity for threshold in thresholds] == [True, False]
    return [float(np.mean([not classifier.judge(answer, threshold).is_known for answer in answers]))
            for threshold in thresholds]  # fmt: skip


def measure_draw(
    name: str, indexes: dict[str, ImageIndex], cache: Path, draw: int, options: argparse.Namespace
) -> NDArray[np.float64]:
    """Train without some classes; return the refused shares of known photos, of strangers, and of
    the other set.
    """
    index, settings = indexes[name], PHOTO_SETS[name].make_settings(seed=draw)
    count = len(index.class_names)
    left_out = [(draw * LEFT_OUT[name] + step) % count for step in range(LEFT_OUT[name])]
    context = open_context(settings, cache, ignore_event)
    learned = fit_classifier(
        leave_out(index, left_out), lambda photos: split_photos(photos, settings), context
    )
    classifier = Classifier(learned.model, make_manifest(learned, settings))
    strangers = np.flatnonzero(np.isin(index.labels, left_out))
    far = indexes[OTHER[name]]
    groups = [
        (learned.index, learned.split.test),
        (index, thin(strangers, options.strangers)),
        (far, thin(np.arange(len(far)), options.strangers)),
    ]
    shares = [
        measure_refused(classifier, photos, part, context, options.rate) for photos, part in groups
    ]
    print(
        f"{name} without {', '.join(index.class_names[at] for at in left_out)}: "
        f"{np.round(shares, 4).tolist()}",
        flush=True,
    )
    by_score: NDArray[np.float64] = np.array(shares).T
    return by_score


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_photo_options(parser)
    parser.add_argument("--photos", nargs="+", choices=LEFT_OUT, default=list(LEFT_OUT))
    parser.add_argument("--rate", type=float, default=0.05, help="default: %(default)s")
    parser.add_argument("--draws", type=int, default=5, help="default: %(default)s")
    parser.add_argument(
        "--strangers", type=int, default=STRANGERS, help="at most so many; default: %(default)s"
    )
    options = parser.parse_args(argv)
    print_machine()
    indexes = {name: scan_photos(name, prepare_photos(name, options)) for name in LEFT_OUT}
    rows = []
    with tempfile.TemporaryDirectory(dir=options.work) as cache:
        for name in options.photos:
            draws = [
                measure_draw(name, indexes, Path(cache), draw, options)
                for draw in range(options.draws)
            ]
            for number, score in enumerate(SCORES):
                columns = np.array(draws)[:, number].T.tolist()
                rows.append((name, score, *(format_mean(shares) for shares in columns)))
    print_table(["photos", "by", "known ones refused", "classes left out", "the other set"], rows)


if __name__ == "__main__":
    main()
