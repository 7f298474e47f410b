import numpy as np
import pytest
from scipy.optimize import check_grad
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from squeezetune.heads import linear as dense
from squeezetune.heads.linear import (
    WeightedRows,
    apply_layers,
    cross_entropy,
    fit_linear,
    mix_layers,
)


def make_task(n, width, classes, seed=0, class_weights=None):
    """Make overlapping classes in some of the features, with columns of unequal size."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    rows = rng.standard_normal((n, width)) + 0.7 * rng.standard_normal((classes, width))[labels]
    rows *= rng.uniform(0.3, 2, width)
    weights = np.ones(classes) if class_weights is None else class_weights
    return WeightedRows(
        rows.astype(np.float32), labels.astype(np.int64), np.asarray(weights, np.float32)
    )


def predict(layers, rows):
    return softmax(apply_layers(layers, rows).astype(np.float64), axis=1)


def predict_by_sklearn(task, penalty):
    """Fit the same problem by scikit-learn, in float64."""
    # of two classes it fits one column, which is the difference of two: half of the penalty is the
    # same
    share = 0.5 if len(task.class_weights) == 2 else 1
    model = LogisticRegression(C=1 / (share * penalty), tol=1e-5, max_iter=5000)
    model.fit(
        task.rows.astype(np.float64), task.labels, sample_weight=task.class_weights[task.labels]
    )
    return model.predict_proba(task.rows.astype(np.float64))


def measure_objective(layers, task, penalty):
    [(weight, _)] = layers
    logs = np.log(predict(layers, task.rows)[np.arange(len(task.labels)), task.labels])
    return (
        -(task.class_weights[task.labels] * logs).sum()
        + penalty / 2 * (weight.astype(np.float64) ** 2).sum()
    )


# ---- layers


def test_layers_are_applied_with_a_relu_between():
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((3, 4)), rng.standard_normal((4, 2))
    rows = rng.standard_normal((5, 3))
    expected = np.maximum(rows @ first + 1, 0) @ second - 2
    layers = ((first, np.ones(4)), (second, np.full(2, -2.0)))
    np.testing.assert_allclose(apply_layers(layers, rows), expected)
    np.testing.assert_allclose(apply_layers(layers[:1], rows), rows @ first + 1)


# ---- the loss


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_gradient_of_the_loss_is_its_slope(smoothing):
    rng = np.random.default_rng(1)
    labels, weights = rng.integers(0, 4, 6), rng.uniform(0.5, 2, 6)
    targets = np.eye(4)[labels] * (1 - smoothing) + smoothing / 4

    def measure(point):
        logs = np.log(softmax(point.reshape(6, 4), axis=1))
        return -(weights[:, None] * targets * logs).sum()

    def slope(point):
        return cross_entropy(point.reshape(6, 4), labels, weights, smoothing)[1].ravel()

    assert check_grad(measure, slope, rng.standard_normal(24)) < 1e-5


def test_the_loss_survives_extreme_logits():
    logits = np.array([[1000, -1000], [-1000, 1000]], np.float32)
    loss, residual = cross_entropy(logits, np.array([0, 0]), np.ones(2, np.float32))
    assert loss == pytest.approx(2000)
    assert np.isfinite(residual).all()


# ---- logistic regression


@pytest.mark.parametrize(
    ("n", "width", "classes"), [(120, 80, 3), (90, 60, 2), (200, 20, 3), (300, 30, 6)]
)
@pytest.mark.parametrize("penalty", [1.0, 40.0])
def test_logistic_regression_equals_scikit_learns(n, width, classes, penalty):
    task = make_task(n, width, classes)  # with n > 2 width in other coordinates
    layers = fit_linear(task, penalty, max_iterations=1000)
    np.testing.assert_allclose(
        predict(layers, task.rows), predict_by_sklearn(task, penalty), atol=2e-3
    )


@pytest.mark.parametrize(("n", "width"), [(150, 100), (500, 40)])
def test_the_usual_number_of_iterations_is_enough(n, width):
    task = make_task(n, width, 5)
    usual, exact = fit_linear(task, 80.0), fit_linear(task, 80.0, max_iterations=1000)
    assert measure_objective(usual, task, 80.0) <= 1.001 * measure_objective(exact, task, 80.0)
    np.testing.assert_allclose(predict(usual, task.rows), predict(exact, task.rows), atol=0.01)


def test_the_coordinates_do_not_change_the_result(monkeypatch):
    task = make_task(300, 40, 4)
    with_factor = fit_linear(task, 20.0, max_iterations=1000)
    monkeypatch.setattr(dense, "precondition", lambda *_: None)
    without = fit_linear(task, 20.0, max_iterations=1000)
    np.testing.assert_allclose(
        predict(with_factor, task.rows), predict(without, task.rows), atol=1e-3
    )


@pytest.mark.parametrize(("n", "width"), [(150, 100), (500, 40)])
def test_threads_do_not_change_the_result(n, width):
    task = make_task(n, width, 4)
    alone, together = (
        fit_linear(task, 20.0, threads=threads, max_iterations=1000) for threads in (1, 3)
    )
    np.testing.assert_allclose(predict(alone, task.rows), predict(together, task.rows), atol=1e-3)
    [(weight, bias)], [(again, bias_again)] = (
        together,
        fit_linear(task, 20.0, threads=3, max_iterations=1000),
    )
    np.testing.assert_array_equal(weight, again)
    np.testing.assert_array_equal(bias, bias_again)


@pytest.mark.parametrize(("n", "width"), [(60, 50), (300, 20)])
def test_a_class_of_weight_two_is_a_class_given_twice(n, width):
    weighted = make_task(n, width, 3, class_weights=[1, 2, 1])
    twice = np.repeat(np.arange(n), np.where(weighted.labels == 1, 2, 1))
    repeated = WeightedRows(weighted.rows[twice], weighted.labels[twice], np.ones(3, np.float32))
    found = predict(fit_linear(weighted, 10.0, max_iterations=1000), weighted.rows)
    firsts = np.unique(twice, return_index=True)[1]
    np.testing.assert_allclose(found, predict_by_sklearn(repeated, 10.0)[firsts], atol=2e-3)


def test_the_bias_is_not_penalised():
    task = WeightedRows(
        np.zeros((100, 3), np.float32), np.array([0] * 90 + [1] * 10), np.ones(2, np.float32)
    )
    [probabilities] = predict(fit_linear(task, 1e4, max_iterations=1000), task.rows[:1])
    np.testing.assert_allclose(probabilities, [0.9, 0.1], atol=1e-3)


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_a_few_rows_are_enough(threads):
    task = WeightedRows(
        np.array([[1, 0], [0, 1]], np.float32), np.array([0, 1]), np.ones(2, np.float32)
    )
    assert predict(fit_linear(task, 0.1, threads=threads), task.rows).argmax(axis=1).tolist() == [
        0,
        1,
    ]


def test_a_class_without_rows_is_never_likely():
    task = make_task(200, 10, 3)
    task = WeightedRows(task.rows, task.labels, np.ones(4, np.float32))
    assert predict(fit_linear(task, 1.0), task.rows)[:, 3].max() < 0.05


def test_mixed_layers_give_the_mean_of_both_logits():
    rng = np.random.default_rng(0)
    linear = ((rng.standard_normal((6, 3), np.float32), rng.standard_normal(3, np.float32)),)
    hidden = tuple(
        (rng.standard_normal(shape, np.float32), rng.standard_normal(shape[1], np.float32))
        for shape in ((6, 4), (4, 3))
    )
    rows = rng.standard_normal((50, 6), np.float32)
    expected = 0.7 * apply_layers(linear, rows) + 0.3 * apply_layers(hidden, rows)
    np.testing.assert_allclose(
        apply_layers(mix_layers(linear, hidden, 0.3), rows), expected, atol=1e-5
    )
