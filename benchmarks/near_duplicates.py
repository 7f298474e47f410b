"""Plant copies of photos and see whether they are found, whether anything else is, and what they do
to an accuracy.

    python benchmarks/near_duplicates.py --data FOLDER [--sets eth80 cifar10] [--copies 300]
        [--seeds 3] [--draw]

found    300 photos drawn at random are copied, each in one of the ways of `WAYS`, and
         near-duplicates are looked for among all photos and copies. `--draw` leaves pictures of the
         pairs of untouched photos in the work folder.
planted  The photos are split 80/10/10, and 300 copies of training photos go to the test part: the
         accuracy on all of it, on what is left without leaks, and of a run without the copies
         (`--effort quick`).
"""

import argparse
import csv
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from figures import format_spread, print_machine, print_table
from numpy.typing import NDArray
from photos import (
    BACKBONE,
    PHOTO_SETS,
    add_photo_options,
    prepare_photos,
    scan_photos,
    split_photos,
)
from PIL import Image

from squeezetune.data.duplicates.near_duplicates import DuplicatePairs, find_near_duplicates
from squeezetune.data.index import ImageIndex, index_images
from squeezetune.data.pixels import PixelSettings, make_thumbnail
from squeezetune.data.thumbnails import load_thumbnails, open_look_store
from squeezetune.events import ignore_event
from squeezetune.system.executor import ThreadExecutor
from squeezetune.training import train

SIDES = {"eth80": 224, "cifar10": 128}  # at which the product sees these photos
ORIENTATION = 0x0112
DRAWN = 64
Way = Callable[[Image.Image, np.random.Generator], bytes]


def encode(image: Image.Image, quality: int = 90, orientation: int = 1) -> bytes:
    """Write an image as JPEG, perhaps with the orientation that a camera notes."""
    exif, buffer = Image.Exif(), BytesIO()
    exif[ORIENTATION] = orientation
    image.save(buffer, "JPEG", quality=quality, exif=exif)
    return buffer.getvalue()


def resize(image: Image.Image, rng: np.random.Generator) -> bytes:
    """Make an image half as large to twice as large."""
    scale = 2 ** rng.uniform(-1, 1)
    return encode(
        image.resize(
            (round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC
        )
    )


def crop(image: Image.Image, rng: np.random.Generator) -> bytes:
    """Cut 5 % off the width and the height, somewhere."""
    cut = [max(1, round(0.05 * length)) for length in image.size]
    left, top = (int(rng.integers(0, most + 1)) for most in cut)
    return encode(image.crop((left, top, image.width - cut[0] + left, image.height - cut[1] + top)))


WAYS: dict[str, Way] = {
    "re-encoded, quality 30 to 90": lambda image, rng: encode(image, int(rng.integers(30, 91))),
    "resized, half to double": resize,
    "flipped by EXIF": lambda image, rng: encode(image, orientation=int(rng.integers(2, 9))),
    "cropped by 5 %": crop,
}


def copy_photos(
    index: ImageIndex, positions: NDArray[np.int64], rng: np.random.Generator
) -> Iterator[tuple[str, bytes]]:
    """Copy the photos at some positions, each in the next way."""
    for number, position in enumerate(positions):
        way = list(WAYS)[number % len(WAYS)]
        data = index.source.read(index.names[position])
        with Image.open(BytesIO(data)) as image:  # type: ignore[arg-type]
            yield way, WAYS[way](image.convert("RGB"), rng)


def look_for(index: ImageIndex, side: int, cache: Path) -> tuple[DuplicatePairs, float]:
    """Look for near-duplicates; also return the seconds that this takes when the looks are
    known.
    """
    pixels, executor = PixelSettings(side), ThreadExecutor()
    looks = load_thumbnails(index, pixels, open_look_store(cache, pixels), executor, ignore_event)
    started = time.perf_counter()
    return find_near_duplicates(
        index, looks, pixels.resize, executor
    ), time.perf_counter() - started


def measure_found(name: str, index: ImageIndex, options: argparse.Namespace) -> None:
    """Print how many copies of each way are found, and how many pairs of untouched photos."""
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    untouched, strange, seconds = [], [], []
    for seed in range(options.seeds):
        rng = np.random.default_rng(seed)
        chosen = rng.choice(len(index), options.copies, replace=False)
        ways, copies = zip(*copy_photos(index, chosen, rng), strict=True)
        photos = [index.source.read(photo) for photo in index.names]
        mixed = index_images(
            [*photos, *copies],
            [0, 1] * ((len(photos) + len(copies)) // 2),
            executor=ThreadExecutor(),
        )
        likeness, taken_s = look_for(mixed, SIDES[name], options.work / "cache")
        pairs = set(zip(likeness.first.tolist(), likeness.second.tolist(), strict=True))
        wanted = {(int(original), len(index) + at) for at, original in enumerate(chosen)}
        for way in WAYS:
            own = [
                pair
                for pair, each in zip(sorted(wanted, key=lambda pair: pair[1]), ways, strict=True)
                if each == way
            ]
            found[way].append(100 * len(pairs & set(own)) / len(own))
        untouched.append(sum(second < len(index) for _, second in pairs))
        strange.append(len(pairs - wanted) - untouched[-1])
        seconds.append(taken_s)
        if options.draw and not seed:
            draw_pairs(mixed, likeness, len(index), options.work / f"near-duplicates-{name}.png")
    rows = [(way, format_spread(shares)) for way, shares in found.items()]
    rows += [
        (
            "all",
            format_spread([float(np.mean(shares)) for shares in zip(*found.values(), strict=True)]),
        ),
        (f"pairs of untouched photos, of {len(index):,}", format_spread(untouched, 0)),
        ("pairs of a copy and another photo or copy", format_spread(strange, 0)),
        ("seconds, photos seen before", format_spread(seconds)),
    ]
    print(f"\n{name}: {options.copies} copies among {len(index):,} photos")
    print_table(("", "% found: median (min–max, n)"), rows)


def draw_pairs(index: ImageIndex, likeness: DuplicatePairs, untouched: int, path: Path) -> None:
    """Draw the pairs of untouched photos that differ most, side by side, to judge them by eye."""
    rows = np.flatnonzero(likeness.second < untouched)
    rows = rows[np.argsort(-likeness.difference[rows])][:DRAWN]
    sheet = Image.new("RGB", (8 * 208, 104 * -(-max(1, len(rows)) // 8)))
    for number, row in enumerate(rows):
        for side, position in enumerate((likeness.first[row], likeness.second[row])):
            with Image.open(
                BytesIO(make_thumbnail(index.source, index.names[position], 100))
            ) as image:
                sheet.paste(
                    image.resize((100, 100)), (number % 8 * 208 + side * 100, number // 8 * 104)
                )
    sheet.save(path)
    print(f"pairs of untouched photos: {path}")


def measure_planted(name: str, root: Path, index: ImageIndex, options: argparse.Namespace) -> None:
    """Print what copies of training photos in the test part do to the accuracy."""
    rows = []
    for seed in range(options.seeds):
        folder = options.work / f"planted-{name}-{seed}"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "copies").mkdir(parents=True)
        clean, planted = write_tables(name, root, index, folder, seed, options.copies)
        runs = [run(table, folder, seed) for table in (clean, planted)]
        leaks, share = runs[1]["data"]["leaks"], runs[1]["data"]["leaks"]["test_without"]
        accuracy = runs[0]["test"]["accuracy"]
        rows.append((
            seed, f"{accuracy:.2%}", f"{runs[1]['test']['accuracy']:.2%}", leaks["test"],
            f"{share['accuracy']:.2%} [{share['low']:.2%}, {share['high']:.2%}]",
            "yes" if share["low"] <= accuracy <= share["high"] else "NO",
        ))  # fmt: skip
    print(f"\n{name}: {options.copies} copies of training photos in the test part")
    print_table(
        (
            "seed",
            "clean run",
            "with the copies",
            "leaks",
            "without the leaks",
            "holds the clean run",
        ),
        rows,
    )


def write_tables(
    name: str, root: Path, index: ImageIndex, folder: Path, seed: int, count: int
) -> tuple[Path, Path]:
    """Write a table of a split, and one that has copies of training photos in the test part as
    well.
    """
    settings = PHOTO_SETS[name].make_settings(seed=seed, effort="quick")
    split, rng = split_photos(index, settings), np.random.default_rng(seed)
    rows = [
        (root / index.names[at], index.class_names[index.labels[at]], part)
        for part in ("train", "validation", "test")
        for at in getattr(split, part)
    ]
    chosen = rng.choice(split.train, count, replace=False)
    copies = []
    for number, (at, (_, data)) in enumerate(
        zip(chosen, copy_photos(index, chosen, rng), strict=True)
    ):
        path = folder / "copies" / f"{number}.jpg"
        path.write_bytes(data)
        copies.append((path, index.class_names[index.labels[at]], "test"))
    return write_table(folder / "clean.csv", rows), write_table(
        folder / "planted.csv", rows + copies
    )


def write_table(path: Path, rows: Sequence[tuple[Path, str, str]]) -> Path:
    """Write a table of photos with their class and part."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    return path


def run(table: Path, folder: Path, seed: int) -> dict[str, Any]:
    """Train on a table's photos and return the report."""
    output = folder / f"{table.stem}-model"
    return train(table, output, effort="quick", backbone=BACKBONE, seed=seed).report


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_photo_options(parser)
    parser.add_argument("--sets", nargs="+", choices=PHOTO_SETS, default=list(PHOTO_SETS))
    parser.add_argument("--copies", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--draw", action="store_true")
    parser.add_argument(
        "--parts", nargs="+", choices=("found", "planted"), default=["found", "planted"]
    )
    options = parser.parse_args(argv)
    print_machine()
    for name in options.sets:
        root = prepare_photos(name, options)
        index = scan_photos(name, root)
        if "found" in options.parts:
            measure_found(name, index, options)
        if "planted" in options.parts:
            measure_planted(name, root, index, options)


if __name__ == "__main__":
    main()
