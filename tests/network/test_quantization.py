import numpy as np
import pytest

from squeezetune.network.backbone import measure_distance, measure_ranges
from squeezetune.network.zoo import SQUEEZENET1_1

SCALES = SQUEEZENET1_1.list_scales()


def test_ranges_are_the_largest_values_over_all_images(weights):
    pixels = np.random.default_rng(0).integers(
        0, 256, (11, 48, 48, 3), dtype=np.uint8
    )  # more than one batch
    parts = [measure_ranges(weights, part) for part in (pixels[:5], pixels[5:])]
    ranges = measure_ranges(weights, pixels)
    assert list(ranges) == list(SCALES)
    assert ranges == pytest.approx(
        {name: max(part[name] for part in parts) for name in SCALES}, rel=1e-5
    )


def test_ranges_are_never_zero(weights):
    dead = {name: np.zeros_like(value) for name, value in weights.items()}
    ranges = measure_ranges(dead, np.zeros((1, 48, 48, 3), np.uint8))
    assert set(ranges.values()) == {1e-3}


def test_distance_is_relative_to_the_reference():
    reference = np.array([[3.0, 4.0]], np.float32)
    assert measure_distance(reference, reference) == 0
    assert measure_distance(np.array([[3.0, 4.5]], np.float32), reference) == pytest.approx(0.1)
    assert measure_distance(reference, np.zeros((1, 2), np.float32)) > 1
