import json

import pytest

from squeezetune.console import ProgressListener, format_share, print_error, print_json, print_table
from squeezetune.errors import SettingsError
from squeezetune.events import Notice, StageAdvanced, StageFinished, StageStarted


@pytest.mark.parametrize(
    ("share", "text"), [(1.0, "100.0 %"), (0.99999, "99.9 %"), (0.5, "50.0 %"), (0.0, "0.0 %"), (None, "–")]
)
def test_only_all_is_written_as_100(share, text):
    assert format_share(share) == text


def test_without_a_terminal_only_notices_are_printed(capsys):
    with ProgressListener() as listen:
        listen(StageStarted("features", 10))
        listen(StageAdvanced("features", 5))
        listen(Notice("int8 [was] dropped"))
        listen(StageFinished("features", 1.0))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.strip() == "Note: int8 [was] dropped"


def test_quiet_prints_nothing(capsys):
    with ProgressListener(is_quiet=True) as listen:
        listen(Notice("a word"))
    assert capsys.readouterr().err == ""


def test_terminal_shows_bars(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with ProgressListener() as listen:
        listen(StageStarted("features", 10))
        listen(StageAdvanced("features", 10))
        listen(StageFinished("features", 1.0))
        listen(StageStarted("a stage of tomorrow"))
        listen(StageFinished("a stage of tomorrow", 1.0))
    shown = capsys.readouterr().err
    assert "Looking at the photos" in shown
    assert "10/10" in shown
    assert "a stage of tomorrow" in shown


def test_errors_keep_to_two_lines(capsys):
    print_error(SettingsError("a file's name with\na line break and \udcff", "Rename it."))
    assert capsys.readouterr().err == "Error: a file's name with\\na line break and \\udcff\nHint: Rename it.\n"


def test_errors_as_json(capsys):
    print_error(SettingsError("wrong", "right"), as_json=True)
    assert json.loads(capsys.readouterr().out) == {"error": {"code": "settings", "message": "wrong", "hint": "right"}}


def test_json_is_ascii(capsys):
    print_json({"name": "鼠\udcff"})
    assert json.loads(capsys.readouterr().out) == {"name": "鼠\udcff"}


def test_tables_show_every_cell(capsys):
    print_table({"class": "left", "photos": "right"}, [("[box]", "12"), ("disc", "7")])
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("class", "photos", "[box]", "12", "disc", "7"))
