import numpy as np
import pytest

from squeezetune.compression.equalisation import HEADROOM, LEAST_SHARE, balance, equalise
from squeezetune.compression.layerwise import compress_layers
from squeezetune.network.backbone import (
    FLOAT_RUNTIME,
    measure_distance,
    measure_maxima,
    measure_ranges,
)
from squeezetune.network.graph import build_backbone
from squeezetune.network.inference import Runtime, open_graph
from squeezetune.network.int8_layers import Int8
from squeezetune.network.trained import TrainedNetwork
from squeezetune.network.zoo import SQUEEZENET1_1

INT8 = Runtime("onnxruntime", "int8")
SIDE = 64

SCALES = list(SQUEEZENET1_1.list_scales())


@pytest.fixture(scope="module")
def photos(draw_shape):
    return np.stack(
        [
            np.asarray(draw_shape(shape, seed).resize((SIDE, SIDE)))
            for shape in ("box", "disc")
            for seed in range(8)
        ]
    )


@pytest.fixture(scope="module")
def maxima(either_weights, photos):
    return measure_maxima(either_weights, photos)


@pytest.fixture(scope="module")
def equalised(either_weights, maxima):
    return equalise(either_weights, maxima)


def compute(weights, photos, int8=None, views=1):
    return open_graph(
        build_backbone(weights, int8, views=views), INT8 if int8 else FLOAT_RUNTIME, 1
    )(photos)


def test_equalised_layers_give_the_same_times_the_factors(either_weights, equalised, photos):
    found, expected = compute(equalised.weights, photos), compute(either_weights, photos)
    factors = [
        equalised.factors.get(f"{tap}.expand", np.ones(512))
        for tap in ("fire5", "fire6", "fire7", "fire8", "fire9")
    ]
    np.testing.assert_allclose(found * np.concatenate(factors), expected, rtol=1e-3, atol=1e-3)


def test_channels_differ_less_in_size(equalised, maxima, photos):
    after = measure_maxima(equalised.weights, photos)
    for name in SCALES[:-1]:
        spreads = [
            np.log(found[name][maxima[name] > LEAST_SHARE * maxima[name].max()]).std()
            for found in (maxima, after)
        ]
        assert spreads[1] < 0.75 * spreads[0]
        assert equalised.ranges[name] == pytest.approx(HEADROOM * after[name].max(), rel=1e-3)
    np.testing.assert_allclose(after[SCALES[-1]], maxima[SCALES[-1]], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("side", "views"), [(0, 1), pytest.param(SIDE, 2, marks=pytest.mark.slow)])
def test_int8_of_equalised_layers_fitted_is_nearer_to_float(
    either_weights, equalised, photos, side, views
):
    expected = compute(either_weights, photos, views=views)
    plain = compute(
        either_weights, photos, Int8(measure_ranges(either_weights, photos), side), views
    )
    network = TrainedNetwork(equalised.weights, (), views, SIDE, "squash")
    fitted = compress_layers(network, photos, 8, equalised.ranges)
    int8 = Int8(equalised.ranges, side, fitted.codes, equalised.factors)
    found = compute(fitted.network.weights, photos, int8, views)
    assert measure_distance(found, expected) < 0.8 * measure_distance(plain, expected)


def test_a_dead_channel_is_no_reason_for_a_factor_without_bound():
    maxima, kernel = np.array([0, 1, 100], np.float32), np.ones((2, 3, 1, 1), np.float32)
    factors = balance(maxima, [kernel])
    assert factors.max() / factors.min() == pytest.approx(LEAST_SHARE**-0.75)
    assert np.prod(factors) == pytest.approx(1)
    np.testing.assert_array_equal(balance(np.zeros(3, np.float32), [kernel]), 1)


def test_kernels_that_read_a_channel_with_large_weights_get_more_of_it():
    factors = balance(np.ones(2, np.float32), [np.array([[[[1.0]], [[16.0]]]], np.float32)])
    assert factors[0] / factors[1] == pytest.approx(2)
