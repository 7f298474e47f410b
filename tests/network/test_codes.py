import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from squeezetune.network.codes import (
    QuantizedTensor,
    choose_scales,
    factor_rows,
    fit_rows,
    pack_nibbles,
    round_rows,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def inputs(rng):
    """Draw what a layer may read: 20 values that go together."""
    return np.maximum(rng.standard_normal((4000, 20)) @ rng.standard_normal((20, 20)), 0)


def round_plainly(rows, bits):
    top = 2 ** (bits - 1) - 1
    scales = choose_scales(rows, np.ones(rows.shape[1]), bits)[:, None]
    return np.clip(np.round(rows / scales), -top, top) * scales


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_codes_fit_their_bits_and_come_near_the_values(rng, inputs, bits):
    rows = rng.standard_normal((7, 20))
    codes = round_rows(rows, inputs.T @ inputs, bits)
    assert codes.values.dtype == np.int8
    assert np.abs(codes.values).max() <= 2 ** (bits - 1) - 1
    assert codes.byte_count == -(-140 * bits // 8) + 14
    error = np.linalg.norm((codes.decode() - rows) @ inputs.T) / np.linalg.norm(rows @ inputs.T)
    assert error < 2.0 ** (2 - bits)


@pytest.mark.parametrize("bits", [4, 5])
def test_errors_are_made_good_by_the_values_that_follow(rng, inputs, bits):
    rows = rng.standard_normal((30, 20))
    found, plain = round_rows(rows, inputs.T @ inputs, bits).decode(), round_plainly(rows, bits)
    costs = [np.linalg.norm((values - rows) @ inputs.T) for values in (found, plain)]
    assert costs[0] < 0.8 * costs[1]


def test_independent_inputs_are_rounded_plainly(rng):
    rows = rng.standard_normal((5, 12))
    np.testing.assert_allclose(
        round_rows(rows, np.eye(12), 4).decode(), round_plainly(rows, 4), rtol=1e-3
    )


def test_an_outlier_is_cut_off_where_that_is_cheaper(rng):
    rows = np.append(rng.uniform(-1, 1, (1, 400)), [[1.6]], axis=1)
    assert choose_scales(rows, np.ones(401), 4)[0] < 1.4 / 7


@pytest.mark.parametrize("rows", [np.zeros((2, 5)), np.full((2, 5), 1e-9)])
def test_rows_of_nothing_are_nothing(rows):
    decoded = round_rows(rows, np.eye(5), 4).decode()
    assert np.isfinite(decoded).all()
    assert np.abs(decoded).max() < 1e-4


def test_inputs_that_are_never_seen_do_no_harm(rng):
    gram = np.zeros((6, 6))
    gram[0, 0] = 3.0
    assert np.isfinite(round_rows(rng.standard_normal((4, 6)), gram, 4).decode()).all()
    assert np.isfinite(round_rows(rng.standard_normal((4, 6)), np.zeros((6, 6)), 4).decode()).all()


def test_rows_are_fitted_to_what_they_read_now(rng, inputs):
    rows = rng.standard_normal((3, 20))
    changed = inputs @ (np.eye(20) + 0.1 * rng.standard_normal((20, 20)))
    fitted = fit_rows(rows, inputs.T @ changed, changed.T @ changed, damping=1e-6)
    before, after = (np.linalg.norm(inputs @ rows.T - changed @ each.T) for each in (rows, fitted))
    assert after < 0.01 * before


def test_rows_stay_where_nothing_has_changed(rng, inputs):
    rows, gram = rng.standard_normal((3, 20)), inputs.T @ inputs
    np.testing.assert_allclose(fit_rows(rows, gram, gram), rows, atol=1e-8)


def test_rows_of_low_rank_are_a_product(rng, inputs):
    rows = rng.standard_normal((9, 3)) @ rng.standard_normal((3, 20))
    product = factor_rows(rows, inputs.T @ inputs, np.ones(9), 3, bits=8)
    assert product.first.values.shape == (20, 3)
    assert product.second.values.shape == (3, 9)
    np.testing.assert_allclose(product.decode().T, rows, atol=0.03 * np.abs(rows).max())


def test_what_outputs_differ_in_most_is_kept(rng, inputs):
    rows = rng.standard_normal((9, 20))
    scaled = inputs * np.linspace(
        0.1, 3, 20
    )  # some inputs vary more than others: what they do counts for more
    wanted = scaled @ rows.T
    left, sizes, right = np.linalg.svd(wanted, full_matrices=False)
    best = np.linalg.norm(wanted - left[:, :4] * sizes[:4] @ right[:4])
    found = factor_rows(rows, scaled.T @ scaled, np.ones(9), 4, bits=8)
    assert np.linalg.norm(wanted - scaled @ found.decode()) == pytest.approx(best, rel=0.02)


def test_outputs_that_count_more_are_nearer(rng, inputs):
    rows, weights = rng.standard_normal((9, 20)), np.array([10.0] * 3 + [1.0] * 6)
    off = np.linalg.norm(
        rows - factor_rows(rows, inputs.T @ inputs, weights, 4, bits=8).decode().T, axis=1
    )
    assert off[:3].max() < 0.3 * off[3:].mean()


@pytest.mark.parametrize("shape", [(3, 5), (2, 4), (1, 1)])
def test_nibbles_are_packed_as_onnx_reads_them(rng, shape):
    values = rng.integers(-7, 8, shape).astype(np.int8)
    tensor = onnx.helper.make_tensor("a", TensorProto.INT4, shape, pack_nibbles(values), raw=True)
    np.testing.assert_array_equal(numpy_helper.to_array(tensor).astype(np.int8), values)


def test_codes_stand_for_their_products():
    codes = QuantizedTensor(np.array([[2, -3]], np.int8), np.array([[0.5]], np.float16), 4)
    np.testing.assert_array_equal(codes.decode(), [[1.0, -1.5]])
