"""Data sets fetched by name, or read from what the user has of them, and packed into one file to
train on.
"""

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from squeezetune.data.datasets.cifar10 import read_cifar10
from squeezetune.data.datasets.packing import pack_images, read_ar_faces, read_eth80
from squeezetune.data.sources.catalog import Archive, DataSet, find_dataset
from squeezetune.data.sources.folder import explain_os_error
from squeezetune.data.sources.registry import find_ending, open_source
from squeezetune.data.sources.source import ImageSource, quote_name
from squeezetune.errors import DataError, SettingsError, SourceError
from squeezetune.events import Listener, Notice, ignore_event
from squeezetune.system.disk import name_temporary
from squeezetune.system.downloads import PublishedFile, fetch_file, hash_file, name_file

# Reads images under their paths in the packed file, from a source with files of these names, in
# some format.
DataSetReader: TypeAlias = Callable[[ImageSource, Sequence[str], str], Iterator[tuple[str, bytes]]]
READERS: Mapping[str, DataSetReader] = {
    "cifar10": read_cifar10,
    "eth80": read_eth80,
    "ar-faces": read_ar_faces,
}
MOST_BYTES = 2 << 30
ENDINGS = (".tar.gz", ".tgz", ".tar", ".zip", ".tar.bz2", ".tar.xz")
STAGE = "archive"


def fetch_dataset(
    name: str,
    output: str | Path | None = None,
    *,
    source: str | Path | None = None,
    url: str = "",
    archive_format: str = "",
    listen: Listener = ignore_event,
) -> Path:
    """Make one of the known data sets, "cifar10", "eth80" or "ar-faces", a zip file to train on;
    return its path.

    It is fetched from where it is published, or from `url`, and checked; or read from `source`, an
    archive or a folder that is here. CIFAR-10 has two formats, "binary" and "python". The file is
    an ordinary zip of images below classes; without `output` it goes into the cache, where
    `train("cifar10")` finds it, and what is there already is left as it is. If it is interrupted,
    nothing half-written is left, and the download is kept. Numbers of images that are not the
    original's are told to `listen`, and are no error: part of a data set can be trained on too.

    Raises:
        SettingsError: there is no such data set or format, or the output is no zip file.
        SourceError: it cannot be had, is damaged, or holds nothing of the data set.
        DataError: the disk has no room for it.

    >>> import squeezetune                                                    # doctest: +SKIP
    >>> squeezetune.fetch_dataset("cifar10")                                  # doctest: +SKIP

    """
    dataset = find_dataset(name)
    _check_format(dataset, archive_format)
    if source and url:
        raise SettingsError(
            "both a source and an address are given; needed is one of them", "Leave one out."
        )
    target = _check_output(Path(output)) if output else dataset.path
    if not source and not url and dataset.path.is_file():
        listen(Notice(f"{name} is here already: {dataset.path}"))
        return _copy_file(dataset.path, target) if output else target
    archive = Path(source) if source else _download(dataset, url, archive_format, listen)
    try:
        names = _pack(dataset, archive, target, archive_format, listen)
    except SourceError:
        if not source:  # nothing can be made of it, so the next call must not find it
            archive.unlink(missing_ok=True)
        raise
    if not source:
        archive.unlink(missing_ok=True)
    _compare_counts(dataset, names, listen)
    return target


def _check_format(dataset: DataSet, archive_format: str) -> None:
    known = [name for name in dataset.archives if name]
    if archive_format and archive_format not in known:
        needed = f"needed is one of {', '.join(known)}" if known else f"{dataset.name} has only one"
        raise SettingsError(
            f"there is no format {archive_format!r} of {dataset.name}; {needed}", "Leave it out."
        )


def _check_output(output: Path) -> Path:
    if output.suffix.lower() != ".zip":
        raise SettingsError(
            f"the output {quote_name(str(output))} does not end in .zip", "Give it that ending."
        )
    if output.exists():
        raise SettingsError(
            f"the output {quote_name(str(output))} is there already", "Give another name."
        )
    return output


def _download(dataset: DataSet, url: str, archive_format: str, listen: Listener) -> Path:
    """Fetch the archive of a data set into the cache, whole and checked."""
    known = dataset.archives.get(archive_format) or next(iter(dataset.archives.values()), None)
    if not url and not known:
        raise SourceError(
            f"{dataset.title.partition(' (')[0]} cannot be fetched: {dataset.conditions}; needed "
            f"is your own copy",
            dataset.request,
        )
    archive = known if known and not url else Archive(url, checksums=_find_checksums(dataset, url))
    name = name_file(archive.address)
    if not name.lower().endswith(ENDINGS):
        raise SettingsError(
            f"{archive.address!r} is not the address of an archive",
            f"Needed is http:// or https://, and a name that ends in {', '.join(ENDINGS)}.",
        )
    by_hand = f"Or fetch it in another way, and: squeezetune data {dataset.name} --from {name}"
    file = PublishedFile(
        archive.address,
        archive.checksums,
        MOST_BYTES,
        f"archive of {dataset.name}",
        SourceError,
        by_hand,
        STAGE,
    )
    # the same name at another address may be another file
    place = hashlib.sha256(archive.address.encode()).hexdigest()[:12]
    path = fetch_file(file, dataset.path.parent / "downloads" / f"{place}-{name}", listen)
    if not archive.checksums:
        found = hash_file(path, "sha256")
        listen(
            Notice(
                f"no checksum is published that {archive.address} could be held against; its "
                f"SHA-256 is {found}"
            )
        )
    return path


def _find_checksums(dataset: DataSet, url: str) -> Mapping[str, str]:
    """Find the checksums of a mirror's file, which is known by its name; none where it has
    another.
    """
    found = (
        each.checksums
        for each in dataset.archives.values()
        if name_file(each.address) == name_file(url)
    )
    return next(found, {})


def _pack(
    dataset: DataSet, archive: Path, target: Path, archive_format: str, listen: Listener
) -> list[str]:
    """Pack the images of an archive or a folder; return their paths in the packed file."""
    if archive.is_file() and not find_ending(archive):
        raise SourceError(
            f"{quote_name(str(archive))} is no archive by its name", f"Known: {', '.join(ENDINGS)}."
        )
    source, listing = open_source(archive, {})
    if archive.is_file() and (damage := listing.refused.get(archive.name)):
        raise SourceError(f"{quote_name(str(archive))} cannot be used: {damage}", "Fetch it again.")
    images = READERS[dataset.name](source, listing.files, archive_format)
    try:
        names = pack_images(target, images, dataset.images, listen)
    except OSError as error:
        raise _explain_unwritten(target, error) from error
    if not names:
        raise SourceError(
            f"{quote_name(str(archive))} holds no image of {dataset.name} among "
            f"{len(listing.files):,} files",
            "Needed is the original archive, or its folder, with the files' original names: "
            f"{dataset.title}.",
        )
    return names


def _copy_file(path: Path, target: Path) -> Path:
    """Copy a file whole or not at all."""
    temporary = name_temporary(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, temporary)
        temporary.replace(target)
    except OSError as error:
        raise _explain_unwritten(target, error) from error
    finally:
        temporary.unlink(missing_ok=True)
    return target


def _explain_unwritten(target: Path, error: OSError) -> DataError:
    return DataError(
        f"{quote_name(str(target))} cannot be written: {explain_os_error(error)}",
        "Free some space, or give another place with --output.",
    )


def _compare_counts(dataset: DataSet, names: Sequence[str], listen: Listener) -> None:
    """Say where there are other numbers of images than in the original."""
    folders = Counter(name.rpartition("/")[0] for name in names)
    if Counter(folders.values()) == Counter(dataset.folders):
        return
    expected = " and ".join(
        f"{count} folders of {size:,}" for size, count in dataset.folders.items()
    )
    sizes = " to ".join(
        f"{size:,}" for size in sorted({min(folders.values()), max(folders.values())})
    )
    listen(
        Notice(
            f"{dataset.name}: {len(names):,} images in {len(folders)} folders of {sizes}; the "
            f"original has {dataset.images:,}, in {expected}"
        )
    )
