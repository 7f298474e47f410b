import pytest
from hypothesis import given
from hypothesis import strategies as st

from squeezetune.serving.refusals import RequestError
from squeezetune.serving.requests import find_boundary, split_form


def write(parts, boundary=b"x"):
    return (
        b"".join(b"--%b\r\nA: b\r\n\r\n%b\r\n" % (boundary, part) for part in parts)
        + b"--%b--" % boundary
    )


@given(st.lists(st.binary(max_size=60), max_size=6))
def test_what_is_written_is_read(parts):
    boundary = b"a-boundary-that-is-not-in-them"
    assert split_form(write(parts, boundary), boundary, 6) == parts


@given(
    st.lists(
        st.sampled_from([b"--x", b"--x--", b"\r\n", b"-", b"A: b", b"\r\n\r\n", b"x", b" "]),
        max_size=14,
    )
)
def test_anything_is_read_or_refused(pieces):
    try:
        parts = split_form(b"".join(pieces), b"x", 3)
    except RequestError:  # nothing else may be raised
        return
    assert len(parts) <= 3
    assert not any(b"\r\n--x" in part for part in parts)


def test_what_stands_around_the_parts_is_left_out():
    assert split_form(
        b"before\r\n--x\r\n\r\none\r\n--x\r\nA: b\r\n\r\n\r\n--x--\r\nafter", b"x", 2
    ) == [b"one", b""]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--x",
        b"?--x\r\n\r\none",
        b"--x \t\r\n\r\none\r\n--x--",
        b"--x\r\n",
        b"--x\r\nA: b\r\n\r\ncut",
        b"--xy\r\n\r\n\r\n--x--",
        b"nothing",
        b"--x\r\nContent-Transfer-Encoding: base64\r\n\r\nYQ==\r\n--x--",
        b"--x\r\n" + b"A" * 9000 + b"\r\n\r\n\r\n--x--",
    ],
)
def test_what_is_no_form(body):
    with pytest.raises(RequestError) as caught:
        split_form(body, b"x", 9)
    assert caught.value.code == "bad-request"


@pytest.mark.parametrize(("header", "boundary"), [
    ("multipart/form-data; boundary=abc", b"abc"), ('multipart/form-data; boundary="a b;c"', None),
    ('multipart/form-data; charset=x; boundary="a b"', b"a b"), ("multipart/form-data", None),
    ("multipart/form-data; boundary=", None), (f"multipart/form-data; boundary={'a' * 71}", None),
    ("multipart/form-data; boundary*=utf-8''a", None),
])  # fmt: skip
def test_the_boundary_is_in_the_header(header, boundary):
    if boundary:
        assert find_boundary(header) == boundary
    else:
        with pytest.raises(RequestError):
            find_boundary(header)
