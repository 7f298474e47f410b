import numpy as np
import pytest

from squeezetune.heads import mlp as hidden_module
from squeezetune.heads.linear import WeightedRows, apply_layers, fit_linear
from squeezetune.heads.mlp import Adam, HiddenOptions, fit_hidden

SMALL = HiddenOptions(width=32, min_steps=200, dropout=0.1, batch=64)


def make_xor(n=400, seed=0):
    """Make two classes that no line separates."""
    rows = np.random.default_rng(seed).uniform(-1, 1, (n, 2)).astype(np.float32) * 2
    return WeightedRows(
        rows, (rows[:, 0] * rows[:, 1] > 0).astype(np.int64), np.ones(2, np.float32)
    )


def fit(task, seed=0, options=SMALL, threads=1, report=lambda _: None):
    return fit_hidden(task, seed, options, report, threads=threads)


def measure_accuracy(layers, task):
    return (apply_layers(layers, task.rows).argmax(axis=1) == task.labels).mean()


def test_a_hidden_layer_learns_what_a_linear_one_cannot():
    task, unseen = make_xor(), make_xor(seed=1)
    assert measure_accuracy(fit_linear(task, 1.0), unseen) < 0.7
    assert measure_accuracy(fit(task), unseen) > 0.93


@pytest.mark.parametrize("threads", [1, 3])
def test_the_same_seed_gives_the_same_layers(threads):
    task = make_xor()
    first, second, other = (fit(task, seed, threads=threads) for seed in (5, 5, 6))
    for (a, b), (c, d) in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, c)
        np.testing.assert_array_equal(b, d)
    assert not np.array_equal(first[0][0], other[0][0])


def test_threads_learn_the_same_things():
    unseen = make_xor(seed=1)
    assert measure_accuracy(fit(make_xor(), threads=3), unseen) > 0.93


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_gradient_is_the_slope(smoothing):
    rng = np.random.default_rng(2)
    task = WeightedRows(
        rng.standard_normal((6, 5)), rng.integers(0, 3, 6), np.array([1.0, 2.0, 0.5])
    )
    options = HiddenOptions(width=4, dropout=0.0, smoothing=smoothing)
    shapes = [(5, 4), (4,), (4, 3), (3,)]
    point = rng.standard_normal(sum(int(np.prod(shape)) for shape in shapes))

    def unpack(values):
        ends = np.cumsum([np.prod(shape) for shape in shapes])
        return [
            part.reshape(shape)
            for part, shape in zip(np.split(values, ends[:-1]), shapes, strict=True)
        ]

    def measure(values):
        weight1, bias1, weight2, bias2 = unpack(values)
        logits = np.maximum(task.rows @ weight1 + bias1, 0) @ weight2 + bias2
        targets = np.eye(3)[task.labels] * (1 - smoothing) + smoothing / 3
        logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return -(task.class_weights[task.labels, None] * targets * logs).sum() / 6

    part = hidden_module._measure_shard(unpack(point), task, 6, options, np.arange(6), rng)
    found = np.concatenate([np.ravel(gradient) for gradient in part.gradient])
    steps = np.eye(len(point)) * 1e-6
    slope = [(measure(point + step) - measure(point - step)) / 2e-6 for step in steps]
    np.testing.assert_allclose(found, slope, atol=1e-4)


def test_shards_of_a_batch_sum_to_the_batch():
    task, rng = make_xor(12), np.random.default_rng(0)
    options = HiddenOptions(width=8, dropout=0.0)
    parameters = hidden_module._start(rng, 2, 8, 2)
    whole = hidden_module._measure_shard(parameters, task, 12, options, np.arange(12), rng)
    parts = [hidden_module._measure_shard(parameters, task, 12, options, rows, rng)
             for rows in np.array_split(np.arange(12), 5)]  # fmt: skip
    for at, gradient in enumerate(whole.gradient):
        np.testing.assert_allclose(
            sum(part.gradient[at] for part in parts), gradient, rtol=1e-4, atol=1e-6
        )
    assert sum(part.loss for part in parts) == pytest.approx(whole.loss)
    assert sum(part.correct for part in parts) == whole.correct


def test_adam_equals_its_definition():
    class Inline:
        map = staticmethod(map)

    rng = np.random.default_rng(3)
    shapes = [(300, 7), (7,)]  # more rows than one block
    values = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    expected = [value.astype(np.float64) for value in values]
    moments = [(np.zeros(shape), np.zeros(shape)) for shape in shapes]
    optimiser = Adam.start(values)
    for step in range(1, 6):
        parts = [
            [rng.standard_normal(shape).astype(np.float32) for shape in shapes] for _ in range(2)
        ]
        sums = [np.float64(a) + b for a, b in zip(*parts, strict=True)]
        optimiser.step(values, parts, 0.01, 0.2, Inline())
        for at, gradient in enumerate(sums):
            mean, square = moments[at]
            mean[:] = 0.9 * mean + 0.1 * gradient
            square[:] = 0.99 * square + 0.01 * gradient**2
            decay = 1 - 0.01 * 0.2 if expected[at].ndim == 2 else 1
            update = mean / (1 - 0.9**step) / (np.sqrt(square / (1 - 0.99**step)) + 1e-8)
            expected[at] = expected[at] * decay - 0.01 * update
    for value, wanted in zip(values, expected, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-5)


def test_the_rate_rises_and_falls_to_nothing():
    rates = [hidden_module._schedule_rate(progress, 1.0) for progress in np.linspace(0, 1, 101)]
    assert rates[0] < 0.01
    assert max(rates) == pytest.approx(1, abs=0.01)
    assert rates.index(max(rates)) in (19, 20)
    assert rates[-1] == pytest.approx(0, abs=1e-6)
    assert sorted(rates[20:], reverse=True) == rates[20:]


def test_every_row_is_drawn_once_an_epoch():
    batches = hidden_module._draw_batches(np.random.default_rng(0), 10, 3)
    assert [len(batch) for batch in batches] == [3, 3, 3]
    assert len(set(np.concatenate(batches).tolist())) == 9


def test_progress_is_told():
    task, told = make_xor(), []

    def hear(epoch):
        told.append((epoch.number, epoch.of, epoch.loss, measure_accuracy(epoch.layers, task)))

    layers = fit(task, report=hear)
    numbers, totals, losses, accuracies = zip(*told, strict=True)
    assert list(numbers) == sorted(set(numbers))
    assert set(totals) == {numbers[-1]}
    assert len(told) <= 60
    assert losses[-1] < 0.5 * losses[0]
    assert accuracies[-1] == measure_accuracy(layers, task) > accuracies[0]


@pytest.mark.parametrize("threads", [1, 4])
def test_two_rows_are_enough(threads):
    task = WeightedRows(
        np.array([[2, 0], [0, 2]], np.float32), np.array([0, 1]), np.ones(2, np.float32)
    )
    assert measure_accuracy(fit(task, threads=threads), task) == 1


def test_rare_classes_can_be_given_weight():
    rng = np.random.default_rng(4)
    labels = (np.arange(300) % 10 == 0).astype(np.int64)
    rows = (rng.standard_normal((300, 4)) + 0.8 * labels[:, None]).astype(np.float32)
    plain, weighed = (
        WeightedRows(rows, labels, np.array(weights, np.float32)) for weights in ([1, 1], [0.55, 5])
    )
    rare = labels == 1
    found = [
        (apply_layers(fit(task), rows[rare]).argmax(axis=1) == 1).mean()
        for task in (plain, weighed)
    ]
    assert found[1] > found[0]
