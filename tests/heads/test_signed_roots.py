import numpy as np
import pytest

from squeezetune.heads.scaling import take_roots


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_roots_of_what_is_not_below_0_are_plain_ones(kind):
    values = np.random.default_rng(0).uniform(0, 9, (4, 2, 50)).astype(kind)
    found = take_roots(values)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.sqrt(values, dtype=np.float32))


def test_roots_keep_the_sign_of_what_is_below_0():
    values = np.array([-4, 0, 2.25], np.float16)
    np.testing.assert_array_equal(take_roots(values), np.array([-2, 0, 1.5], np.float32))
