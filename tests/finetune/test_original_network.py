from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from squeezetune.events import EpochFinished, StageFinished, StageStarted
from squeezetune.finetune.recipe import OriginalRecipe

torch = pytest.importorskip("torch", reason="torch is an extra")
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from squeezetune.finetune.batches import normalise  # noqa: E402
from squeezetune.finetune.original_loop import (  # noqa: E402
    OriginalInputs,
    build_original,
    fold_classifier,
    tune_original,
)
from squeezetune.finetune.workers import TrainerOptions  # noqa: E402
from squeezetune.system.checkpoint import Checkpoint  # noqa: E402

SIDE, CLASSES, COUNT = 48, 3, 90
RECIPE = OriginalRecipe(epochs=2)
BOUND = 512**-0.5


@dataclass
class WatchedRows:
    """Rows in memory that note what was asked for."""

    values: np.ndarray
    asked: list = field(default_factory=list)

    def gather(self, positions):
        self.asked.append(np.asarray(positions).tolist())
        return self.values[positions]


@pytest.fixture
def material():
    """Take 70 training images of three colours, so that the last batch is short, and 20 to judge
    by.
    """
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, COUNT)
    pixels = rng.integers(0, 120, (COUNT, SIDE, SIDE, 3), dtype=np.uint8)
    pixels[np.arange(COUNT), :, :, labels] += 100
    return OriginalInputs(WatchedRows(pixels), labels, np.arange(70), np.arange(70, COUNT))


@pytest.fixture
def heard():
    return []


@pytest.fixture
def conditions(heard):
    return TrainerOptions("original recipe", 0, 1, torch.float32, heard.append)


@pytest.fixture
def build(weights):
    def build_with(recipe=RECIPE, seed=0):
        return build_original(weights, CLASSES, recipe, seed)

    return build_with


def read_state(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def assert_same_state(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=0, atol=0, msg=name)


# ---- the network


def test_the_batch_normalisation_begins_between_0_and_1(build):
    norm = build().classifier[0]
    assert isinstance(norm, nn.BatchNorm2d)
    assert 0 <= norm.weight.min() < 0.02
    assert 0.98 < norm.weight.max() <= 1
    assert norm.weight.mean().item() == pytest.approx(0.5, abs=0.05)
    assert norm.weight.std().item() == pytest.approx(12**-0.5, abs=0.03)
    assert (norm.bias == 0).all()
    assert (norm.eps, norm.momentum) == (1e-5, 0.1)


def test_the_convolution_begins_as_those_of_torch_do(build):
    convolution = build().classifier[1]
    assert convolution.weight.shape == (CLASSES, 512, 1, 1)
    for values in (convolution.weight, convolution.bias):
        assert values.abs().max() <= BOUND
    assert convolution.weight.std().item() == pytest.approx(BOUND / 3**0.5, rel=0.05)


def test_the_rest_is_the_pretrained_network(build, weights):
    network = build()
    for name, value in weights.items():
        if name.startswith("features."):
            np.testing.assert_array_equal(network.state_dict()[name].numpy(), value)
    assert [type(layer) for layer in network.classifier] == [
        nn.BatchNorm2d,
        nn.Conv2d,
        nn.ReLU,
        nn.AdaptiveAvgPool2d,
    ]


def test_without_norm_the_dropout_stays(build):
    dropout = build(replace(RECIPE, norm="none")).classifier[0]
    assert isinstance(dropout, nn.Dropout)
    assert dropout.p == 0.5


def test_the_seed_alone_decides_how_it_begins(build):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert_same_state(read_state(build(seed=1)), read_state(build(seed=1)))
    assert not torch.equal(build(seed=1).classifier[1].weight, build(seed=2).classifier[1].weight)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("count", "places"), [(0, set()), (1, {"12"}), (2, {"11", "12"}), (3, {"10", "11", "12"})]
)
def test_the_classifier_and_the_last_fire_modules_are_trained(build, count, places):
    network = build(replace(RECIPE, last_fires=count))
    trained = {
        name.split(".")[1]
        for name, value in network.features.named_parameters(prefix="features")
        if value.requires_grad
    }
    assert trained == places
    assert all(value.requires_grad for value in network.classifier.parameters())


# ---- the training


def test_it_is_what_a_plain_loop_of_torch_does(build, material, conditions):
    network, plain = build(), build()
    tune_original(network, material, RECIPE, conditions)
    optimiser = torch.optim.Adam(plain.classifier.parameters(), 1e-3)
    images, labels = (
        normalise(torch.from_numpy(material.rows.values)),
        torch.from_numpy(material.labels),
    )
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    for epoch in range(2):
        plain.train()
        order = np.random.default_rng((0, epoch)).permutation(70)
        for batch in (order[:64], order[64:]):
            optimiser.zero_grad()
            functional.cross_entropy(plain(images[batch].contiguous()), labels[batch]).backward()
            optimiser.step()
    torch.set_num_threads(before)
    assert_same_state(read_state(network), read_state(plain))


def test_every_epoch_takes_all_images_in_another_order_and_then_the_judging_ones(
    build, material, conditions
):
    tune_original(build(), material, RECIPE, conditions)
    asked = material.rows.asked
    assert [len(positions) for positions in asked] == [64, 6, 20, 64, 6, 20]
    orders = asked[0] + asked[1], asked[3] + asked[4]
    assert sorted(orders[0]) == sorted(orders[1]) == material.train.tolist()
    assert orders[0] != orders[1]
    assert asked[2] == asked[5] == material.judging.tolist()


def test_frozen_layers_and_their_statistics_stay(build, material, conditions):
    network = build(replace(RECIPE, last_fires=1))
    before = read_state(network)
    tune_original(network, material, replace(RECIPE, last_fires=1, epochs=1), conditions)
    changed = {
        name for name, value in network.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {name for name in before if name.startswith(("features.12.", "classifier."))}


def test_the_last_epoch_is_the_model(build, material, conditions, heard):
    network = build()
    tuned = tune_original(network, material, RECIPE, conditions)
    network.eval()
    with torch.inference_mode():
        logits = network(normalise(torch.from_numpy(material.rows.values[70:])).contiguous())
    np.testing.assert_allclose(tuned.logits, logits.numpy(), atol=1e-5)
    assert (tuned.logits >= 0).all()  # the ReLU is before the mean
    assert tuned.is_finished
    epochs = [event for event in heard if isinstance(event, EpochFinished)]
    assert tuned.history == tuple(epochs)
    assert [(epoch.epoch, epoch.of) for epoch in epochs] == [(1, 2), (2, 2)]
    accuracy = (tuned.logits.argmax(1) == material.labels[70:]).mean()
    assert epochs[-1].validation_accuracy == pytest.approx(accuracy)
    assert isinstance(heard[0], StageStarted)
    assert isinstance(heard[-1], StageFinished)


def test_the_figures_of_an_epoch_are_means_over_its_images(
    build, material, conditions, monkeypatch
):
    losses, real = [], functional.cross_entropy

    def note(logits, labels):
        losses.append((len(labels), float(real(logits, labels).detach())))
        return real(logits, labels)

    monkeypatch.setattr(functional, "cross_entropy", note)
    tuned = tune_original(build(), material, replace(RECIPE, epochs=1), conditions)
    (first, a), (second, b), (_, judged) = losses
    assert tuned.history[0].train_loss == pytest.approx((first * a + second * b) / 70)
    assert tuned.history[0].validation_loss == pytest.approx(judged)


def test_colours_are_learnt(build, material, conditions):
    tuned = tune_original(build(), material, replace(RECIPE, epochs=12), conditions)
    assert tuned.history[-1].train_accuracy > 0.9


def test_the_number_of_threads_is_put_back(build, material, conditions):
    before = torch.get_num_threads()
    tune_original(
        build(), material, replace(RECIPE, epochs=1), replace(conditions, threads=before + 1)
    )
    assert torch.get_num_threads() == before


# ---- stopping, and going on


def test_it_stops_after_the_step_when_asked_to(build, material, conditions):
    answers = iter([False, False, False, True])
    tuned = tune_original(
        build(), material, RECIPE, replace(conditions, is_stopping=lambda: next(answers))
    )
    assert not tuned.is_finished
    assert len(tuned.history) == 1
    assert [len(positions) for positions in material.rows.asked] == [64, 6, 20, 64, 20]
    assert tuned.logits.shape == (20, CLASSES)


@pytest.mark.parametrize(
    "recipe", [RECIPE, replace(RECIPE, norm="none", last_fires=1)], ids=["batch", "dropout"]
)
def test_a_run_goes_on_from_an_epochs_end_to_the_same_bytes(build, material, conditions, recipe):
    whole, resumed, states = build(recipe), build(recipe, seed=5), []

    def keep(tensors, about):
        states.append(
            Checkpoint({name: value.copy() for name, value in tensors.items()}, dict(about))
        )

    tuned = tune_original(whole, material, recipe, conditions, keep=keep)
    again = tune_original(resumed, material, recipe, conditions, kept=states[0])
    assert len(states) == 2
    assert_same_state(read_state(whole), read_state(resumed))
    np.testing.assert_array_equal(tuned.logits, again.logits)
    assert [epoch.train_loss for epoch in again.history] == [
        epoch.train_loss for epoch in tuned.history
    ]


def test_a_finished_run_goes_on_to_what_it_was(build, material, conditions):
    network, states = build(), []
    tuned = tune_original(
        network, material, RECIPE, conditions, keep=lambda *state: states.append(Checkpoint(*state))
    )
    again = tune_original(build(seed=5), material, RECIPE, conditions, kept=states[-1])
    np.testing.assert_allclose(again.logits, tuned.logits, atol=1e-6)
    assert again.is_finished


# ---- one convolution instead of two layers


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_the_folded_classifier_gives_what_the_network_gives(build, material, conditions, norm):
    network = build(replace(RECIPE, norm=norm))
    tune_original(network, material, replace(RECIPE, norm=norm), conditions)
    weight, bias = fold_classifier(network)
    assert weight.shape == (512, CLASSES)
    maps = torch.rand(5, 512, 4, 4, generator=torch.Generator().manual_seed(0)) * 8
    rows = maps.permute(0, 2, 3, 1).numpy() @ weight + bias
    folded = np.maximum(rows, 0).mean(axis=(1, 2))
    network.eval()
    with torch.inference_mode():
        np.testing.assert_allclose(
            folded, network.classifier(maps).flatten(1).numpy(), rtol=1e-5, atol=1e-5
        )
