import pytest

from squeezetune.system import machine as module
from squeezetune.system.machine import recall_choice

NAMES = ("abacus", "slide rule")


def refuse():
    pytest.fail("chosen again")


def test_a_choice_is_made_once_for_its_circumstances(tmp_path):
    assert recall_choice(tmp_path, ["adding", 3], NAMES, lambda: "abacus") == "abacus"
    assert recall_choice(tmp_path, ["adding", 3], NAMES, refuse) == "abacus"
    assert recall_choice(tmp_path, ["adding", 4], NAMES, lambda: "slide rule") == "slide rule"
    assert recall_choice(tmp_path, ["adding", 3], NAMES, refuse) == "abacus"


def test_another_processor_chooses_for_itself(tmp_path, monkeypatch):
    recall_choice(tmp_path, [], NAMES, lambda: "abacus")
    monkeypatch.setattr(module, "name_processor", lambda: "a faster one")
    assert recall_choice(tmp_path, [], NAMES, lambda: "slide rule") == "slide rule"


def test_what_is_no_longer_there_is_not_chosen(tmp_path):
    recall_choice(tmp_path, [], NAMES, lambda: "abacus")
    assert recall_choice(tmp_path, [], NAMES[1:], lambda: "slide rule") == "slide rule"


def test_without_a_cache_every_run_chooses():
    assert recall_choice(None, [], NAMES, lambda: "abacus") == "abacus"
    assert recall_choice(None, [], NAMES, lambda: "slide rule") == "slide rule"


def test_a_cache_that_cannot_be_written_costs_the_choice_alone(tmp_path):
    (tmp_path / "runtimes").write_text("a file where a folder should be")
    assert recall_choice(tmp_path, [], NAMES, lambda: "abacus") == "abacus"
