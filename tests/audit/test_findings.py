import pytest

from squeezetune.audit.findings import (
    KINDS,
    Finding,
    count_mistakes,
    describe_kind,
    name_doubt,
    summarize_findings,
)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_counted_in_words(kind):
    assert describe_kind(kind, 1).startswith("1 ")
    assert describe_kind(kind, 1234).startswith("1,234 ")


def test_the_summary_has_one_sentence_a_kind_with_the_serious_first():
    doubt = Finding("wrong-label", ("a",), "", "", confidence=0.832)
    found = [Finding("dark", ("a",), "", ""), doubt, Finding("dark", ("b",), "", "")]
    assert summarize_findings(found) == (
        "1 photo probably has a wrong label (83 %)",
        "2 photos are dark",
    )
    assert [KINDS[kind].is_serious for kind in KINDS] == sorted(
        (kind.is_serious for kind in KINDS.values()), reverse=True
    )


@pytest.mark.parametrize(
    ("confidences", "said"),
    [
        ([0.9, 0.6, 0.5], ["3 photos probably have a wrong label: about 2 of these 3 do"]),
        ([0.2], ["1 photo may have a wrong label (20 %)"]),
        ([0.2, 0.1], ["2 photos may have a wrong label: most likely none of these 2 does"]),
        ([0.4, 0.3, 0.2], ["3 photos may have a wrong label: about 1 of these 3 does"]),
        ([0.35] * 12, ["12 photos may have a wrong label: about 4 of these 12 do"]),
        (
            [0.7, 0.6, 0.49, 0.11],
            ["2 photos probably have a wrong label: about 1 of these 2 does",
             "2 photos may have a wrong label: about 1 of these 2 does"],
        ),
    ],
)  # fmt: skip
def test_doubts_say_how_many_mistakes_are_expected(confidences, said):
    found = [Finding(name_doubt(share), ("a",), "", "", confidence=share) for share in confidences]
    assert list(summarize_findings(found)) == said
    assert count_mistakes(found) == pytest.approx(sum(confidences))


def test_a_label_that_is_more_likely_right_than_wrong_is_nothing_serious():
    assert [KINDS[name_doubt(share)].is_serious for share in (0.499, 0.5, 0.97)] == [
        False,
        True,
        True,
    ]
