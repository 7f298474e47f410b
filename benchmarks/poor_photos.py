"""Count the poor photos and outliers that `squeezetune check` finds: in photos as they are, and in
photos made worse.

    python benchmarks/poor_photos.py --data FOLDER [--count 1000]

Of each set an even sample is taken. Every tenth photo of it is made worse, one way at a time; for
the outliers, twenty photos of the other set are put among them, one at a time, so that they are no
company for each other.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from figures import print_machine, print_table
from photos import BACKBONE, PHOTO_SETS, add_photo_options, unpack_photos
from PIL import Image, ImageFilter

from squeezetune.audit.image_quality import find_flaws
from squeezetune.audit.inspection import Inspection, inspect_photos
from squeezetune.data.index import index_images
from squeezetune.events import ignore_event
from squeezetune.pipeline.context import open_context
from squeezetune.settings import Settings
from squeezetune.system.executor import ThreadExecutor

FOREIGN = 20
EVERY = 10
Photo = Image.Image
SPOILT: Mapping[str, tuple[Callable[[Photo], Photo], tuple[str, ...]]] = {
    "blurred, 1 % of the side or 1.5 pixels": (
        lambda photo: photo.filter(ImageFilter.GaussianBlur(max(1.5, 0.01 * max(photo.size)))),
        ("blurred",),
    ),
    "blurred, 3 % or 2 pixels": (
        lambda photo: photo.filter(ImageFilter.GaussianBlur(max(2.0, 0.03 * max(photo.size)))),
        ("blurred",),
    ),
    "darkened to a quarter": (
        lambda photo: photo.point(lambda level: 0.25 * level),
        ("dark", "blank"),
    ),
    "brightened by seven eighths": (
        lambda photo: photo.point(lambda level: 255 - 0.125 * (255 - level)),
        ("bright", "blank"),
    ),
    "blank": (
        lambda photo: Image.new("RGB", photo.size, photo.resize((1, 1)).getpixel((0, 0))),
        ("blank",),
    ),
    "24 pixels wide": (lambda photo: photo.resize((24, 24)), ("tiny",)),
    "three times as wide": (
        lambda photo: photo.resize((3 * photo.width, photo.height)),
        ("shape",),
    ),
}


def read_photos(name: str, count: int, options: argparse.Namespace) -> list[Photo]:
    """Read an even sample of a set."""
    paths = sorted(unpack_photos(PHOTO_SETS[name], options.data, options.work).rglob("*.jpg"))
    return [Image.open(paths[at * len(paths) // count]).convert("RGB") for at in range(count)]


def inspect(photos: Sequence[Photo], cache: Path) -> Inspection:
    """Look at photos in memory; their classes do not matter."""
    index = index_images(photos, np.arange(len(photos)) % 2, executor=ThreadExecutor())
    return inspect_photos(index, open_context(Settings(backbone=BACKBONE), cache, ignore_event))


def measure_set(
    name: str, photos: Sequence[Photo], others: Sequence[Photo], cache: Path
) -> list[tuple[str, ...]]:
    """Return rows: the set, what was done, and how many were found of how many."""
    plain = inspect(photos, cache)
    flawed = {flaw.position for flaw in find_flaws(plain.looks)}
    rows: list[tuple[str, ...]] = [
        (name, "as they are: blurred, dark, ... in all", f"{len(flawed)} of {len(photos)}"),
        (name, "as they are: outliers", f"{len(plain.outliers)} of {len(photos)}"),
    ]
    chosen = range(0, len(photos), EVERY)
    for words, (spoil, kinds) in SPOILT.items():
        worse = [spoil(photo) if at in chosen else photo for at, photo in enumerate(photos)]
        found = {
            flaw.position for flaw in find_flaws(inspect(worse, cache).looks) if flaw.kind in kinds
        }
        rows.append((name, words, f"{len(found & set(chosen))} of {len(chosen)}"))
    found_others = sum(
        len(photos) in inspect([*photos, other], cache).outliers.positions for other in others
    )
    rows.append((name, "photos of the other set: outliers", f"{found_others} of {len(others)}"))
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_photo_options(parser)
    parser.add_argument(
        "--count", type=int, default=1000, help="photos of each set (default: %(default)s)"
    )
    options = parser.parse_args(argv)
    count = options.images or options.count
    sets = {name: read_photos(name, count, options) for name in PHOTO_SETS}
    rows: list[tuple[str, ...]] = []
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        for name, other in (("eth80", "cifar10"), ("cifar10", "eth80")):
            strangers = sets[other][:: max(1, count // FOREIGN)][:FOREIGN]
            rows += measure_set(name, sets[name], strangers, Path(folder))
    print_table(["photos", "what was done", "found"], rows)
    print_machine()


if __name__ == "__main__":
    main()
