import csv
import io

import pytest
from example_history import ONE_EPOCH, THREE_STAGES, make_epochs

from squeezetune.report.curves import COLUMNS, Span, lay_out, trace_curves, write_csv


def test_stages_follow_each_other_on_one_axis():
    spans = lay_out(THREE_STAGES)
    assert [span.name for span in spans] == ["frozen head", "last blocks", "all layers"]
    assert spans[0].left == 0
    assert spans[-1].right == 1
    assert [span.right for span in spans[:-1]] == [span.left for span in spans[1:]]
    places = [span.place(epoch) for span in spans for epoch in span.epochs]
    assert places == sorted(places)
    assert len(places) == 19


def test_no_stage_is_too_narrow_to_be_read():
    spans = lay_out([*make_epochs("head", 60, 0.8), *make_epochs("all layers", 1, 0.9)])
    assert [span.right - span.left for span in spans] == pytest.approx([2 / 3, 1 / 3])


def test_a_single_epoch_stands_in_the_middle():
    [span] = lay_out(ONE_EPOCH)
    assert (span.left, span.right) == (0, 1)
    assert span.place(1) == 0.5


def test_a_stage_may_report_every_second_epoch_only():
    [span] = lay_out(make_epochs("head", 10, 0.8)[1::2])
    assert span.epochs == (2, 4, 6, 8, 10)
    assert span.place(10) == pytest.approx(0.95)


@pytest.mark.parametrize(
    ("last", "most", "numbers"),
    [
        (3, 8, [1, 2, 3]),
        (10, 8, [2, 4, 6, 8, 10]),
        (60, 8, [10, 20, 30, 40, 50, 60]),
        (1, 1, [1]),
        (5000, 1, [5000]),
    ],
)
def test_epochs_are_numbered_as_far_as_there_is_room(last, most, numbers):
    span = Span("head", 0, 1, tuple(range(1, last + 1)))
    assert [epoch for _, epoch in span.pick_ticks(most)] == numbers


def test_curves_hold_every_known_value():
    train, validation = trace_curves(THREE_STAGES, "loss")
    assert (train.name, validation.name) == ("train", "validation")
    assert list(train.values) == [item["train_loss"] for item in THREE_STAGES]
    assert [len(piece) for piece in train.pieces] == [10, 5, 4]
    assert [len(piece) for piece in validation.pieces] == [
        10,
        4,
    ]  # of the last blocks it is unknown
    places = [span.place(epoch) for span in lay_out(THREE_STAGES) for epoch in span.epochs]
    assert [x for piece in train.pieces for x, _ in piece] == places


def test_epochs_without_a_value_are_passed_over():
    history = make_epochs("head", 4, 0.9)
    history[1]["validation_loss"] = None
    [_, validation] = trace_curves([*history, *make_epochs("all layers", 2, 0.9)], "loss")
    assert [len(piece) for piece in validation.pieces] == [3, 2]
    assert validation.values[1] == history[2]["validation_loss"]


def test_values_that_are_no_numbers_are_left_out():
    history = [{**ONE_EPOCH[0], "train_loss": float("nan"), "validation_loss": float("inf")}]
    assert trace_curves(history, "loss") == ()


def test_first_reports_knew_of_no_stages():
    history = [{"epoch": 1, "train_accuracy": 0.5, "validation_accuracy": None}]
    assert [span.name for span in lay_out(history)] == ["frozen head"]
    assert [curve.name for curve in trace_curves(history, "accuracy")] == ["train"]
    assert write_csv(history).splitlines()[1] == b"head,1,,0.5,,,,"


def test_without_epochs_there_are_no_curves():
    assert lay_out([]) == ()
    assert trace_curves([], "accuracy") == ()


def test_the_table_reads_back():
    payload = write_csv(THREE_STAGES)
    assert payload.startswith(",".join(COLUMNS).encode() + b"\r\n")
    assert payload.count(b"\r\n") == payload.count(b"\n") == len(THREE_STAGES) + 1
    rows = list(csv.DictReader(io.StringIO(payload.decode(), newline="")))
    for row, item in zip(rows, THREE_STAGES, strict=True):
        assert (row["stage"], int(row["epoch"])) == (item["stage"], item["epoch"])
        for name in COLUMNS[2:]:
            assert (float(row[name]) if row[name] else None) == item[name]
