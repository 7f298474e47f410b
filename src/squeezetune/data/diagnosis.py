"""Why a source cannot be indexed, in words that help: no image, one class only, empty class folders."""

from collections.abc import Mapping, Sequence

from squeezetune.data.content import FORMATS
from squeezetune.data.layout import Place, explain_skipped
from squeezetune.data.listing import ImageSource, list_some, quote_name
from squeezetune.errors import ClassesError, SourceError

LAYOUT_HINT = "Put the photos into one folder for each class: photos/<class>/<image>."


def check_folders(empty: Sequence[str], skipped: Mapping[str, str]) -> None:
    """Refuse class folders without an image: an easily made mistake that would go unnoticed.

    Raises:
        ClassesError: there are some.

    """
    if not empty:
        return
    described = [quote_name(folder) + _explain_inside(folder, skipped) for folder in empty[:5]]
    found = "1 class folder has" if len(empty) == 1 else f"{len(empty):,} class folders have"
    raise ClassesError(
        f"{found} no image: {list_some(described + list(empty[5:]))}",
        "Add photos to these folders, or remove them.",
    )


def _explain_inside(folder: str, skipped: Mapping[str, str]) -> str:
    """Say what was skipped in a folder, or why the folder itself was; nothing where it is simply empty."""
    if folder in skipped:
        return f" ({skipped[folder]})"
    inside = {name: reason for name, reason in skipped.items() if name.startswith(f"{folder}/")}
    return f" ({explain_skipped(inside)[2:]})" if inside else ""


def explain_no_image(source: ImageSource, count: int, skipped: Mapping[str, str]) -> SourceError:
    """Say that none of some files is an image."""
    found = "1 file was" if count == 1 else f"{count:,} files were"
    return SourceError(
        f"no image in {quote_name(source.describe())}: {found} seen, none of {FORMATS}{explain_skipped(skipped)}",
        LAYOUT_HINT,
    )


def explain_few_classes(
    source: ImageSource, names: Sequence[str], kinds: Sequence[Place], skipped: Mapping[str, str]
) -> ClassesError:
    """Say that the images of these names have one class, or none."""
    folder = quote_name(source.describe())
    if not names:
        return ClassesError(f"no image in {folder} lies in a class folder{explain_skipped(skipped)}", LAYOUT_HINT)
    class_name = kinds[0].class_name
    deeper = {name.split("/")[1] for name in names if name.count("/") > 1}
    hint = f"If the folders in {quote_name(class_name)} are the classes, give the path of that folder. "
    return ClassesError(
        f"{folder} has one class, {quote_name(class_name)}, of {len(names):,} images; needed are two or more"
        f"{explain_skipped(skipped)}",
        (hint if len(deeper) > 1 else "") + LAYOUT_HINT,
    )


def explain_one_label(source: ImageSource, class_name: str, skipped: Mapping[str, str]) -> ClassesError:
    """Say that a table has one class."""
    return ClassesError(
        f"{quote_name(source.describe())} has one class, {quote_name(class_name)}; needed are two or more"
        f"{explain_skipped(skipped)}",
        "Say which column is the class if it is another one: --columns label=NAME.",
    )
