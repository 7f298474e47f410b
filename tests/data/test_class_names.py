import datetime
import enum
import os
import random
import subprocess
import sys
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from squeezetune.data.sources.class_names import (
    locate_columns,
    name_labels,
    read_labels,
    sort_classes,
)
from squeezetune.errors import ClassesError

# ---- the order of classes


@pytest.mark.parametrize(
    "expected",
    [
        ["2", "9", "10"],
        ["-10", "-3", "0", "9", "20", "100"],
        ["0.25", "0.5", "1", "10.5"],
        ["s1", "s2", "s10", "s10a", "s10b"],
        ["0", "00", "01", "1"],
        ["2 euro", "5", "10 cents"],
        ["Zebra", "apple", "zebra", "Äpfel", "кот", "猫"],
        ["room 2/bed 9", "room 2/bed 10", "room 10/bed 1"],
        ["1" * 5000, "1" * 4999 + "2", "1" * 5001],
        ["False", "True"],
        ["", "-", "a"],
    ],
)
def test_classes_are_in_the_order_that_people_expect(expected):
    for seed in range(5):
        shuffled = random.Random(seed).sample(expected, len(expected))
        assert sort_classes(shuffled) == expected


@given(st.lists(st.text(alphabet="0123-. aZé٣\udcff", max_size=5), max_size=12))
def test_any_names_have_one_order(names):
    ordered = sort_classes(names)
    assert sorted(ordered) == sorted(set(names))
    assert sort_classes(reversed(names)) == sort_classes(ordered) == ordered


def test_the_order_does_not_hang_on_the_hash_seed():
    program = (
        "from squeezetune.data.sources.class_names import sort_classes; "
        "print(sort_classes({'1', '01', '001', '10', '0010'}))"
    )
    seeds = ("0", "1", "2", "3")
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in seeds
    }
    assert outputs == {"['001', '01', '1', '0010', '10']\n"}


# ---- what labels are called


class Colour(enum.Enum):
    RED = 1


class Nameless:
    """A value that says no more of itself than where it lies in memory."""


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["cat", "кот", "a\nb", "x" * 300], ["cat", "кот", "a\nb", "x" * 300]),
        ([3, -1, 0], ["3", "-1", "0"]),
        ([1.0, 0.5, 2], ["1", "0.5", "2"]),
        ([True, False, True], ["True", "False", "True"]),
        ([b"cat", b"\xd0\xba"], ["cat", "к"]),
        (np.array(["a", "b"]), ["a", "b"]),
        (np.array([b"a", b"b"]), ["a", "b"]),
        (np.array([1.5, 2.0], np.float32), ["1.5", "2"]),
        (np.array([3, 4], np.uint8), ["3", "4"]),
        ([np.array(3), np.bool_(True)], ["3", "True"]),
        (["a", 2, ("a", 1)], ["a", "2", "('a', 1)"]),
        (
            [Colour.RED, datetime.date(2020, 1, 2), Decimal("1.50")],
            ["Colour.RED", "2020-01-02", "1.50"],
        ),
    ],
)
def test_a_label_is_called_as_it_is_written(labels, names):
    assert name_labels(labels) == names


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (None, "None"),
        (float("nan"), "a missing value, float"),
        (np.float32("nan"), "a missing value, float"),
        (np.datetime64("NaT"), "a missing value, datetime64"),
        (Decimal("sNaN"), "a Decimal"),
        (float("inf"), "an infinite number"),
        (np.ma.masked, "a masked value"),
        ("", "an empty text"),
        (" \n", "an empty text"),
        (b"\xff", "bytes that are no text"),
        (["cat"], "a list"),
        (np.array([1, 0]), "a ndarray"),
        ({"label": 1}, "a dict"),
        (Nameless(), "a Nameless"),
        (memoryview(bytearray(2)), "a memoryview"),
        (10**4300, "a number of thousands of digits"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_label_is_told_with_its_place(label, words):
    with pytest.raises(
        ClassesError, match=f"1 of 3 labels cannot be used: image 1 has {words}; needed is"
    ) as caught:
        name_labels(["a", label, "b"])
    assert "Leave out images" in caught.value.hint
    assert read_labels(["a", label, "b"]) == (["a", "", "b"], {1: words})


def test_many_missing_labels_are_counted_and_the_first_are_named():
    with pytest.raises(
        ClassesError, match=r"1,000 of 2,000 labels .* image 5 has None and 997 more"
    ):
        name_labels(["a", None] * 1000)


@pytest.mark.parametrize(
    ("labels", "words"),
    [([1, "1", 2], "same name: '1'"), ([1, True], "equal .* names: 1 and True")],
)
def test_labels_that_cannot_be_told_apart_are_refused(labels, words):
    with pytest.raises(ClassesError, match=words):
        name_labels(labels)


def test_columns_are_found_by_name():
    classes = np.unique(["2", "9", "10"])
    assert classes.tolist() == ["10", "2", "9"]
    assert locate_columns(classes.tolist(), sort_classes(classes.tolist())) == [2, 0, 1]
