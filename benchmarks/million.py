"""Index a million images from a table, a folder and archives: seconds and peak memory of the whole
process.

    python benchmarks/million.py [--images 1000000] [--only table folder zip tar split]

The images are twenty small photos under a million names (hard links), in a thousand classes; the
table has a group for each ten of a class. Each source is indexed in a process of its own, with an
empty cache, and again with what it left; `split` also cuts the table's index, with a content of its
own for every image, into train, validation and test. Memory is the largest resident set.
"""

import argparse
import io
import json
import os
import shutil
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from figures import print_machine, print_table
from PIL import Image
from processes import run_process

from squeezetune.data.index import ImageIndex, index_photos
from squeezetune.data.split import split_index
from squeezetune.system.disk import find_cache_folder
from squeezetune.system.executor import ThreadExecutor

CONTENTS, MOST_CLASSES, CLASS_IMAGES, GROUP = 20, 1000, 100, 10
LIMIT_MB = 1536
HEADER = (
    "source",
    "cache",
    "images",
    "index, s",
    "processor, s",
    "split, s",
    "peak memory, MB",
    "limit, MB",
)
LINKS = 50_000  # that one file may have: ext4 allows 65,000


def list_names(count: int) -> Iterator[str]:
    """Yield the paths of all images: `class0007/0000007.jpg`."""
    classes = count_classes(count)
    return (f"class{at % classes:04}/{at:07}.jpg" for at in range(count))


def count_classes(count: int) -> int:
    """Count the classes that so many images have."""
    return min(MOST_CLASSES, count // CLASS_IMAGES)


def make_photos() -> list[bytes]:
    """Make small photos of different content."""
    noise = np.random.default_rng(0).integers(0, 256, (CONTENTS, 8, 8, 3), np.uint8)
    photos = []
    for pixels in noise:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=50)
        photos.append(buffer.getvalue())
    return photos


def write_folder(work: Path, count: int) -> Path:
    """Write all images below a folder, as links to few files where the system has links."""
    root, names = work / "folder", list(list_names(count))
    for at in range(count_classes(count)):
        (root / f"class{at:04}").mkdir(parents=True)
    photos = make_photos()
    for start in range(0, count, LINKS):
        for at, name in enumerate(names[start : start + LINKS]):
            if at < CONTENTS:
                (root / name).write_bytes(photos[at])
            else:
                os.link(root / names[start + at % CONTENTS], root / name)
    return root


def write_table(work: Path, count: int) -> Path:
    """Write a table that names the images of the folder, with a class and a group for each."""
    with (work / "table.csv").open("w") as file:
        file.write("path,label,group\n")
        for at, name in enumerate(list_names(count)):
            class_name = name.partition("/")[0]
            file.write(
                f"folder/{name},{class_name},{class_name}-{at // count_classes(count) // GROUP}\n"
            )
    return work / "table.csv"


def write_zip(work: Path, count: int) -> Path:
    """Pack all images as a zip archive."""
    photos = make_photos()
    with zipfile.ZipFile(work / "photos.zip", "w") as archive:
        for at, name in enumerate(list_names(count)):
            archive.writestr(name, photos[at % CONTENTS])
    return work / "photos.zip"


def write_tar(work: Path, count: int) -> Path:
    """Pack all images as a tar archive."""
    photos = make_photos()
    with tarfile.open(work / "photos.tar", "w") as archive:
        for at, name in enumerate(list_names(count)):
            info = tarfile.TarInfo(name)
            info.size = len(photos[at % CONTENTS])
            archive.addfile(info, io.BytesIO(photos[at % CONTENTS]))
            archive.members.clear()  # type: ignore[attr-defined]  # else all headers stay in memory
    return work / "photos.tar"


WRITERS: dict[str, Callable[[Path, int], Path]] = {
    "table": write_table,
    "folder": write_folder,
    "zip": write_zip,
    "tar": write_tar,
}
SOURCES = {
    "table": "table.csv",
    "folder": "folder",
    "zip": "photos.zip",
    "tar": "photos.tar",
    "split": "table.csv",
}


def index_source(kind: str, path: Path) -> None:
    """Index a source, and perhaps split it; print the seconds of each. Runs in a process of its
    own.

    The seconds of the processor tell more where other programs run; they begin with the process.
    """
    started = time.perf_counter()
    index = index_photos(path, executor=ThreadExecutor(), cache=find_cache_folder())
    seconds = [time.perf_counter() - started, time.process_time()]
    if kind == "split":
        index = give_contents(index)
        started = time.perf_counter()
        split = split_index(index, validation=0.1, test=0.1, seed=0)
        seconds.append(time.perf_counter() - started)
        assert len(split.train) + len(split.validation) + len(split.test) == len(index)
    print(json.dumps([len(index), *seconds]))


def give_contents(index: ImageIndex) -> ImageIndex:
    """Give every image a content of its own, as photos have."""
    digests = np.random.default_rng(0).integers(0, 256, index.digests.shape, np.uint8)
    return replace(index, digests=digests)


def measure(kind: str, work: Path, times: int) -> Iterator[list[str]]:
    """Index a source in new processes that share a cache."""
    cache = work / f"cache-{kind}"
    for run in range(times):
        done = run_process([__file__, "--index", kind, str(work / SOURCES[kind])], cache)
        count, *seconds = json.loads(done.output)
        told = [f"{each:,.1f}" for each in seconds] + [""] * (3 - len(seconds))
        limit = f"{LIMIT_MB:,}: {'kept' if done.peak_mb < LIMIT_MB else 'BROKEN'}"
        yield [kind, ("cold", "warm")[run], f"{count:,}", *told, f"{done.peak_mb:,.0f}", limit]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1_000_000, help="default: %(default)s")
    parser.add_argument(
        "--only", nargs="+", choices=SOURCES, default=list(SOURCES), help="default: all"
    )
    parser.add_argument(
        "--work",
        type=Path,
        help="the folder to work in (default: the system's for temporary files)",
    )
    parser.add_argument("--index", nargs=2, metavar=("KIND", "PATH"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.index:
        index_source(options.index[0], Path(options.index[1]))
        return
    work = Path(tempfile.mkdtemp(prefix="million-", dir=options.work))
    try:
        write_folder(work, options.images)
        for kind in {"table" if kind == "split" else kind for kind in options.only} - {"folder"}:
            WRITERS[kind](work, options.images)
        time.sleep(4)  # files that are only just written are not remembered
        rows = [
            row for kind in options.only for row in measure(kind, work, 1 if kind == "split" else 2)
        ]
        print_table(HEADER, rows)
        print_machine()
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
