import pytest

from squeezetune.system.disk import read_sealed, write_sealed


@pytest.mark.parametrize("content", [b"", b"two\nlines\n", bytes(range(256))])
def test_what_is_sealed_comes_back(tmp_path, content):
    path = tmp_path / "kind" / "name.sealed"
    assert read_sealed(path) is None
    write_sealed(path, content)
    assert read_sealed(path) == content
    write_sealed(path, b"another")
    assert read_sealed(path) == b"another"


def test_every_bit_is_checked(tmp_path):
    path = tmp_path / "kind" / "name.sealed"
    write_sealed(path, b"content")
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert read_sealed(path) is None
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        assert read_sealed(path) is None


def test_content_is_bound_to_its_name_and_not_to_where_the_cache_lies(tmp_path):
    path = tmp_path / "kind" / "name.sealed"
    write_sealed(path, b"content")
    for other in (path.with_name("other.sealed"), tmp_path / "other kind" / "name.sealed"):
        other.parent.mkdir(exist_ok=True)
        other.write_bytes(path.read_bytes())
        assert read_sealed(other) is None
    moved = (tmp_path / "kind").rename(tmp_path / "elsewhere")
    (tmp_path / "there").mkdir()
    moved.rename(tmp_path / "there" / "kind")
    assert read_sealed(tmp_path / "there" / "kind" / "name.sealed") == b"content"
