"""Cells of tables (CSV) that a spreadsheet shows and does not run.

A spreadsheet takes a cell that begins with `=`, `+`, `-` or `@` for a formula, and what people call their photos and
classes is not always their own. Such a cell gets an apostrophe in front, which a spreadsheet takes for "this is text"
(OWASP, "CSV Injection"); numbers stay as they are. Programs take one apostrophe off again.
"""

import re

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?")


def guard_cell(text: str) -> str:
    """Return a cell that no spreadsheet runs.

    >>> guard_cell("=1+1"), guard_cell("-12.5"), guard_cell("rose")
    ("'=1+1", '-12.5', 'rose')
    """
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def free_cell(cell: str) -> str:
    """Return what a cell was made of.

    >>> free_cell("'=1+1")
    '=1+1'
    """
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
