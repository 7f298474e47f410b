"""What may be wrong with photos: the kinds of findings, and the findings of an inspection, in
words.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from squeezetune.audit.image_quality import find_flaws
from squeezetune.audit.inspection import Inspection
from squeezetune.data.index import ImageIndex
from squeezetune.data.split import PART_NAMES

FEW_IMAGES = 10
LARGEST_SHARE = 0.1


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
        "SqueezeTune makes keeps them together.",
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


# ---- the findings of an inspection ----

ADVICE = {
    "blurred": "Take it again, or leave it out if photos to come are sharp.",
    "dark": "Take it again, or brighten it.",
    "bright": "Take it again, or leave it out.",
    "blank": "Leave it out.",
    "tiny": "Replace it by a larger one.",
    "shape": "Cut it to what it shows.",
}


def list_findings(inspection: Inspection) -> tuple[Finding, ...]:
    """List what may be wrong with the photos, kind by kind, the worst of each first."""
    found = [
        *_list_skipped(inspection.index),
        *_list_copies(inspection.index),
        *_list_near_copies(inspection),
        *_list_doubts(inspection),
        *_list_outliers(inspection),
        *_list_flaws(inspection),
        *_list_small_classes(inspection.index),
    ]
    order = list(KINDS)
    return tuple(sorted(found, key=lambda finding: order.index(finding.kind)))


def _make_finding(
    index: ImageIndex, kind: str, positions: Sequence[int], evidence: str, suggestion: str
) -> Finding:
    """Make a finding of images at some positions."""
    classes = tuple(index.class_names[index.labels[at]] for at in positions)
    parts = () if index.parts is None else tuple(PART_NAMES[index.parts[at]] for at in positions)
    return Finding(
        kind, tuple(index.names[at] for at in positions), evidence, suggestion, classes, parts
    )


def _list_skipped(index: ImageIndex) -> Iterator[Finding]:
    for item in index.skipped:
        yield Finding(
            "unreadable", (item.name,), item.reason, "Replace it, or remove it if it is no photo."
        )


def _list_copies(index: ImageIndex) -> Iterator[Finding]:
    """List the files whose bytes are there more than once."""
    _, contents = np.unique(index.digests, axis=0, return_inverse=True)
    for positions in _gather_groups(contents.ravel()):
        kind, advice = _judge_copies(index, positions, "copies")
        yield _make_finding(
            index, kind, positions, f"{len(positions):,} files with the same bytes", advice
        )


def _list_near_copies(inspection: Inspection) -> Iterator[Finding]:
    """List the pictures that are there in several versions, the most alike first."""
    index, likeness = inspection.index, inspection.likeness
    if index.pictures is None or not len(likeness):
        return
    pictures = index.pictures[likeness.first]
    numbers, place = np.unique(pictures, return_inverse=True)
    difference, is_turned = np.full(len(numbers), np.inf), np.zeros(len(numbers), np.bool_)
    np.minimum.at(difference, place, likeness.difference)
    is_turned[place[likeness.turned != 0]] = True
    members = {int(index.pictures[group[0]]): group for group in _gather_groups(index.pictures)}
    _, firsts = np.unique(index.digests, axis=0, return_index=True)
    is_first = np.isin(np.arange(len(index)), firsts)
    for at in np.argsort(difference, kind="stable"):
        positions = [position for position in members[int(numbers[at])] if is_first[position]]
        kind, advice = _judge_copies(index, positions, "near-copies")
        words = f"they differ by {difference[at]:.1f} of 255 grey levels"
        turned = ", one turned or mirrored" if is_turned[at] else ""
        yield _make_finding(index, kind, positions, words + turned, advice)


def _gather_groups(numbers: NDArray[np.int64]) -> Iterable[list[int]]:
    """Gather the positions of numbers that are there more than once."""
    order = np.argsort(numbers, kind="stable")
    ends = np.flatnonzero(np.diff(numbers[order])) + 1
    groups: list[list[int]] = [group.tolist() for group in np.split(order, ends) if len(group) > 1]
    return sorted(groups)


def _judge_copies(index: ImageIndex, positions: Sequence[int], kind: str) -> tuple[str, str]:
    """Say of what kind copies are, and what to do."""
    if len(set(index.labels[list(positions)].tolist())) > 1:
        return f"{kind}-across-classes", "Keep the one in the right class, and remove the others."
    if index.parts is not None and len(set(index.parts[list(positions)].tolist())) > 1:
        return f"{kind}-across-parts", "Keep them in one part."
    return (
        kind,
        "Keep one, and remove the others."
        if kind == "copies"
        else "Keep the best, or keep them together.",
    )


def _list_doubts(inspection: Inspection) -> Iterator[Finding]:
    index, doubts = inspection.index, inspection.doubts
    unseen = {flaw.position for flaw in find_flaws(inspection.looks) if flaw.kind == "blank"}
    columns = (doubts.positions.tolist(), doubts.suggested.tolist(), doubts.confidence.tolist())
    for position, suggested, confidence in zip(*columns, strict=True):
        if position in unseen:  # nothing can be said of its class
            continue
        given, better = index.class_names[index.labels[position]], index.class_names[suggested]
        name = index.names[position]
        parts = () if index.parts is None else (PART_NAMES[index.parts[position]],)
        evidence = f"looks like {better} rather than {given}"
        yield Finding(
            name_doubt(confidence),
            (name,),
            evidence,
            f"Look at it; if it is {better}, change its label.",
            (given,),
            parts,
            better,
            round(confidence, 4),
        )


def _list_outliers(inspection: Inspection) -> Iterator[Finding]:
    outliers = inspection.outliers
    for position, deviations in zip(
        outliers.positions.tolist(), outliers.deviations.tolist(), strict=True
    ):
        evidence = f"far from its nearest neighbours by {deviations:.1f} deviations"
        yield _make_finding(
            inspection.index, "outlier", [position], evidence, "Look whether it belongs here."
        )


def _list_flaws(inspection: Inspection) -> Iterator[Finding]:
    for flaw in find_flaws(inspection.looks):
        yield _make_finding(
            inspection.index, flaw.kind, [flaw.position], flaw.evidence, ADVICE[flaw.kind]
        )


def _list_small_classes(index: ImageIndex) -> Iterator[Finding]:
    """List the classes that are small, the smallest first."""
    counts, largest = index.class_counts, int(index.class_counts.max())
    for label in np.argsort(counts, kind="stable").tolist():
        count, name = int(counts[label]), index.class_names[label]
        photos = "1 photo" if count == 1 else f"{count:,} photos"
        if count < FEW_IMAGES:
            advice = f"Add photos; {FEW_IMAGES} are the least of which anything can be said."
            yield Finding("few-images", (), photos, advice, (name,))
        elif count < LARGEST_SHARE * largest:
            yield Finding(
                "imbalance",
                (),
                f"{photos}; the largest class has {largest:,}",
                "Add photos.",
                (name,),
            )
