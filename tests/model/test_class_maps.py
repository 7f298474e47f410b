from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from squeezetune.model.explanation import differentiate, open_mapper
from squeezetune.network.trained import TrainedNetwork


def make_network(weights, widths, views=1, **options):
    rng = np.random.default_rng(0)
    head = tuple(
        (rng.normal(0, 0.1, (a, b)).astype(np.float32), rng.normal(0, 0.1, b).astype(np.float32))
        for a, b in pairwise(widths)
    )
    return TrainedNetwork(weights, head, views, 64, "squash", **options)


def compute_logits(network, means):
    rows = np.sqrt(means) if network.use_roots else means
    for number, (weight, bias) in enumerate(network.head):
        rows = (np.maximum(rows, 0) if number else rows) @ weight + bias
    return rows - rows.mean(axis=1, keepdims=True)


@pytest.mark.parametrize("use_roots", [False, True])
@pytest.mark.parametrize("widths", [(40, 3), (40, 16, 3)])
def test_slopes_are_those_of_small_steps(weights, widths, use_roots):
    network = make_network(weights, widths, use_roots=use_roots)
    network = replace(
        network, head=tuple((w.astype(np.float64), b.astype(np.float64)) for w, b in network.head)
    )
    means = np.random.default_rng(1).uniform(0.5, 2, (2, 40))
    slopes, step = differentiate(network, means, 1), 1e-6
    for at in range(40):
        moved = means.copy()
        moved[:, at] += step
        found = (compute_logits(network, moved) - compute_logits(network, means))[:, 1] / step
        np.testing.assert_allclose(slopes[:, at], found, atol=1e-5)


def test_a_channel_that_is_nowhere_active_adds_nothing(weights):
    slopes = differentiate(make_network(weights, (40, 3)), np.zeros((1, 40), np.float32), 0)
    np.testing.assert_array_equal(slopes, 0)


def test_the_map_adds_up_to_the_logit(weights):
    network = make_network(weights, (2048, 3), use_roots=False)
    mapper = open_mapper(network)
    pixels = np.random.default_rng(2).integers(0, 256, (64, 64, 3), np.uint8)
    means = np.concatenate([maps.mean(axis=(2, 3)) for maps in mapper.run(pixels[None])], axis=1)
    bias = network.head[0][1]
    for number in range(3):
        logit = compute_logits(network, means)[0, number] - (bias[number] - bias.mean())
        # enlarging weighs the edges a little more
        assert mapper.map_class(pixels, number).mean() == pytest.approx(logit, rel=0.25, abs=0.05)


@pytest.mark.parametrize("views", [2, 4])
def test_maps_of_all_views_lie_on_the_image(weights, views):
    network = make_network(weights, (2048, 3), views=views)
    pixels = np.random.default_rng(3).integers(0, 256, (64, 64, 3), np.uint8)
    found, mirrored = (
        open_mapper(network).map_class(each, 0) for each in (pixels, pixels[:, ::-1].copy())
    )
    np.testing.assert_allclose(found, mirrored[:, ::-1], atol=1e-4)


def test_a_convolved_classifier_answers_at_each_place(weights):
    rng = np.random.default_rng(4)
    head = ((rng.normal(0, 0.1, (512, 3)).astype(np.float32), np.zeros(3, np.float32)),)
    network = TrainedNetwork(weights, head, 1, 64, "squash", use_roots=False, is_convolved=True)
    maps = [open_mapper(network).map_class(rng.integers(0, 256, (64, 64, 3), np.uint8), 0)]
    assert maps[0].shape == (64, 64)
    pixels = rng.integers(0, 256, (64, 64, 3), np.uint8)
    np.testing.assert_allclose(
        sum(open_mapper(network).map_class(pixels, number) for number in range(3)), 0, atol=1e-3
    )
