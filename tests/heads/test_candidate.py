import numpy as np
import pytest

from squeezetune.heads.candidate import Candidate


def make_candidate(right, units=None):
    is_correct = np.array(right, bool)
    return Candidate("a head", (), 1, None, is_correct, 0.5, 1.0, 0.1, units=units)


def test_one_that_is_better_by_luck_says_so():
    simple = make_candidate([1, 1, 0, 0, 0, 1, 1, 1])
    other = make_candidate([1, 1, 1, 1, 0, 1, 1, 0])
    assert not other.pays_over(simple)
    assert (
        other.explain_loss(simple)
        == "not surely better: 1 more of 8 right, where chance alone makes 1.7"
    )


@pytest.mark.parametrize("right", [[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]])
def test_one_that_is_no_better_has_nothing_to_explain(right):
    assert make_candidate(right).explain_loss(make_candidate([1, 1, 1, 0])) == ""


def test_groups_may_decide_where_images_would_not():
    units = np.array([0] * 6 + [1] * 2)
    simple, other = make_candidate([0] * 6 + [1, 1], units), make_candidate([1] * 6 + [0, 0], units)
    assert not other.pays_over(simple)
    assert other.explain_loss(simple) == "better on these images, but not surely on other groups"
