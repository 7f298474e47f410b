from itertools import pairwise

import numpy as np
import pytest

from squeezetune.heads.linear import apply_layers
from squeezetune.heads.scaling import measure_scaling

WIDTH = 48


def make_features(n, seed=0):
    """Make features as the trunk gives them, (n, 2, WIDTH) float16: not negative, with channels
    that never fire.
    """
    values = 5 * np.random.default_rng(seed).random((n, 2, WIDTH))
    values[:, :, :4] = 0
    return values.astype(np.float16)


def test_scaling_is_the_mean_and_deviation_of_the_roots():
    features = make_features(2100)  # more than two blocks
    roots = np.sqrt(features.astype(np.float64)).reshape(-1, WIDTH)
    scaling = measure_scaling(features)
    np.testing.assert_allclose(scaling.mean, roots.mean(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(scaling.deviation[4:], roots.std(axis=0)[4:], rtol=1e-3)
    rows = scaling.apply(features)
    np.testing.assert_allclose(rows.reshape(-1, WIDTH)[:, 4:].std(axis=0), 1, rtol=1e-3)


def test_a_channel_that_never_fires_is_not_blown_up():
    scaling = measure_scaling(make_features(50))
    assert (scaling.deviation[:4] > 0.01).all()
    assert np.isfinite(scaling.apply(make_features(50, seed=1))).all()


@pytest.mark.parametrize("layer_count", [1, 2])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_folding_changes_nothing(layer_count, temperature):
    rng = np.random.default_rng(0)
    features = make_features(20)
    scaling = measure_scaling(features)
    widths = [WIDTH, 3] if layer_count == 1 else [WIDTH, 7, 3]
    layers = tuple(
        (rng.standard_normal((a, b)).astype(np.float32), rng.standard_normal(b).astype(np.float32))
        for a, b in pairwise(widths)
    )
    plain = apply_layers(layers, scaling.apply(features).reshape(-1, WIDTH)) / temperature
    roots = np.sqrt(features.astype(np.float32)).reshape(-1, WIDTH)
    np.testing.assert_allclose(
        apply_layers(scaling.fold(layers, temperature), roots), plain, rtol=1e-3, atol=1e-3
    )
