from pathlib import Path

import pytest

from squeezetune.cli.export import print_exports
from squeezetune.exporting.export_index import Export, Exports
from squeezetune.exporting.formats import FORMATS
from squeezetune.exporting.runtimes import RuntimeBenchmark
from squeezetune.exporting.scoring import Score


def make_item(name):
    """Make an export whose every figure is as wide as it gets."""
    score = Score(5000, 1.0, (0.9992, 1.0), -0.1016, (-0.131, -0.075), 1.0, 0.01, True)
    trial = RuntimeBenchmark(10.25, {"1": 1544.0, "32": 1619.0}, 1286.2)
    return Export(name, "model", 11_920_000, {}, score, trial)


@pytest.mark.parametrize("width", [80, 100])
def test_a_row_of_the_table_is_a_line_of_a_terminal(width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    print_exports(Exports(Path("out"), "", tuple(map(make_item, FORMATS))))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2 : 2 + len(FORMATS)]] == list(FORMATS)
    assert "-10.16 (-13.1…-7.5)" in lines[2]
    assert lines[2].split()[-1] == "1286"
    assert all(len(line) <= width for line in lines)
    assert lines[2 + len(FORMATS)] == "Exports out"
