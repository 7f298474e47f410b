from dataclasses import replace

import numpy as np
import pytest

from squeezetune.compression.layerwise import Compressed, compress_layers
from squeezetune.finetune.recipe import EpochPace
from squeezetune.network.codes import LowRankTensor, QuantizedTensor
from squeezetune.network.trained import TrainedNetwork

torch = pytest.importorskip("torch", reason="torch is an extra")
from tiny_training import SIDE, make_conditions, make_pixels  # noqa: E402

from squeezetune.compression import distillation as tuning  # noqa: E402
from squeezetune.compression.distillation import (  # noqa: E402
    CodedNetwork,
    Sample,
    infer,
    judge,
    make_task,
    tune_codes,
)

PIXELS = make_pixels(80)[0]
SAMPLE = Sample(PIXELS, 16)


@pytest.fixture(scope="module")
def teacher(weights):
    """Draw a classifier whose answers differ from image to image."""
    weight = 0.02 * np.random.default_rng(0).standard_normal((2048, 4)).astype(np.float32)
    return TrainedNetwork(
        weights, ((weight, np.zeros(4, np.float32)),), 2, SIDE, "squash", use_roots=True
    )


@pytest.fixture(scope="module")
def compressed(teacher):
    """Compress the layers, and make the codes of some stand for too much: the answers suffer."""
    found = compress_layers(teacher, PIXELS[:8])
    weights, codes = dict(found.network.weights), dict(found.codes)
    for name in (
        "features.10.expand3x3.weight",
        "features.12.expand3x3.weight",
        "features.12.squeeze.weight",
    ):
        codes[name] = replace(codes[name], scales=(2.5 * codes[name].scales).astype(np.float16))
        weights[name] = codes[name].decode()
    return Compressed(replace(found.network, weights=weights), codes)


def tune(compressed, teacher, epochs=12.0, sample=SAMPLE):
    return tune_codes(
        compressed,
        teacher,
        sample,
        lambda steps: EpochPace(steps, epochs, SIDE),
        make_conditions(threads=1),
    )


def answer(compressed, teacher):
    task = make_task(SAMPLE, teacher)
    plan = tuning.StagePlan("codes", "", (tuning.Phase(SIDE, 1.0),), 1.0, tuning.RECIPE)
    return infer(CodedNetwork(compressed), task, plan, make_conditions(threads=1))


def test_answers_come_nearer_to_the_teachers(compressed, teacher, monkeypatch):
    monkeypatch.setattr(
        tuning, "RECIPE", replace(tuning.RECIPE, head_rate=0.03)
    )  # so few steps must be larger
    found = tune(compressed, teacher)
    wanted = answer(Compressed(teacher, {}), teacher)
    before, after = (judge(answer(each, teacher), wanted) for each in (compressed, found))
    assert after < 0.5 * before
    for name, codes in found.codes.items():
        assert np.abs(codes.values).max() <= 2 ** (codes.bits - 1) - 1
        assert codes.bits == compressed.codes[name].bits


def test_a_layer_of_two_factors_stays_while_others_are_tuned(teacher, compressed, monkeypatch):
    monkeypatch.setattr(tuning, "RECIPE", replace(tuning.RECIPE, head_rate=0.03))
    rng = np.random.default_rng(1)
    first, second = (
        QuantizedTensor(
            rng.integers(-7, 8, size, dtype=np.int8), np.full((1, size[1]), scale, np.float16), 4
        )
        for size, scale in (((2048, 6), 0.005), ((6, 24), 0.1))
    )
    product = LowRankTensor(first, second)
    last = 0.2 * rng.standard_normal((24, 4)).astype(np.float32)
    head = ((product.decode(), np.zeros(24, np.float32)), (last, np.zeros(4, np.float32)))
    before = Compressed(
        replace(compressed.network, head=head), compressed.codes, {"head.0.weight": product}
    )
    found = tune(before, replace(teacher, head=head), 4.0)
    assert found is not before
    assert found.products == before.products
    np.testing.assert_array_equal(found.network.head[0][0], product.decode())


def test_what_does_not_help_is_not_taken(compressed, teacher, monkeypatch):
    monkeypatch.setattr(tuning, "RECIPE", replace(tuning.RECIPE, head_rate=30.0))
    assert tune(compressed, teacher, 1.0) is compressed


def test_it_is_repeatable(compressed, teacher):
    first, second = (tune(compressed, teacher, 2.0) for _ in range(2))
    for name, codes in first.codes.items():
        np.testing.assert_array_equal(codes.values, second.codes[name].values)
        np.testing.assert_array_equal(codes.scales, second.codes[name].scales)


def test_few_images_will_do(compressed, teacher):
    tune(compressed, teacher, 1.0, Sample(PIXELS[:3], 1))


def test_what_is_judged_is_the_divergence_of_the_probabilities():
    wanted = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    assert judge(wanted + 5, wanted) == pytest.approx(0, abs=1e-6)
    p, q = wanted.softmax(1), (0.5 * wanted).softmax(1)
    assert judge(0.5 * wanted, wanted) == pytest.approx(float((p * (p / q).log()).sum(1).mean()))
