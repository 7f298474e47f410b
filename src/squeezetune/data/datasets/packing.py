"""Many images packed into one zip file, which is written whole or not at all; and the data sets
whose image files are taken as they are: ETH-80 and AR faces.
"""

import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from squeezetune.data.sources.source import FilesSource, ImageSource, quote_name
from squeezetune.errors import ImageError, SourceError
from squeezetune.events import Listener, tell_stage
from squeezetune.system.disk import name_temporary, remove_partial_writes

STAGE = "packing"
TELL_EVERY = 64
# the earliest that a zip file can say: the same images give the same bytes
FIRST_DAY = (1980, 1, 1, 0, 0, 0)
COMPRESSED = (".png", ".jpg", ".jpeg")
UNIX = 3
LEFT_BEHIND_S = (
    3600.0  # a file that nobody has written to for so long was left by a run that was killed
)


_ETH80 = re.compile(r"((apple|car|cow|cup|dog|horse|pear|tomato)[0-9]+)-[0-9]+-[0-9]+\.(png|jpe?g)")
_AR_FACES = re.compile(r"([mw]-[0-9]{3})-[0-9]{2}\.(bmp|png|jpe?g)")


def read_eth80(
    source: ImageSource, names: Sequence[str], archive_format: str
) -> Iterator[tuple[str, bytes]]:
    """Read ETH-80 in the two layouts in which it is found, under `<class>/<object>/<file>`.

    8 classes of 10 objects, each seen from 41 sides (Leibe and Schiele 2003). The original archive,
    `eth80-cropped256`, has a folder for each object, `apple1/apple1-000-000.png`; others have
    folders of numbers, `1/1/apple1-000-000.png`. The files' names are the same in both, and say
    everything. Masks, `maps/apple1-000-000-map.png`, are left out.
    """

    def place(name: str) -> str:
        *folders, base = name.lower().split("/")
        found = _ETH80.fullmatch(base)
        return f"{found[2]}/{found[1]}/{base}" if found and "maps" not in folders else ""

    return copy_images(source, names, place)


def read_ar_faces(
    source: ImageSource, names: Sequence[str], archive_format: str
) -> Iterator[tuple[str, bytes]]:
    """Read AR faces under the paths `<person>/<file>`, in small letters.

    100 persons, 50 men and 50 women, of 26 pictures each: `M-001-01.bmp` to `W-050-26.bmp`, the
    cropped and aligned part of Martinez and Benavente's database (1998). The uncropped `.raw` files
    are not read.
    """

    def place(name: str) -> str:
        base = name.lower().rpartition("/")[2]
        found = _AR_FACES.fullmatch(base)
        return f"{found[1]}/{base}" if found else ""

    return copy_images(source, names, place)


def copy_images(
    source: ImageSource, names: Sequence[str], place: Callable[[str], str]
) -> Iterator[tuple[str, bytes]]:
    """Read images as they are under new paths, in the order of these; of two files of one path the
    first is taken.

    `place` gives the new path, or nothing for what is left out.

    Raises:
        SourceError: an image cannot be read.

    """
    found = {path: name for name in reversed(names) if (path := place(name))}
    for path, name in sorted(found.items()):
        try:
            content = (
                source.read_bytes(name) if isinstance(source, FilesSource) else source.read(name)
            )
        except ImageError as error:
            raise SourceError(
                f"{quote_name(name)} in {quote_name(source.describe())} cannot be read: "
                f"{error.message}",
                "Fetch it again.",
            ) from error
        if isinstance(content, bytes):
            yield path, content


def pack_images(
    path: Path, images: Iterable[tuple[str, bytes]], total: int, listen: Listener
) -> list[str]:
    """Pack images into a zip file; return their paths in it, sorted. About `total` are to come.

    Raises:
        OSError: the file cannot be written.

    """
    with tell_stage(STAGE, listen, total) as advance:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_partial_writes(path, LEFT_BEHIND_S)
        temporary = name_temporary(path)
        try:
            names = _write_archive(temporary, images, advance)
            if names:
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return names


def _write_archive(
    path: Path, images: Iterable[tuple[str, bytes]], advance: Callable[[int], None]
) -> list[str]:
    """Write images until they are on the disk; return their paths, sorted."""
    with path.open("wb") as file:
        with zipfile.ZipFile(file, "w") as archive:
            for done, (name, content) in enumerate(images, 1):
                archive.writestr(_describe_entry(name), content)
                if done % TELL_EVERY == 0:
                    advance(done)
            # images come as they are read, batch by batch; whoever looks into the file finds them
            # sorted
            archive.filelist.sort(key=lambda entry: entry.filename)
            names = archive.namelist()
        file.flush()
        os.fsync(file.fileno())
    return names


def _describe_entry(name: str) -> zipfile.ZipInfo:
    """Say how a file stands in the archive; what is compressed already does not become smaller."""
    entry = zipfile.ZipInfo(name, FIRST_DAY)
    entry.compress_type = zipfile.ZIP_STORED if name.endswith(COMPRESSED) else zipfile.ZIP_DEFLATED
    entry.create_system, entry.external_attr = UNIX, 0o644 << 16
    return entry
