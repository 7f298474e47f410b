import copy
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

from squeezetune.finetune.recipe import Augmentation, Recipe

torch = pytest.importorskip("torch", reason="torch is an extra")
from tiny_training import SIDE, make_conditions, make_tapped, make_task  # noqa: E402
from torch.nn import functional  # noqa: E402

from squeezetune.finetune import workers as module  # noqa: E402
from squeezetune.finetune.batches import show_images  # noqa: E402
from squeezetune.finetune.tapped import TappedNetwork  # noqa: E402
from squeezetune.finetune.teachers import LayerTeacher  # noqa: E402
from squeezetune.finetune.workers import DataParallelWorkers, choose_precision, recall_precision  # noqa: E402

PLAIN = Augmentation(zoom=1.0, mirror=False)
POSITIONS = np.array([5, 1, 0, 9, 8, 3, 2, 12, 15, 7])
RECIPE = Recipe(batch=len(POSITIONS), smoothing=0.1)


@pytest.fixture(scope="module")
def network():
    """Make a network whose classifier knows a little, so that all layers have gradients."""
    network = make_tapped()
    with torch.no_grad():
        network.classifier.weight.normal_(0, 0.02, generator=torch.Generator().manual_seed(0))
        network.classifier.bias.copy_(torch.tensor([0.3, -0.2]))
    return network


@pytest.fixture(scope="module")
def task():
    return make_task(16, 8, augmentation=PLAIN)


def measure(network, task, threads=2, positions=POSITIONS, step=0, **changes):
    with DataParallelWorkers(
        network, task, RECIPE, make_conditions(threads=threads, **changes)
    ) as crew:
        return crew.measure_gradients(positions, SIDE, step)


def measure_slowly(network, task, positions=POSITIONS):
    """Measure the gradients of a whole batch at once, as torch's own loop would."""
    images = show_images(torch.from_numpy(task.feed.rows.values[positions]), SIDE)
    labels = torch.from_numpy(task.labels[positions])
    logits = network(images)
    losses = functional.cross_entropy(
        logits, labels, label_smoothing=RECIPE.smoothing, reduction="none"
    )
    loss = (losses * torch.from_numpy(task.class_weights)[labels]).mean()
    names = [name for name, _ in network.named_parameters()]
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    return (
        dict(zip(names, gradients, strict=True)),
        float(loss.detach()),
        int((logits.argmax(1) == labels).sum()),
    )


def measure_difference_slowly(network, teacher, task, positions=POSITIONS):
    """Measure the gradients of a whole batch's divergence from what a teacher says of it."""
    images = show_images(torch.from_numpy(task.feed.rows.values[positions]), SIDE)
    wanted, found = teacher(images).detach().softmax(1), network(images).log_softmax(1)
    loss = (wanted * (wanted.log() - found)).sum(1).mean()
    names = [name for name, _ in network.named_parameters()]
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    correct = int((found.argmax(1) == wanted.argmax(1)).sum())
    return dict(zip(names, gradients, strict=True)), float(loss.detach()), correct


def assert_same(found, expected, tolerance=1e-5):
    (gradients, loss, correct), (slow, slow_loss, slow_correct) = found, expected
    assert gradients.keys() == slow.keys()
    for name, value in slow.items():
        assert (gradients[name] - value).norm() <= tolerance * value.norm(), name
    assert loss == pytest.approx(slow_loss, rel=1e-5)
    assert correct == slow_correct


# ---- gradients


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_gradients_are_those_of_a_plain_loop(network, task, threads):
    assert_same(measure(network, task, threads), measure_slowly(network, task))


def test_gradients_do_not_depend_on_how_many_images_go_through_at_once(network, task, monkeypatch):
    expected = measure(network, task)
    monkeypatch.setattr(module, "count_micro", lambda *_, **__: 2)
    assert_same(measure(network, task), expected)


def test_classes_count_by_their_weights(network, task):
    weighed = replace(task, class_weights=np.array([0.25, 4.0], np.float32))
    assert_same(measure(network, weighed), measure_slowly(network, weighed))
    assert measure(network, weighed)[1] != pytest.approx(measure(network, task)[1], rel=0.01)


def test_mixed_images_count_for_both_of_their_classes(network, task):
    """Where each image is all its neighbour's, its label is too."""

    def swap(images, share, generator):
        others = torch.arange(len(images)).flip(0)
        return images[others], others, torch.zeros(len(images))

    mixing = replace(RECIPE, mixing=1.0)
    with (
        pytest.MonkeyPatch.context() as patch,
        DataParallelWorkers(network, task, mixing, make_conditions(threads=1)) as crew,
    ):
        patch.setattr(module, "cut_and_mix", swap)
        gradients, loss, _ = crew.measure_gradients(POSITIONS, SIDE, 0)
    slow, slow_loss, _ = measure_slowly(network, task, POSITIONS[::-1].copy())
    assert_same((gradients, loss, 0), (slow, slow_loss, 0))
    with DataParallelWorkers(network, task, mixing, make_conditions()) as crew:
        assert crew.measure_gradients(POSITIONS, SIDE, 0)[1] != pytest.approx(
            measure(network, task)[1], rel=1e-3
        )


def test_fewer_images_than_threads(network, task):
    found, loss, correct = measure(network, task, threads=4, positions=POSITIONS[:3])
    slow, slow_loss, slow_correct = measure_slowly(network, task, POSITIONS[:3])
    share = 3 / len(POSITIONS)  # a loss is always divided by a whole batch
    assert_same(
        (found, loss, correct),
        ({n: share * v for n, v in slow.items()}, share * slow_loss, slow_correct),
    )


def test_the_same_step_draws_the_same_and_another_step_draws_anew(network):
    task = make_task(16, 8, augmentation=Augmentation(zoom=0.5))
    [first, again, later, seeded] = [
        measure(network, task, step=step, seed=seed)
        for step, seed in ((3, 0), (3, 0), (4, 0), (3, 1))
    ]
    for name, value in first[0].items():
        assert torch.equal(again[0][name], value)
        assert not torch.equal(later[0][name], value)
        assert not torch.equal(seeded[0][name], value)


def test_bfloat16_is_near_to_float32(network, task):
    found, exact = measure(network, task, precision=torch.bfloat16)[0], measure(network, task)[0]
    assert all(value.dtype == torch.float32 for value in found.values())
    whole, other = (
        torch.cat([value.ravel() for value in each.values()]) for each in (found, exact)
    )
    assert functional.cosine_similarity(whole, other, 0) > 0.95


def test_parameters_that_are_not_trained_have_no_gradients(task):
    network = make_tapped()
    for name, value in network.named_parameters():
        value.requires_grad_(network.find_block(name) in ("fire9", "classifier"))
    gradients, _, _ = measure(network, task)
    assert {network.find_block(name) for name in gradients} == {"fire9", "classifier"}


def test_the_threads_work_with_the_parameters_that_they_were_given(network, task):
    with DataParallelWorkers(network, task, RECIPE, make_conditions()) as crew:
        before = crew.infer(POSITIONS, SIDE, 1)
        crew.load({name: torch.zeros_like(value) for name, value in network.named_parameters()})
        assert not crew.infer(POSITIONS, SIDE, 1).any()
        crew.load({name: value.detach() for name, value in network.named_parameters()})
        assert torch.equal(crew.infer(POSITIONS, SIDE, 1), before)


# ---- inference


def test_logits_are_averaged_over_the_views(network, task, monkeypatch):
    pixels = torch.from_numpy(task.feed.rows.values[POSITIONS])
    with torch.no_grad():
        image, mirror = (
            network(show_images(pixels, SIDE, mirrored=mirrored)) for mirrored in (False, True)
        )
    monkeypatch.setattr(module, "count_micro", lambda *_, **__: 2)
    with DataParallelWorkers(network, task, RECIPE, make_conditions()) as crew:
        torch.testing.assert_close(crew.infer(POSITIONS, SIDE, 1), image, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            crew.infer(POSITIONS, SIDE, 2), (image + mirror) / 2, rtol=1e-4, atol=1e-4
        )
    assert not torch.allclose(image, mirror, atol=1e-3)


# ---- threads and precision


def test_torchs_own_threads_are_as_before_at_the_end(network, task):
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(3)
    with suppress(KeyboardInterrupt), DataParallelWorkers(network, task, RECIPE, make_conditions()):
        seen.append(torch.get_num_threads())
        raise KeyboardInterrupt
    seen.append(torch.get_num_threads())
    torch.set_num_threads(before)
    assert seen == [1, 3]


def test_an_error_in_a_thread_is_raised(network, task):
    with (
        DataParallelWorkers(network, task, RECIPE, make_conditions()) as crew,
        pytest.raises(IndexError),
    ):
        crew.measure_gradients(np.array([1, 2, 99]), SIDE, 0)


def test_a_batch_is_no_larger_than_the_training_part(network, task):
    assert DataParallelWorkers(network, task, Recipe(batch=128), make_conditions()).batch == 16


def test_the_precision_is_one_of_two():
    assert choose_precision() in (torch.float32, torch.bfloat16)


@pytest.mark.parametrize(
    ("seconds", "name"), [(0.5, "bfloat16"), (0.9, "float32"), (3.0, "float32")]
)
def test_bfloat16_is_taken_where_it_is_clearly_faster(monkeypatch, seconds, name):
    monkeypatch.setattr(
        module, "_time_convolution", lambda kind: seconds if kind == torch.bfloat16 else 1.0
    )
    assert choose_precision() == getattr(torch, name)


def test_a_repeated_run_computes_in_what_the_first_one_chose(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "choose_precision", lambda: torch.bfloat16)
    assert recall_precision(tmp_path) == torch.bfloat16
    monkeypatch.setattr(module, "choose_precision", lambda: torch.float32)
    assert recall_precision(tmp_path) == torch.bfloat16
    assert recall_precision(None) == torch.float32


def test_a_limit_of_pixels_lets_fewer_images_through_at_once(network, task, monkeypatch):
    seen, differentiate = [], TappedNetwork.differentiate

    def run_noted(network, maps, taps):
        seen.append(len(maps))
        return differentiate(network, maps, taps)

    monkeypatch.setattr(TappedNetwork, "differentiate", run_noted)
    expected = measure(network, task)
    assert max(seen) == len(POSITIONS) // 2
    for micro_pixels, most in ((2 * SIDE**2, 2), (1, 1)):
        seen.clear()
        assert_same(measure(network, task, micro_pixels=micro_pixels), expected)
        assert max(seen) == most


def test_a_teacher_stands_in_for_the_labels(network, task):
    teacher = make_tapped()
    with torch.no_grad():
        teacher.classifier.weight.normal_(0, 0.05, generator=torch.Generator().manual_seed(1))
    taught = replace(task, teacher=LayerTeacher(teacher, torch.float32), labels=1 - task.labels)
    assert_same(measure(network, taught), measure_difference_slowly(network, teacher, task), 1e-4)
    itself = replace(task, teacher=LayerTeacher(network, torch.float32))
    _, loss, correct = measure(network, itself)
    assert loss == pytest.approx(0, abs=1e-6)
    assert correct == len(POSITIONS)


def test_a_temperature_divides_both_networks_logits(network, task):
    def halve(logits):
        return lambda maps, taps=None: logits(maps, taps) / 2

    teacher = make_tapped()
    with torch.no_grad():
        teacher.classifier.weight.normal_(0, 0.05, generator=torch.Generator().manual_seed(1))
    warm = replace(task, teacher=LayerTeacher(teacher, torch.float32), temperature=2.0)
    expected = measure(
        halve_classifier(network), replace(warm, teacher=halve(warm.teacher), temperature=1.0)
    )
    found = measure(network, warm)
    assert found[1:] == pytest.approx(expected[1:], rel=1e-5)


def halve_classifier(network):
    """Make the network that gives half of these logits."""
    halved = copy.deepcopy(network)
    with torch.no_grad():
        for value in halved.classifier.parameters():
            value.div_(2)
    return halved


def test_gradients_of_rounded_parameters_are_those_where_they_are_rounded_to(network, task):
    def halve(name, value):
        return value.half().float() / 2 if name == "classifier.weight" else value

    with DataParallelWorkers(network, task, RECIPE, make_conditions(rounding=halve)) as crew:
        crew.load(dict(network.named_parameters()))
        found = crew.measure_gradients(POSITIONS, SIDE, 0)
    rounded = copy.deepcopy(network)
    with torch.no_grad():
        rounded.classifier.weight.copy_(halve("classifier.weight", network.classifier.weight))
    assert_same(found, measure_slowly(rounded, task), 1e-4)
