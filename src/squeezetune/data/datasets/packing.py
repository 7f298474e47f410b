"""Many images packed into one zip file, which is written whole or not at all."""

import os
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from squeezetune.data.sources.source import FilesSource, ImageSource, quote_name
from squeezetune.errors import ImageError, SourceError
from squeezetune.events import Listener, StageAdvanced, StageFinished, StageStarted
from squeezetune.system.disk import name_temporary, remove_partial_writes

STAGE = "packing"
TELL_EVERY = 64
FIRST_DAY = (
    1980,
    1,
    1,
    0,
    0,
    0,
)  # the earliest that a zip file can say: the same images give the same bytes
COMPRESSED = (".png", ".jpg", ".jpeg")
UNIX = 3
LEFT_BEHIND_S = (
    3600.0  # a file that nobody has written to for so long was left by a run that was killed
)


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
    started = time.perf_counter()
    listen(StageStarted(STAGE, total))
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_partial_writes(path, LEFT_BEHIND_S)
    temporary = name_temporary(path)
    try:
        with temporary.open("wb") as file:
            with zipfile.ZipFile(file, "w") as archive:
                for done, (name, content) in enumerate(images, 1):
                    archive.writestr(_describe_entry(name), content)
                    if done % TELL_EVERY == 0:
                        listen(StageAdvanced(STAGE, done))
                # images come as they are read, batch by batch; whoever looks into the file finds
                # them sorted
                archive.filelist.sort(key=lambda entry: entry.filename)
                names = archive.namelist()
            file.flush()
            os.fsync(file.fileno())
        if names:
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    listen(StageFinished(STAGE, time.perf_counter() - started))
    return names


def _describe_entry(name: str) -> zipfile.ZipInfo:
    """Say how a file stands in the archive; what is compressed already does not become smaller."""
    entry = zipfile.ZipInfo(name, FIRST_DAY)
    entry.compress_type = zipfile.ZIP_STORED if name.endswith(COMPRESSED) else zipfile.ZIP_DEFLATED
    entry.create_system, entry.external_attr = UNIX, 0o644 << 16
    return entry
