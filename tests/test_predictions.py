import json

import pytest

from squeezetune.errors import ImageError
from squeezetune.prediction import Prediction, load
from squeezetune.predictions import WRITERS, predict_files, read_arguments

PREDICTION = Prediction('a "b", c', 0.75, {'a "b", c': 0.75, "d": 0.25})
CLASSES = ('a "b", c', "d")


def test_arguments_keep_their_order(shape_folder):
    box = str(shape_folder / "box" / "000.png")
    batches = list(read_arguments([box, box, str(shape_folder / "disc"), box]))
    assert [len(batch.titles) for batch in batches] == [2, 20, 1]
    assert batches[1].titles[0] == str(shape_folder / "disc" / "000.png")


def test_outcomes_are_in_order_and_bad_images_are_errors(model_folder, shape_folder, tmp_path):
    good = [str(path) for path in sorted((shape_folder / "disc").glob("*.png"))]
    (tmp_path / "bad.png").write_bytes(b"no image")
    words = [*good, str(tmp_path / "bad.png"), *good]
    outcomes = list(predict_files(load(model_folder), read_arguments(words)))
    assert [title for title, _ in outcomes] == words
    assert isinstance(outcomes[len(good)][1], ImageError)
    assert [o.label for _, o in outcomes[: len(good)]] == [o.label for _, o in outcomes[len(good) + 1 :]]


def test_many_files_are_read_as_they_are_needed(model_folder, shape_folder):
    path = str(shape_folder / "box" / "000.png")
    stream = predict_files(load(model_folder), read_arguments([path] * 5000))
    assert next(stream)[0] == path
    stream.close()  # ends at once: nothing was read far ahead


def test_csv_quotes_and_has_one_header():
    write = WRITERS["csv"](CLASSES, 1)
    lines = [*write("x,y.jpg", PREDICTION).splitlines(), *write("z.jpg", PREDICTION).splitlines()]
    assert lines == [
        'file,label,confidence,"a ""b"", c",d',
        '"x,y.jpg","a ""b"", c",0.750000,0.750000,0.250000',
        'z.jpg,"a ""b"", c",0.750000,0.750000,0.250000',
    ]


def test_json_is_one_line_for_any_name():
    line = WRITERS["json"](CLASSES, 1)("a\nb.jpg", PREDICTION)
    assert "\n" not in line
    assert json.loads(line) == {
        "file": "a\nb.jpg",
        "label": 'a "b", c',
        "confidence": 0.75,
        "probabilities": {'a "b", c': 0.75, "d": 0.25},
    }


@pytest.mark.parametrize("top", [1, 2, 9])
def test_table_names_the_likeliest_classes(top):
    line = WRITERS["table"](CLASSES, top)("x.jpg", PREDICTION)
    assert line.endswith("x.jpg")
    assert line.count("%") == min(top, 2)
