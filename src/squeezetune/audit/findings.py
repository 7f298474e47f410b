"""What may be wrong with photos: the kinds of findings, and one finding."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kind:
    """A kind of finding: its title, what it means and what to do, and whether it harms what is
    trained.
    """

    title: str
    note: str
    is_serious: bool = False


# From this confidence on a label is probably wrong; below it may be.
PROBABLE = 0.5
_DOUBT = (
    "Classifiers that had not seen these photos, nor copies of them, say another class. The "
    "confidence is how likely "
    "that class is, counting how often labels are wrong among these photos. "
)
# In the order in which they are shown.
KINDS = {
    "wrong-label": Kind(
        "Probably a wrong label",
        _DOUBT + "The surest come first; look before you change one.",
        is_serious=True,
    ),
    "copies-across-classes": Kind(
        "The same file in two classes",
        "One of the labels is wrong. Keep the right one.",
        is_serious=True,
    ),
    "near-copies-across-classes": Kind(
        "The same picture in two classes",
        "Another size, format or cut of one picture, turned or mirrored perhaps. One of the "
        "labels is wrong.",
        is_serious=True,
    ),
    "copies-across-parts": Kind(
        "The same file in two parts of the split",
        "What was trained on is measured on, which flatters the accuracy. Keep it in one part.",
        is_serious=True,
    ),
    "near-copies-across-parts": Kind(
        "The same picture in two parts of the split",
        "What was trained on is measured on, which flatters the accuracy. Keep them in one part.",
        is_serious=True,
    ),
    "doubtful-label": Kind(
        "Perhaps a wrong label",
        _DOUBT
        + "Each of these labels is more likely right than wrong; the photos are worth a look all "
        "the same.",
    ),
    "unreadable": Kind(
        "Files that are not used", "They are no images, or damaged, or lie where no class is."
    ),
    "few-images": Kind(
        "Classes with few photos", "What is measured of them says little. Add photos."
    ),
    "imbalance": Kind(
        "Classes that are much smaller than the largest", "They are easily overlooked. Add photos."
    ),
    "copies": Kind("The same file more than once", "Keep one of each: the others add nothing."),
    "near-copies": Kind(
        "The same picture more than once",
        "Another size, format or cut of one picture, turned or mirrored perhaps. A split that "
        "SqueezeTune makes keeps "
        "them together.",
    ),
    "outlier": Kind(
        "Unlike all other photos", "Perhaps they do not belong here. The most unlike come first."
    ),
    "blurred": Kind("Blurred", "Their edges are far weaker than is usual here."),
    "dark": Kind("Dark", "Hardly anything is lit."),
    "bright": Kind("Overexposed", "Hardly anything is darker than white."),
    "blank": Kind("Blank", "There is no contrast: nothing can be seen."),
    "tiny": Kind("Tiny", "They have few pixels, or far fewer than is usual here."),
    "shape": Kind(
        "Of an unusual shape",
        "They are far longer than is usual here, and are squashed to a square.",
    ),
}


@dataclass(frozen=True)
class Finding:
    """What may be wrong with some images: what was measured and what to do, in words.

    `images` are names in the source, `classes` those of each image, and `parts` their parts where
    there is a split; all are empty where a class as a whole is meant. `suggested` is the class that
    a wrong label should be, with its `confidence`.
    """

    kind: str
    images: tuple[str, ...]
    evidence: str
    suggestion: str
    classes: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    suggested: str = ""
    confidence: float | None = None

    @property
    def is_serious(self) -> bool:
        """Whether it harms what is trained or measured."""
        return KINDS[self.kind].is_serious

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return vars(self) | {"is_serious": self.is_serious}


def name_doubt(confidence: float) -> str:
    """Name the kind of a doubt about a label by how likely another class is."""
    return "wrong-label" if confidence >= PROBABLE else "doubtful-label"


def count_mistakes(findings: Iterable[Finding]) -> float:
    """Count the labels that are expected to be wrong: what the confidences of the doubts about
    labels add up to.
    """
    return sum(finding.confidence or 0.0 for finding in findings)


def summarize_findings(findings: Sequence[Finding]) -> tuple[str, ...]:
    """Say how much was found of each kind, the serious kinds first."""
    by_kind = {kind: [finding for finding in findings if finding.kind == kind] for kind in KINDS}
    return tuple(
        describe_kind(kind, len(found), count_mistakes(found))
        for kind, found in by_kind.items()
        if found
    )


# One, and many.
_SENTENCES = {
    "copies-across-classes": (
        "1 file stands in two classes or more",
        "{} files stand in two classes or more",
    ),
    "near-copies-across-classes": (
        "1 picture stands in two classes or more, in several versions",
        "{} pictures stand in two classes or more, in several versions",
    ),
    "copies-across-parts": (
        "1 file stands in two parts of the split",
        "{} files stand in two parts of the split",
    ),
    "near-copies-across-parts": (
        "1 picture stands in two parts of the split, in several versions",
        "{} pictures stand in two parts of the split, in several versions",
    ),
    "wrong-label": ("1 photo probably has a wrong label", "{} photos probably have a wrong label"),
    "doubtful-label": ("1 photo may have a wrong label", "{} photos may have a wrong label"),
    "unreadable": ("1 file is not used", "{} files are not used"),
    "few-images": ("1 class has few photos", "{} classes have few photos"),
    "imbalance": (
        "1 class is much smaller than the largest",
        "{} classes are much smaller than the largest",
    ),
    "copies": ("1 file is there more than once", "{} files are there more than once"),
    "near-copies": (
        "1 picture is there in several versions",
        "{} pictures are there in several versions",
    ),
    "outlier": ("1 photo is unlike all others", "{} photos are unlike all others"),
    "blurred": ("1 photo is blurred", "{} photos are blurred"),
    "dark": ("1 photo is dark", "{} photos are dark"),
    "bright": ("1 photo is overexposed", "{} photos are overexposed"),
    "blank": ("1 photo is blank", "{} photos are blank"),
    "tiny": ("1 photo is tiny", "{} photos are tiny"),
    "shape": ("1 photo has an unusual shape", "{} photos have an unusual shape"),
}


def describe_kind(kind: str, count: int, mistakes: float = 0.0) -> str:
    """Say how much was found of a kind; of doubts about labels also how many `mistakes` are
    expected among them.

    >>> describe_kind("doubtful-label", 12, 4.2)
    '12 photos may have a wrong label: about 4 of these 12 do'
    """
    one, many = _SENTENCES[kind]
    sentence = one if count == 1 else many.format(f"{count:,}")
    if not mistakes:
        return sentence
    if count == 1:
        return f"{sentence} ({mistakes:.0%})".replace("%", " %")
    if mistakes < PROBABLE:
        return f"{sentence}: most likely none of these {count:,} does"
    return (
        f"{sentence}: about {round(mistakes):,} of these {count:,} "
        f"{'do' if mistakes >= 1.5 else 'does'}"
    )
