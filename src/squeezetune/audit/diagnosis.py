"""An inspection -> findings: what may be wrong with the photos, in words."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from squeezetune.audit.findings import KINDS, Finding, name_doubt
from squeezetune.audit.image_quality import find_flaws
from squeezetune.audit.inspection import Inspection
from squeezetune.data.index import ImageIndex
from squeezetune.data.split import PART_NAMES

FEW_IMAGES = 10
LARGEST_SHARE = 0.1
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
