from dataclasses import replace

import numpy as np

from squeezetune.heads import out_of_fold as crossing
from squeezetune.heads.head_data import HeadData
from squeezetune.heads.linear import (
    WeightedRows,
    apply_layers,
    fit_linear,
    fit_temperature,
    measure_losses,
)
from squeezetune.heads.out_of_fold import FOLDS, cross_fit, deal_folds, draw_pilot


def test_every_fold_has_its_share_of_every_class():
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [50, 10, 7]))
    folds = deal_folds(labels, None)
    counts = np.array(
        [[np.sum((labels == c) & (folds == f)) for f in range(FOLDS)] for c in range(3)]
    )
    assert (counts.max(axis=1) - counts.min(axis=1) <= 1).all()


def test_images_of_one_unit_go_together_whatever_units_are_called():
    labels, units = np.repeat([0, 1], 12), np.repeat(np.arange(8), 3)
    folds = deal_folds(labels, units)
    assert all(len(np.unique(folds[units == unit])) == 1 for unit in range(8))
    assert len(np.unique(folds)) == 4
    np.testing.assert_array_equal(folds, deal_folds(labels, 100 - units))


def test_logits_are_those_of_a_head_without_the_fold():
    rng = np.random.default_rng(0)
    labels = np.arange(20) % 2
    rows = rng.standard_normal((20, 2, 6)).astype(np.float32)  # two views of each image
    task = WeightedRows(rows.reshape(40, 6), np.repeat(labels, 2), np.ones(2, np.float32))
    folds = deal_folds(labels, None)
    logits = cross_fit(task, 1.0, folds)
    others = folds != 2
    layers = fit_linear(
        WeightedRows(rows[others].reshape(-1, 6), np.repeat(labels[others], 2), task.class_weights),
        1.0,
    )
    expected = apply_layers(layers, rows[~others].reshape(-1, 6)).reshape(-1, 2, 2).mean(axis=1)
    np.testing.assert_allclose(logits[~others], expected, atol=1e-5)


def make_bench(count=24, judging=12, units=None, classes=3):
    """Make a bench of rows that say their number: training images from 0 on, validation images
    after them.
    """
    labels = np.arange(count + judging) % classes
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((count + judging, 2, 6)).astype(np.float32) + labels[:, None, None]
    rows[:, :, 0] = np.arange(count + judging)[:, None]
    groups = (None, None) if units is None else (units[:count], units[count:])
    return HeadData(
        rows[:count],
        labels[:count],
        rows[count:],
        labels[count:],
        np.ones(classes, np.float32),
        1,
        *groups,
    )


def test_a_pilot_holds_training_and_validation_images_each_once_in_even_halves():
    pilot = draw_pilot(make_bench())
    numbers = np.concatenate([half.rows[:, 0, 0] for half in pilot.halves])
    assert sorted(numbers.astype(int).tolist()) == list(range(36))
    assert [np.bincount(half.labels).tolist() for half in pilot.halves] == [[6, 6, 6]] * 2
    assert all((half.labels == half.rows[:, 0, 0] % 3).all() for half in pilot.halves)


def test_a_large_pilot_is_thinned_evenly(monkeypatch):
    monkeypatch.setattr(crossing, "PILOT_IMAGES", 20)
    pilot = draw_pilot(make_bench())
    numbers = np.sort(np.concatenate([half.rows[:, 0, 0] for half in pilot.halves])).astype(int)
    assert len(numbers) == 20
    assert set(np.diff(numbers)) <= {1, 2}


def test_groups_are_in_one_half_and_known_for_every_loss():
    units = np.repeat(np.arange(12), 3)[np.random.default_rng(1).permutation(36)]
    pilot = draw_pilot(make_bench(units=units))
    numbers = [half.rows[:, 0, 0].astype(int) for half in pilot.halves]
    assert not set(units[numbers[0]]) & set(units[numbers[1]])
    np.testing.assert_array_equal(pilot.units, units[np.concatenate(numbers)])


def test_losses_of_a_pilot_are_those_of_heads_of_the_other_half():
    bench = make_bench()
    bench = replace(
        bench, rows=bench.rows[:, :, 1:], validation_rows=bench.validation_rows[:, :, 1:]
    )
    pilot = draw_pilot(bench, bench.measure_factor(80.0))
    assert pilot.factor is not None
    losses, logits = pilot.measure(2, 5.0), []
    for own, other in (pilot.halves, pilot.halves[::-1]):
        task = WeightedRows(
            other.rows.reshape(-1, 5), np.repeat(other.labels, 2), bench.class_weights
        )
        logits.append(
            apply_layers(fit_linear(task, 10.0), own.rows.reshape(-1, 5))
            .reshape(-1, 2, 3)
            .mean(axis=1)
        )
    labels = np.concatenate([half.labels for half in pilot.halves])
    temperature = fit_temperature(np.concatenate(logits), labels)
    expected = measure_losses(np.concatenate(logits), labels, temperature)
    np.testing.assert_allclose(
        losses, expected, rtol=0.01, atol=1e-3
    )  # with a factor or without, and on any threads
    np.testing.assert_allclose(
        replace(pilot, threads=4).measure(2, 5.0), losses, rtol=0.01, atol=1e-3
    )


def test_a_class_that_one_half_lacks_is_not_judged():
    bench = make_bench(units=np.arange(36) % 3)  # every class is one group
    assert draw_pilot(bench).measure(2, 80.0).tolist() == [0] * 36


def test_where_training_images_judge_none_is_taken_twice():
    bench = make_bench()
    own = HeadData(bench.rows, bench.labels, bench.rows, bench.labels, bench.class_weights, 1)
    assert sum(len(half.labels) for half in draw_pilot(own).halves) == 24
