import numpy as np

from squeezetune.heads.familiarity import fit_discriminants, measure_parts, weigh_parts


def draw_images(seed, count, shift=0.0):
    """Draw rows (n, views, features) of two classes, or of something else, and logits that know
    nothing.
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    rows = rng.normal(size=(count, 2, 20)) + 4 * (labels[:, None, None] * 2 - 1) * (
        np.arange(20) < 5
    )
    return (rows + shift).astype(np.float32), rng.normal(size=(count, 2)).astype(np.float32), labels


def test_what_is_of_no_class_is_less_familiar():
    rows, _, labels = draw_images(0, 400)
    discriminants = fit_discriminants(rows.mean(axis=1), labels)
    familiarity = weigh_parts(discriminants, *draw_images(1, 200)[:2])
    known = familiarity.score(*draw_images(2, 200)[:2])
    lowest = np.quantile(known, 0.05)
    between = draw_images(3, 200)[0]
    between[:, :, :5] = np.random.default_rng(4).normal(
        size=(200, 2, 5)
    )  # half-way from class to class
    far = draw_images(5, 200, shift=6.0)
    logits = draw_images(6, 200)[1]
    assert (familiarity.score(between, logits) < lowest).mean() > 0.9
    assert (familiarity.score(*far[:2]) < lowest).mean() > 0.99


def test_the_parts_are_brought_onto_one_scale():
    rows, logits, labels = draw_images(0, 400)
    discriminants = fit_discriminants(rows.mean(axis=1), labels)
    low, high = np.quantile(measure_parts(discriminants, rows, logits), (0.05, 0.95), axis=0)
    weights = weigh_parts(discriminants, rows, logits).weights
    np.testing.assert_allclose((high - low) * weights, (1, 1, 0.5), rtol=1e-4)


def test_images_that_are_all_alike_have_finite_scores():
    rows, logits, labels = draw_images(0, 400)
    familiarity = weigh_parts(
        fit_discriminants(rows.mean(axis=1), labels), rows[:1].repeat(9, 0), logits[:1].repeat(9, 0)
    )
    assert np.isfinite(familiarity.score(rows, logits)).all()
