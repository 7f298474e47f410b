import pytest

from squeezetune.errors import SettingsError
from squeezetune.serving.limits import Access
from squeezetune.serving.refusals import RequestError

TOKEN = "correct-horse-battery"


def test_without_a_token_everybody_may_ask():
    Access().check(None)
    Access().check("Bearer anything")


@pytest.mark.parametrize("header", [f"Bearer {TOKEN}", f"bearer  {TOKEN} "])
def test_the_token_opens(header):
    Access(TOKEN).check(header)


@pytest.mark.parametrize(
    "header", [None, "", TOKEN, f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer ü", "Bearer"]
)
def test_nothing_else_does(header):
    with pytest.raises(RequestError) as caught:
        Access(TOKEN).check(header)
    assert caught.value.status == 401
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    "token", ["", "short", "with a space in it", "tökens are only ascii", "line\nbreak-in-token"]
)
def test_tokens_that_cannot_be(token):
    with pytest.raises(SettingsError, match="the token has"):
        Access(token)


def test_a_token_is_not_printed():
    assert TOKEN not in repr(Access(TOKEN))
