"""The tool that measures the house counts what it says."""

import importlib.util
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location(
    "measure_house", Path(__file__).parents[1] / "tools" / "measure_house.py"
)
measure_house = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(measure_house)

FILES = {
    "tests/test_layers_of_modules.py": 'LAYERS = [{"training"}, {"data"}]\n',
    "src/squeezetune/__init__.py": "from squeezetune.training import Settings, train\n",
    "src/squeezetune/training.py": '''
"""Trains."""
from dataclasses import dataclass
from squeezetune.data.index import read


@dataclass
class Settings:
    def __init__(self, **settings): ...


def name():
    return "a"  # a higher row's function, which a lower one calls


def train(photos, model, settings):
    read(name)
    read(
        name
    )
''',
    "src/squeezetune/data/__init__.py": "",
    "src/squeezetune/data/index.py": "def read(ask):\n    for _ in range(9):\n        ask()\n",
    "src/squeezetune/data/training.py": f"class Settings: ...\n# {'-' * 100}\n",
}


@pytest.fixture
def checkout(tmp_path):
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_a_house_is_measured(checkout, capsys):
    measure_house.main([str(checkout), str(checkout)])
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert head == f"| | {checkout.name} | {checkout.name} |"
    found = {name.strip(): int(n) for _, name, n, again, _ in (row.split("|") for row in rows)}
    assert found == {
        "modules": 5,
        "modules in the root": 2,
        "lines": 26,
        "code lines": 17,
        "lines over 100 columns": 1,
        "rows of layers": 2,
        "longest chain of imports": 2,
        "modules with one importer": 1,
        "of these under 80 lines": 1,
        "names of modules twice": 1,
        "names of public types twice": 1,
        "dataclasses": 1,
        "functions over 25 lines": 0,
        "re-entries of a training": 1,
        "climbs of a training": 1,
    }
