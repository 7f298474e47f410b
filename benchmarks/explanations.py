"""Measure explanations: what becomes of a class's probability when the pixels that its map names
are covered.

    python benchmarks/explanations.py --data FOLDER [--photos eth80 cifar10] [--count 200] [--share
        0.2] python benchmarks/explanations.py --data FOLDER --photos eth80 --picture
        docs/images/explain.png

Of test photos the hottest fifth of the pixels is covered with the photo's mean colour. Beside it
the same is done with as many pixels that the map of another photo names, so that size and shape of
what is covered are alike, with the coldest fifth, and with random squares. Told are means and
standard deviations over the photos of the probability of the class that was predicted, and the mean
of the paired differences to another photo's map with its 95 % interval. With `--picture` a test
photo of each class, drawn at random, is drawn with its map. `--model` takes a model that is there.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from figures import print_machine, print_table
from numpy.typing import NDArray
from photos import PHOTO_SETS, add_photo_options, prepare_photos, scan_photos
from PIL import Image

from squeezetune.data.index import ImageIndex
from squeezetune.model.classifier import Classifier, load
from squeezetune.model.explanation import Explainer, Explanation
from squeezetune.model.split_record import read_parts
from squeezetune.training import train

SQUARES = 8  # random squares are those of a grid of so many a side
TILE_PX, GAP_PX = 160, 4
OTHER = "those of another photo's map"

Mask = NDArray[np.bool_]


def prepare_model(name: str, root: Path, options: argparse.Namespace, folder: Path) -> Classifier:
    """Load the model that the options name, or train one."""
    if options.model:
        return load(options.model)
    settings, pattern = PHOTO_SETS[name].make_settings(seed=0), PHOTO_SETS[name].class_pattern
    return train(root, folder / name, settings, class_pattern=pattern, use_cache=False)


def choose_hottest(heat: NDArray[np.float32], share: float) -> Mask:
    """Choose the hottest share of the pixels (height, width)."""
    order = np.argsort(-heat.ravel(), kind="stable")
    mask = np.zeros(heat.size, bool)
    mask[order[: round(share * heat.size)]] = True
    return mask.reshape(heat.shape)


def choose_squares(shape: tuple[int, ...], share: float, rng: np.random.Generator) -> Mask:
    """Choose random squares of a grid that together are about this share of the pixels."""
    chosen = np.zeros(SQUARES**2, bool)
    chosen[rng.permutation(SQUARES**2)[: round(share * SQUARES**2)]] = True
    rows, columns = (np.arange(side) * SQUARES // side for side in shape)
    return chosen.reshape(SQUARES, SQUARES)[np.ix_(rows, columns)]


def cover(photo: Image.Image, mask: Mask) -> NDArray[np.uint8]:
    """Cover the pixels of a mask with the photo's mean colour."""
    pixels = np.array(photo)
    pixels[mask] = pixels.mean(axis=(0, 1)).round()
    return pixels


def measure_covered(
    classifier: Classifier, photos: Sequence[Explanation], share: float, seed: int = 0
) -> dict[str, NDArray[np.float64]]:
    """Return the probability (n,) of each photo's class, uncovered and covered in each way."""
    rng = np.random.default_rng(seed)
    others = range(-1, len(photos) - 1)
    heats = [photos[at].heat for at in others]
    moved = [
        np.asarray(Image.fromarray(heat).resize(photo.photo.size))
        for heat, photo in zip(heats, photos, strict=True)
    ]
    ways: dict[str, Callable[[int], Mask]] = {
        "nothing": lambda at: np.zeros(photos[at].heat.shape, bool),
        "the hottest pixels": lambda at: choose_hottest(photos[at].heat, share),
        OTHER: lambda at: choose_hottest(moved[at], share),
        "random squares": lambda at: choose_squares(photos[at].heat.shape, share, rng),
        "the coldest pixels": lambda at: choose_hottest(-photos[at].heat, share),
    }
    found = {}
    for way, choose in ways.items():
        covered = [cover(photo.photo, choose(at)) for at, photo in enumerate(photos)]
        predictions = classifier.predict(covered)
        found[way] = np.array(
            [
                each.probabilities[photo.label]
                for each, photo in zip(predictions, photos, strict=True)
            ]
        )
    return found


def explain_photos(
    classifier: Classifier, index: ImageIndex, positions: NDArray[np.int64]
) -> list[Explanation]:
    """Explain the class that is predicted for each photo."""
    explainer = Explainer(classifier)
    raw = [index.source.read(index.names[at]) for at in positions]
    return [explainer.explain(data, prediction.label)
            for data, prediction in zip(raw, classifier.predict(raw), strict=True)]  # fmt: skip


def draw_picture(photos: Sequence[Explanation], path: Path) -> None:
    """Draw photos above, and the same with their maps below."""
    step = TILE_PX + GAP_PX
    picture = Image.new("RGB", (len(photos) * step - GAP_PX, 2 * step - GAP_PX), "white")
    for column, photo in enumerate(photos):
        for row, image in enumerate((photo.photo, photo.draw())):
            picture.paste(
                image.resize((TILE_PX, TILE_PX), Image.Resampling.LANCZOS),
                (column * step, row * step),
            )
    picture.save(path, optimize=True)


def describe_difference(own: NDArray[np.float64], other: NDArray[np.float64]) -> str:
    """Write the mean of paired differences with its 95 % interval."""
    differences = own - other
    half = 1.96 * differences.std(ddof=1) / np.sqrt(len(differences))
    return (
        f"{differences.mean():+.3f} ({differences.mean() - half:+.3f} to "
        f"{differences.mean() + half:+.3f})"
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_photo_options(parser)
    parser.add_argument("--photos", nargs="+", choices=PHOTO_SETS, default=list(PHOTO_SETS))
    parser.add_argument(
        "--count", type=int, default=200, help="test photos of each set; default: %(default)s"
    )
    parser.add_argument(
        "--share", type=float, default=0.2, help="of the pixels; default: %(default)s"
    )
    parser.add_argument(
        "--model", type=Path, help="a model of the one set, instead of training one"
    )
    parser.add_argument(
        "--picture", type=Path, help="draw a photo of each class of the first set into this file"
    )
    options = parser.parse_args(argv)
    print_machine()
    rng, rows = np.random.default_rng(0), []
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        for name in options.photos:
            root = prepare_photos(name, options)
            index, classifier = (
                scan_photos(name, root),
                prepare_model(name, root, options, Path(folder)),
            )
            assert classifier.folder
            test = read_parts(classifier.folder).find(index, "test")
            if options.picture and name == options.photos[0]:
                ones = [
                    rng.choice(test[index.labels[test] == label])
                    for label in np.unique(index.labels[test])
                ]
                draw_picture(explain_photos(classifier, index, np.array(ones)), options.picture)
            photos = explain_photos(classifier, index, rng.permutation(test)[: options.count])
            found = measure_covered(classifier, photos, options.share)
            other = found[OTHER]
            rows += [(name, len(photos), way, f"{values.mean():.3f} ± {values.std(ddof=1):.3f}",
                      "–" if way == OTHER else describe_difference(values, other))
                     for way, values in found.items()]  # fmt: skip
    print_table(
        ["photos", "n", "covered", "probability of the class", "against another photo's map"], rows
    )


if __name__ == "__main__":
    main()
