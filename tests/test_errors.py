import inspect
import re

import pytest

from squeezetune import errors
from squeezetune.errors import SqueezeTuneError

ALL = {name: value for name, value in vars(errors).items() if inspect.isclass(value)}


def test_a_message_and_what_to_do_about_it():
    error = SqueezeTuneError("the photos are gone", "Look behind the sofa.")
    assert (error.message, error.hint) == ("the photos are gone", "Look behind the sofa.")
    assert str(error) == "the photos are gone\nLook behind the sofa."
    assert str(SqueezeTuneError("the photos are gone")) == "the photos are gone"


def test_all_errors_have_one_root():
    assert all(issubclass(error, SqueezeTuneError) for error in ALL.values())


def test_every_error_has_a_code_of_its_own():
    codes = {error.code for error in ALL.values()}
    assert len(codes) == len(ALL)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", code) for code in codes)


def test_settings_are_the_only_error_of_usage():
    assert {name for name, error in ALL.items() if error.exit_status == 2} == {"SettingsError"}
    assert {error.exit_status for error in ALL.values()} == {1, 2}


def test_the_tree_is_drawn_as_it_is():
    drawn = re.findall(r"^(?: {4})([│ ├└─]*)(\w+Error)  ", errors.__doc__, re.MULTILINE)
    assert [name for _, name in drawn] == list(ALL)
    above = {}
    for indent, name in drawn:
        depth = len(indent) // 4
        above[depth] = name
        if depth:
            assert ALL[name].__base__ is ALL[above[depth - 1]], name


@pytest.mark.parametrize("error", ALL.values())
def test_every_error_explains_itself(error):
    assert inspect.getdoc(error).endswith(".")
