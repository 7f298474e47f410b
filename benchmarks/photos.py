"""Unpack the photos that the benchmarks run on, once, and say how to read them.

    python benchmarks/photos.py eth80 --data FOLDER [--work FOLDER] [--images 400]

FOLDER holds `eth80.zip` (Leibe and Schiele 2003), `cifar10.zip` (Krizhevsky 2009, as JPEG files)
and `clothing.zip` (Grigorev 2020). They are unpacked into the work folder. `--images` takes an even
sample of that many photos, for a quick look.
"""

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from squeezetune.data.index import ImageIndex, index_photos
from squeezetune.data.split import Split, split_index
from squeezetune.settings import Settings
from squeezetune.system.executor import ThreadExecutor

# What all published figures were measured with, but for those that compare networks.
BACKBONE = "squeezenet1_1"


@dataclass(frozen=True)
class PhotoSet:
    """A public data set as an archive, where its classes and groups stand in a path, and the
    original recipe's use.
    """

    archive: str
    folder: str
    class_pattern: str
    group_pattern: str
    validation: float
    test: float
    epochs: int

    def make_settings(self, **choices: object) -> Settings:
        """Make settings with this set's shares, and one network; a small sample for a quick look
        has a test part too.
        """
        parts: dict[str, Any] = {"validation": self.validation, "test": self.test, "folds": "none"}
        return Settings(**(parts | {"backbone": BACKBONE} | choices))


PHOTO_SETS = {
    # one folder for each object: apple1 ... apple10 are the class apple
    "eth80": PhotoSet(
        "eth80.zip", "eth80-cropped256", r"^([a-z]+)\d+/", r"^([a-z]+\d+)/", 0.1, 0.1, epochs=10
    ),
    "cifar10": PhotoSet("cifar10.zip", "cifar10", "", "", 0.2, 0.2, epochs=5),
    # its publisher's parts are kept
    "clothing": PhotoSet("clothing.zip", "clothing", "", "", 0.1, 0.1, epochs=5),
}


def add_photo_options(parser: argparse.ArgumentParser, *, is_data_needed: bool = True) -> None:
    """Add the options that say where the photos are."""
    work = Path(tempfile.gettempdir()) / "squeezetune-benchmarks"
    parser.add_argument(
        "--data",
        type=Path,
        required=is_data_needed,
        help="the folder with eth80.zip and cifar10.zip",
    )
    parser.add_argument(
        "--work", type=Path, default=work, help="where to unpack and compute (default: %(default)s)"
    )
    parser.add_argument(
        "--images", type=int, default=0, help="take an even sample of this many photos; 0 takes all"
    )


def add_set_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which whole sets are trained on by the command line, as they are."""
    work = Path(tempfile.gettempdir()) / "squeezetune-benchmarks"
    parser.add_argument("--data", type=Path, required=True, help="the folder of the sets")
    parser.add_argument("--work", type=Path, default=work, help="where finished runs are kept")
    parser.add_argument("--sets", nargs="+", default=["clothing.zip"], help="what to train on")


def prepare_photos(name: str, options: argparse.Namespace) -> Path:
    """Return the folder of a set's photos, unpacked, or of the sample that the options ask for."""
    photo_set, work = PHOTO_SETS[name], options.work
    root = unpack_photos(photo_set, options.data, work)
    return (
        draw_photos(root, work / f"{name}-{options.images}", options.images)
        if options.images
        else root
    )


def unpack_photos(photo_set: PhotoSet, data: Path, work: Path) -> Path:
    """Unpack a set into the work folder unless it is there; a killed unpacking leaves nothing that
    looks complete.
    """
    target: Path = work / photo_set.folder
    if not target.exists():
        work.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=work) as partial,
            ZipFile(data / photo_set.archive) as archive,
        ):
            archive.extractall(partial)
            (Path(partial) / photo_set.folder).rename(target)
    return target


def draw_photos(root: Path, target: Path, count: int) -> Path:
    """Copy every n-th photo into the folder `target` unless it is there, so that all classes are
    thinned alike.
    """
    if not target.exists():
        paths = sorted(path for path in root.rglob("*") if path.is_file())
        with tempfile.TemporaryDirectory(dir=target.parent) as partial:
            count = min(count, len(paths))
            for path in (paths[at * len(paths) // count] for at in range(count)):
                copy = Path(partial) / "photos" / path.relative_to(root)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
            (Path(partial) / "photos").rename(target)
    return target


def scan_photos(name: str, root: Path) -> ImageIndex:
    """Index a set's photos."""
    return index_photos(
        root, executor=ThreadExecutor(), class_pattern=PHOTO_SETS[name].class_pattern
    )


def split_photos(index: ImageIndex, settings: Settings) -> Split:
    """Split photos as `squeezetune train` does with these settings."""
    return split_index(
        index,
        validation=settings.validation,
        test=settings.test,
        seed=settings.seed,
        group_by=settings.group_by,
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=PHOTO_SETS)
    add_photo_options(parser)
    options = parser.parse_args(argv)
    root, photo_set = prepare_photos(options.name, options), PHOTO_SETS[options.name]
    index = scan_photos(options.name, root)
    counts = zip(index.class_names, index.class_counts.tolist(), strict=True)
    print(f"folder         {root}")
    print(f"class pattern  {photo_set.class_pattern or '(the folders are the classes)'}")
    print(f"group pattern  {photo_set.group_pattern or '(none)'}")
    print(f"{len(index):,} photos  {', '.join(f'{name} {count:,}' for name, count in counts)}")


if __name__ == "__main__":
    main()
