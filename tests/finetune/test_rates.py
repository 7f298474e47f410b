from dataclasses import replace

import pytest

from squeezetune.finetune.recipe import Recipe

torch = pytest.importorskip("torch", reason="torch is an extra")
from tiny_training import RECIPE, make_tapped  # noqa: E402

from squeezetune.finetune.optimiser import make_groups, schedule_rate  # noqa: E402


def test_rates_rise_and_fall_once():
    recipe = Recipe(warm_up=0.2, final_rate=0.02)
    shares = [schedule_rate(at / 100, recipe) for at in range(101)]
    assert shares[0] == pytest.approx(0.05)
    assert shares[20] == pytest.approx(1.0)
    assert shares[100] == pytest.approx(0.02)
    assert max(shares) == shares[20]
    assert shares[:21] == sorted(shares[:21])
    assert shares[20:] == sorted(shares[20:], reverse=True)
    assert shares[60] == pytest.approx(0.51)  # the middle of the cosine


def test_rates_fall_towards_the_first_block():
    network = make_tapped()
    rates, kernels, decays = {}, set(), {}
    for group in make_groups(network, RECIPE):
        for name in group.names:
            assert name not in rates
            rates[name], decays[name] = group.rate, group.weight_decay
            kernels |= {name} if group.is_kernel else set()
    parameters = dict(network.named_parameters())
    assert rates.keys() == parameters.keys()
    assert kernels == {
        name
        for name, value in parameters.items()
        if value.ndim == 4 and name != "features.0.weight"
    }
    assert rates["classifier.weight"] == RECIPE.head_rate
    assert rates["features.12.squeeze.weight"] == pytest.approx(RECIPE.layer_decay * RECIPE.rate)
    assert rates["features.3.squeeze.weight"] == pytest.approx(RECIPE.layer_decay**8 * RECIPE.rate)
    assert rates["features.0.weight"] == pytest.approx(RECIPE.layer_decay**9 * RECIPE.head_rate)
    assert {name for name, decay in decays.items() if decay == 0} == {
        n for n in parameters if n.endswith(".bias")
    }


def test_without_a_rate_of_their_own_kernels_are_trained_as_all_else():
    groups = make_groups(make_tapped(), replace(RECIPE, rate=0.0, layer_decay=1.0))
    assert not any(group.is_kernel for group in groups)
    assert {group.rate for group in groups} == {RECIPE.head_rate}


def test_what_is_not_to_be_trained_stays():
    network = make_tapped()
    for name, value in network.named_parameters():
        value.requires_grad_(name.startswith(("features.12", "classifier")))
    names = [name for group in make_groups(network, RECIPE) for name in group.names]
    assert names
    assert all(name.startswith(("features.12", "classifier")) for name in names)
