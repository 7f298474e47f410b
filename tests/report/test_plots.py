"""The training curve for papers; the other plots are tested with the report."""

import io

import numpy as np
import pytest
from example_history import ONE_EPOCH, THREE_STAGES, make_epochs
from PIL import Image

from squeezetune.report.plots import _draw_training, draw_plots

REPORT = {
    "class_names": ["cat", "dog"],
    "test": {
        "confusion": [[4, 0], [1, 3]],
        "per_class": [
            {"name": "cat", "precision": 0.8, "recall": 1.0, "recall_interval": (0.5, 1.0)},
            {"name": "dog", "precision": 1.0, "recall": 0.75, "recall_interval": (0.3, 0.95)},
        ],
    },
}


def draw(history):
    return draw_plots({**REPORT, "history": history})


def test_the_curve_is_a_picture():
    plots = draw(THREE_STAGES)
    image = Image.open(io.BytesIO(plots["training.png"]))
    assert (image.format, image.size) == ("PNG", (1400, 980))


def test_without_epochs_there_is_no_curve():
    assert "training.png" not in draw([])


def test_without_losses_there_is_one_panel():
    history = [{"epoch": epoch, "validation_accuracy": 0.5} for epoch in (1, 2)]
    assert Image.open(io.BytesIO(draw(history)["training.png"])).size == (1400, 600)


def test_lines_and_stages_are_those_of_the_history():
    accuracy, loss = _draw_training(THREE_STAGES).axes
    for name, look in (("train", "--"), ("validation", "-")):
        pieces = [line.get_ydata() for line in accuracy.lines if line.get_linestyle() == look]
        assert [len(piece) for piece in pieces] == [10, 5, 4]
        np.testing.assert_array_equal(
            np.concatenate(pieces), [item[f"{name}_accuracy"] for item in THREE_STAGES]
        )
    assert accuracy.get_legend_handles_labels()[1] == ["train", "validation"]
    assert [text.get_text() for text in accuracy.texts] == [
        "frozen head",
        "last blocks",
        "all layers",
    ]
    boundaries = [
        line for axes in (accuracy, loss) for line in axes.lines if line.get_linestyle() == ":"
    ]
    assert len(boundaries) == 4
    assert loss.get_ylabel() == "loss"


@pytest.mark.parametrize(
    "history", [ONE_EPOCH, make_epochs("head", 30, 0.9)], ids=["one epoch", "only the head"]
)
def test_a_curve_may_be_short_or_of_one_stage(history):
    accuracy, _ = _draw_training(history).axes
    assert [text.get_text() for text in accuracy.texts] == ["frozen head"]
    assert all(line.get_linestyle() != ":" for line in accuracy.lines)
    assert len(accuracy.lines[0].get_xdata()) == len(history)
    assert "training.png" in draw(history)


def test_losses_that_are_no_numbers_are_survived():
    lost = [{**item, "train_loss": float("nan"), "validation_loss": None} for item in THREE_STAGES]
    assert Image.open(io.BytesIO(draw(lost)["training.png"])).size == (1400, 600)
