"""Which column of a table says what of an image: guessed from the columns' names, told, and corrected by the user."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from squeezetune.data.listing import quote_name
from squeezetune.errors import SettingsError, SourceError

# What a column may be called, without all but its letters, the likeliest first.
GUESSES = {
    "path": ("path", "filepath", "imagepath", "file", "filename", "image", "imagefile", "img", "photo", "name"),
    "label": ("label", "class", "classname", "labelname", "category", "target", "species", "diagnosis", "y"),
    "split": ("split", "part", "subset", "partition", "set"),
    "group": ("group", "groupid", "object", "objectid", "patient", "patientid", "subject", "subjectid", "session"),
}
NEEDED = ("path", "label")


def parse_columns(text: str) -> dict[str, str]:
    """Read which column says what: "path=file,label=species" gives {"path": "file", "label": "species"}.

    Raises:
        SettingsError: it is written in another way.

    """
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    wrong = [role.strip() for role, sign, _ in pairs if not sign or role.strip() not in GUESSES]
    if wrong:
        raise SettingsError(
            f"columns is {text!r}; {quote_name(wrong[0])} is none of {', '.join(GUESSES)}",
            "Write, for example, path=file,label=species,split=part,group=plant; leave out what is not there.",
        )
    return {role.strip(): name.strip() for role, _, name in pairs}


def find_named(path: Path, names: Sequence[str], columns: Mapping[str, str]) -> dict[str, int]:
    """Find the places of the columns that the user has named, or numbered from 1 on, by their roles.

    Raises:
        SettingsError: one is not there.

    """
    return {role: _find_name(path, names, name) for role, name in columns.items() if name}


def _find_name(path: Path, names: Sequence[str], wanted: str) -> int:
    if wanted in names:
        return names.index(wanted)
    if wanted.isdecimal() and 1 <= int(wanted) <= len(names):
        return int(wanted) - 1
    raise SettingsError(
        f"{quote_name(str(path))} has no column {quote_name(wanted)}; it has {', '.join(names)}",
        "Give the name of one of them.",
    )


def guess_places(role: str, names: Sequence[str], free: Sequence[int]) -> list[int]:
    """List the places of the columns whose names suit a role, the likeliest first."""
    words = {re.sub("[^a-z]", "", names[at].lower()): at for at in reversed(free)}
    return [words[guess] for guess in GUESSES[role] if guess in words]


def check_places(
    path: Path, names: Sequence[str], places: Mapping[str, int], needed: Sequence[str] = NEEDED
) -> dict[str, int]:
    """Return the places in the order of the roles.

    Raises:
        SourceError: no column is surely one of those that are needed.

    """
    missing = [role for role in needed if role not in places]
    if missing:
        example = ",".join(f"{role}={name}" for role, name in zip(needed, (names[0], names[-1]), strict=False))
        raise SourceError(
            f"{quote_name(str(path))} has no column that is surely the {missing[0]}; it has {', '.join(names)}",
            f'Say which columns they are, for example --columns "{example}".',
        )
    return {role: places[role] for role in GUESSES if role in places}


def describe_places(path: Path, names: Sequence[str], places: Mapping[str, int]) -> str:
    """Say what was made of the columns, and how to say it otherwise."""
    told = [f"{role}={names[at]}" for role, at in places.items()]
    return f'{path.name}: {", ".join(told)}; --columns "{",".join(told)}" would say so'
