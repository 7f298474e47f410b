import csv
import io

import pytest

from squeezetune.data.sources.table import free_cell, guard_cell

FORMULAS = [
    "=1+1",
    "+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "-",
    "=",
    "-photo.jpg",
    "'=1",
    "''@x",
    "-5 %",
]
PLAIN = ["", "rose", "1", "-1", "+1", "-12.5", "-1e-05", "a=b", "'", "'rose'", "3+4", "玫瑰"]


@pytest.mark.parametrize("text", FORMULAS)
def test_what_a_spreadsheet_would_run_becomes_text(text):
    assert guard_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", PLAIN)
def test_numbers_and_words_stay_as_they_are(text):
    assert guard_cell(text) == text


@pytest.mark.parametrize("text", FORMULAS + PLAIN)
def test_programs_read_what_was_meant(text):
    table = io.StringIO(newline="")
    csv.writer(table).writerow([guard_cell(text), "end"])
    [[cell, _]] = csv.reader(io.StringIO(table.getvalue(), newline=""))
    assert free_cell(cell) == text
