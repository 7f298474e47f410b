"""What may be wrong with photos: the kinds of findings, and one finding."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kind:
    """A kind of finding: its title, what it means and what to do, and whether it harms what is trained."""

    title: str
    note: str
    is_serious: bool = False


# In the order in which they are shown.
KINDS = {
    "wrong-label": Kind(
        "Probably a wrong label",
        "Classifiers that had not seen these photos, nor copies of them, say another class. The confidence is how "
        "likely that class is, counting how often labels are wrong among these photos. The surest come first; look "
        "before you change one.",
        is_serious=True,
    ),
    "copies-across-classes": Kind(
        "The same file in two classes", "One of the labels is wrong. Keep the right one.", is_serious=True
    ),
    "near-copies-across-classes": Kind(
        "The same picture in two classes",
        "Another size, format or cut of one picture, turned or mirrored perhaps. One of the labels is wrong.",
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
    "unreadable": Kind("Files that are not used", "They are no images, or damaged, or lie where no class is."),
    "few-images": Kind("Classes with few photos", "What is measured of them says little. Add photos."),
    "imbalance": Kind("Classes that are much smaller than the largest", "They are easily overlooked. Add photos."),
    "copies": Kind("The same file more than once", "Keep one of each: the others add nothing."),
    "near-copies": Kind(
        "The same picture more than once",
        "Another size, format or cut of one picture, turned or mirrored perhaps. A split that SqueezeTune makes keeps "
        "them together.",
    ),
    "outlier": Kind("Unlike all other photos", "Perhaps they do not belong here. The most unlike come first."),
    "blurred": Kind("Blurred", "Their edges are far weaker than is usual here."),
    "dark": Kind("Dark", "Hardly anything is lit."),
    "bright": Kind("Overexposed", "Hardly anything is darker than white."),
    "blank": Kind("Blank", "There is no contrast: nothing can be seen."),
    "tiny": Kind("Tiny", "They have few pixels, or far fewer than is usual here."),
    "shape": Kind("Of an unusual shape", "They are far longer than is usual here, and are squashed to a square."),
}


@dataclass(frozen=True)
class Finding:
    """What may be wrong with some images: what was measured and what to do, in words.

    `images` are names in the source, `classes` those of each image, and `parts` their parts where there is a split;
    all are empty where a class as a whole is meant. `suggested` is the class that a wrong label should be, with its
    `confidence`.
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


def summarize_findings(findings: Sequence[Finding]) -> tuple[str, ...]:
    """Say how much was found of each kind, the serious kinds first."""
    counts = {kind: sum(finding.kind == kind for finding in findings) for kind in KINDS}
    return tuple(describe_count(kind, count) for kind, count in counts.items() if count)


# One, and many.
_SENTENCES = {
    "copies-across-classes": ("1 file stands in two classes or more", "{} files stand in two classes or more"),
    "near-copies-across-classes": (
        "1 picture stands in two classes or more, in several versions",
        "{} pictures stand in two classes or more, in several versions",
    ),
    "copies-across-parts": ("1 file stands in two parts of the split", "{} files stand in two parts of the split"),
    "near-copies-across-parts": (
        "1 picture stands in two parts of the split, in several versions",
        "{} pictures stand in two parts of the split, in several versions",
    ),
    "wrong-label": ("1 photo probably has a wrong label", "{} photos probably have a wrong label"),
    "unreadable": ("1 file is not used", "{} files are not used"),
    "few-images": ("1 class has few photos", "{} classes have few photos"),
    "imbalance": ("1 class is much smaller than the largest", "{} classes are much smaller than the largest"),
    "copies": ("1 file is there more than once", "{} files are there more than once"),
    "near-copies": ("1 picture is there in several versions", "{} pictures are there in several versions"),
    "outlier": ("1 photo is unlike all others", "{} photos are unlike all others"),
    "blurred": ("1 photo is blurred", "{} photos are blurred"),
    "dark": ("1 photo is dark", "{} photos are dark"),
    "bright": ("1 photo is overexposed", "{} photos are overexposed"),
    "blank": ("1 photo is blank", "{} photos are blank"),
    "tiny": ("1 photo is tiny", "{} photos are tiny"),
    "shape": ("1 photo has an unusual shape", "{} photos have an unusual shape"),
}


def describe_count(kind: str, count: int) -> str:
    """Say how much was found of a kind."""
    one, many = _SENTENCES[kind]
    return one if count == 1 else many.format(f"{count:,}")
