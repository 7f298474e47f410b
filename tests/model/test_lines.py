import json

import pytest

from squeezetune.errors import ImageError
from squeezetune.model.classifier import Prediction
from squeezetune.model.output import FORMATS, READABLE, LineOptions, Row

SHARES = {'a "b", c': 0.75, "d": 0.25}
PREDICTION = Prediction('a "b", c', 0.75, SHARES)
UNKNOWN = Prediction('a "b", c', 0.75, SHARES, is_known=False)
CLASSES = ('a "b", c', "d")
BAD = ImageError('cut "short", so\nto say')
TITLES = ("x.jpg", "x,y.jpg", 'a "b".jpg', "a\nb.jpg", "a\r\nb.jpg", "é.jpg", "=1+1.jpg", "'=1.jpg")


def test_csv_quotes():
    lines = FORMATS["csv"](LineOptions(CLASSES))
    assert [lines.header, lines.write("x,y.jpg", PREDICTION), lines.write("z.jpg", PREDICTION)] == [
        'file,label,confidence,"a ""b"", c",d,error',
        '"x,y.jpg","a ""b"", c",0.750000,0.750000,0.250000,',
        'z.jpg,"a ""b"", c",0.750000,0.750000,0.250000,',
    ]


def test_csv_names_run_nothing_in_a_spreadsheet():
    lines = FORMATS["csv"](LineOptions(("=a", "-1")))
    row = lines.write("@x.jpg", Prediction("=a", 0.75, {"=a": 0.75, "-1": 0.25}))
    assert lines.header == "file,label,confidence,'=a,-1,error"
    assert row == "'@x.jpg,'=a,0.750000,0.750000,0.250000,"


def test_csv_says_what_could_not_be_read_and_what_is_unknown():
    lines = FORMATS["csv"](LineOptions(("c", "d"), has_unknown=True))
    rows = [
        lines.write("x.jpg", each)
        for each in (ImageError("gone"), Prediction("c", 0.5, {"c": 0.5, "d": 0.5}, False))
    ]
    assert lines.header == "file,label,confidence,is_known,c,d,error"
    assert rows == ["x.jpg,,,,,,gone", "x.jpg,c,0.500000,false,0.500000,0.500000,"]


def test_json_is_one_line_for_any_name():
    line = FORMATS["json"](LineOptions(CLASSES)).write("a\nb.jpg", PREDICTION)
    assert "\n" not in line
    assert json.loads(line) == {
        "file": "a\nb.jpg",
        "label": 'a "b", c',
        "confidence": 0.75,
        "probabilities": SHARES,
    }


def test_json_says_what_could_not_be_read_and_what_is_unknown():
    lines = FORMATS["json"](LineOptions(CLASSES, has_unknown=True))
    assert json.loads(lines.write("x.jpg", BAD)) == {"file": "x.jpg", "error": BAD.message}
    assert [
        json.loads(lines.write("x.jpg", each))["is_known"] for each in (PREDICTION, UNKNOWN)
    ] == [True, False]


@pytest.mark.parametrize("top", [1, 2, 9])
def test_table_names_the_likeliest_classes(top):
    lines = FORMATS["table"](LineOptions(CLASSES, top))
    line = lines.write("x.jpg", PREDICTION)
    assert line.endswith("x.jpg")
    assert line.count("%") == min(top, 2)
    assert lines.write("x.jpg", BAD) == ""


@pytest.mark.parametrize("top", [1, 2, 9])
def test_table_names_none_of_these_first(top):
    line = FORMATS["table"](LineOptions(CLASSES, top, has_unknown=True)).write("x.jpg", UNKNOWN)
    assert line.split("  ")[1].strip() == "" or line.lstrip().startswith("none of these")
    assert line.lstrip().startswith("none of these")
    assert line.count("%") == min(top - 1, 2)


@pytest.mark.parametrize("kind", READABLE)
@pytest.mark.parametrize("title", TITLES)
@pytest.mark.parametrize("has_unknown", [False, True])
def test_lines_are_read_back(kind, title, has_unknown):
    lines = READABLE[kind](LineOptions(CLASSES, has_unknown=has_unknown))
    for outcome in (PREDICTION, BAD):
        line = f"{lines.write(title, outcome)}\n".encode()
        assert lines.is_whole(line)
        assert lines.read(line) == Row(title, outcome is BAD)


@pytest.mark.parametrize("kind", READABLE)
@pytest.mark.parametrize(
    "line", [b"", b"\n", b"\0\0\0\n", b"x\n", b"\xff\xfe,1,2,3,4,5\n", b"[]\n", b"a,b\n,,,,"]
)
def test_damaged_lines_are_none(kind, line):
    assert READABLE[kind](LineOptions(CLASSES)).read(line) is None


def test_a_csv_line_goes_on_while_quotes_are_open():
    lines = READABLE["csv"](LineOptions(CLASSES))
    first, _, second = f"{lines.write(TITLES[3], PREDICTION)}\n".encode().partition(b"\n")
    assert not lines.is_whole(first + b"\n")
    assert lines.is_whole(first + b"\n" + second)
