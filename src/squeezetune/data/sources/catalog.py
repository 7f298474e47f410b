"""Data sets by name: what they are, where they are published and on what conditions, and where they
lie here.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path

from squeezetune.errors import SettingsError, SourceError
from squeezetune.events import Listener, Notice
from squeezetune.settings import Settings
from squeezetune.system.disk import find_cache_folder

_KRIZ = "https://www.cs.toronto.edu/~kriz"


@dataclass(frozen=True)
class Archive:
    """Where an archive is published, about how large it is (0 where nobody says), and its checksums
    by algorithm.
    """

    address: str
    megabytes: int = 0
    checksums: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DataSet:
    """A data set that can be had by its name.

    `archives` are the forms in which it is published, the one that is taken unasked first; without
    any, `request` says how to ask for it. `folders` says how many folders of how many images there
    are in the packed file. `group_by` is the setting that keeps together what belongs together,
    where splitting single images would flatter the accuracy.
    """

    name: str
    title: str
    classes: int
    folders: Mapping[int, int]
    conditions: str
    archives: Mapping[str, Archive] = field(default_factory=dict)
    request: str = ""
    group_by: str = ""

    @property
    def images(self) -> int:
        """How many images there are."""
        return sum(size * count for size, count in self.folders.items())

    @property
    def path(self) -> Path:
        """Where the packed file lies, once it was fetched."""
        return find_cache_folder() / "datasets" / f"{self.name}.zip"

    @property
    def command(self) -> str:
        """What to type to have it."""
        return f"squeezetune data {self.name}" + (
            "" if self.archives else " --from ARCHIVE_OR_FOLDER"
        )

    def count_here(self) -> int:
        """Count the images of the packed file here; 0 where there is none."""
        try:
            with zipfile.ZipFile(self.path) as archive:
                return len(archive.namelist())
        except (OSError, zipfile.BadZipFile):
            return 0


CIFAR10 = DataSet(
    name="cifar10",
    title="CIFAR-10 (Krizhevsky 2009), 32 x 32 pixels, with its own test part",
    classes=10,
    folders={5000: 10, 1000: 10},
    conditions="no licence is stated; cite Krizhevsky, Learning Multiple Layers of Features from "
    "Tiny Images, 2009",
    archives={
        # MD5: as published at https://www.cs.toronto.edu/~kriz/cifar.html; SHA-256: as TensorFlow
        # Datasets records it
        "binary": Archive(
            f"{_KRIZ}/cifar-10-binary.tar.gz",
            170,
            {
                "md5": "c32a1d4ab5d03f1284b67883e8d87530",
                "sha256": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            },
        ),
        "python": Archive(
            f"{_KRIZ}/cifar-10-python.tar.gz",
            170,
            {
                "md5": "c58f30108f718f92721af3b95e74349a",
                "sha256": "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
            },
        ),
    },
)
ETH80 = DataSet(
    name="eth80",
    title="ETH-80 (Leibe and Schiele 2003), 80 objects from 41 sides, 256 x 256 pixels",
    classes=8,
    folders={41: 80},
    conditions="no licence is stated; cite Leibe and Schiele, CVPR 2003",
    # no checksum is published
    archives={"": Archive("http://datasets.d2.mpi-inf.mpg.de/eth80/eth80-cropped256.tgz")},
    group_by="/([a-z]+[0-9]+)/",
)
AR_FACES = DataSet(
    name="ar-faces",
    title="AR faces (Martinez and Benavente 1998), 50 men and 50 women, cropped",
    classes=100,
    folders={26: 100},
    conditions="for academic research only; may neither be passed on nor used commercially",
    request="Ask Aleix M. Martinez for it from a university's e-mail address, saying who you are "
    "and that you agree to the conditions: https://www2.ece.ohio-state.edu/~aleix/ARdatabase.html. "
    "Then: squeezetune data ar-faces --from ARCHIVE_OR_FOLDER",
)
DATA_SETS: Mapping[str, DataSet] = {each.name: each for each in (CIFAR10, ETH80, AR_FACES)}


def find_dataset(name: str) -> DataSet:
    """Find a data set by its name.

    Raises:
        SettingsError: there is none of this name.

    """
    if name not in DATA_SETS:
        near = get_close_matches(name.lower(), DATA_SETS, n=1)
        suggestion = f", did you mean {near[0]!r}?" if near else ""
        raise SettingsError(
            f"unknown data set {name!r}{suggestion}", f"Known data sets: {', '.join(DATA_SETS)}."
        )
    return DATA_SETS[name]


def find_named(photos: Path) -> DataSet | None:
    """Find the data set that photos are the name of; None where they are a path: what is on the
    disk comes first.
    """
    dataset = DATA_SETS.get(str(photos))
    return None if dataset is None or photos.exists() else dataset


def locate_photos(photos: Path) -> Path:
    """Return where photos lie: the packed file, where they are the name of a data set, else the
    path itself.

    Raises:
        SourceError: the data set has not been fetched; nothing is ever fetched unasked.

    """
    dataset = find_named(photos)
    if not dataset or dataset.path.is_file():
        return dataset.path if dataset else photos
    archive = next(iter(dataset.archives.values()), None)
    size = f"{archive.megabytes} MB" if archive and archive.megabytes else "a large file"
    raise SourceError(
        f"there is no folder or file {dataset.name!r}, and the data set of this name is not here "
        f"yet",
        f"Fetch it, {size} from {archive.address}: {dataset.command}"
        if archive
        else dataset.request,
    )


def group_photos(photos: object, settings: Settings, listen: Listener) -> Settings:
    """Keep together what belongs together in a data set that is given by its name, unless the
    settings say how.
    """
    dataset = find_named(photos) if isinstance(photos, Path) else None
    if not dataset or not dataset.group_by or settings.group_by:
        return settings
    listen(
        Notice(
            f"{dataset.name}: whole objects stay on one side of the split (--group-by "
            f"{dataset.group_by!r})"
        )
    )
    return replace(settings, group_by=dataset.group_by)
