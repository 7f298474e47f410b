import pytest

from squeezetune.findings import KINDS, Finding, describe_count, summarize_findings


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_counted_in_words(kind):
    assert describe_count(kind, 1).startswith("1 ")
    assert describe_count(kind, 1234).startswith("1,234 ")


def test_the_summary_has_one_sentence_a_kind_with_the_serious_first():
    found = [Finding("dark", ("a",), "", ""), Finding("wrong-label", ("a",), "", ""), Finding("dark", ("b",), "", "")]
    assert summarize_findings(found) == ("1 photo probably has a wrong label", "2 photos are dark")
    assert [KINDS[kind].is_serious for kind in KINDS] == sorted(
        (kind.is_serious for kind in KINDS.values()), reverse=True
    )
