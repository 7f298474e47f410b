import re

import pytest

from squeezetune.audit.audit import SHOWN_COPIES, SHOWN_OTHERS, SHOWN_SERIOUS, render_audit
from squeezetune.audit.findings import KINDS, Finding, summarize_findings
from squeezetune.data.sources.folder import FolderSource


@pytest.fixture
def render(tmp_path, make_photo):
    (tmp_path / "a").mkdir()
    for number in range(10):
        (tmp_path / "a" / f"{number}.jpg").write_bytes(make_photo(number))

    def call(*findings):
        audit = {
            "source": "photos",
            "images": 1000,
            "class_names": ["a", "b"],
            "summary": summarize_findings(findings),
            "findings": [finding.to_dict() for finding in findings],
            "seconds": 1.0,
            "version": "1",
            "created": "2026-01-01T00:00:00Z",
        }
        return render_audit(audit, FolderSource(tmp_path))

    return call


def make_finding(kind, number=0, count=1):
    images = tuple(f"a/{(number + at) % 10}.jpg" for at in range(count))
    confidence = {"wrong-label": 0.97, "doubtful-label": 0.3}.get(kind)
    return Finding(
        kind,
        images,
        "measured",
        "do it",
        ("a",) * count,
        suggested="b" if confidence else "",
        confidence=confidence,
    )


def test_every_kind_has_its_section_in_order(render):
    page = render(*(make_finding(kind) for kind in KINDS))
    assert re.findall(r'<section id="([a-z-]+)">', page) == list(KINDS)
    assert re.findall(r'href="#([a-z-]+)"', page) == list(KINDS)


@pytest.mark.parametrize(
    ("kind", "limit"), [("wrong-label", SHOWN_SERIOUS), ("blurred", SHOWN_OTHERS)]
)
def test_of_very_many_findings_the_first_are_shown(render, kind, limit):
    page = render(*(make_finding(kind, number) for number in range(limit + 50)))
    assert page.count("<figure>") == limit
    assert f"The first {limit} of {limit + 50}; all are in" in page


def test_copies_stand_side_by_side_up_to_a_limit(render):
    page = render(make_finding("copies", count=SHOWN_COPIES + 3))
    assert page.count("<figure>") == SHOWN_COPIES
    assert "3 more are in" in page


def test_a_suggestion_is_shown_with_its_confidence(render):
    page = render(make_finding("wrong-label"))
    assert re.search(r'rather <strong><bdi class="name" title="b">b</bdi></strong>', page)
    assert "97.0\u00a0%" in page


def test_the_page_says_how_many_of_the_doubted_labels_are_wrong(render):
    page = render(
        make_finding("wrong-label"),
        *(make_finding("doubtful-label", number) for number in range(5)),
    )
    assert "1 photo probably has a wrong label (97 %)" in page
    assert "5 photos may have a wrong label: about 2 of these 5 do" in page
    assert page.count('<p class="serious">serious</p>') == 1


def test_a_photo_that_is_gone_has_no_preview(render):
    assert "no preview" in render(Finding("dark", ("a/gone.jpg",), "dark", "", ("a",)))


def test_where_nothing_was_found_that_is_said(render):
    page = render()
    assert "1,000 photos in 2 classes were looked over, and nothing was found" in page
    assert "<section" not in page
