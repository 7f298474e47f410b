import hashlib
import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from squeezetune.errors import SourceError
from squeezetune.events import StageAdvanced, StageFinished, StageStarted
from squeezetune.system import downloads
from squeezetune.system.downloads import PublishedFile, fetch_file, hash_file, name_file

CONTENT = np.random.default_rng(0).bytes(300_000)
OTHER = np.random.default_rng(1).bytes(300_000)
SHA256, MD5 = (hashlib.new(name, CONTENT).hexdigest() for name in ("sha256", "md5"))


@pytest.fixture
def file(web_site):
    web_site.files["a.tgz"] = CONTENT
    return PublishedFile(
        f"{web_site.address}/a.tgz", {"md5": MD5}, 1 << 20, "such file", SourceError, "Or by hand."
    )


@pytest.fixture
def unknown(file):
    """Give a file of which no checksum is published."""
    return replace(file, checksums={})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "a.tgz"


def list_names(path):
    return sorted(found.name for found in path.parent.iterdir())


def break_off(file, web_site, path, size=100_000):
    """Fetch the first bytes of a file, and no more."""
    web_site.breaks = [size, 0]
    with pytest.raises(SourceError, match=f"broke off after {size:,} of 300,000 bytes"):
        fetch_file(file, path)
    web_site.asked.clear()


# ---- fetched


@pytest.mark.parametrize(
    "checksums", [{"md5": MD5}, {"sha256": SHA256}, {"md5": MD5.upper(), "sha256": SHA256[:8]}, {}]
)
def test_a_file_is_fetched_whole_and_once(file, web_site, path, checksums):
    events = []
    for _ in range(2):
        assert fetch_file(replace(file, checksums=checksums), path, events.append) == path
    assert path.read_bytes() == CONTENT
    assert web_site.ranges == [None]
    assert list_names(path) == ["a.tgz"]
    first, *advances, last = events
    assert first == StageStarted("download", 300, "kB")
    assert [event.stage for event in advances] == ["download"] * len(advances)
    assert advances[-1] == StageAdvanced("download", 300)
    assert isinstance(last, StageFinished)


def test_redirects_are_followed(file, web_site, path):
    fetch_file(replace(file, address=f"{web_site.address}/moved/moved/a.tgz?download=1"), path)
    assert path.read_bytes() == CONTENT


def test_a_length_that_is_not_told_is_not_needed(unknown, web_site, path):
    web_site.tells_length = False
    assert fetch_file(unknown, path).read_bytes() == CONTENT


def test_memory_stays_flat(file, web_site, path):
    size = 10_000_000
    web_site.files["a.tgz"] = bytes(size)
    large = replace(
        file, checksums={"md5": hashlib.md5(bytes(size)).hexdigest()}, most_bytes=1 << 30
    )
    tracemalloc.start()
    fetch_file(large, path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert path.stat().st_size == size
    assert peak < 4_000_000


# ---- broken off


def test_a_broken_connection_goes_on_where_it_stopped(file, web_site, path):
    web_site.breaks = [100_000, 50_000]
    assert fetch_file(file, path).read_bytes() == CONTENT
    assert web_site.ranges == [None, "bytes=100000-", "bytes=150000-"]


@pytest.mark.parametrize("etag", ["", '"1"'])
@pytest.mark.parametrize("checksums", [{"md5": MD5}, {}])
def test_the_next_call_goes_on_where_the_last_one_stopped(file, web_site, path, checksums, etag):
    web_site.etag, file = etag, replace(file, checksums=checksums)
    break_off(file, web_site, path)
    assert list_names(path)[0] == "a.tgz.part"
    assert fetch_file(file, path).read_bytes() == CONTENT
    assert web_site.ranges == ["bytes=100000-"]
    assert list_names(path) == ["a.tgz"]


def test_a_server_that_stalls_is_asked_again_after_the_time_out(file, web_site, path):
    web_site.stalls = [100_000, 300_000]
    assert fetch_file(replace(file, timeout_s=0.2), path).read_bytes() == CONTENT
    assert web_site.ranges == [None, "bytes=100000-"]


def test_a_server_that_stalls_for_good_is_left_and_the_part_kept(file, web_site, path):
    web_site.stalls = [100_000, 0]
    with pytest.raises(
        SourceError, match=r"broke off after 100,000 of 300,000 bytes \(.*timed out"
    ) as caught:
        fetch_file(replace(file, timeout_s=0.2), path)
    assert "go on from there" in caught.value.hint
    assert path.with_name("a.tgz.part").stat().st_size == 100_000


def test_an_interrupt_keeps_what_has_come(unknown, web_site, path):
    def interrupt(event):
        if isinstance(event, StageAdvanced) and event.done > 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_file(unknown, path, interrupt)
    kept = path.with_name("a.tgz.part").read_bytes()
    assert 100_000 < len(kept) < 300_000
    assert kept == CONTENT[: len(kept)]
    assert fetch_file(unknown, path).read_bytes() == CONTENT
    assert web_site.ranges == [None, f"bytes={len(kept)}-"]


def test_a_part_that_is_whole_needs_no_network(file, unknown, web_site, path):
    for each in (file, unknown):
        break_off(each, web_site, path)
        path.with_name("a.tgz.part").write_bytes(CONTENT)  # killed before it got its name
        assert fetch_file(each, path).read_bytes() == CONTENT
        assert web_site.asked == []
        path.unlink()


# ---- a part of another file


@pytest.mark.parametrize("name", ["etag", "modified"])
def test_a_file_that_has_changed_is_fetched_anew(unknown, web_site, path, name):
    setattr(web_site, name, '"1"')
    break_off(unknown, web_site, path)
    setattr(web_site, name, '"2"')
    web_site.files["a.tgz"] = OTHER
    assert fetch_file(unknown, path).read_bytes() == OTHER
    assert web_site.ranges == ["bytes=100000-"]  # the server itself sent all of it


def test_another_length_is_another_file(unknown, web_site, path):
    web_site.etag, web_site.knows_versions = '"1"', False
    break_off(unknown, web_site, path)
    web_site.files["a.tgz"] = OTHER + b"more"
    assert fetch_file(unknown, path).read_bytes() == OTHER + b"more"
    assert web_site.ranges == ["bytes=100000-", None]


def test_weak_tags_do_not_tell_one_file_from_another(unknown, web_site, path):
    web_site.etag = 'W/"1"'
    break_off(unknown, web_site, path)
    assert json.loads(path.with_name("a.tgz.part.json").read_text()) == [
        unknown.address,
        "",
        300_000,
    ]


def test_a_part_from_another_address_is_not_gone_on_with(unknown, web_site, path):
    break_off(unknown, web_site, path)
    web_site.files["b.tgz"] = OTHER
    assert (
        fetch_file(replace(unknown, address=f"{web_site.address}/b.tgz"), path).read_bytes()
        == OTHER
    )
    assert web_site.asked == [("b.tgz", None)]


@pytest.mark.parametrize("note", [None, b"", b"{}", b'["x"]', b"no note"])
def test_a_part_of_nobody_knows_what_is_not_gone_on_with(unknown, web_site, path, note):
    break_off(unknown, web_site, path)
    noted = path.with_name("a.tgz.part.json")
    noted.unlink() if note is None else noted.write_bytes(note)
    path.with_name("a.tgz.part").write_bytes(OTHER[:100])
    assert fetch_file(unknown, path).read_bytes() == CONTENT
    assert web_site.ranges == [None]


def test_a_part_without_length_and_version_is_not_gone_on_with(unknown, web_site, path):
    web_site.tells_length = False

    def interrupt(event):
        if isinstance(event, StageAdvanced):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_file(unknown, path, interrupt)
    assert fetch_file(unknown, path).read_bytes() == CONTENT
    assert web_site.ranges == [None, None]


def test_a_part_that_is_longer_than_the_file_is_thrown_away(file, web_site, path):
    break_off(file, web_site, path)
    path.with_name("a.tgz.part").write_bytes(bytes(400_000))
    assert fetch_file(file, path).read_bytes() == CONTENT
    assert web_site.ranges == ["bytes=400000-", None]


# ---- not to be had


@pytest.mark.parametrize(
    ("checksums", "told"),
    [
        ({"md5": MD5}, f"MD5 {MD5}"),
        ({"sha256": SHA256}, f"SHA-256 {SHA256}"),
        ({"md5": MD5, "sha256": SHA256}, "MD5"),
    ],
)
def test_wrong_bytes_are_deleted_and_told(file, web_site, path, checksums, told):
    web_site.files["a.tgz"] = OTHER
    with pytest.raises(
        SourceError, match=f"gave 300,000 bytes without the {told}.*deleted"
    ) as caught:
        fetch_file(replace(file, checksums=checksums), path)
    assert "Try again" in caught.value.hint
    assert list_names(path) == []


def test_a_file_that_is_damaged_on_disk_is_fetched_again(file, web_site, path):
    fetch_file(file, path)
    path.write_bytes(CONTENT[:-1])
    assert fetch_file(file, path).read_bytes() == CONTENT
    assert web_site.ranges == [None, None]


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_a_server_that_refuses_is_quoted(file, web_site, path, status):
    web_site.status = status
    with pytest.raises(
        SourceError, match=f"a.tgz cannot be had: the server says {status}"
    ) as caught:
        fetch_file(file, path)
    assert caught.value.hint == "Or by hand."


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:1/a.tgz", "http://[::1/a.tgz", "http://127.0.0.1:x/a.tgz"]
)
def test_what_cannot_be_reached_is_told(file, path, address):
    with pytest.raises(SourceError, match="cannot be reached"):
        fetch_file(replace(file, address=address), path)


@pytest.mark.parametrize("tells_length", [True, False])
def test_a_file_that_is_too_large_is_not_taken(file, web_site, path, tells_length):
    web_site.tells_length = tells_length
    with pytest.raises(SourceError, match="gave more than 0 MB; no such file is so large"):
        fetch_file(replace(file, most_bytes=200_000), path)
    assert list_names(path) == []
    assert web_site.ranges == [None]


def test_a_disk_without_room_is_told_before_anything_comes(file, web_site, path, monkeypatch):
    monkeypatch.setattr(downloads, "measure_room", lambda folder: 250_000)
    with pytest.raises(SourceError, match="has room for 0 MB") as caught:
        fetch_file(file, path)
    assert "SQUEEZETUNE_CACHE" in caught.value.hint
    assert list_names(path) == []
    monkeypatch.undo()
    break_off(file, web_site, path)
    monkeypatch.setattr(
        downloads, "measure_room", lambda folder: 250_000
    )  # enough for what is missing
    assert fetch_file(file, path).read_bytes() == CONTENT


def test_a_folder_that_cannot_be_written_is_told(file, tmp_path):
    (tmp_path / "cache").write_bytes(b"a file")
    with pytest.raises(SourceError, match="cannot be written"):
        fetch_file(file, tmp_path / "cache" / "a.tgz")


# ---- names and checksums


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://example.org/a/b.tar.gz", "b.tar.gz"),
        ("http://example.org/b.zip?download=1#x", "b.zip"),
        ("ftp://example.org/b.zip", ""),
        ("file:///etc/passwd", ""),
        ("b.zip", ""),
        ("https://example.org/", ""),
        ("https://example.org/..", ""),
        ("https:///b.zip", ""),
        ("https://example.org/a%2Fb.zip", ""),
    ],
)
def test_a_file_is_named_by_its_address(address, name):
    assert name_file(address) == name


def test_files_are_hashed_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "HASHED_BYTES", 1000)
    (tmp_path / "a").write_bytes(CONTENT)
    assert hash_file(tmp_path / "a", "sha256") == SHA256
    assert hash_file(tmp_path / "a", "md5") == MD5
