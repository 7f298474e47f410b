"""Measure "none of these": classes are left out of the training, and their photos have to be told as unknown.

    python benchmarks/unknown.py --data FOLDER [--photos eth80 cifar10] [--rate 0.05] [--draws 5]

Of ETH-80 one class is left out, of CIFAR-10 two, others in each draw. The threshold is the model's own, from its
validation photos. Told are the share of the test photos, of classes that were learnt, that are refused (wished: the
rate), and the share of photos of the other classes that are refused.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from figures import format_mean, print_machine, print_table
from photos import PHOTO_SETS, add_photo_options, prepare_photos, scan_photos, split_photos

from squeezetune.data.index import ImageIndex
from squeezetune.events import ignore_event
from squeezetune.learning import learn_classifier, make_manifest
from squeezetune.measurement import run_classifier
from squeezetune.prediction import Classifier, Prediction
from squeezetune.predictions import predict_files, read_arguments
from squeezetune.workshop import open_workshop

LEFT_OUT = {"eth80": 1, "cifar10": 2}


def copy_classes(root: Path, target: Path, index: ImageIndex, labels: Sequence[int]) -> Path:
    """Link the photos of some classes into a folder of their own."""
    for at in np.flatnonzero(np.isin(index.labels, labels)):
        copy = target / index.names[at]
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.hardlink_to(root / index.names[at])
    return target


def measure_draw(name: str, root: Path, cache: Path, draw: int, rate: float) -> tuple[float, float]:
    """Train without some classes; return the shares of known and of unknown photos that are refused."""
    index, count = scan_photos(name, root), LEFT_OUT[name]
    classes = np.roll(np.arange(len(index.class_names)), -draw * count)
    settings = PHOTO_SETS[name].make_settings(seed=draw)
    with tempfile.TemporaryDirectory(dir=root.parent) as folder:
        places = zip(("others", "known"), (classes[:count], classes[count:]), strict=True)
        others, known = (copy_classes(root, Path(folder) / place, index, labels.tolist()) for place, labels in places)
        workshop = open_workshop(settings, cache, ignore_event)
        learned = learn_classifier(scan_photos(name, known), lambda photos: split_photos(photos, settings), workshop)
        classifier = Classifier(learned.model, make_manifest(learned, settings))
        threshold = classifier.find_threshold(rate)
        test = run_classifier(classifier, learned.index, learned.split.test, workshop.engine, ignore_event)
        sure = [each.confidence for _, each in predict_files(classifier, read_arguments([str(others)]))
                if isinstance(each, Prediction)]  # fmt: skip
    return float((test.probabilities.max(axis=1) < threshold).mean()), float((np.array(sure) < threshold).mean())


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_photo_options(parser)
    parser.add_argument("--photos", nargs="+", choices=LEFT_OUT, default=list(LEFT_OUT))
    parser.add_argument("--rate", type=float, default=0.05, help="default: %(default)s")
    parser.add_argument("--draws", type=int, default=5, help="default: %(default)s")
    options = parser.parse_args(argv)
    print_machine()
    rows = []
    for name in options.photos:
        root = prepare_photos(name, options)
        with tempfile.TemporaryDirectory(dir=options.work) as cache:
            found = [measure_draw(name, root, Path(cache), draw, options.rate) for draw in range(options.draws)]
        rows.append((name, *(format_mean(shares) for shares in zip(*found, strict=True))))
    print_table(["photos", "known ones refused", "others refused"], rows)


if __name__ == "__main__":
    main()
